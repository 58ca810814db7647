# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Contrastive loss on score differences."""

import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss, Target


class ContrastiveLoss(AbsMOSLoss):
    """Difference of two predictions against the difference of their labels.

    max(0, |(y^_i - y^_j) - (y_i - y_j)| - margin), averaged over the pairs i < j of
    labelled utterances of the batch (UTMOS, Saeki et al. 2022).

    Args:
        margin: differences of up to this much cost nothing.
    """

    name = "contrastive"

    def __init__(self, weight: float = 1.0, margin: float = 0.1):
        super().__init__(weight)
        self.margin = margin

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        labelled = torch.isfinite(target["mos"])
        error = prediction.utt_mos[labelled] - target["mos"][labelled]
        if error.numel() < 2:
            return prediction.utt_mos.sum() * 0.0
        # (y^_i - y^_j) - (y_i - y_j) is the difference of the two errors.
        count = error.numel()
        first, second = torch.triu_indices(count, count, 1, device=error.device)
        gap = (error[first] - error[second]).abs()
        return torch.relu(gap - self.margin).mean()
