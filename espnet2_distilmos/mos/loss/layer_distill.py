# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Distillation: predict the hidden states of other upstreams."""

from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.grid import HEADS
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction
from espnet2_distilmos.mos.head.layer_predictor import LayerPredictor
from espnet2_distilmos.mos.loss.abs_loss import CLEAN, AbsMOSLoss, Target
from espnet2_distilmos.mos.masking import frame_mask, masked_mean
from espnet2_distilmos.mos.teacher import FrozenTeachers


class LayerDistillLoss(AbsMOSLoss):
    """Mean over targets of |p - h| + cos_weight * -log sigma(cos(p, h)).

    The targets h are hidden states of teachers, the predictions p those of a
    :class:`LayerPredictor` on the last layer of the upstream that is trained; both
    terms are means over valid frames, the first also over dimensions (DistilHuBERT,
    arXiv 2110.01900; several teachers: arXiv 2302.12757).

    Args:
        teachers, layers, aggregate: see :class:`FrozenTeachers`.
        cos_weight: of the cosine.
        view: ``clean``, the true signal for student and teachers, or ``masked``: the
            student hears ``noisy_view``, and the teachers what its ``teacher`` says
            (cross-distortion mapping, arXiv 2210.07978).
        known: filled in by training: what the teachers were.
    """

    name = "layer_distill"
    needs = frozenset({"teacher"})
    reads_states = True

    def __init__(
        self,
        weight: float = 1.0,
        teachers: Sequence[str] = (),
        layers: Optional[Sequence[Any]] = None,
        aggregate: str = HEADS,
        cos_weight: float = 1.0,
        view: str = CLEAN,
        known: Optional[Sequence[Mapping[str, Any]]] = None,
    ):
        super().__init__(weight)
        self.cos_weight = self.checked_number("cos_weight", cos_weight)
        self.view = self.checked_view(view)
        self.teachers: Optional[FrozenTeachers] = None
        if weight:
            try:
                self.teachers = FrozenTeachers(teachers, layers, aggregate, known)
            except ValueError as error:
                raise ValueError(f"losses.{self.name}: {error}") from error

    def attach(self, frontend: AbsLayerFrontend, head: AbsMOSHead) -> None:
        """See :meth:`AbsMOSLoss.attach`; reads the teachers unless they are known."""
        self.teachers.check(frontend)
        self.predictor = LayerPredictor(frontend.output_size(), self.teachers.sizes())

    def resolved_conf(self) -> Dict[str, Any]:
        """See :meth:`AbsMOSLoss.resolved_conf`."""
        return {"known": self.teachers.describe()}

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        losses = []
        lengths = common_lengths(prediction, target)
        for found, wanted in zip(prediction.layers, target["teacher"]):
            found, wanted, valid = align_frames(found, wanted, lengths)
            distance = (found - wanted).abs().mean(dim=-1)
            likeness = F.cosine_similarity(found, wanted, dim=-1)
            cost = distance - self.cos_weight * F.logsigmoid(likeness)
            losses.append(masked_mean(cost.flatten(), valid.flatten(), dim=0))
        return torch.stack(losses).mean()

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        return common_lengths(prediction, target).sum()


def common_lengths(prediction: MOSPrediction, target: Target) -> torch.Tensor:
    """Valid frames (B,) that student and teachers both have."""
    return torch.minimum(prediction.state_lengths, target["teacher_lengths"])


def align_frames(
    found: torch.Tensor, wanted: torch.Tensor, lengths: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut predictions and targets to their common frames.

    Args:
        found: (B, T, D).
        wanted: (B, T', D); T' differs by a frame or two.
        lengths: valid frames of both, (B,).

    Returns:
        Both (B, T'', D) in fp32, and which frames are valid, (B, T'') bool.
    """
    frames = min(found.size(1), wanted.size(1))
    valid = frame_mask(lengths, frames)
    return found[:, :frames].float(), wanted[:, :frames].float(), valid
