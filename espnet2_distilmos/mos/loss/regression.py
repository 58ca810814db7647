# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Regression losses on utterance and frame scores."""

from typing import Tuple

import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss, Target
from espnet2_distilmos.mos.masking import frame_mask, masked_mean


def _labels(mos: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Labels (B,) with zero for NaN, which would spoil gradients; and which are."""
    labelled = torch.isfinite(mos)
    return torch.where(labelled, mos, torch.zeros_like(mos)), labelled


class UtteranceL1Loss(AbsMOSLoss):
    """Mean of ``|utt_mos - mos|`` over the labelled utterances."""

    name = "mos_l1"
    cost = staticmethod(torch.abs)

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        labels, labelled = _labels(target["mos"])
        return masked_mean(self.cost(prediction.utt_mos - labels), labelled, dim=0)


class UtteranceMSELoss(UtteranceL1Loss):
    """Mean of ``(utt_mos - mos)^2`` over the labelled utterances."""

    name = "mos_mse"
    cost = staticmethod(torch.square)


class FrameL1Loss(AbsMOSLoss):
    """Clipped ``|frame_mos - mos|``: the error of each frame against the label.

    Frames closer than tau to the label cost nothing (UTMOS, Saeki et al. 2022).
    Averaged over the frames of an utterance, then over the labelled utterances, so
    that neither length nor padding weighs.

    Args:
        tau: on the scale of the labels; UTMOS takes 0.25, SHEET's SSL-MOS 0.5.
    """

    name = "frame_l1"
    cost = staticmethod(torch.abs)

    def __init__(self, weight: float = 1.0, tau: float = 0.25):
        super().__init__(weight)
        self.tau = self.checked_number("tau", tau)

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        labels, labelled = _labels(target["mos"])
        error = prediction.frame_mos - labels.unsqueeze(1)
        cost = self.cost(error) * (error.abs() > self.tau)
        mask = frame_mask(prediction.lengths, cost.size(1))
        return masked_mean(masked_mean(cost, mask), labelled, dim=0)


class FrameMSELoss(FrameL1Loss):
    """Clipped ``(frame_mos - mos)^2``."""

    name = "frame_mse"
    cost = staticmethod(torch.square)
