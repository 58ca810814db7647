# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What every loss must offer."""

import math
from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import Any, Dict, FrozenSet, List, Optional, Sequence

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction, TokenColumn

# Passes of the model over a batch: the true signal; and one in which spans of frames
# are hidden from the transformer, and whose signal may be distorted.
CLEAN, MASKED = "clean", "masked"
# What a loss compares a prediction with; AbsMOSLoss.forward says what is in it.
Target = Dict[str, Any]


class AbsMOSLoss(torch.nn.Module, ABC):
    """A scalar from a prediction and its target.

    Attributes:
        name: key in the configuration and in the training log.
        needs: entries of the target that it reads: ``mos``, ``aux``, ``tokens``,
            ``ema``, ``teacher``, ``distortion``, ``corpus``.
        uses: entries that it reads where they are there: ``corpus``, ``mos_se``.
        sets_scale: whether the scores, where it reads labels, come onto their scale;
            those of a training by other losses rank and no more.
        trains_score: whether, where it reads labels, the score learns from them.
        least_rows: fewest labelled utterances of a batch that it learns anything from.
        reads_states: whether it reads the hidden states of the prediction.
        view: ``CLEAN`` or ``MASKED``, the pass whose prediction it takes. The model
            runs only the passes that some loss of non-zero weight reads.
        weight: factor in the sum.
        teacher_sizes: dimensions of the teachers' states, set before :meth:`attach`
            where it needs ``teacher`` of ``layer_distill``.
        learning_rate: of its own parameters, which then have no weight decay; None is
            that of the rest of the model.
    """

    name: str
    view: str = CLEAN
    needs: FrozenSet[str] = frozenset({"mos"})
    uses: FrozenSet[str] = frozenset()
    reads_states: bool = False
    sets_scale: bool = True
    trains_score: bool = True
    least_rows: int = 1
    teacher_sizes: Sequence[int] = ()
    learning_rate: Optional[float] = None

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = self.checked_number("weight", weight)

    def checked_number(
        self, option: str, value: Any, positive: bool = False, whole: bool = False
    ) -> Any:
        """Return a finite number of 0 or more that an option has.

        Args:
            option: its name.
            value: as the configuration has it.
            positive: 0 is none.
            whole: it is a number of things.

        Raises:
            ValueError: it is no such number.
        """
        kind = Integral if whole else Real
        good = isinstance(value, kind) and not isinstance(value, bool)
        good = (
            good and math.isfinite(value) and value >= 0 and (value > 0 or not positive)
        )
        least = "above 0" if positive else "of 0 or more"
        expected = f"a {'whole ' if whole else ''}number {least}"
        self.expect(good, option, value, expected)
        return value

    def expect(self, good: Any, option: str, value: Any, expected: str) -> None:
        """Raise a ValueError that names the option, unless its value is good."""
        if not good:
            raise ValueError(
                f"found losses.{self.name}.{option}={value!r}, expected {expected}"
            )

    def checked_view(self, view: Any) -> str:
        """Return the view that the option of this name has, or raise a ValueError."""
        self.expect(view in (CLEAN, MASKED), "view", view, f"{CLEAN} or {MASKED}")
        return view

    def attach(self, frontend: AbsLayerFrontend, head: AbsMOSHead) -> None:
        """Make modules whose sizes depend on the network; most losses have none."""

    def follow(
        self, optimizer: torch.optim.Optimizer, frontend: AbsLayerFrontend
    ) -> None:
        """Join what the model's optimizer does, and its state; most losses need not."""

    def resolved_conf(self) -> Dict[str, Any]:
        """Options that config.yaml has beside those stated, so that no file is read."""
        return {}

    def statistics(self) -> Dict[str, torch.Tensor]:
        """Scalars of the last batch for the training log."""
        return {}

    def select(self, available: Sequence[TokenColumn]) -> List[int]:
        """Indices of the token columns that it reads."""
        return []

    @abstractmethod
    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        """Compute the loss, not yet weighted.

        Args:
            prediction: of the head, with the logits of the selected columns.
            target: ``mos`` (B,), NaN where an utterance has no label; its standard
                error ``mos_se`` (B,), NaN where it is not known; the number of the
                ``corpus`` (B,) long; further scores ``aux`` (B, K), NaN where there is
                none; ``tokens`` (B, T, S) long of the selected columns, negative where
                a frame has no token; in the masked view ``mask`` (B, T) bool, True
                where a frame is hidden, ``ema``, the L + 1 hidden states (B, T, D) of
                the moving average, and what was done to it, ``distortion`` (B, K) and
                ``snr`` (B, 1); in that of ``layer_distill`` the teachers' states
                ``teacher``, a list of (B, T', D_n), and their valid frames
                ``teacher_lengths`` (B,).

        Returns:
            Scalar: a mean; zero, with a gradient of zero, where nothing is labelled.
        """
        raise NotImplementedError

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        """Scalar: number of items that :meth:`forward` averages over.

        The mean over an epoch weights each batch by it.
        """
        return torch.isfinite(target["mos"]).sum()
