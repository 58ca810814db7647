# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import torch

from espnet2_distilmos.mos.masking import frame_mask, masked_mean


def test_frame_mask():
    mask = frame_mask(torch.tensor([3, 1, 0]), 3)
    expected = [[True, True, True], [True, False, False], [False, False, False]]
    assert mask.tolist() == expected


def test_masked_mean_is_mean_of_the_valid_part():
    values = torch.arange(24.0).reshape(2, 4, 3)
    # A padded frame may hold anything.
    values[1, 3] = float("inf")
    lengths = torch.tensor([4, 3])
    mean = masked_mean(values, frame_mask(lengths, 4))
    assert torch.allclose(mean[0], values[0].mean(dim=0))
    assert torch.allclose(mean[1], values[1, :3].mean(dim=0))
    flat = masked_mean(values[..., 0], frame_mask(lengths, 4))
    assert torch.allclose(flat, mean[:, 0])
