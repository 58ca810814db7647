# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What losses on differences between utterances share: which may be compared."""

from typing import Tuple

import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss, Target


class PairLoss(AbsMOSLoss):
    """A loss on pairs of labelled utterances of a batch.

    Two listening tests need not have one scale, nor one meaning of it: a pair is of one
    corpus. Where the batch names no corpora, all of it is one.

    Args:
        across_corpora: pair utterances of different corpora, too.
    """

    uses = frozenset({"corpus"})
    sets_scale = False
    least_rows = 2

    def __init__(self, weight: float = 1.0, across_corpora: bool = False):
        super().__init__(weight)
        self.expect(
            isinstance(across_corpora, bool),
            "across_corpora",
            across_corpora,
            "true or false",
        )
        self.across_corpora = across_corpora

    def corpora(self, target: Target) -> torch.Tensor:
        """Number of the corpus of each row, (R,) long."""
        if self.across_corpora or "corpus" not in target:
            return torch.zeros_like(target["mos"], dtype=torch.long)
        return target["corpus"]

    def pairs(self, target: Target) -> Tuple[torch.Tensor, torch.Tensor]:
        """Rows i and j of the pairs i < j, twice (P,)."""
        rows = torch.isfinite(target["mos"]).nonzero()[:, 0]
        first, second = rows[torch.triu_indices(len(rows), len(rows), 1).to(rows)]
        corpora = self.corpora(target)
        same = corpora[first] == corpora[second]
        return first[same], second[same]

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        return torch.tensor(len(self.pairs(target)[0]), device=target["mos"].device)
