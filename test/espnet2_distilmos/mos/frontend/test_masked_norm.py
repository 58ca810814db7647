# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
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
        assert (y[i, :, n:] == 0).all()
    half = masked((100 + x).bfloat16())
    assert half.dtype == torch.bfloat16 and torch.isfinite(half).all()


def formula(x, norm, lengths):
    """The definition in tensor operations, which autograd differentiates."""
    valid = (torch.arange(x.size(-1)) < lengths[:, None]).unsqueeze(1).to(x.dtype)
    count = lengths[:, None, None]
    mean = (x * valid).sum(-1, keepdim=True) / count
    var = ((x - mean).square() * valid).sum(-1, keepdim=True) / count
    y = (x - mean) * torch.rsqrt(var + norm.eps)
    return (y * norm.weight[:, None] + norm.bias[:, None]) * valid


@pytest.mark.parametrize(
    "dtype, limit", [(torch.float64, 1e-12), (torch.float32, 2e-5)]
)
def test_gradients_are_those_of_the_formula(dtype, limit):
    norm = MaskedGroupNorm(6, 6, dtype=dtype)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    norm.lengths = torch.tensor([50, 31, 7])
    x = 3 + torch.randn(3, 6, 50, dtype=dtype, requires_grad=True)
    wanted = [x, norm.weight, norm.bias]
    # padded frames have a gradient here, which nothing may depend on
    upstream = torch.randn(3, 6, 50, dtype=dtype)
    found = torch.autograd.grad(norm(x), wanted, upstream)
    expected = torch.autograd.grad(formula(x, norm, norm.lengths), wanted, upstream)
    for a, b in zip(found, expected):
        assert torch.allclose(a, b, rtol=limit, atol=10 * limit)


def test_gradients_by_finite_differences():
    norm = MaskedGroupNorm(3, 3, dtype=torch.float64)
    norm.lengths = torch.tensor([9, 4])
    x = torch.randn(2, 3, 9, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        norm.__dict__.update(weight=weight, bias=bias)
        return norm(x)

    weight, bias = (p.detach().requires_grad_() for p in norm.parameters())
    del norm.weight, norm.bias
    assert torch.autograd.gradcheck(call, (x, weight, bias))


def test_keeps_one_tensor_of_the_size_of_its_input():
    norm = MaskedGroupNorm(6, 6)
    norm.lengths = torch.tensor([50, 31])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        norm(torch.randn(2, 6, 50, requires_grad=True))
    assert sum(tensor.numel() >= 600 for tensor in kept) == 1


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
