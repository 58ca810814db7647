# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Self-distillation: predict the k-means IDs of the pretrained layers."""

import math
from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.head.abs_head import MOSPrediction, TokenColumn
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss, Target

# Never predicted and never trained on; k-means IDs start at zero.
NO_TOKEN = -1


class TokenCrossEntropyLoss(AbsMOSLoss):
    """Cross-entropy of each column's tokens, averaged over columns and valid frames.

    L_token = mean over layers and frames of CE(head_l(z_t), c_{t,l}) of DistilMOS
    (arXiv 2601.13700).

    Args:
        columns: ids of the token columns to train on, such as ``wavlm_l09``; None
            means all of them.
        normalise: divide the cross-entropy of each column by ln K, that of guessing,
            so that columns of different K count alike. None does so where they
            differ; where they do not, it would be another weight.
    """

    name = "token_ce"
    needs = frozenset({"tokens"})

    def __init__(
        self,
        weight: float = 0.1,
        columns: Optional[List[str]] = None,
        normalise: Optional[bool] = None,
    ):
        super().__init__(weight)
        self.columns = columns
        is_known = normalise is None or isinstance(normalise, bool)
        self.expect(is_known, "normalise", normalise, "true, false or null")
        self.normalise = normalise

    def select(self, available: Sequence[TokenColumn]) -> List[int]:
        """See :meth:`AbsMOSLoss.select`.

        Raises:
            ValueError: when there are no tokens, or not those asked for.
        """
        if not available:
            raise ValueError(
                f"found losses.{self.name} but no tokens, expected --token_info and "
                "the tokens.scp that stage 5 writes, or a weight of 0"
            )
        ids = [column.id for column in available]
        missing = [c for c in (self.columns or []) if c not in ids]
        if missing:
            raise ValueError(
                f"found no token column {', '.join(missing)}, expected columns among "
                f"{', '.join(ids)} (losses.{self.name}.columns)"
            )
        return [i for i, c in enumerate(ids) if not self.columns or c in self.columns]

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        logits, tokens = align_tokens(prediction, target["tokens"])
        losses = [
            F.cross_entropy(
                column.float().transpose(1, 2),
                tokens[..., i],
                ignore_index=NO_TOKEN,
                reduction="sum",
            )
            for i, column in enumerate(logits)
        ]
        sizes = [column.size(-1) for column in logits]
        normalise = self.normalise
        if len(set(sizes)) > 1 if normalise is None else normalise:
            # One cluster is no guess, and costs nothing.
            losses = [x / math.log(max(k, 2)) for x, k in zip(losses, sizes)]
        return torch.stack(losses).mean() / _count(tokens).clamp(min=1)

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        return _count(align_tokens(prediction, target["tokens"])[1])


def align_tokens(
    prediction: MOSPrediction, tokens: torch.Tensor
) -> Tuple[List[torch.Tensor], torch.Tensor]:
    """Bring logits and tokens to common frames.

    Both are cut to the shorter length (upstreams differ by a frame or two), tokens
    are taken at the head's stride, and frames beyond the valid length get no token.

    Args:
        prediction: with S logits (B, T', K).
        tokens: (B, T, S), negative where there is none.

    Returns:
        S logits (B, T'', K) and tokens (B, T'', S) with ``NO_TOKEN`` where invalid.
    """
    tokens = tokens[:, :: prediction.frame_stride]
    frames = min(tokens.size(1), prediction.token_logits[0].size(1))
    tokens = tokens[:, :frames]
    steps = torch.arange(frames, device=tokens.device)
    invalid = (steps[None, :] >= prediction.lengths[:, None]).unsqueeze(-1)
    tokens = tokens.masked_fill(invalid | (tokens < 0), NO_TOKEN)
    return [logits[:, :frames] for logits in prediction.token_logits], tokens


@torch.no_grad()
def token_accuracy(
    prediction: MOSPrediction, tokens: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Share of frames whose token is the most probable one, for each column.

    Args:
        prediction: with logits of S columns.
        tokens: (B, T, S) of these columns.

    Returns:
        (S,) in [0, 1], NaN without tokens; and over how many frames, a scalar.
    """
    logits, tokens = align_tokens(prediction, tokens)
    best = torch.stack([scores.argmax(dim=-1) for scores in logits], dim=-1)
    correct = (best == tokens).sum(dim=(0, 1))
    count = _count(tokens)
    return correct / count, count


def _count(tokens: torch.Tensor) -> torch.Tensor:
    """Frames that have a token; a frame has one in every column or in none."""
    return (tokens[..., 0] != NO_TOKEN).sum()
