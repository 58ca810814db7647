# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The MOS prediction model: frontend, head, losses."""

import contextlib
import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from espnet2.train.abs_espnet_model import AbsESPnetModel

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction, TokenColumn
from espnet2_distilmos.mos.head.condition import Condition, ConditionRows
from espnet2_distilmos.mos.head.masked_batch_norm import frozen_statistics
from espnet2_distilmos.mos.head.probe import Probe
from espnet2_distilmos.mos.loss.abs_loss import CLEAN, MASKED, AbsMOSLoss, Target
from espnet2_distilmos.mos.loss.layer_distill import LayerDistillLoss
from espnet2_distilmos.mos.loss.masked_token import split_tokens
from espnet2_distilmos.mos.loss.token import token_accuracy
from espnet2_distilmos.mos.span_mask import SpanMask
from espnet2_distilmos.mos.teacher import EMATarget, TokenTeacher

# The loss that has the teachers, whose states others may read.
_DISTILL = LayerDistillLoss.name
# Whose scores inference gives: the mean listener's, or the mean over the training's.
LISTENERS = ("mean", "all")
# Rows of all listeners that the decoder of a head makes at a time.
_LISTENER_ROWS = 64

# Names of the token accuracies of each view, before the id of the column.
ACCURACIES = {
    CLEAN: ("token_acc_",),
    MASKED: ("masked_token_acc_", "unmasked_token_acc_"),
}

