# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch

from espnet2_distilmos.mos.head.masked_batch_norm import (
    MaskedBatchNorm1d,
    frozen_statistics,
)
from espnet2_distilmos.mos.masking import frame_mask


@pytest.mark.parametrize("training", [True, False])
def test_valid_frames_as_if_there_were_no_padding(training):
    torch.manual_seed(0)
    length = 4
    masked, plain = MaskedBatchNorm1d(3), torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        masked.weight.uniform_(0.5, 2)
        masked.bias.uniform_(-1, 1)
        masked.running_mean.normal_()
        masked.running_var.uniform_(0.5, 2)
    plain.load_state_dict(masked.state_dict())
    masked.train(training), plain.train(training)
    x = torch.randn(2, 3, 9) * 4 + 1
    y = masked(x, frame_mask(torch.tensor([9, length]), 9))
    expected = plain(torch.cat([x[0], x[1, :, :length]], dim=1).T)
    found = torch.cat([y[0], y[1, :, :length]], dim=1).T
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(masked.running_mean, plain.running_mean)
    torch.testing.assert_close(masked.running_var, plain.running_var)
    assert torch.isfinite(y).all()


def test_as_a_device_normalises_that_is_not_waited_for():
    torch.manual_seed(0)
    norms = MaskedBatchNorm1d(3), MaskedBatchNorm1d(3)
    mask = frame_mask(torch.tensor([9, 5]), 9)
    x = (torch.randn(2, 3, 9) * 4 + 1).requires_grad_()
    upstream = torch.randn(2, 3, 9) * mask.unsqueeze(1)
    found = []
    for norm, y in zip(norms, (norms[0](x, mask), norms[1]._normalize_marked(x, mask))):
        wanted = [x, norm.weight, norm.bias]
        gradients = torch.autograd.grad(y, wanted, upstream)
        found.append([y * mask.unsqueeze(1), *gradients, *norm.buffers()])
    for expected, value in zip(*found):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_frozen_statistics_normalise_by_the_batch_and_keep_the_running_ones():
    masked = MaskedBatchNorm1d(3).train()
    x = torch.randn(2, 3, 9) * 3
    mask = frame_mask(torch.tensor([9, 5]), 9)
    expected = masked(x, mask)
    before = {name: value.clone() for name, value in masked.state_dict().items()}
    with frozen_statistics(masked):
        torch.testing.assert_close(masked(x, mask), expected)
    for name, value in masked.state_dict().items():
        assert torch.equal(value, before[name])
    masked(x, mask)
    assert not torch.equal(masked.running_mean, before["running_mean"])
