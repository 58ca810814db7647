# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The SSL-MOS head, the field's baseline."""

from typing import List, Optional, Sequence, Tuple

import torch

from espnet2_distilmos.mos.head.abs_head import (
    AbsMOSHead,
    MOSPrediction,
    TokenColumn,
    checked_layer,
)
from espnet2_distilmos.mos.head.condition import ConditionRows
from espnet2_distilmos.mos.masking import frame_mask, masked_mean


class SSLMOSHead(AbsMOSHead):
    """One layer, a small frame-wise network, mean over time.

    Cooper et al., "Generalization ability of MOS prediction networks" (2022), in the
    form that SHEET trains: last layer -> Linear(D, 64) -> ReLU -> Linear(64, 1).

    Args:
        input_size, num_layers: see :class:`AbsMOSHead`.
        token_columns: not read; this head predicts no tokens.
        layer: which hidden state is read; None means the last.
        hidden_dim: width of the frame-wise network.
        score_range: (lowest, highest): squeeze frame scores into the scale with a
            scaled tanh, as SHEET does for (1, 5); None leaves them linear.
    """

    def __init__(
        self,
        input_size: int,
        num_layers: int,
        token_columns: Sequence[TokenColumn] = (),
        layer: Optional[int] = None,
        hidden_dim: int = 64,
        score_range: Optional[Tuple[float, float]] = None,
    ):
        super().__init__(input_size, num_layers, token_columns)
        self.layer = checked_layer(layer, num_layers)
        self.score_range = score_range
        self.condition_size = self.embedding_size = hidden_dim
        self.dnn = torch.nn.Sequential(
            torch.nn.Linear(input_size, hidden_dim), torch.nn.ReLU()
        )
        self.linear = torch.nn.Linear(hidden_dim, 1)

    def forward(
        self,
        hidden_states: List[torch.Tensor],
        lengths: torch.Tensor,
        token_columns: Sequence[int] = (),
        condition: Optional[ConditionRows] = None,
        scores: bool = True,
    ) -> MOSPrediction:
        """See :meth:`AbsMOSHead.forward`; the condition is added before the ReLU."""
        self.set_token_training(bool(token_columns))
        linear, activation = self.dnn
        x = linear(hidden_states[self.layer])
        if condition is not None:
            x, lengths = condition.apply(x, lengths)
        x = activation(x)
        mask = frame_mask(lengths, x.size(1))
        frame_mos = self.linear(x).squeeze(-1)
        if self.score_range is not None:
            low, high = self.score_range
            frame_mos = (high + low) / 2 + (high - low) / 2 * torch.tanh(frame_mos)
        frame_mos = frame_mos.masked_fill(~mask, 0.0)
        return MOSPrediction(
            utt_mos=masked_mean(frame_mos, mask),
            frame_mos=frame_mos,
            lengths=lengths,
            token_logits=None,
            embedding=masked_mean(x, mask),
        )
