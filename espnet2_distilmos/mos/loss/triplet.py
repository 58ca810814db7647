# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Triplet loss: whose label is nearer shall be nearer in the embedding."""

import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import Target
from espnet2_distilmos.mos.loss.pair import PairLoss


class TripletLoss(PairLoss):
    """max(0, d_ij - d_ik + m_ijk), averaged over all triplets of the batch.

    A triplet is three labelled utterances of one corpus with |y_i - y_j| < |y_i - y_k|,
    in each order (SCOREQ's batch-all; Ragano et al. 2024). d is the Euclidean distance
    of the embeddings, brought to length 1. The margin adapts to the labels,
    m_ijk = margin (|y_i - y_k| - |y_i - y_j|) / (highest - lowest label of the corpus
    in the batch), so that it does not depend on the scale.

    It trains no score: another loss has to. Time and memory grow with the cube of the
    labelled rows of a batch, votes among them: 144 rows take .2 s on a core of a CPU.

    Args:
        margin: 0 asks for the order alone.
        across_corpora: see :class:`PairLoss`.
    """

    name = "triplet"
    least_rows = 3
    trains_score = False

    def __init__(
        self, weight: float = 1.0, margin: float = 1.0, across_corpora: bool = False
    ):
        super().__init__(weight, across_corpora)
        self.margin = self.checked_number("margin", margin)

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        triplets = self._triplets(target)
        if not triplets.any():
            return prediction.embedding.sum() * 0.0
        x = torch.nn.functional.normalize(prediction.embedding, dim=1)
        # Through products small distances would be inexact.
        distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        i, j, k = triplets.nonzero(as_tuple=True)
        gap, span = self._gaps(target)
        margin = self.margin * (gap[i, k] - gap[i, j]) / span[i]
        return torch.relu(distance[i, j] - distance[i, k] + margin).mean()

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        return self._triplets(target).sum()

    def _gaps(self, target: Target):
        """Distances of the labels (R, R), NaN of what may not be compared; and how far
        apart the labels of a row's corpus are (R,)."""
        labels, corpora = target["mos"], self.corpora(target)
        same = corpora[:, None] == corpora[None, :]
        gap = (labels[:, None] - labels[None, :]).abs()
        gap = gap.masked_fill(~same, torch.nan)
        within = torch.where(same & torch.isfinite(gap), gap, 0.0)
        widest = within.amax(dim=1)
        span = torch.where(same, widest[None, :], 0.0).amax(dim=1)
        return gap, span

    def _triplets(self, target: Target) -> torch.Tensor:
        """Which (i, j, k) are triplets, (R, R, R) bool."""
        gap, _ = self._gaps(target)
        # The distance of a row to itself is no pair.
        gap.fill_diagonal_(torch.nan)
        return gap[:, :, None] < gap[:, None, :]
