# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch

from espnet2_distilmos.mos.head.masked_batch_norm import MaskedBatchNorm1d
from espnet2_distilmos.mos.masking import frame_mask


@pytest.mark.parametrize("training", [True, False])
def test_valid_frames_as_if_there_were_no_padding(training):
    torch.manual_seed(0)
    masked, plain = MaskedBatchNorm1d(3), torch.nn.BatchNorm1d(3)
    with torch.no_grad():
        masked.weight.uniform_(0.5, 2)
        masked.bias.uniform_(-1, 1)
        masked.running_mean.normal_()
        masked.running_var.uniform_(0.5, 2)
    plain.load_state_dict(masked.state_dict())
    masked.train(training), plain.train(training)
    x = torch.randn(2, 3, 9) * 4 + 1
    mask = frame_mask(torch.tensor([9, 4]), 9)
    y = masked(x, mask)
    expected = plain(torch.cat([x[0], x[1, :, :4]], dim=1).T)
    found = torch.cat([y[0], y[1, :, :4]], dim=1).T
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(masked.running_mean, plain.running_mean)
    assert torch.allclose(masked.running_var, plain.running_var)
    assert torch.isfinite(y).all()


def test_unpadded_batch_is_batch_norm():
    masked, plain = MaskedBatchNorm1d(3).train(), torch.nn.BatchNorm1d(3).train()
    x = torch.randn(2, 3, 9)
    y = masked(x, torch.ones(2, 9, dtype=torch.bool))
    assert torch.equal(y, plain(x))


def test_frozen_statistics_normalise_by_the_batch_and_keep_the_running_ones():
    masked = MaskedBatchNorm1d(3).train()
    x = torch.randn(2, 3, 9) * 3
    mask = frame_mask(torch.tensor([9, 5]), 9)
    expected = masked(x, mask)
    before = masked.running_mean.clone(), masked.running_var.clone()
    masked.frozen_statistics = True
    assert torch.allclose(masked(x, mask), expected)
    assert torch.equal(masked.running_mean, before[0])
    assert torch.equal(masked.running_var, before[1])
