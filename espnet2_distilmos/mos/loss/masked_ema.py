# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Masked prediction of the hidden states of the upstream's moving average."""

from typing import Optional

import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import MASKED, AbsMOSLoss, Target
from espnet2_distilmos.mos.teacher import EMATarget


class MaskedEMALoss(AbsMOSLoss):
    """2 - 2 cos(prediction, target) at masked frames (M2D, arXiv 2305.14079).

    The target is a layer of the upstream's exponential moving average over the true
    signal, each frame standardised over its dimensions. The prediction is that of an
    MLP on the same layer of the upstream in the masked (and distorted) view.

    Deviations from M2D, whose transformer takes patches: the target network sees the
    whole utterance and not the masked part alone, as in data2vec, since convolutions
    need neighbouring frames; and the predictor is an MLP, not a transformer.

    Args:
        layer: of target and prediction; None means the last.
        momentum, momentum_end, momentum_steps: see :class:`EMATarget`; the default
            values are data2vec's.
    """

    name = "masked_ema"
    view = MASKED
    needs = frozenset({"ema"})
    reads_states = True

    def __init__(
        self,
        weight: float = 1.0,
        layer: Optional[int] = None,
        momentum: float = 0.999,
        momentum_end: float = 0.9999,
        momentum_steps: int = 30000,
    ):
        super().__init__(weight)
        self.layer = layer
        self.ema = EMATarget(momentum, momentum_end, momentum_steps)

    def attach(self, frontend: AbsLayerFrontend, head: AbsMOSHead) -> None:
        if self.layer is None:
            self.layer = frontend.num_layers
        if not 0 <= self.layer <= frontend.num_layers:
            raise ValueError(
                f"found losses.{self.name}.layer={self.layer}, expected 0 to "
                f"{frontend.num_layers}"
            )
        size = frontend.output_size()
        self.predictor = torch.nn.Sequential(
            torch.nn.Linear(size, size), torch.nn.GELU(), torch.nn.Linear(size, size)
        )

    def follow(
        self, optimizer: torch.optim.Optimizer, frontend: AbsLayerFrontend
    ) -> None:
        self.ema.follow(optimizer, frontend)

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        mask = target["mask"]
        wanted = target["ema"][self.layer][mask]
        wanted = F.layer_norm(wanted.float(), wanted.shape[-1:])
        found = self.predictor(prediction.hidden_states[self.layer][mask]).float()
        cost = 2.0 - 2.0 * F.cosine_similarity(found, wanted, dim=-1)
        return cost.sum() / mask.sum().clamp(min=1)

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        return target["mask"].sum()
