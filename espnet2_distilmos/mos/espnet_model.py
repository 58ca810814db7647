# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The MOS prediction model: frontend, head, losses."""

from typing import Dict, List, Optional, Sequence

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction, TokenColumn
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss
from espnet2_distilmos.mos.loss.token import token_accuracy


class ESPnetMOSModel(AbsESPnetModel):
    """Speech in, MOS out; in training also the losses.

    Args:
        frontend: gives the hidden states of all layers.
        head: gives scores and, where a loss asks, token logits.
        losses: by name; those of weight zero are not computed.
        token_columns: columns of the token files, in their order.
        extract_feats_in_collect_stats: must be False: statistics of hidden states
            are not needed and cost a forward pass.
    """

    def __init__(
        self,
        frontend: AbsLayerFrontend,
        head: AbsMOSHead,
        losses: Optional[Dict[str, AbsMOSLoss]] = None,
        token_columns: Sequence[TokenColumn] = (),
        extract_feats_in_collect_stats: bool = False,
    ):
        super().__init__()
        if extract_feats_in_collect_stats:
            raise ValueError(
                "found model_conf.extract_feats_in_collect_stats=true, expected "
                "false: the statistics stage needs only the shapes"
            )
        self.extract_feats_in_collect_stats = False
        self.frontend = frontend
        self.head = head
        active = {k: v for k, v in (losses or {}).items() if v.weight > 0}
        self.losses = torch.nn.ModuleDict(active)
        self.token_columns = tuple(token_columns)
        self._needs = frozenset().union(*(loss.needs for loss in active.values()))
        self._token_indices = self._select_token_columns()
        head.set_token_training(bool(self._token_indices))

    def _select_token_columns(self) -> List[int]:
        chosen = set()
        for loss in self.losses.values():
            if "tokens" in loss.needs:
                chosen.update(loss.select(self.token_columns))
        return sorted(chosen)

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mos: Optional[torch.Tensor] = None,
        tokens: Optional[torch.Tensor] = None,
        **kwargs,
    ) -> Dict[str, object]:
        """Compute the weighted sum of the losses.

        Args:
            speech: (B, N) waveforms in [-1, 1] at 16 kHz.
            speech_lengths: valid samples, (B,).
            mos: labels, (B,) or (B, 1); NaN where an utterance has none.
            tokens: (B, T, S) long; negative where a frame has none.
            kwargs: ``utt_id`` and lengths that are not needed.

        Returns:
            ``loss``, ``stats`` (for the log) and ``weight`` as ESPnet's trainer reads
            them, and ``utt_mos`` (B,), detached, for rank correlations over a set.

        Raises:
            ValueError: when a loss needs what the batch does not hold.
        """
        target = self._target(mos, tokens)
        prediction = self._predict(speech, speech_lengths, self._token_indices)

        losses = {k: loss(prediction, target) for k, loss in self.losses.items()}
        total = prediction.utt_mos.new_zeros(())
        for name, value in losses.items():
            total = total + self.losses[name].weight * value

        stats = dict(loss=total.detach())
        stats.update((name, value.detach()) for name, value in losses.items())
        if self._token_indices:
            columns = [self.token_columns[i] for i in self._token_indices]
            stats.update(token_accuracy(prediction, target["tokens"], columns))
        stats.update(self.head.statistics())
        # The trainer averages over processes: it wants tensors of shape (1,), all on
        # one device.
        stats = {k: v.to(total.device, torch.float32)[None] for k, v in stats.items()}
        weight = torch.tensor([float(speech.size(0))], device=total.device)
        return dict(
            loss=total,
            stats=stats,
            weight=weight,
            utt_mos=prediction.utt_mos.detach(),
        )

    def _target(
        self, mos: Optional[torch.Tensor], tokens: Optional[torch.Tensor]
    ) -> Dict[str, torch.Tensor]:
        given = {"mos": mos, "tokens": tokens}
        for name in sorted(self._needs):
            if given[name] is None:
                users = [k for k, v in self.losses.items() if name in v.needs]
                raise ValueError(
                    f"found a batch without {name}, which {', '.join(users)} needs: "
                    f"give the data as ...,{name},... or set the weight to 0"
                )
        target = {}
        if mos is not None:
            target["mos"] = mos.reshape(-1)
        if tokens is not None and self._token_indices:
            target["tokens"] = tokens[..., self._token_indices]
        return target

    def _predict(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        token_indices: Sequence[int] = (),
    ) -> MOSPrediction:
        # A collated batch can be longer than its longest item.
        speech = speech[:, : speech_lengths.max()]
        hidden_states, lengths = self.frontend(speech, speech_lengths)
        return self.head(hidden_states, lengths, token_indices)

    def inference(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        token_columns: Sequence[int] = (),
        grad: bool = False,
    ) -> MOSPrediction:
        """Score a batch.

        Args:
            speech: (B, N) waveforms in [-1, 1] at 16 kHz, padded right.
            speech_lengths: valid samples, (B,).
            token_columns: indices of the columns whose logits are wanted; the other
                token predictors are not run.
            grad: keep what a backward pass needs, to the waveforms and to the weights
                that require gradients.

        Returns:
            The prediction; an item's score does not depend on the rest of the batch.
        """
        with torch.set_grad_enabled(grad):
            return self._predict(speech, speech_lengths, token_columns)

    def collect_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs
    ) -> Dict[str, torch.Tensor]:
        """Nothing to collect beyond shapes; see ``extract_feats_in_collect_stats``."""
        return {"speech": speech, "speech_lengths": speech_lengths}