# What is summed or logged: a mean over a batch, and over how many items.
Terms = Dict[str, Tuple[torch.Tensor, torch.Tensor]]


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
        listeners, corpora: names of those in the training set.
        listener_embedding, corpus_embedding: whether scores depend on the listener or
            the corpus; see :class:`~espnet2_distilmos.mos.head.condition.Condition`.
        corpus_dropout: of ``Condition``.

    Raises:
        ValueError: when a loss wants what the head or the frontend does not have, or
            an embedding what the head does not take.
    """

    # Of a model that is not to be trained: train() leaves it in eval mode.
    scores_only = False

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
        self.token_columns = tuple(token_columns)
        self.span_mask = SpanMask(**(mask or {}))
        active = {k: loss for k, loss in (losses or {}).items() if loss.weight > 0}
        users = [name for name, loss in active.items() if "mos" in loss.needs]
        if users and not head.predicts_scores:
            raise ValueError(
                f"found losses {', '.join(users)} with {type(head).__name__}, which "
                "predicts no scores, expected --head distilmos or other losses"
            )
        # First the one with the teachers, whose sizes others take.
        for name in sorted(active, key=lambda each: each != _DISTILL):
            loss = active[name]
            if "teacher" in loss.needs and name != _DISTILL:
                shown = active.get(_DISTILL)
                if shown is None or shown.view != loss.view:
                    raise ValueError(
                        f"found the loss {name}, which reads teachers, and no "
                        f"{_DISTILL} of the view {loss.view}, expected it, with its "
                        "teachers, or another domain"
                    )
                loss.teacher_sizes = shown.teachers.sizes()
            loss.attach(frontend, head)
        self.losses = torch.nn.ModuleDict(active)
        # Indices of the token columns that each loss reads, and losses of each view.
        self._columns = {k: v.select(self.token_columns) for k, v in active.items()}
        self._views = {
            view: [name for name, loss in active.items() if loss.view == view]
            for view in (CLEAN, MASKED)
        }
        head.set_token_training(any(self._columns.values()))
        masks = bool(self._views[MASKED]) and self.span_mask.start_prob > 0
        frontend.set_mask_training(masks)
        self.condition: Optional[Condition] = None
        if listener_embedding or corpus_embedding:
            self.condition = Condition(
                head.condition_size,
                listeners if listener_embedding else None,
                corpora if corpus_embedding else None,
                corpus_dropout,
            )
        # Of inference; None is the mean over the corpora.
        self.corpus: Optional[str] = None
        self.listener = "mean"

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mos: Optional[torch.Tensor] = None,
        tokens: Optional[torch.Tensor] = None,
        noisy: Optional[torch.Tensor] = None,
        heard: Optional[torch.Tensor] = None,
        distortion: Optional[torch.Tensor] = None,
        snr: Optional[torch.Tensor] = None,
        utt_id: Optional[Sequence[str]] = None,
        votes: Optional[torch.Tensor] = None,
        listeners: Optional[torch.Tensor] = None,
        corpus: Optional[torch.Tensor] = None,
        mos_se: Optional[torch.Tensor] = None,
        aux: Optional[torch.Tensor] = None,
        num_samples: Optional[Sequence[int]] = None,
        **kwargs,
    ) -> Dict[str, object]:
        """Compute the weighted sum of the losses.

        Args:
            speech: (B, N) waveforms in [-1, 1] at 16 kHz.
            speech_lengths: valid samples, (B,).
            mos: labels, (B,) or (B, 1); NaN where an utterance has none.
            tokens: (B, T, S) long; negative where a frame has none.
            noisy: (B, N) waveforms of the masked view, in time with ``speech``; None
                takes ``speech``.
            heard: (B, N) waveforms that teachers hear in the masked view; None takes
                ``speech``.
            distortion: what was done to ``noisy``, (B, K) of 0 and 1.
            snr: of what was added to it in dB, (B, 1); NaN where nothing was.
            utt_id: ids, which masks depend on; None takes the places in the batch.
            votes: scores of single listeners, (B, V).
            listeners: whose votes they are, (B, V) long; negative is no vote.
            corpus: of each utterance, (B,) or (B, 1) long; negative is the mean. Losses
                on pairs read it; scores depend on it in training alone, as inference
                is that of the mean.
            mos_se: standard errors of the labels, (B,) or (B, 1); NaN is not known.
            aux: further scores, (B, K); NaN where an utterance has none.
            num_samples: ``speech_lengths`` as numbers, which a device need not be
                waited for.
            kwargs: lengths that are not needed.

        Returns:
            ``loss``, ``stats`` (for the log) and ``weight`` as ESPnet's trainer reads
            them; ``counts``, the number of items that some of the ``stats`` are means
            over; and ``utt_mos`` (B,), detached, None where no loss reads the true
            signal.

        Raises:
            ValueError: when a loss needs what the batch does not hold.
        """
        if num_samples is not None:
            speech_lengths = torch.tensor(num_samples)
        # A collated batch can be longer than its longest item.
        speech = speech[:, : speech_lengths.max()]
        given = {"mos": mos, "mos_se": mos_se, "corpus": corpus}
        target = {k: v.reshape(-1) for k, v in given.items() if v is not None}
        given = {"aux": aux, "tokens": tokens, "distortion": distortion, "snr": snr}
        target |= {k: v for k, v in given.items() if v is not None}
        for name, loss in self.losses.items():
            for need in loss.needs - {"ema", "teacher", *target}:
                raise ValueError(
                    f"found a batch without {need}, which {name} needs, expected the "
                    f"data ...,{need},... or a weight of 0"
                )
        terms: Terms = {}
        utt_mos = None
        if self._views[CLEAN]:
            terms, utt_mos = self._clean_view(
                speech, speech_lengths, target, votes, listeners
            )
        if self._views[MASKED]:
            noisy, heard = (
                speech if x is None else x[:, : speech.size(1)] for x in (noisy, heard)
            )
            ids = utt_id or [str(place) for place in range(len(speech))]
            terms |= self._masked_view(
                speech, speech_lengths, target, noisy, heard, ids
            )
        loss = speech.new_zeros(())
        for name, (value, _) in terms.items():
            if name in self.losses:
                loss = loss + self.losses[name].weight * value
        stats = {"loss": loss, **self.head.statistics()}
        for some in self.losses.values():
            stats |= some.statistics()
        stats |= {name: value for name, (value, _) in terms.items()}
        counts = {name: count for name, (_, count) in terms.items()}
        return dict(
            loss=loss,
            stats=_log_values(stats, loss.device),
            weight=loss.new_full((1,), len(speech), dtype=torch.float32),
            counts=_log_values(counts, loss.device),
            utt_mos=None if utt_mos is None else utt_mos.detach(),
        )

    def _clean_view(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        target: Target,
        votes: Optional[torch.Tensor],
        listeners: Optional[torch.Tensor],
    ) -> Tuple[Terms, Optional[torch.Tensor]]:
        """Losses and accuracies of the true signal, and the scores (B,)."""
        rows = None
        if self.condition is not None:
            voters = listeners if "mos" in target else None
            corpus = target.get("corpus") if self.training else None
            rows = self.condition(len(speech), voters, corpus)
        columns = self._columns_of(CLEAN)
        states, lengths = self.frontend(speech, speech_lengths)
        with _without_autocast(states) as states:
            prediction = self.head(states, lengths, columns, rows)
        scored = None
        if rows is not None and rows.item is not None:
            # Losses on labels alone take each vote for a further utterance.
            own = votes[listeners >= 0]
            voted = {"mos": torch.cat([target["mos"], own])}
            if "mos_se" in target:
                unknown = torch.full_like(own, torch.nan)
                voted["mos_se"] = torch.cat([target["mos_se"], unknown])
            if "corpus" in target:
                voted["corpus"] = target["corpus"][rows.item]
            scored = prediction, {**target, **voted}
            prediction = prediction.first(len(speech))
        if any(self.losses[name].reads_states for name in self._views[CLEAN]):
            with_states = dict(hidden_states=states, state_lengths=lengths)
            prediction = dataclasses.replace(prediction, **with_states)
        prediction, target = self._teach(
            CLEAN, prediction, target, speech, speech_lengths
        )
        return self._terms(CLEAN, prediction, target, scored), prediction.utt_mos

    def _masked_view(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        target: Target,
        noisy: torch.Tensor,
        heard: torch.Tensor,
        utt_ids: Sequence[str],
    ) -> Terms:
        """Losses and accuracies of ``noisy``, in which spans of frames are hidden.

        Frozen teachers hear ``heard``, the moving average ``speech``.
        """
        frames = [self.frontend.num_frames(n) for n in speech_lengths.tolist()]
        # ESPnet seeds the generator anew for each epoch, with --seed and its number;
        # a validation hides the same frames in every epoch.
        seed = torch.initial_seed() if self.training else 0
        mask = self.span_mask(frames, utt_ids, seed).to(speech.device)
        target = dict(target, mask=mask)
        for ema in self.ema_targets():
            target["ema"] = ema.hidden_states(self.frontend, speech, speech_lengths)
        for teacher in self.token_teachers():
            target["tokens"] = teacher.tokens(heard, speech_lengths)
        # A denoising view need not hide anything.
        hidden = mask if self.span_mask.start_prob > 0 else None
        states, lengths = self.frontend(noisy, speech_lengths, hidden)
        # Inference normalises by the statistics of the true signal, if it is read.
        frozen = frozen_statistics(self.head, bool(self._views[CLEAN]))
        with frozen, _without_autocast(states) as states:
            prediction = self.head(
                states, lengths, self._columns_of(MASKED), scores=False
            )
        with_states = dict(hidden_states=states, state_lengths=lengths)
        prediction = dataclasses.replace(prediction, **with_states)
        prediction, target = self._teach(
            MASKED, prediction, target, heard, speech_lengths
        )
        return self._terms(MASKED, prediction, target)

    def _teach(
        self,
        view: str,
        prediction: MOSPrediction,
        target: Target,
        heard: torch.Tensor,
        speech_lengths: torch.Tensor,
    ) -> Tuple[MOSPrediction, Target]:
        """Add the teachers' hidden states of ``heard``, and predictions of them."""
        distill = self.losses[_DISTILL] if _DISTILL in self.losses else None
        if distill is None or distill.view != view:
            return prediction, target
        wanted, valid = distill.teachers.targets(heard, speech_lengths)
        found = distill.predictor(prediction.hidden_states[-1])
        shown = {"teacher": wanted, "teacher_lengths": valid}
        return dataclasses.replace(prediction, layers=found), {**target, **shown}

    def _terms(
        self,
        view: str,
        prediction: MOSPrediction,
        target: Target,
        scored: Optional[Tuple[MOSPrediction, Target]] = None,
    ) -> Terms:
        """Losses and token accuracies of a view.

        ``scored`` is what losses on labels alone read; None is the same as others.
        """
        terms: Terms = {}
        columns = self._columns_of(view)
        for name in self._views[view]:
            loss, chosen = self.losses[name], self._columns[name]
            read = prediction, target
            if chosen:
                logits = [prediction.token_logits[columns.index(i)] for i in chosen]
                read = (
                    dataclasses.replace(prediction, token_logits=logits),
                    dict(target, tokens=target["tokens"][..., chosen]),
                )
            elif scored is not None and loss.needs == {"mos"}:
                read = scored
            terms[name] = loss(*read), loss.count(*read)
        if columns:
            parts = [target["tokens"][..., columns]]
            if view == MASKED:
                parts = split_tokens(*parts, target["mask"])
            for prefix, tokens in zip(ACCURACIES[view], parts):
                values, count = token_accuracy(prediction, tokens)
                for i, value in zip(columns, values):
                    terms[f"{prefix}{self.token_columns[i].id}"] = value, count
        return terms

    def _columns_of(self, view: str) -> List[int]:
        """Indices of the token columns that losses of a view read."""
        return sorted({i for name in self._views[view] for i in self._columns[name]})

    def _predict(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        token_columns: Sequence[int] = (),
        condition: Optional[ConditionRows] = None,
    ) -> MOSPrediction:
        states, lengths = self.frontend(speech, speech_lengths)
        with _without_autocast(states) as states:
            return self.head(states, lengths, token_columns, condition)

    def probe_to_fit(self) -> Optional[Probe]:
        """The head's linear probe, if training has to fit it before it begins."""
        probe = getattr(self.head, "probe", None)
        return None if probe is None or probe.is_fitted else probe

    @torch.no_grad()
    def probe_features(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor
    ) -> torch.Tensor:
        """What the head's probe reads of a batch (B, N) of lengths (B,): (B, F)."""
        speech = speech[:, : speech_lengths.max()]
        states, lengths = self.frontend(speech, speech_lengths)
        with _without_autocast(states) as states:
            return self.head.probe.features(states, lengths)

    def token_teachers(self) -> List[TokenTeacher]:
        """Upstreams that give the tokens of the masked view on the fly."""
        given = [getattr(x, "token_teacher", None) for x in self.losses.values()]
        return [teacher for teacher in given if teacher is not None]

    def ema_targets(self) -> List[EMATarget]:
        """Moving averages of the frontend that losses compare with."""
        return [loss.ema for loss in self.losses.values() if "ema" in loss.needs]

    def train(self, mode: bool = True) -> "ESPnetMOSModel":
        """Set the mode; what only scores stays in eval mode, whoever calls."""
        return super().train(mode and not self.scores_only)

    def set_corpus(self, corpus: Optional[str]) -> None:
        """Name the corpus whose scale inference predicts on.

        Args:
            corpus: its name; None for the mean over all, which is the default.

        Raises:
            ValueError: the model was not trained with a corpus of this name.
        """
        known = () if self.condition is None else self.condition.corpora
        if corpus is not None and corpus not in known:
            raise ValueError(
                f"found the corpus {corpus}, expected one that the model was trained "
                f"on ({', '.join(known) or 'none'}), or no name for their mean"
            )
        self.corpus = corpus

    def set_listener(self, listener: str) -> None:
        """Say whose scores inference gives.

        Args:
            listener: ``mean`` for the mean listener, whose label is the mean of the
                votes and who costs nothing; ``all`` for the mean over the listeners of
                the training, each heard by the head.

        Raises:
            ValueError: it is neither, or the model was trained without listeners.
        """
        if listener not in LISTENERS:
            raise ValueError(
                f"found the listener {listener}, expected {' or '.join(LISTENERS)}"
            )
        has_listeners = self.condition is not None and self.condition.listeners
        if listener == "all" and not has_listeners:
            raise ValueError(
                "found the listener all and a model without listeners, expected one "
                "that was trained on votes (model_conf.listener_embedding); leave the "
                "listener out, or train with conf/tuning/train_distilmos_listeners.yaml"
            )
        self.listener = listener

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
            With the listener ``all``, scores, frames and embedding are means over the
            listeners.

        Raises:
            ValueError: if the head predicts no scores.
        """
        if not self.head.predicts_scores:
            raise ValueError(
                f"found a model with {type(self.head).__name__}, which predicts no "
                "scores, expected one that was trained on labels: fine-tune it "
                "(--init_model, with --head distilmos)"
            )
        speech = speech[:, : speech_lengths.max()]
        with torch.set_grad_enabled(grad):
            corpus = rows = None
            if self.corpus is not None:
                index = self.condition.corpora.index(self.corpus)
                corpus = torch.full_like(speech_lengths, index)
                rows = self.condition(len(speech), corpus=corpus)
            if self.listener == "mean":
                return self._predict(speech, speech_lengths, token_columns, rows)
            states, lengths = self.frontend(speech, speech_lengths)
            with _without_autocast(states) as states:
                return self._over_listeners(states, lengths, token_columns, corpus)

    def _over_listeners(
        self,
        states: List[torch.Tensor],
        lengths: torch.Tensor,
        token_columns: Sequence[int],
        corpus: Optional[torch.Tensor],
    ) -> MOSPrediction:
        """Mean of the predictions for each listener, some of them at a time."""
        batch_size = len(lengths)
        everyone = torch.arange(len(self.condition.listeners), device=lengths.device)
        found: List[MOSPrediction] = []
        for some in everyone.split(max(1, _LISTENER_ROWS // batch_size)):
            rows = self.condition(batch_size, some.repeat(batch_size, 1), corpus)
            # Without those of the mean listener, which come first.
            rows = ConditionRows(*(part[batch_size:] for part in rows))
            found.append(
                self.head(states, lengths, () if found else token_columns, rows)
            )

        def mean(name: str) -> torch.Tensor:
            values = [getattr(part, name) for part in found]
            each = [value.unflatten(0, (batch_size, -1)) for value in values]
            return torch.cat(each, dim=1).mean(dim=1)

        names = ("utt_mos", "frame_mos", "embedding")
        first = found[0]
        return dataclasses.replace(
            first,
            lengths=first.lengths.unflatten(0, (batch_size, -1))[:, 0],
            **{name: mean(name) for name in names},
        )

    def collect_feats(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, **kwargs
    ) -> Dict[str, torch.Tensor]:
        """Nothing to collect beyond shapes; see ``extract_feats_in_collect_stats``."""
        return {"speech": speech, "speech_lengths": speech_lengths}


def _log_values(
    values: Dict[str, torch.Tensor], device: torch.device
) -> Dict[str, torch.Tensor]:
    """Scalars as ESPnet averages them over processes: (1,), all on one device."""
    return {k: v.detach().to(device, torch.float32)[None] for k, v in values.items()}


@contextlib.contextmanager
def _without_autocast(hidden_states: List[torch.Tensor]):
    """Hidden states for the head, which runs in fp32: bfloat16 is too coarse for it."""
    device = hidden_states[0].device.type
    able = torch.amp.is_autocast_available(device)
    if not (able and torch.is_autocast_enabled(device)):
        yield hidden_states
        return
    with torch.autocast(device, enabled=False):
        yield [states.float() for states in hidden_states]
