# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Regression of further scores, such as those of other predictors."""

import math
from numbers import Real
from typing import Sequence

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss, Target
from espnet2_distilmos.mos.masking import masked_mean


class AuxScoresLoss(AbsMOSLoss):
    """Mean of ``|a^_k - a_k|`` over utterances and keys k that have a score.

    One linear map a key from the head's embedding to that score (as UrgentMOS, arXiv
    2601.18438, learns from other predictors). Inference does not run it. An utterance
    without a label that has such scores trains by them.

    Args:
        keys: of ``metric.scp`` beside ``mos``: with ``[distillmos, dnsmos]`` its lines
            are such as ``utt1 {"mos": 3.5, "distillmos": 3.1, "dnsmos": 2.9}``. Each
            score is on its own scale; what an utterance lacks is left out.
        init_score: of each map at the start, the middle of the scales.
    """

    name = "aux_scores"
    needs = frozenset({"aux"})

    def __init__(
        self, weight: float = 1.0, keys: Sequence[str] = (), init_score: float = 3.0
    ):
        super().__init__(weight)
        is_list = isinstance(keys, (list, tuple))
        is_list = is_list and all(isinstance(key, str) and key for key in keys)
        self.expect(
            not weight or (is_list and keys and "mos" not in keys),
            "keys",
            keys,
            "a list of keys of metric.scp such as [distillmos, dnsmos], beside mos, "
            "the label, which mos_l1 reads",
        )
        self.expect(
            not weight or len(set(keys)) == len(keys), "keys", keys, "each key once"
        )
        self.keys = tuple(keys)
        good = isinstance(init_score, Real) and math.isfinite(init_score)
        self.expect(good, "init_score", init_score, "a number")
        self.init_score = init_score

    def attach(self, frontend: AbsLayerFrontend, head: AbsMOSHead) -> None:
        self.predictor = torch.nn.Linear(head.embedding_size, len(self.keys))
        torch.nn.init.constant_(self.predictor.bias, self.init_score)

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        known = torch.isfinite(target["aux"])
        scores = torch.where(known, target["aux"], 0.0)
        error = (self.predictor(prediction.embedding) - scores).abs()
        return masked_mean(error.flatten(), known.flatten(), dim=0)

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        return torch.isfinite(target["aux"]).sum()
