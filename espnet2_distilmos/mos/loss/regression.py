# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Regression losses on utterance and frame scores."""

from abc import abstractmethod
from typing import Dict

import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss, labelled_mean
from espnet2_distilmos.mos.masking import frame_mask, masked_mean


class UtteranceL1Loss(AbsMOSLoss):
    """Mean of ``|utt_mos - mos|`` over the labelled utterances."""

    name = "mos_l1"
    needs = frozenset({"mos"})

    def forward(
        self, prediction: MOSPrediction, target: Dict[str, torch.Tensor]
    ) -> torch.Tensor:
        error, labelled = _utterance_error(prediction, target)
        return labelled_mean(error.abs(), labelled)


class UtteranceMSELoss(AbsMOSLoss):
    """Mean of ``(utt_mos - mos)^2`` over the labelled utterances."""

    name = "mos_mse"
    needs = frozenset({"mos"})

    def forward(
        self, prediction: MOSPrediction, target: Dict[str, torch.Tensor]
    ) -> torch.Tensor:
        error, labelled = _utterance_error(prediction, target)
        return labelled_mean(error.square(), labelled)


class _FrameClippedLoss(AbsMOSLoss):
    """Error of each frame score against the utterance's label, if above tau.

    Frames closer than tau to the label cost nothing (UTMOS, Saeki et al. 2022;
    "clipped" in MOSNet's successors). Averaged over the frames of an utterance, then
    over the labelled utterances, so that neither length nor padding weighs.

    Args:
        tau: on the scale of the labels; UTMOS takes 0.25, SHEET's SSL-MOS 0.5.
    """

    needs = frozenset({"mos"})

    def __init__(self, weight: float = 1.0, tau: float = 0.25):
        super().__init__(weight)
        if tau < 0:
            raise ValueError(f"found losses.{self.name}.tau={tau}, expected >= 0")
        self.tau = tau

    @abstractmethod
    def _cost(self, error: torch.Tensor) -> torch.Tensor:
        """Cost of each frame's error, (B, T), before clipping."""
        raise NotImplementedError

    def forward(
        self, prediction: MOSPrediction, target: Dict[str, torch.Tensor]
    ) -> torch.Tensor:
        mos = target["mos"]
        labelled = torch.isfinite(mos)
        label = torch.where(labelled, mos, torch.zeros_like(mos))
        error = prediction.frame_mos - label.unsqueeze(1)
        cost = self._cost(error) * (error.abs() > self.tau)
        mask = frame_mask(prediction.lengths, cost.size(1))
        return labelled_mean(masked_mean(cost, mask), labelled)


class FrameL1Loss(_FrameClippedLoss):
    """Clipped ``|frame_mos - mos|``."""

    name = "frame_l1"

    def _cost(self, error: torch.Tensor) -> torch.Tensor:
        return error.abs()


class FrameMSELoss(_FrameClippedLoss):
    """Clipped ``(frame_mos - mos)^2``."""

    name = "frame_mse"

    def _cost(self, error: torch.Tensor) -> torch.Tensor:
        return error.square()


def _utterance_error(prediction: MOSPrediction, target: Dict[str, torch.Tensor]):
    mos = target["mos"]
    labelled = torch.isfinite(mos)
    # Replaced before the subtraction: a NaN behind where() still spoils gradients.
    label = torch.where(labelled, mos, torch.zeros_like(mos))
    return prediction.utt_mos - label, labelled
