# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.head.layer_mix import LayerMix


def _entmax15(z):
    """Exact 1.5-entmax by bisection on its threshold (Peters et al. 2019)."""
    z = np.asarray(z, dtype=np.float64) / 2
    low, high = z.max() - 1, z.max()
    for _ in range(200):
        tau = (low + high) / 2
        if (np.maximum(z - tau, 0) ** 2).sum() > 1:
            low = tau
        else:
            high = tau
    return np.maximum(z - tau, 0) ** 2


def test_entmax15_of_centred_weights():
    mix = LayerMix([1, 2, 3, 4])
    values = [0.3, -1.9, 0.4, 1.1]
    with torch.no_grad():
        mix.weights.copy_(torch.tensor(values))
    p = mix.probabilities().detach().numpy()
    np.testing.assert_allclose(
        p, _entmax15(np.array(values) - np.mean(values)), atol=1e-6
    )
    assert p[1] == 0 and abs(p.sum() - 1) < 1e-6


def test_softmax_mix_of_the_chosen_layers():
    mix = LayerMix([0, 2], kind="softmax")
    with torch.no_grad():
        mix.weights.copy_(torch.log(torch.tensor([1.0, 3.0])))
    hidden_states = [torch.full((1, 2, 3), float(v)) for v in (10, 999, 20)]
    assert torch.allclose(mix(hidden_states), torch.full((1, 2, 3), 17.5))
    statistics = mix.statistics()
    assert list(statistics) == ["mix_l00", "mix_l02"]
    assert abs(float(statistics["mix_l02"]) - 0.75) < 1e-6


def test_refusals():
    with pytest.raises(ValueError, match="layer_mix='mean'"):
        LayerMix([1], kind="mean")
    with pytest.raises(ValueError, match="expected one layer"):
        LayerMix([1, 2], kind="single")
