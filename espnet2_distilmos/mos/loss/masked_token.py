# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Masked prediction: the tokens of frames that the transformer does not see."""

from typing import List, Optional, Tuple, Union

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import MASKED, Target
from espnet2_distilmos.mos.loss.token import NO_TOKEN, TokenCrossEntropyLoss
from espnet2_distilmos.mos.teacher import TokenTeacher


class MaskedTokenCrossEntropyLoss(TokenCrossEntropyLoss):
    """Cross-entropy of the tokens in the masked view.

    alpha L_masked + (1 - alpha) L_unmasked, each a mean over columns and frames as in
    :class:`TokenCrossEntropyLoss` (HuBERT, Hsu et al. 2021, equation 3, with means for
    sums, so that alpha does not depend on the share of frames that is masked).

    Args:
        alpha: 1 predicts masked frames only, 0 the others only; None weighs all frames
            alike.
        columns, normalise: see :class:`TokenCrossEntropyLoss`.
        teacher: upstream, or a list of several, that gives the tokens of what the
            teachers hear (see ``teacher`` of ``noisy_view``), instead of those of the
            true signal.
        codebooks: the ``codebooks.npz`` of the training's tokens, which are of it.
    """

    name = "masked_token_ce"
    view = MASKED

    def __init__(
        self,
        weight: float = 1.0,
        alpha: Optional[float] = 1.0,
        columns: Optional[List[str]] = None,
        normalise: Optional[bool] = None,
        teacher: Union[None, str, List[str]] = None,
        codebooks: Optional[str] = None,
    ):
        super().__init__(weight, columns, normalise)
        self.alpha = alpha
        self.token_teacher: Optional[TokenTeacher] = None
        self.expect(
            (teacher is None) == (codebooks is None),
            "teacher",
            teacher,
            "an upstream with its codebooks, or neither",
        )
        if teacher is not None:
            self.token_teacher = TokenTeacher(teacher, codebooks)

    def attach(self, frontend: AbsLayerFrontend, head: AbsMOSHead) -> None:
        if self.token_teacher is not None:
            self.token_teacher.attach(frontend)

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        if self.alpha is None:
            return super().forward(prediction, target)
        parts = split_tokens(target["tokens"], target["mask"])
        total = prediction.token_logits[0].new_zeros(())
        for factor, tokens in zip((self.alpha, 1.0 - self.alpha), parts):
            if factor > 0:
                total = total + factor * super().forward(prediction, {"tokens": tokens})
        return total

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        """See :meth:`AbsMOSLoss.count`: masked frames, if only they are predicted."""
        tokens = target["tokens"]
        if self.alpha == 1.0:
            tokens, _ = split_tokens(tokens, target["mask"])
        return super().count(prediction, {"tokens": tokens})


def split_tokens(
    tokens: torch.Tensor, mask: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the masked frames and of the others.

    Args:
        tokens: (B, T, S); T may differ from the mask's by a frame or two.
        mask: (B, T') bool.

    Returns:
        Twice (B, min(T, T'), S), with ``NO_TOKEN`` elsewhere.
    """
    frames = min(tokens.size(1), mask.size(1))
    tokens, mask = tokens[:, :frames], mask[:, :frames].unsqueeze(-1)
    return tokens.masked_fill(~mask, NO_TOKEN), tokens.masked_fill(mask, NO_TOKEN)
