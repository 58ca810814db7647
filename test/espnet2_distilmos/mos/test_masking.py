# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import torch

from espnet2_distilmos.mos.masking import frame_mask, masked_mean


def test_masked_mean_is_the_mean_of_the_valid_part():
    values = torch.arange(24.0).reshape(2, 4, 3)
    values[1, 3] = float("nan")
    mask = frame_mask(torch.tensor([4, 3]), 4)
    assert mask.tolist() == [[True] * 4, [True, True, True, False]]
    mean = masked_mean(values, mask)
    torch.testing.assert_close(mean[0], values[0].mean(dim=0))
    torch.testing.assert_close(mean[1], values[1, :3].mean(dim=0))
    torch.testing.assert_close(masked_mean(values[..., 0], mask), mean[:, 0])
    flat, none = torch.tensor([1.0, 5.0]), torch.zeros(2, dtype=torch.bool)
    assert masked_mean(flat, ~none, dim=0) == 3 and masked_mean(flat, none, dim=0) == 0
