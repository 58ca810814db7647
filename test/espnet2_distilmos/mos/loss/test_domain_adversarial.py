# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io
import math
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.loss.domain_adversarial import DomainAdversarialLoss

from .test_layer_distill import (  # noqa: F401
    data,
    make,
    teachers,
)

KINDS = ["noise", "gaussian", "reverb"]
DISTORTION = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])


def adversary(mos_corpus, **options):
    torch.manual_seed(0)
    options = {"weight": 1.0, "hidden_size": 8, "classes": KINDS, **options}
    config = mos_corpus.config(
        losses={"domain_adversarial": options},
        head="token",
        head_conf={},
        model_conf={"mask": {"start_prob": 0.0}},
    )
    model = build_model(config, load_pretrained=False).train()
    model.frontend.eval()  # without dropout
    return model


def batch_of(seed=0):
    torch.manual_seed(seed)
    return {
        "speech": torch.randn(2, 4000),
        "speech_lengths": torch.tensor([4000, 3000]),
        "utt_id": ["a", "b"],
        "distortion": DISTORTION,
        "snr": torch.tensor([[15.0], [torch.nan]]),
        "corpus": torch.tensor([1, 0]),
    }


def means(model, batch, layer=-1):
    """What the discriminator reads, an utterance at a time."""
    rows = []
    for speech, n in zip(batch["speech"], batch["speech_lengths"].tolist()):
        states, _ = model.frontend(speech[None, :n], torch.tensor([n]))
        rows.append(states[layer][0].mean(dim=0))
    return torch.stack(rows)


def test_reversal_is_the_gradient_by_hand_with_its_sign_turned(mos_corpus):
    model, batch = adversary(mos_corpus, weight=0.5, ramp_steps=10), batch_of()
    model.losses["domain_adversarial"].steps.fill_(3)
    found = model(**batch)
    found["loss"].backward()

    network = model.losses["domain_adversarial"].discriminator
    logits = network(means(model, batch))
    p = torch.sigmoid(logits)
    entropy = -(DISTORTION * p.log() + (1 - DISTORTION) * (1 - p).log()).mean()
    assert found["stats"]["domain_adversarial"].item() == pytest.approx(entropy.item())
    right = ((p > 0.5).float() == DISTORTION).float().mean()
    assert found["stats"]["domain_adversarial_acc"].item() == pytest.approx(
        right.item()
    )

    ramp = 2 / (1 + math.exp(-10 * 0.3)) - 1
    mine = list(network.parameters())
    upstream = [p for p in model.frontend.parameters() if p.grad is not None]
    assert len(upstream) > 10
    grads = torch.autograd.grad(0.5 * entropy, [*mine, *upstream])
    for parameter, grad in zip(mine, grads):
        torch.testing.assert_close(parameter.grad, grad)
    for parameter, grad in zip(upstream, grads[len(mine) :]):
        torch.testing.assert_close(parameter.grad, -ramp * grad, atol=1e-7, rtol=1e-3)


def test_the_ramp_counts_training_steps_and_is_kept(mos_corpus):
    model, batch = adversary(mos_corpus, ramp_steps=4), batch_of()
    loss = model.losses["domain_adversarial"]
    factors = []
    for _ in range(6):
        factors.append(loss.ramp().item())
        model(**batch)
    expected = [2 / (1 + np.exp(-10 * min(1, n / 4))) - 1 for n in range(6)]
    np.testing.assert_allclose(factors, expected, rtol=1e-6)
    model.eval()(**batch)
    assert model.state_dict()["losses.domain_adversarial.steps"] == 6
    assert adversary(mos_corpus, ramp_steps=0).losses["domain_adversarial"].ramp() == 1


def test_corpora_are_told_by_cross_entropy(mos_corpus):
    model = adversary(mos_corpus, domain="corpus", classes=["x", "y", "z"])
    batch = batch_of()
    batch["corpus"] = torch.tensor([2, -1])  # the second is of none
    found = model(**batch)
    logits = model.losses["domain_adversarial"].discriminator(means(model, batch))
    expected = -torch.log_softmax(logits[0], dim=0)[2]
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert found["counts"]["domain_adversarial"] == 1


def test_teacher_and_student_are_told_from_each_other(teachers):  # noqa: F811
    model = make(
        teachers,
        count=1,
        losses={"domain_adversarial": {"domain": "teacher_student", "weight": 0.1}},
    )
    batch = data()
    found = model(**batch)["stats"]
    distill = model.losses["layer_distill"]
    rows = []
    for which in ("student", "teacher"):
        for speech, n in zip(batch["speech"], batch["speech_lengths"].tolist()):
            one, length = speech[None, :n], torch.tensor([n])
            if which == "student":
                state = distill.predictor(model.frontend(one, length)[0][-1])[-1]
            else:
                state = distill.teachers.targets(one, length)[0][-1]
            rows.append(state[0].mean(dim=0))
    logits = model.losses["domain_adversarial"].discriminator(torch.stack(rows))
    p = torch.sigmoid(logits[:, 0]).double().detach().numpy()
    expected = -np.mean([*np.log(1 - p[:2]), *np.log(p[2:])])
    assert found["domain_adversarial"].item() == pytest.approx(expected, rel=1e-5)


