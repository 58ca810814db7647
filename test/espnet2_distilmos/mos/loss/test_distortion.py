# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.build import build_model

from .test_domain_adversarial import (
    DISTORTION,
    KINDS,
    batch_of,
    means,
)


def make(mos_corpus, **options):
    torch.manual_seed(0)
    config = mos_corpus.config(
        losses={"distortion": {"weight": 1.0, "classes": KINDS, **options}},
        head="token",
        head_conf={},
        model_conf={"mask": {"start_prob": 0.0}},
    )
    model = build_model(config, load_pretrained=False).train()
    model.frontend.eval()  # without dropout
    return model


def test_the_loss_is_the_formula(mos_corpus):
    model, batch = make(mos_corpus, layer=1, snr_weight=0.5), batch_of()
    found = model(**batch)
    network = model.losses["distortion"].predictor
    out = network(means(model, batch, layer=1)).double().detach().numpy()
    p, kinds = 1 / (1 + np.exp(-out[:, :3])), DISTORTION.numpy()
    entropy = -np.mean(kinds * np.log(p) + (1 - kinds) * np.log(1 - p))
    # of the first alone, where something was added at 15 dB
    decibels = 10 * (out[0, 3] + 1)
    error = abs(decibels - 15)
    assert found["loss"].item() == pytest.approx(entropy + 0.5 * error / 10, rel=1e-5)
    stats = found["stats"]
    assert stats["distortion_snr_error"].item() == pytest.approx(error, rel=1e-5)
    right = np.mean((out[:, :3] > 0) == (kinds > 0.5))
    assert stats["distortion_acc"].item() == pytest.approx(right)
    found["loss"].backward()
    assert all(p.grad.any() for p in network.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.frontend.parameters())


def test_nothing_added_has_no_ratio(mos_corpus):
    model, batch = make(mos_corpus), batch_of()
    batch["snr"] = torch.full((2, 1), torch.nan)
    found = model(**batch)
    assert found["stats"]["distortion_snr_error"] == 0
    found["loss"].backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_without_a_distorted_view_it_is_refused(mos_corpus):
    with pytest.raises(ValueError, match="no distorted view, expected one"):
        make(mos_corpus, classes=[])
    batch = {k: v for k, v in batch_of().items() if k != "snr"}
    with pytest.raises(ValueError, match="a batch without snr"):
        make(mos_corpus)(**batch)
