# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Contrastive loss on score differences."""

import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss, Target
from espnet2_distilmos.mos.loss.pair import PairLoss


class ContrastiveLoss(PairLoss):
    """Difference of two predictions against the difference of their labels.

    max(0, |(y^_i - y^_j) - (y_i - y_j)| - margin), averaged over the pairs i < j of
    labelled utterances of the batch (UTMOS, Saeki et al. 2022).

    Args:
        margin: differences of up to this much cost nothing.
        across_corpora: see :class:`PairLoss`.
    """

    name = "contrastive"
    # The log's mean has always been weighed by utterances.
    count = AbsMOSLoss.count

    def __init__(
        self, weight: float = 1.0, margin: float = 0.1, across_corpora: bool = False
    ):
        super().__init__(weight, across_corpora)
        self.margin = self.checked_number("margin", margin)

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        first, second = self.pairs(target)
        if not len(first):
            return prediction.utt_mos.sum() * 0.0
        # (y^_i - y^_j) - (y_i - y_j) is the difference of the two errors.
        error = prediction.utt_mos - target["mos"]
        gap = (error[first] - error[second]).abs()
        return torch.relu(gap - self.margin).mean()
