# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io
import os

import numpy as np
import pytest
import torch
from transformers import WhisperModel

from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.grid import Grid
from espnet2_distilmos.mos.teacher import EMATarget
from espnet2_distilmos.mos.tokens import Codebooks, save_codebooks, token_info

from .frontend.tiny_upstreams import batch, tiny


class Frontend(torch.nn.Module):
    """One hidden state."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, speech, lengths):
        return [self.linear(speech)], lengths


def steps(network, optimizer, count):
    """Optimizer steps; the weights after each."""
    for _ in range(count):
        optimizer.zero_grad()
        network(torch.ones(1, 3), None)[0][0].square().sum().backward()
        network.seen += 1
        optimizer.step()
        yield network.linear.weight.detach().clone()


def test_the_average_is_the_recursion_written_out():
    network = Frontend()
    ema = EMATarget(momentum=0.5, momentum_end=0.9, momentum_steps=4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    ema.follow(optimizer, network)
    ema.hidden_states(network, torch.ones(1, 3), None)
    expected = network.linear.weight.detach().clone()
    momenta = [0.5, 0.6, 0.7, 0.8, 0.9, 0.9]
    for m, weight in zip(momenta, steps(network, optimizer, 6)):
        expected = m * expected + (1 - m) * weight
        torch.testing.assert_close(ema.network.linear.weight, expected)
    assert ema.network.seen == 6
    assert not any(p.requires_grad for p in ema.network.parameters())
    found = ema.hidden_states(network, torch.eye(3), None)[0]
    torch.testing.assert_close(found, expected.T + ema.network.linear.bias)
    assert not found.requires_grad


def test_the_average_travels_in_the_optimizers_state():
    network, ema = Frontend(), EMATarget(0.8, 0.9, 10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    ema.follow(optimizer, network)
    list(steps(network, optimizer, 3))
    file = io.BytesIO()
    torch.save([network.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    states = torch.load(file, weights_only=True)

    other, following = Frontend(), EMATarget(0.8, 0.9, 10)
    resumed = torch.optim.AdamW(other.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no moving average"):
        following.follow(resumed, other)
        resumed.load_state_dict(torch.optim.AdamW(other.parameters()).state_dict())
    other.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    assert following.updates == 3
    for a, b in ((network, optimizer), (other, resumed)):
        list(steps(a, b, 2))
    for a, b in zip(ema.network.parameters(), following.network.parameters()):
        assert torch.equal(a, b)


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="found EMATarget"):
        EMATarget(momentum_steps=0)


@pytest.mark.parametrize("several", [False, True])
def test_tokens_of_what_the_teachers_hear(several, tmp_path):
    """The loss is that of a batch with the codebooks' tokens of what they hear."""
    folders = [str(tmp_path / name) for name in ("hubert", "whisper")[: 1 + several]]
    books, networks = [], []
    generator = np.random.default_rng(0)
    for folder in folders:
        network = tiny(os.path.basename(folder)).eval()
        if "whisper" in folder:
            WhisperModel(network.model.config).save_pretrained(folder)
        else:
            network.model.save_pretrained(folder)
        network = HFFrontend(upstream=folder).eval()
        centroids = generator.normal(size=(2, 5, 32))
        fingerprint = network.fingerprint()
        books.append(
            Codebooks(centroids, (1, 3), network.name, 320, 16000, fingerprint)
        )
        networks.append(network)
    with open(tmp_path / "codebooks.npz", "wb") as file:
        save_codebooks(file, books)
    info = token_info(books, Grid.of(networks[0]))

    def make(**options):
        torch.manual_seed(0)
        config = {
            "frontend": "hf",
            "frontend_conf": {"upstream": folders[0]},
            "head": "distilmos",
            "head_conf": {"hidden_dim": 16},
            "losses": {"masked_token_ce": {"alpha": None, **options}},
            "model_conf": {"mask": {"start_prob": 0.0}},
            "token_info": info,
        }
        return build_model(config, load_pretrained=True).eval()

    upstreams = folders if several else folders[0]
    taught = make(teacher=upstreams, codebooks=str(tmp_path / "codebooks.npz"))
    (teacher,) = taught.token_teachers()
    teacher.check(info)
    with pytest.raises(ValueError, match="expected those of the tokens, other"):
        teacher.check({"codebook_fingerprint": "other"})
    speech, lengths = batch()
    noisy, heard = batch(seed=1)[0], batch(seed=2)[0]
    columns = []
    for network, book in zip(networks, books):
        with torch.no_grad():
            columns.append(book.assign(*network(heard, lengths)))
    frames = min(column.size(1) for column in columns)
    tokens = torch.cat([column[:, :frames] for column in columns], dim=-1)
    data = dict(speech=speech, speech_lengths=lengths, noisy=noisy, utt_id=list("abc"))
    given = torch.zeros_like(tokens)
    found = taught(**data, heard=heard, tokens=given)["loss"]
    assert torch.equal(found, make()(**data, tokens=tokens)["loss"])
    assert not torch.equal(found, make()(**data, tokens=given)["loss"])
    found.backward()
    assert all(
        p.grad is None for n in teacher._tokenizer.sources for p in n.parameters()
    )