def test_a_domain_that_is_not_there_is_refused(mos_corpus, teachers):  # noqa: F811
    with pytest.raises(ValueError, match="no distorted view, expected one"):
        adversary(mos_corpus, classes=[])
    with pytest.raises(ValueError, match="the corpora .'x'., expected two or more"):
        adversary(mos_corpus, domain="corpus", classes=["x"])
    with pytest.raises(ValueError, match="reads teachers, and no layer_distill"):
        adversary(mos_corpus, domain="teacher_student")
    other = {"domain_adversarial": {"domain": "teacher_student", "view": "masked"}}
    with pytest.raises(ValueError, match="no layer_distill of the view masked"):
        make(teachers, losses=other)
    for options in ({"domain": "x"}, {"method": "x"}, {"view": "clean"}, {"layer": 9}):
        with pytest.raises(ValueError, match="losses.domain_adversarial"):
            adversary(mos_corpus, **options)
    batch = {k: v for k, v in batch_of().items() if k != "distortion"}
    with pytest.raises(ValueError, match="a batch without distortion"):
        adversary(mos_corpus)(**batch)


def training(mos_corpus, **options):
    model = adversary(mos_corpus, method="alternating", ramp_steps=0, **options)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=1e-3
    )
    loss = model.losses["domain_adversarial"]
    loss.follow(optimizer, model.frontend)
    return model, optimizer, loss


def step(model, optimizer, seed):
    optimizer.zero_grad()
    model(**batch_of(seed))["loss"].backward()
    optimizer.step()


def test_alternating_updates_are_two_optimizers(mos_corpus):
    """The discriminator's step on states as they are, then the upstream against it."""
    model, optimizer, loss = training(mos_corpus, discriminator_lr=0.01)
    assert not any("discriminator" in name for name in model.state_dict())
    network = loss._own[0]
    twin = torch.nn.Sequential(
        torch.nn.Linear(network[0].in_features, 8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 3),
    )
    twin.load_state_dict(network.state_dict())
    own = torch.optim.AdamW(twin.parameters(), lr=0.01)
    for seed in range(3):
        batch = batch_of(seed)
        features = means(model, batch)
        bce = torch.nn.functional.binary_cross_entropy_with_logits
        own.zero_grad()
        bce(twin(features.detach()), DISTORTION).backward()
        own.step()
        upstream = [p for p in model.frontend.parameters() if p.requires_grad]
        wanted = torch.autograd.grad(
            -bce(twin(features), DISTORTION), upstream, allow_unused=True
        )
        optimizer.zero_grad()
        model(**batch)["loss"].backward()
        for p, grad in zip(upstream, wanted):
            if grad is not None:
                torch.testing.assert_close(p.grad, grad, atol=1e-6, rtol=1e-3)
        optimizer.step()
        for p, q in zip(network.parameters(), twin.parameters()):
            torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_alternating_updates_resume_to_the_same_bits(mos_corpus):
    whole, resumed = training(mos_corpus), training(mos_corpus)
    for seed in range(4):
        step(*whole[:2], seed)
    for seed in range(2):
        step(*resumed[:2], seed)
    buffer = io.BytesIO()
    state = {"model": resumed[0].state_dict(), "optimizer": resumed[1].state_dict()}
    torch.save(state, buffer)
    buffer.seek(0)
    resumed = training(mos_corpus)
    state = torch.load(buffer, weights_only=True)
    resumed[0].load_state_dict(state["model"])
    resumed[1].load_state_dict(state["optimizer"])
    for seed in range(2, 4):
        step(*resumed[:2], seed)
    for key, value in whole[0].state_dict().items():
        assert torch.equal(value, resumed[0].state_dict()[key]), key
    for p, q in zip(whole[2]._own[0].parameters(), resumed[2]._own[0].parameters()):
        assert torch.equal(p, q)
    plain = torch.optim.SGD(whole[0].parameters(), lr=1e-3)
    with pytest.raises(ValueError, match="the checkpoint has no discriminator"):
        resumed[1].load_state_dict(plain.state_dict())


def test_the_discriminator_rests_between_its_steps_and_in_validation(mos_corpus):
    model, optimizer, loss = training(mos_corpus, discriminator_interval=2)
    seen = []
    for seed in range(4):
        step(model, optimizer, seed)
        seen.append(loss._own[0][0].weight.detach().clone())
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[1], seen[2])
    model.eval()(**batch_of())
    assert torch.equal(loss._own[0][0].weight, seen[3])


TWO_PROCESSES = """
import sys
import torch
from espnet2_distilmos.mos.loss.domain_adversarial import DomainAdversarialLoss

rank, port = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2
)
loss = DomainAdversarialLoss(method="alternating", discriminator_lr=0.1)
torch.manual_seed(0)
loss._own = [torch.nn.Linear(4, 2)]
loss.steps = torch.tensor(0)
x, labels = torch.randn(6, 4), torch.eye(2).repeat(3, 1)
loss._own_step(x[rank::2], labels[rank::2])
torch.save(loss._own[0].state_dict(), f"{sys.argv[3]}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_have_one_discriminator(tmp_path):
    (tmp_path / "two.py").write_text(TWO_PROCESSES)
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])
    command = [sys.executable, str(tmp_path / "two.py")]
    processes = [
        subprocess.Popen([*command, rank, port, str(tmp_path)]) for rank in "01"
    ]
    assert [process.wait(timeout=200) for process in processes] == [0, 0]
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in "01"]
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 2)
    x, labels = torch.randn(6, 4), torch.eye(2).repeat(3, 1)
    own = torch.optim.AdamW(network.parameters(), lr=0.1)
    torch.nn.functional.binary_cross_entropy_with_logits(network(x), labels).backward()
    own.step()
    for key, value in network.state_dict().items():
        assert torch.equal(states[0][key], states[1][key])
        torch.testing.assert_close(states[0][key], value)


def test_number_options_are_checked():
    for option in ("hidden_size", "discriminator_interval", "discriminator_lr"):
        with pytest.raises(ValueError, match="losses.domain_adversarial"):
            DomainAdversarialLoss(**{option: 0})
