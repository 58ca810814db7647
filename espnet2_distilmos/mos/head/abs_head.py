# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What every head must offer: scores from the hidden states of all layers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Sequence, Tuple

import torch

from espnet2_distilmos.mos.head.condition import ConditionRows

# A head with token predictors keeps one module a column in a list of this name.
TOKEN_PREDICTORS = "predictors"


@dataclass
class MOSPrediction:
    """What a head says of a batch.

    Attributes:
        utt_mos: utterance scores on the scale of the labels, (B,); None of a head
            that predicts none, or where only tokens were asked for.
        frame_mos: frame scores, (B, T'); padded frames hold zeros. None likewise.
        lengths: valid frames, (B,).
        token_logits: one (B, T', K) tensor a token column, or None where no loss
            asked for them.
        embedding: what the utterance score is made of, averaged over time, (B, H).
        frame_stride: frontend frames from one frame here to the next.
        hidden_states: what the head was given, in the masked view only.
    """

    utt_mos: Optional[torch.Tensor]
    frame_mos: Optional[torch.Tensor]
    lengths: torch.Tensor
    token_logits: Optional[List[torch.Tensor]]
    embedding: torch.Tensor
    frame_stride: int = 1
    hidden_states: Optional[List[torch.Tensor]] = None

    def first(self, rows: int) -> "MOSPrediction":
        """Scores of the first rows only; the token logits stay."""
        return replace(
            self,
            utt_mos=self.utt_mos[:rows],
            frame_mos=self.frame_mos[:rows],
            lengths=self.lengths[:rows],
            embedding=self.embedding[:rows],
        )


@dataclass(frozen=True)
class TokenColumn:
    """One column of the token files: the k-means IDs of one layer of one upstream.

    Attributes:
        stream: name of the upstream, e.g. ``wavlm``.
        layer: 0 for the input of the first transformer layer, l for the output of
            layer l.
        num_clusters: K; tokens lie in [0, K).
    """

    stream: str
    layer: int
    num_clusters: int

    @property
    def id(self) -> str:
        """Name in configurations and logs, e.g. ``wavlm_l09``."""
        return f"{self.stream}_l{self.layer:02d}"


class AbsMOSHead(torch.nn.Module, ABC):
    """Hidden states of all layers in, frame and utterance scores out.

    Args of every constructor: ``input_size`` (dimension D of the hidden states),
    ``num_layers`` (L; the head gets L + 1 tensors) and ``token_columns``, then the
    head's own options.
    """

    # Options that say how it is trained; all others say which network it is, and a
    # trained model that training starts from fixes them.
    training_options: Tuple[str, ...] = ()

    # Size C of the offsets that the part behind the tokens takes; 0 if it takes none.
    condition_size: int = 0

    # False of a head for pretraining, which knows tokens only.
    predicts_scores: bool = True

    # Frontend frames from one frame score to the next; frame scores lie where every
    # such frame lies.
    frame_stride: int = 1

    @abstractmethod
    def __init__(
        self,
        input_size: int,
        num_layers: int,
        token_columns: Sequence[TokenColumn] = (),
    ):
        super().__init__()

    @abstractmethod
    def forward(
        self,
        hidden_states: List[torch.Tensor],
        lengths: torch.Tensor,
        token_columns: Sequence[int] = (),
        condition: Optional[ConditionRows] = None,
    ) -> MOSPrediction:
        """Score a batch.

        Args:
            hidden_states: L + 1 tensors (B, T, D); padded frames are arbitrary.
            lengths: valid frames, (B,).
            token_columns: indices of the columns whose logits are wanted; none at
                inference, where they cost nothing.
            condition: rows of each utterance; only for a head with ``condition_size``.

        Returns:
            The prediction; scores do not depend on the padding. With ``condition`` it
            has R rows, as this says, but for the token logits, which no listener
            changes.
        """
        raise NotImplementedError

    def predict_tokens(
        self,
        hidden_states: List[torch.Tensor],
        lengths: torch.Tensor,
        token_columns: Sequence[int],
    ) -> MOSPrediction:
        """As :meth:`forward` where nobody reads the scores: they may be left out."""
        return self(hidden_states, lengths, token_columns)

    def statistics(self) -> Dict[str, torch.Tensor]:
        """Scalars worth a curve in the training log (layer weights, say)."""
        return {}

    def set_token_training(self, wanted: bool) -> None:
        """Say whether any loss trains the token predictors.

        Raises:
            ValueError: when one does, and the head has none.
        """
        if wanted:
            raise ValueError(
                f"found a token loss with {type(self).__name__}, which predicts no "
                "tokens: use --head distilmos, or leave token losses out"
            )
