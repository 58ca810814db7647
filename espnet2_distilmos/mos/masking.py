# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Small functions on padded batches that frontends, heads and losses share."""

import torch


def frame_mask(lengths: torch.Tensor, max_length: int) -> torch.Tensor:
    """Mark the valid frames of a padded batch.

    Args:
        lengths: valid frames of each item, (B,).
        max_length: padded length T.

    Returns:
        (B, T) bool, True where the frame is valid.
    """
    frames = torch.arange(max_length, device=lengths.device)
    return frames[None, :] < lengths[:, None]


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average over the valid frames of each item.

    Args:
        values: (B, T) or (B, T, D).
        mask: (B, T) bool, True where valid; every row needs one valid frame.

    Returns:
        (B,) or (B, D).
    """
    weight = mask.to(values.dtype)
    if values.dim() == 3:
        weight = weight.unsqueeze(-1)
    # where() and not a product: 0 * inf in a padded frame would be NaN.
    total = torch.where(weight > 0, values, values.new_zeros(())).sum(dim=1)
    return total / weight.sum(dim=1)
