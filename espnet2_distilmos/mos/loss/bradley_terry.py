# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Bradley-Terry loss: which of two utterances is the better one."""

from typing import Tuple

import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import Target
from espnet2_distilmos.mos.loss.pair import PairLoss


class BradleyTerryLoss(PairLoss):
    """-log sigmoid(s (y^_i - y^_j)), averaged over the pairs with y_i > y_j.

    The model of Bradley and Terry (Biometrika 39, 1952), as reward models are trained
    (MOS-RMBench, arXiv 2510.00743). It reads the order of the labels alone, so that
    listening tests of any scales train together; the scores have a scale of their own.

    Pairs that the listeners did not tell apart, |y_i - y_j| <= margin
    sqrt(SE_i^2 + SE_j^2), are left out, as are equal labels. A standard error that is
    not known is taken for zero, as that of a single vote is. With listener embeddings
    every vote is a row, and two listeners' votes of one clip are a pair as well, by
    which the embeddings learn who is the stricter one.

    Args:
        scale: s.
        margin: in standard errors of the difference.
        across_corpora: see :class:`PairLoss`.
    """

    name = "bradley_terry"
    uses = frozenset({"corpus", "mos_se"})

    def __init__(
        self,
        weight: float = 1.0,
        scale: float = 1.0,
        margin: float = 1.0,
        across_corpora: bool = False,
    ):
        super().__init__(weight, across_corpora)
        self.scale = self.checked_number("scale", scale, positive=True)
        self.margin = self.checked_number("margin", margin)

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        better, worse = self.pairs(target)
        if not len(better):
            return prediction.utt_mos.sum() * 0.0
        difference = prediction.utt_mos[better] - prediction.utt_mos[worse]
        return torch.nn.functional.softplus(-self.scale * difference).mean()

    def pairs(self, target: Target) -> Tuple[torch.Tensor, torch.Tensor]:
        """Rows of the better and of the worse one of each pair, twice (P,)."""
        first, second = super().pairs(target)
        difference = target["mos"][first] - target["mos"][second]
        error = torch.zeros_like(difference)
        if "mos_se" in target:
            square = target["mos_se"].nan_to_num(0.0).square()
            error = (square[first] + square[second]).sqrt()
        told = difference.abs() > self.margin * error
        first, second, rises = first[told], second[told], difference[told] < 0
        return torch.where(rises, second, first), torch.where(rises, first, second)
