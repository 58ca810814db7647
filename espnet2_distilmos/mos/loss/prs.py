# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Partial rank similarity: relative positions of the scores and of the labels."""

from typing import Dict

import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import Target
from espnet2_distilmos.mos.loss.pair import PairLoss

# Scores in a smaller range than the first are taken for equal, as are labels in one
# smaller than the second: their positions would be noise. Scores have no scale but what
# they are trained to, hence a number and not a share of the labels' range, which may be
# of any test. The gradient is up to 2 / range: with the 1e-4 of labels, scores of a
# fresh probe, which hardly differ yet, would blow up its first steps. Scores on a scale
# from 1 to 5 have a range of some units.
_SMALLEST_RANGES = ((0.1,), (1e-4,))


class PartialRankSimilarityLoss(PairLoss):
    """w_ij |(g_i - g_j) - (p_i - p_j)|, averaged over the ordered pairs i != j.

    g and p are the labels and the scores of a corpus, each brought to [0, 1] by their
    lowest and highest of those that are compared, a range of scores below 0.1 or of
    labels below 1e-4 being taken for that; w is ``concordant`` where both have the same
    order, else 1 (arXiv 2310.05078). Pairs of equal labels, too, weigh 1 here, so that
    their scores are drawn together; in the authors' code they weigh ``concordant``.

    A batch is compared with itself and with a queue of past scores and labels, which
    have no gradient: with B utterances in the batch and Q in the queue the range is
    that of all B + Q, and the mean is over B (B - 1 + Q) pairs. Each corpus has a
    queue. It begins empty in every epoch and is not read in a validation, so that it is
    a function of the epoch alone: neither a model nor a checkpoint holds it, and a
    training resumes to the same bits. In DDP each process has its own.

    Utterances of a corpus whose labels are all equal have no relative position and are
    left out.

    Args:
        queue: most past utterances of a corpus; 0 compares with the batch alone.
        concordant: weight of pairs in the right order.
        across_corpora: see :class:`PairLoss`.
    """

    name = "prs"

    def __init__(
        self,
        weight: float = 1.0,
        queue: int = 5000,
        concordant: float = 0.1,
        across_corpora: bool = False,
    ):
        super().__init__(weight, across_corpora)
        self.queue = self.checked_number("queue", queue, whole=True)
        self.concordant = self.checked_number("concordant", concordant)
        # Scores and labels (2, Q) by corpus, the latest last.
        self._past: Dict[int, torch.Tensor] = {}
        self._pairs = 0

    def train(self, mode: bool = True) -> "PartialRankSimilarityLoss":
        """Set the mode; ESPnet's trainer calls it at the beginning of each epoch."""
        self._past = {}
        return super().train(mode)

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        total, self._pairs = prediction.utt_mos.sum() * 0.0, 0
        labelled, corpora = torch.isfinite(target["mos"]), self.corpora(target)
        for corpus in corpora[labelled].unique().tolist():
            rows = labelled & (corpora == corpus)
            values = torch.stack([prediction.utt_mos[rows], target["mos"][rows]])
            count = values.size(1)
            past = self._past.get(corpus, values[:, :0].detach())
            everything = torch.cat([values, past], dim=1)
            low, high = everything.aminmax(dim=1, keepdim=True)
            if low[1] < high[1]:
                span = (high - low).clamp(min=low.new_tensor(_SMALLEST_RANGES))
                positions = (everything - low) / span
                p, g = positions[:, :count, None] - positions[:, None, :]
                cost = (g - p).abs()
                total = (
                    total + torch.where(g * p > 0, self.concordant * cost, cost).sum()
                )
                self._pairs += count * (everything.size(1) - 1)
            if self.training and self.queue > 0:
                # A step with a score that is no number is skipped; the next is not.
                finite = values.detach()[:, torch.isfinite(values[0])]
                self._past[corpus] = torch.cat([past, finite], dim=1)[:, -self.queue :]
        return total / max(self._pairs, 1)

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        """Pairs of the last :meth:`forward`, those with the queue among them."""
        return torch.tensor(self._pairs, device=target["mos"].device)
