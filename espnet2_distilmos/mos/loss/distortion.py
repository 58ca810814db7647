# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Which distortion a view has: what a model of quality has to hear."""

from typing import Dict, Optional, Sequence

import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import MASKED, AbsMOSLoss, Target
from espnet2_distilmos.mos.loss.domain_adversarial import (
    check_kinds,
    checked_state,
    pooled,
)
from espnet2_distilmos.mos.masking import masked_mean


class DistortionLoss(AbsMOSLoss):
    """Cross-entropy of each kind of distortion, and snr_weight * |SNR^ - SNR| / 10 dB.

    Kinds and SNR are what ``noisy_view`` did to the masked view; the SNR counts where
    something was added. A network with one hidden layer reads the mean over valid
    frames of a hidden state. It is the equivariant counterpart of
    :class:`DomainAdversarialLoss`: states that know their distortion.

    Args:
        layer: number of the hidden state that is read; None is the last.
        hidden_size: of the network.
        snr_weight: of the SNR's error.
        classes: filled in by training: the kinds.
    """

    name = "distortion"
    view = MASKED
    needs = frozenset({"distortion", "snr"})
    reads_states = True

    def __init__(
        self,
        weight: float = 0.1,
        layer: Optional[int] = None,
        hidden_size: int = 256,
        snr_weight: float = 1.0,
        classes: Optional[Sequence[str]] = None,
    ):
        super().__init__(weight)
        self.hidden_size = self.checked_number(
            "hidden_size", hidden_size, positive=True, whole=True
        )
        self.snr_weight = self.checked_number("snr_weight", snr_weight)
        self.layer, self.classes = layer, list(classes or ())
        self.seen: Dict[str, torch.Tensor] = {}

    def attach(self, frontend: AbsLayerFrontend, head: AbsMOSHead) -> None:
        """See :meth:`AbsMOSLoss.attach`."""
        self.layer = checked_state(self, self.layer, frontend)
        check_kinds(self, self.classes)
        self.predictor = torch.nn.Sequential(
            torch.nn.Linear(frontend.output_size(), self.hidden_size),
            torch.nn.ReLU(),
            torch.nn.Linear(self.hidden_size, len(self.classes) + 1),
        )

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        states = prediction.hidden_states[self.layer].float()
        found = self.predictor(pooled(states, prediction.state_lengths))
        logits, level = found[:, :-1], found[:, -1]
        kinds, snr = target["distortion"], target["snr"].reshape(-1)
        known = torch.isfinite(snr)
        # The map begins at 0, the middle of usual ratios.
        error = (level - torch.where(known, snr / 10.0 - 1.0, 0.0)).abs()
        error = masked_mean(error, known, dim=0)
        right = ((logits.detach() > 0) == (kinds > 0.5)).float().mean()
        self.seen = {"acc": right, "snr_error": 10.0 * error.detach()}
        entropy = F.binary_cross_entropy_with_logits(logits, kinds)
        return entropy + self.snr_weight * error

    def statistics(self) -> Dict[str, torch.Tensor]:
        """Share of right answers on kinds, and mean error of the SNR in dB.

        None in validation, where nothing is distorted.
        """
        if not self.training:
            return {}
        return {f"{self.name}_{key}": value for key, value in self.seen.items()}

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        lengths = prediction.state_lengths
        return lengths.new_tensor(len(lengths))
