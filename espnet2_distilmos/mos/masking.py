# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Functions on padded batches that frontends, heads and losses share."""

import torch


def frame_mask(lengths: torch.Tensor, max_length: int) -> torch.Tensor:
    """Mark the valid frames of a padded batch.

    Args:
        lengths: valid frames of each item, (B,).
        max_length: padded length T.

    Returns:
        (B, T) bool, True where the frame is valid.

    >>> frame_mask(torch.tensor([2, 1]), 2).tolist()
    [[True, True], [True, False]]
    """
    frames = torch.arange(max_length, device=lengths.device)
    return frames[None, :] < lengths[:, None]


def all_marked(mask: torch.Tensor, wait: bool = False) -> bool:
    """Whether a mask marks everything.

    Args:
        mask: bool.
        wait: also for a device other than the CPU, which has to finish all that it was
            given before; otherwise the answer is then False.
    """
    return (wait or mask.device.type == "cpu") and bool(mask.all())


def masked_mean(values: torch.Tensor, mask: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """Average over what a mask marks; zero where it marks nothing.

    Args:
        values: (B, T, ...); anything, also NaN, where the mask is False.
        mask: bool, of the first dimensions of ``values``.
        dim: over which dimension.

    Returns:
        ``values`` without the dimension.

    >>> masked_mean(torch.tensor([1.0, 5.0, torch.nan]), torch.arange(3) < 2, dim=0)
    tensor(3.)
    """
    mask = mask.reshape(mask.shape + (1,) * (values.dim() - mask.dim()))
    # where() and not a product: 0 * inf would be NaN.
    total = torch.where(mask, values, torch.zeros_like(values)).sum(dim=dim)
    return total / mask.sum(dim=dim).clamp(min=1)
