# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The pretraining head: tokens from one layer, no score."""

from typing import List, Optional, Sequence

import torch

from espnet2_distilmos.mos.head.abs_head import (
    AbsMOSHead,
    MOSPrediction,
    TokenColumn,
    checked_layer,
)
from espnet2_distilmos.mos.head.condition import ConditionRows
from espnet2_distilmos.mos.masking import frame_mask, masked_mean


class TokenHead(AbsMOSHead):
    """Layer norm and one linear map from one layer to each column's tokens.

    As in HuBERT's pretraining the last layer predicts, so that all layers learn
    context; a head that mixes layers could learn from those below. Nothing but the
    upstream carries over to fine-tuning, which takes another head.

    Args:
        input_size, num_layers, token_columns: see :class:`AbsMOSHead`.
        layer: which hidden state is read; None means the last.
    """

    predicts_scores = False

    def __init__(
        self,
        input_size: int,
        num_layers: int,
        token_columns: Sequence[TokenColumn] = (),
        layer: Optional[int] = None,
    ):
        super().__init__(input_size, num_layers, token_columns)
        self.layer = checked_layer(layer, num_layers)
        self.embedding_size = input_size
        # Networks with norms before each layer leave the last output unnormalised.
        self.layer_norm = torch.nn.LayerNorm(input_size)
        self.predictors = torch.nn.ModuleList(
            torch.nn.Linear(input_size, column.num_clusters) for column in token_columns
        )

    def forward(
        self,
        hidden_states: List[torch.Tensor],
        lengths: torch.Tensor,
        token_columns: Sequence[int] = (),
        condition: Optional[ConditionRows] = None,
        scores: bool = True,
    ) -> MOSPrediction:
        """See :meth:`AbsMOSHead.forward`; there are no scores."""
        x = self.layer_norm(hidden_states[self.layer])
        return MOSPrediction(
            utt_mos=None,
            frame_mos=None,
            lengths=lengths,
            token_logits=[self.predictors[i](x) for i in token_columns] or None,
            embedding=masked_mean(x, frame_mask(lengths, x.size(1))),
        )
