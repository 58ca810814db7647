# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The MOS prediction model: frontend, head, losses."""

import contextlib
import dataclasses
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction, TokenColumn
from espnet2_distilmos.mos.head.condition import Condition, ConditionRows
from espnet2_distilmos.mos.head.masked_batch_norm import MaskedBatchNorm1d
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss
from espnet2_distilmos.mos.loss.masked_token import split_tokens
from espnet2_distilmos.mos.loss.token import count_tokens, token_accuracy
from espnet2_distilmos.mos.span_mask import SpanMask
from espnet2_distilmos.mos.teacher import EMATarget

# Passes over a batch, in their order; see AbsMOSLoss.view.
CLEAN, MASKED = "clean", "masked"


class ESPnetMOSModel(AbsESPnetModel):
    """Speech in, MOS out; in training also the losses.

    Args:
        frontend: gives the hidden states of all layers.
        head: gives scores and, where a loss asks, token logits.
        losses: by name; those of weight zero are not computed.
        token_columns: columns of the token files, in their order.
        extract_feats_in_collect_stats: must be False: statistics of hidden states
            are not needed and cost a forward pass.
        mask: options of :class:`~espnet2_distilmos.mos.span_mask.SpanMask`, for losses
            of the masked view.
        listeners: names of the listeners in the training set.
        corpora: names of the corpora in the training set.
        listener_embedding: whether votes are heard as their listeners hear; see
            :class:`~espnet2_distilmos.mos.head.condition.Condition`.
        corpus_embedding: whether utterances are heard as of their corpora.
        corpus_dropout: of ``Condition``.

    Raises:
        ValueError: when a loss wants what the head or the frontend does not have, or
            an embedding what the head does not take.
    """

    def __init__(
        self,
        frontend: AbsLayerFrontend,
        head: AbsMOSHead,
        losses: Optional[Dict[str, AbsMOSLoss]] = None,
        token_columns: Sequence[TokenColumn] = (),
        extract_feats_in_collect_stats: bool = False,
        mask: Optional[Mapping[str, Any]] = None,
        listeners: Sequence[str] = (),
        corpora: Sequence[str] = (),
        listener_embedding: bool = False,
        corpus_embedding: bool = False,
        corpus_dropout: float = 0.2,
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
        for loss in active.values():
            loss.attach(frontend)
        self.losses = torch.nn.ModuleDict(active)
        self.token_columns = tuple(token_columns)
        self.span_mask = SpanMask(**(mask or {}))
        self._needs = frozenset().union(*(loss.needs for loss in active.values()))
        if "mos" in self._needs and not head.predicts_scores:
            users = [k for k, v in active.items() if "mos" in v.needs]
            raise ValueError(
                f"found losses {', '.join(users)} with {type(head).__name__}, which "
                "predicts no scores: use --head distilmos, or leave them out"
            )
        # Token columns that each loss reads.
        self._columns = {
            name: loss.select(self.token_columns)
            for name, loss in active.items()
            if "tokens" in loss.needs
        }
        self._views = {
            view: [name for name, loss in active.items() if loss.view == view]
            for view in (CLEAN, MASKED)
        }
        self.condition: Optional[Condition] = None
        if listener_embedding or corpus_embedding:
            self.condition = _make_condition(
                head,
                listeners if listener_embedding else None,
                corpora if corpus_embedding else None,
                corpus_dropout,
            )
        # As which corpus inference hears; None is the mean over them.
        self.corpus: Optional[str] = None
        head.set_token_training(bool(self._columns))
        masks = bool(self._views[MASKED]) and self.span_mask.start_prob > 0
        frontend.set_mask_training(masks)

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mos: Optional[torch.Tensor] = None,
        tokens: Optional[torch.Tensor] = None,
        noisy: Optional[torch.Tensor] = None,
        utt_id: Optional[Sequence[str]] = None,
        votes: Optional[torch.Tensor] = None,
        listeners: Optional[torch.Tensor] = None,
        corpus: Optional[torch.Tensor] = None,
        **kwargs,
    ) -> Dict[str, object]:
        """Compute the weighted sum of the losses.

        Each view that some loss reads is a pass of its own; the clean one comes first.

        Args:
            speech: (B, N) waveforms in [-1, 1] at 16 kHz.
            speech_lengths: valid samples, (B,).
            mos: labels, (B,) or (B, 1); NaN where an utterance has none.
            tokens: (B, T, S) long; negative where a frame has none.
            noisy: (B, N) waveforms for the masked view, in time with ``speech``; None
                takes ``speech``.
            utt_id: ids, which masks depend on; None takes the places in the batch.
            votes: scores of single listeners, (B, V); losses that read labels alone
                hear them as further utterances, each against its vote.
            listeners: whose votes they are, (B, V) long; negative is no vote.
            corpus: of each utterance, (B,) or (B, 1) long; negative is the mean.
            kwargs: lengths that are not needed.

        Returns:
            ``loss``, ``stats`` (for the log) and ``weight`` as ESPnet's trainer reads
            them; ``counts``, over how many utterances or frames some of the ``stats``
            are means; and ``utt_mos`` (B,), detached, for rank correlations over a
            set, None where no loss reads the clean view.

        Raises:
            ValueError: when a loss needs what the batch does not hold.
        """
        target = self._target(mos, tokens)
        # A collated batch can be longer than its longest item.
        speech = speech[:, : speech_lengths.max()]
        total = speech.new_zeros(())
        utt_mos, stats, counts = None, {}, {}
        for view, names in self._views.items():
            if not names:
                continue
            columns = self._columns_of(view)
            of_votes = None
            if view == CLEAN:
                voters = listeners if "mos" in target else None
                heard = self._heard(len(speech), voters, corpus)
                prediction = self._predict(speech, speech_lengths, columns, heard)
                if heard is not None and heard.item is not None:
                    labels = torch.cat([target["mos"], votes[listeners >= 0]])
                    of_votes = (prediction, dict(target, mos=labels))
                    prediction = prediction.first(len(speech))
                if prediction.utt_mos is not None:
                    utt_mos = prediction.utt_mos.detach()
            else:
                ids = utt_id or [str(place) for place in range(len(speech))]
                target["mask"] = self._mask(speech_lengths, ids)
                for ema in self.ema_targets():
                    states = ema.hidden_states(self.frontend, speech, speech_lengths)
                    target["ema"] = states
                heard = speech if noisy is None else noisy[:, : speech.size(1)]
                prediction = self._predict_masked(
                    heard, speech_lengths, columns, target["mask"]
                )
            for name in names:
                loss, chosen = self.losses[name], self._columns.get(name)
                if of_votes is not None and loss.needs == {"mos"}:
                    read = of_votes
                else:
                    read = _select(prediction, target, columns, chosen)
                value = loss(*read)
                total = total + loss.weight * value
                stats[name] = value.detach()
                counts[name] = loss.count(*read)
            if columns:
                found, wanted = _select(prediction, target, columns, columns)
                described = [self.token_columns[i] for i in columns]
                for values, count in _accuracies(view, found, wanted, described):
                    stats.update(values)
                    counts.update(dict.fromkeys(values, count))
        stats = dict(loss=total.detach(), **stats, **self.head.statistics())
        # The trainer averages over processes: it wants tensors of shape (1,), all on
        # one device.
        stats = {k: v.to(total.device, torch.float32)[None] for k, v in stats.items()}
        weight = torch.tensor([float(speech.size(0))], device=total.device)
        counts = {k: v.to(total.device, torch.float32)[None] for k, v in counts.items()}
        return dict(
            loss=total, stats=stats, weight=weight, counts=counts, utt_mos=utt_mos
        )

    def _columns_of(self, view: str) -> List[int]:
        chosen = [self._columns.get(name, []) for name in self._views[view]]
        return sorted(set().union(*chosen))

    def _target(
        self, mos: Optional[torch.Tensor], tokens: Optional[torch.Tensor]
    ) -> Dict[str, torch.Tensor]:
        given = {"mos": mos, "tokens": tokens}
        for name in sorted(self._needs & set(given)):
            if given[name] is None:
                users = [k for k, v in self.losses.items() if name in v.needs]
                raise ValueError(
                    f"found a batch without {name}, which {', '.join(users)} needs: "
                    f"give the data as ...,{name},... or set the weight to 0"
                )
        target = {}
        if mos is not None:
            target["mos"] = mos.reshape(-1)
        if tokens is not None and self._columns:
            target["tokens"] = tokens
        return target

    def _heard(
        self,
        batch_size: int,
        listeners: Optional[torch.Tensor],
        corpus: Optional[torch.Tensor],
    ) -> Optional[ConditionRows]:
        if self.condition is None:
            return None
        corpus = None if corpus is None else corpus.reshape(-1)
        return self.condition(batch_size, listeners, corpus)

    def set_corpus(self, corpus: Optional[str]) -> None:
        """Say as which corpus of the training inference hears.

        Args:
            corpus: its name; None for the mean over all, which is the default.

        Raises:
            ValueError: the model was not trained with a corpus of this name.
        """
        if corpus is not None:
            if self.condition is None or self.condition.corpus is None:
                raise ValueError(
                    f"found the corpus {corpus} for a model without corpora, expected "
                    "one that was trained with model_conf.corpus_embedding=true"
                )
            self.condition.index(corpus)
        self.corpus = corpus

    def _predict(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        token_indices: Sequence[int] = (),
        heard: Optional[ConditionRows] = None,
    ) -> MOSPrediction:
        hidden_states, lengths = self.frontend(speech, speech_lengths)
        options = {} if heard is None else {"condition": heard}
        with _without_autocast(hidden_states) as hidden_states:
            return self.head(hidden_states, lengths, token_indices, **options)

    def _mask(
        self, speech_lengths: torch.Tensor, utt_ids: Sequence[str]
    ) -> torch.Tensor:
        """Frames to hide, (B, T) bool; the same at each validation."""
        frames = [self.frontend.num_frames(n) for n in speech_lengths.tolist()]
        # ESPnet seeds the generator anew for each epoch, with --seed and its number.
        seed = torch.initial_seed() if self.training else 0
        return self.span_mask(frames, utt_ids, seed).to(speech_lengths.device)

    def _predict_masked(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        token_indices: Sequence[int],
        mask: torch.Tensor,
    ) -> MOSPrediction:
        # A denoising view need not hide anything.
        hides = mask if self.span_mask.start_prob > 0 else None
        hidden_states, lengths = self.frontend(speech, speech_lengths, hides)
        # What inference normalises by is that of the true signal, if it was heard.
        frozen = _frozen_statistics(self.head, bool(self._views[CLEAN]))
        with frozen, _without_autocast(hidden_states) as hidden_states:
            prediction = self.head.predict_tokens(hidden_states, lengths, token_indices)
        return dataclasses.replace(prediction, hidden_states=hidden_states)

    def ema_targets(self) -> List[EMATarget]:
        """Moving averages of the frontend that losses compare with."""
        return [loss.ema for loss in self.losses.values() if "ema" in loss.needs]

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

        Raises:
            ValueError: if the head predicts no scores.
        """
        if not self.head.predicts_scores:
            raise ValueError(
                f"found a model with {type(self.head).__name__}, which predicts no "
                "scores, expected one that was trained on labels: fine-tune it "
                "(--init_model, with --head distilmos)"
            )
        # A batch can be longer than its longest item.
        speech = speech[:, : speech_lengths.max()]
        with torch.set_grad_enabled(grad):
            heard = None
            if self.corpus is not None:
                index = self.condition.index(self.corpus)
                heard = self._heard(
                    len(speech), None, torch.full_like(speech_lengths, index)
                )
            return self._predict(speech, speech_lengths, token_columns, heard)

    def collect_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs
    ) -> Dict[str, torch.Tensor]:
        """Nothing to collect beyond shapes; see ``extract_feats_in_collect_stats``."""
        return {"speech": speech, "speech_lengths": speech_lengths}


def _make_condition(
    head: AbsMOSHead,
    listeners: Optional[Sequence[str]],
    corpora: Optional[Sequence[str]],
    corpus_dropout: float,
) -> Condition:
    """The embeddings that are asked for; None is not asked for, empty is missing."""
    if not head.condition_size:
        raise ValueError(
            f"found a listener or corpus embedding with {type(head).__name__}, which "
            "takes none: use --head distilmos or ssl_mos"
        )
    for names, kind in ((listeners, "listener"), (corpora, "corpus")):
        if names is not None and not names:
            raise ValueError(
                f"found model_conf.{kind}_embedding=true and no {kind}_list, expected "
                "the names in the configuration: training with the data of "
                f"{'votes' if kind == 'listener' else 'corpora'} writes them there"
            )
    return Condition(
        head.condition_size, listeners or (), corpora or (), corpus_dropout
    )


def _select(
    prediction: MOSPrediction,
    target: Dict[str, torch.Tensor],
    available: Sequence[int],
    chosen: Optional[Sequence[int]],
) -> Tuple[MOSPrediction, Dict[str, torch.Tensor]]:
    """Logits and tokens of the chosen columns; all as it is where none are read.

    Args:
        prediction: with logits of the ``available`` columns.
        target: with all columns of the token files.
        available, chosen: indices of columns.
    """
    if chosen is None:
        return prediction, target
    logits = [prediction.token_logits[available.index(i)] for i in chosen]
    return (
        dataclasses.replace(prediction, token_logits=logits),
        dict(target, tokens=target["tokens"][..., list(chosen)]),
    )


def _accuracies(
    view: str,
    prediction: MOSPrediction,
    target: Dict[str, torch.Tensor],
    columns: Sequence[TokenColumn],
) -> Iterator[Tuple[Dict[str, torch.Tensor], torch.Tensor]]:
    """Token accuracies by name, and over how many frames they are means."""
    kinds = {"": target["tokens"]}
    if view == MASKED:
        parts = split_tokens(target["tokens"], target["mask"])
        kinds = dict(zip(("masked_", "unmasked_"), parts))
    for kind, tokens in kinds.items():
        values = token_accuracy(prediction, tokens, columns)
        count = count_tokens(prediction, tokens)
        yield {f"{kind}{name}": value for name, value in values.items()}, count


@contextlib.contextmanager
def _without_autocast(hidden_states: List[torch.Tensor]):
    """Hidden states for the head, which runs in fp32 also where the frontend does not.

    Next to 4, bfloat16 knows a score every 1/32 only; and the head costs little.
    """
    device = hidden_states[0].device.type
    if not torch.is_autocast_enabled(device):
        yield hidden_states
        return
    with torch.autocast(device, enabled=False):
        yield [states.float() for states in hidden_states]


@contextlib.contextmanager
def _frozen_statistics(head: AbsMOSHead, frozen: bool):
    """Leave the running statistics of batch norms alone inside the block."""
    norms = [m for m in head.modules() if isinstance(m, MaskedBatchNorm1d)]
    try:
        for norm in norms:
            norm.frozen_statistics = frozen
        yield
    finally:
        for norm in norms:
            norm.frozen_statistics = False
