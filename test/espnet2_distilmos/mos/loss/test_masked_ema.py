# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.build import build_model


def make(mos_corpus, **options):
    torch.manual_seed(0)
    config = mos_corpus.config(
        losses={"masked_ema": options}, head="token", head_conf={}
    )
    return build_model(config, load_pretrained=False).eval()


def data():
    generator = torch.Generator().manual_seed(0)
    return {
        "speech": torch.randn(2, 4000, generator=generator),
        "speech_lengths": torch.tensor([4000, 3000]),
        "utt_id": ["a", "b"],
    }


def test_loss_is_the_standardised_cosine_at_masked_frames(mos_corpus):
    model, batch = make(mos_corpus, layer=1), data()
    found = model(**batch)
    frames = [model.frontend.num_frames(n) for n in (4000, 3000)]
    mask = model.span_mask(frames, batch["utt_id"], 0)
    speech, lengths = batch["speech"], batch["speech_lengths"]
    with torch.no_grad():
        target = model.frontend(speech, lengths)[0][1][mask].double().numpy()
        online = model.frontend(speech, lengths, mask)[0][1][mask]
        online = model.losses["masked_ema"].predictor(online).double().numpy()
    # the average starts at the same weights
    target = target - target.mean(axis=1, keepdims=True)
    target = target / target.std(axis=1, keepdims=True)
    cosine = (target * online).sum(axis=1)
    cosine /= np.linalg.norm(target, axis=1) * np.linalg.norm(online, axis=1)
    assert found["loss"].item() == pytest.approx(np.mean(2 - 2 * cosine), abs=1e-4)
    assert found["counts"]["masked_ema"].item() == mask.sum()


def test_the_target_is_of_the_true_signal_and_no_part_of_the_model(mos_corpus):
    model, batch = make(mos_corpus), data()
    before = set(model.state_dict())
    assert {k for k in before if k.startswith("losses.")} == {
        f"losses.masked_ema.predictor.{i}.{kind}"
        for i in (0, 2)
        for kind in ("weight", "bias")
    }
    ema = model.ema_targets()[0]
    plain = ema.hidden_states(model.frontend, batch["speech"], batch["speech_lengths"])
    outputs = []
    ema.network.register_forward_hook(lambda _, __, output: outputs.append(output[0]))
    noisy = batch["speech"] + torch.randn(2, 4000)
    model(**batch, noisy=noisy)["loss"].backward()
    assert torch.equal(outputs[0][-1], plain[-1])
    assert all(p.grad is None for p in ema.network.parameters())
    assert model.frontend.model.masked_spec_embed.grad.any()
    assert set(model.state_dict()) == before


def test_a_layer_that_does_not_exist_is_refused(mos_corpus):
    with pytest.raises(ValueError, match="masked_ema.layer=3, expected 0 to 2"):
        make(mos_corpus, layer=3)
