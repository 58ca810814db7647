# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.frontend.masked_norm import (
    MaskedGroupNorm,
    full_length,
    normalize_waveform,
)


def _masked(channels=6):
    norm = torch.nn.GroupNorm(channels, channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm, MaskedGroupNorm.from_group_norm(norm)


def test_valid_frames_equal_the_plain_norm_of_the_single_file():
    norm, masked = _masked()
    x = torch.randn(3, 6, 50)
    lengths = torch.tensor([50, 31, 7])
    masked.lengths = lengths
    y = masked(x)
    for i, n in enumerate(lengths.tolist()):
        expected = norm(x[i : i + 1, :, :n])[0]
        assert torch.allclose(y[i, :, :n], expected, atol=1e-5)
        assert n == 50 or not torch.allclose(norm(x)[i, :, :n], expected, atol=1e-2)


def test_without_lengths_it_is_group_norm():
    norm, masked = _masked()
    x = torch.randn(2, 6, 20)
    assert torch.equal(masked(x), norm(x))
    assert set(masked.state_dict()) == set(norm.state_dict())


def test_half_precision_keeps_its_dtype():
    _, masked = _masked()
    masked.lengths = torch.tensor([20, 9])
    x = 100 + torch.randn(2, 6, 20)
    y = masked(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert torch.isfinite(y).all()


def test_several_channels_a_group_are_refused():
    with pytest.raises(ValueError, match="2 groups over 6 channels"):
        MaskedGroupNorm.from_group_norm(torch.nn.GroupNorm(2, 6))


def test_normalize_waveform_is_zero_mean_unit_variance_of_the_valid_part():
    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 2.0, (2, 1000)).astype(np.float32)
    x[1, 600:] = 0
    y = normalize_waveform(torch.from_numpy(x), torch.tensor([1000, 600])).numpy()
    for row, n in ((0, 1000), (1, 600)):
        part = x[row, :n].astype(np.float64)
        expected = (part - part.mean()) / np.sqrt(part.var() + 1e-7)
        np.testing.assert_allclose(y[row, :n], expected, atol=1e-5)
    assert (y[1, 600:] == 0).all()


def test_normalize_waveform_of_silence_is_silence():
    y = normalize_waveform(torch.zeros(1, 100), torch.tensor([100]))
    assert torch.equal(y, torch.zeros(1, 100))


def test_full_length():
    assert full_length(torch.tensor([5, 5]), 5)
    assert not full_length(torch.tensor([5, 4]), 5)
