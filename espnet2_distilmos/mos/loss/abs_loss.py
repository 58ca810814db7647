# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What every loss must offer."""

from abc import ABC, abstractmethod
from typing import Dict, FrozenSet

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import MOSPrediction


class AbsMOSLoss(torch.nn.Module, ABC):
    """A scalar from a prediction and its target.

    Attributes:
        name: key in the configuration and in the training log.
        needs: what it reads of the target: ``mos``, ``tokens``, ``ema``. The model
            runs only what some loss of non-zero weight needs.
        view: the pass whose prediction it takes: ``clean``, the true signal, or
            ``masked``, in which spans of frames are hidden from the transformer and
            which may be noisy.
        weight: factor in the sum.
    """

    name: str
    view: str = "clean"
    needs: FrozenSet[str]

    def __init__(self, weight: float = 1.0):
        super().__init__()
        if weight < 0:
            raise ValueError(
                f"found losses.{self.name}.weight={weight}, expected 0 or more"
            )
        self.weight = weight

    def attach(self, frontend: AbsLayerFrontend) -> None:
        """Make parts whose sizes depend on the frontend; most losses have none."""

    @abstractmethod
    def forward(
        self, prediction: MOSPrediction, target: Dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Compute the loss, not yet weighted.

        Args:
            prediction: of the head.
            target: ``mos`` (B,), NaN where an utterance has no label; ``tokens``
                (B, T, S) long, negative where a frame has no token; in the masked
                view ``mask`` (B, T) bool, True where a frame is hidden, and ``ema``,
                the L + 1 hidden states (B, T, D) of the moving average.

        Returns:
            Scalar; zero, with a gradient of zero, where nothing is labelled.
        """
        raise NotImplementedError

    def count(
        self, prediction: MOSPrediction, target: Dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """How many things :meth:`forward` averages: the weight of a batch's loss.

        Returns:
            Scalar: labelled utterances, unless the loss says otherwise.
        """
        return torch.isfinite(target["mos"]).sum()


def labelled_mean(values: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """Mean of ``values`` (B,) over the labelled items; zero if there is none."""
    kept = torch.where(labelled, values, torch.zeros_like(values))
    return kept.sum() / labelled.sum().clamp(min=1)
