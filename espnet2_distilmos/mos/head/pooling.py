# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Statistics over time beside the mean."""

from typing import Sequence

import torch

from espnet2_distilmos.mos.masking import masked_mean


class Statistics(torch.nn.Module):
    """Statistics over the valid frames of a padded batch, beside their mean.

    ``sd`` is the standard deviation; ``attention`` the mean weighted by a softmax over
    the frames of a learned linear score (self-attentive pooling, Safari et al. 2020),
    which is the plain mean at the start.

    Args:
        size: dimension D of the frames.
        pooling: ``mean``, which the head takes itself, and those that are computed
            here; with ``mean`` alone the output has size 0.

    Raises:
        ValueError: for another statistic, a second time the same, or without ``mean``.
    """

    def __init__(self, size: int, pooling: Sequence[str]):
        super().__init__()
        known = {"mean", "sd", "attention"}
        is_list = isinstance(pooling, (list, tuple))
        # Each once: a copy is no further statistic.
        good = is_list and all(isinstance(kind, str) for kind in pooling)
        good = good and len(known.intersection(pooling)) == len(pooling)
        if not good or "mean" not in pooling:
            raise ValueError(
                f"found pooling={pooling}, expected a list of mean and, if wanted, sd "
                "and attention, each once"
            )
        self.kinds = tuple(kind for kind in pooling if kind != "mean")
        self.output_size = size * len(self.kinds)
        self.query = None
        if "attention" in self.kinds:
            self.query = torch.nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x (B, T, D) and mask (B, T) to (B, len(kinds) * D)."""
        parts = {"sd": self._sd, "attention": self._attention}
        pooled = [parts[kind](x, mask) for kind in self.kinds]
        return torch.cat(pooled, dim=1) if pooled else x.new_zeros(len(x), 0)

    def _sd(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        deviation = x - masked_mean(x, mask).unsqueeze(1)
        # The root of 0 has no gradient, and a single frame has no deviation.
        return (masked_mean(deviation**2, mask) + 1e-10).sqrt()

    def _attention(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = (x @ self.query).masked_fill(~mask, -torch.inf)
        weights = torch.softmax(scores, dim=1).unsqueeze(-1)
        return (weights * x.masked_fill(~mask.unsqueeze(-1), 0.0)).sum(dim=1)
