# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import torch

from espnet2_distilmos.mos.frontend.masked_norm import (
    MaskedGroupNorm,
    normalize_waveform,
)


def test_valid_frames_equal_the_plain_norm_of_the_single_file():
    norm = torch.nn.GroupNorm(6, 6)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    masked = MaskedGroupNorm.from_group_norm(norm)
    assert set(masked.state_dict()) == set(norm.state_dict())
    x = torch.randn(3, 6, 50)
    assert torch.equal(masked(x), norm(x))
    masked.lengths = torch.tensor([50, 31, 7])
    y = masked(x)
    for i, n in enumerate(masked.lengths.tolist()):
        expected = norm(x[i : i + 1, :, :n])[0]
        assert torch.allclose(y[i, :, :n], expected, atol=1e-5)
        assert n == 50 or not torch.allclose(norm(x)[i, :, :n], expected, atol=1e-2)
    half = masked((100 + x).bfloat16())
    assert half.dtype == torch.bfloat16 and torch.isfinite(half).all()


def test_normalize_waveform_is_zero_mean_unit_variance_of_the_valid_part():
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 2.0, (3, 1000)).astype(np.float32)
    x[1, 600:] = 0
    x[2] = 0
    y = normalize_waveform(torch.from_numpy(x), torch.tensor([1000, 600, 1000])).numpy()
    for row, n in ((0, 1000), (1, 600)):
        part = x[row, :n].astype(np.float64)
        expected = (part - part.mean()) / np.sqrt(part.var() + 1e-7)
        np.testing.assert_allclose(y[row, :n], expected, atol=1e-5)
    assert (y[1, 600:] == 0).all() and (y[2] == 0).all()
