# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What every head must offer: scores from the hidden states of all layers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch

from espnet2_distilmos.mos.head.condition import ConditionRows

# A head with token predictors keeps one module a column in a list of this name.
TOKEN_PREDICTORS = "predictors"


@dataclass
class MOSPrediction:
    """Output of a head for a batch.

    Attributes:
        utt_mos: utterance scores on the scale of the labels, (B,); None of a head
            that predicts none, or where only tokens were asked for.
        frame_mos: frame scores, (B, T'), zero in padded frames; None likewise.
        lengths: valid frames, (B,).
        token_logits: (B, T', K) of each token column asked for; None of none.
        embedding: what the utterance score is made of, averaged over time, (B, H).
        frame_stride: frontend frames from one frame here to the next.
        hidden_states: input of the head, L + 1 tensors (B, T, D), in training where a
            loss reads them.
        state_lengths: their valid frames, (B,), likewise.
        layers: predictions (B, T, D_n) of the hidden states of teachers, likewise.
    """

    utt_mos: Optional[torch.Tensor]
    frame_mos: Optional[torch.Tensor]
    lengths: torch.Tensor
    token_logits: Optional[List[torch.Tensor]]
    embedding: torch.Tensor
    frame_stride: int = 1
    hidden_states: Optional[List[torch.Tensor]] = None
    state_lengths: Optional[torch.Tensor] = None
    layers: Optional[List[torch.Tensor]] = None

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
        stream: name of the upstream.
        layer: 0 for the input of the first transformer layer, l for the output of
            layer l.
        num_clusters: K; tokens lie in [0, K).

    >>> TokenColumn("wavlm", 9, 200).id
    'wavlm_l09'
    """

    stream: str
    layer: int
    num_clusters: int

    @property
    def id(self) -> str:
        """Name in configurations and logs."""
        return f"{self.stream}_l{self.layer:02d}"


class AbsMOSHead(torch.nn.Module, ABC):
    """Hidden states of all layers in, frame and utterance scores out.

    Args:
        input_size: dimension D of the hidden states.
        num_layers: L; the head gets L + 1 tensors.
        token_columns: what its token predictors predict; may be empty.

    Attributes:
        training_options: options that say how it is trained; all others say which
            network it is, and ``--init_model`` fixes them.
        condition_size: size C of the offsets of a condition; 0 of a head that takes
            none.
        embedding_size: size H of :attr:`MOSPrediction.embedding`.
        predicts_scores: False of a head for pretraining, which knows tokens only.
        frame_stride: frontend frames from one frame score to the next.
    """

    training_options: Tuple[str, ...] = ()
    condition_size: int = 0
    embedding_size: int
    predicts_scores: bool = True
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
        scores: bool = True,
    ) -> MOSPrediction:
        """Score a batch.

        Args:
            hidden_states: L + 1 tensors (B, T, D); padded frames are arbitrary.
            lengths: valid frames, (B,).
            token_columns: indices of the columns whose logits are wanted; the other
                predictors are not run.
            condition: the rows that are scored; only for a head with
                ``condition_size``. Token logits are of the utterances all the same.
            scores: False where no loss reads them: then they may be None.

        Returns:
            The prediction; scores do not depend on the padding.
        """
        raise NotImplementedError

    def statistics(self) -> Dict[str, torch.Tensor]:
        """Scalars for the training log, such as layer weights."""
        return {}

    def set_token_training(self, wanted: bool) -> None:
        """Say whether any loss trains the token predictors; others get no gradient.

        Raises:
            ValueError: when one does, and the head has none.
        """
        predictors = getattr(self, TOKEN_PREDICTORS, None)
        if predictors is not None:
            predictors.requires_grad_(wanted)
        elif wanted:
            raise ValueError(
                f"found a token loss with {type(self).__name__}, which predicts no "
                "tokens, expected --head distilmos or no token loss"
            )


def checked_layers(name: str, layers: Any, num_layers: int) -> List[int]:
    """Indices of the hidden states that an option names.

    Raises:
        ValueError: it is no list, or there is none of these indices, or one is named
            twice.
    """
    good = isinstance(layers, (list, tuple)) and layers
    good = good and all(type(i) is int and 0 <= i <= num_layers for i in layers)
    if not good or len(set(layers)) < len(layers):
        raise ValueError(
            f"found {name}={layers}, expected a list of layers between 0 and "
            f"{num_layers}, each once"
        )
    return list(layers)


def checked_layer(layer: Optional[int], num_layers: int) -> int:
    """Index of the hidden state that a head reads; None means the last.

    Raises:
        ValueError: there is none of this index.
    """
    layer = num_layers if layer is None else layer
    if not 0 <= layer <= num_layers:
        raise ValueError(f"found head_conf.layer={layer}, expected 0 to {num_layers}")
    return layer
