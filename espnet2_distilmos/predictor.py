# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""MOS of waveforms and files with a trained model."""

import hashlib
import io
import itertools
import json
import math
import numbers
import os
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import (
    Any,
    ContextManager,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np
import torch

from espnet2_distilmos.data.audio import (
    SAMPLE_RATES,
    Channel,
    check_channel,
    check_has_channel,
    check_length,
    check_samples,
    describe,
    read_blocks,
)
from espnet2_distilmos.data.batches import (
    AudioBatches,
    check_seconds,
    map_ahead,
    plan_batches,
)
from espnet2_distilmos.evaluation.neighbours import DATASTORE, Datastore
from espnet2_distilmos.evaluation.trust import (
    CALIBRATION,
    Confidence,
    read_calibration,
    read_scale,
    scale_fingerprint,
)
from espnet2_distilmos.mos.checkpoint import (
    load_model,
    open_trained_model,
    restore_model,
)
from espnet2_distilmos.mos.host import own_settings
from espnet2_distilmos.mos.windows import WindowPlan, blend

Wave = Union[np.ndarray, torch.Tensor]

# Long utterances are cut into windows of so many seconds, half-overlapping.
WINDOW_SECONDS = 20.0
# Padded seconds of a batch. On the CPU only very short clips gain by company: a batch
# of one needs no mask (tools/benchmark_predict.py).
_BATCH_SECONDS, _BATCH_SECONDS_ON_GPU = 2.0, 240.0
# Files whose lengths are sorted together; results of more are never held.
_SORTED_FILES = 1000
# More channels than this are taken for samples.
_MAX_CHANNELS = 64
_KNN_WEIGHT = 0.5
# Values of each tensor that make the model's fingerprint.
_FINGERPRINT_VALUES = 256
# Silence and full scale of integer samples.
_INTEGERS = {"int16": (0, 2**15), "int32": (0, 2**31), "uint8": (128, 2**7)}


@dataclass(frozen=True)
class MOSResult:
    """What the model says of one waveform.

    NumPy arrays, or with ``grad=True`` tensors on the predictor's device.

    Attributes:
        score: utterance MOS on the scale of the training labels, or on that of
            ``MOSPredictor(scale=...)``; a float.
        frames: frame scores on the same scale, (T,).
        times: the frames' times in seconds from the start, (T,): the middle of the
            receptive field before the transformer (whose own is the utterance).
        embedding: what the utterance score is made of, averaged over time, (H,).
        seconds: duration of the waveform.
        note: how the score was made where that is not the usual way, or "".
        token_posteriors: on request, by column (``wavlm_l09``): probability of each
            of the K tokens, (T, K).
        raw_score: on the scale of the training labels, whatever ``score`` is on.
    """

    score: Any
    frames: Any
    times: np.ndarray
    embedding: Any
    seconds: float
    note: str = ""
    token_posteriors: Optional[Dict[str, Any]] = None
    raw_score: float = math.nan
    confidence: Optional[Confidence] = field(default=None, repr=False, compare=False)

    def interval(self, level: float = 0.9) -> Tuple[float, float]:
        """Interval that holds the clip's label with the probability ``level``.

        It holds for clips and a listening test like those of the calibration
        (``distilmos calibrate``).

        Raises:
            ValueError: there is no calibration, or it has too few clips for the level.
        """
        return self.confidence.interval(self.raw_score, level)

    @property
    def novelty(self) -> Optional[float]:
        """Distance from the training set: above 1 the score is not to be trusted.

        None where the model's calibration has no training set.
        """
        embedding = torch.as_tensor(self.embedding).detach().cpu().numpy()
        return self.confidence.novelty(embedding)

    @property
    def novel(self) -> Optional[bool]:
        """Whether the clip is unlike the training set; None where that is unknown."""
        novelty = self.novelty
        return None if novelty is None else novelty > 1.0


class FileResult(NamedTuple):
    """The outcome for one file.

    Attributes:
        index: its place in the input, from 0.
        path: the file.
        result: None where there is no score.
        error: why there is none, one sentence; "" otherwise.
    """

    index: int
    path: str
    result: Optional[MOSResult]
    error: str


class _Scored(NamedTuple):
    """One item of a batch, or the windows of a waveform joined: tensors."""

    score: torch.Tensor
    frames: torch.Tensor
    embedding: torch.Tensor
    posteriors: Dict[str, torch.Tensor]
    num_samples: int
    is_silent: bool
    note: str = ""


class MOSPredictor:
    """A trained model that scores waveforms and files.

    Policies, all deterministic:

    * *level*: the waveform is not scaled; beyond what the upstream's own normalisation
      takes out, the score depends on the level. Samples beyond full scale are clipped.
    * *silence*: none is cut off. Digital silence is scored, with a note.
    * *rate*: any; resampled with soxr (VHQ), whether from a file or from memory.
    * *channels*: averaged, or one is taken.
    * *long*: up to ``max_seconds`` (and the upstream's own limit) the utterance is
      scored whole. A longer one is cut into windows of 20 s that overlap by half (of
      less where the limit is less), the last one ending with the utterance; the frame
      scores are blended linearly in the overlaps, and their mean is the score, as it
      is for a whole utterance. The result has a note. Heads whose utterance score is
      not the mean of the frame scores have their difference to it averaged over the
      windows.
    * *scale*: with one, score and frame scores are mapped to it. (A monotone one is
      not linear: the mean of the frame scores is then not quite the score.)
    * *neighbours*: with ``knn``, the score is (1 - w) times the model's plus w times
      the mean of the labels of the ``knn`` clips of a datastore whose embeddings are
      nearest, weighted (:mod:`~espnet2_distilmos.evaluation.neighbours`). Frame scores
      stay the model's, so that their mean is not the score. A long utterance has one
      embedding, the mean over its windows by their share, and is looked up once.
    * *batch*: the score is the same alone and in any batch (to 1e-4), as the frontends
      are padding-exact.

    In somebody else's program:

    * *settings*: a score does not depend on what the caller has set of torch, NumPy and
      warnings, and all is as it was afterwards; what cannot be shielded moves the last
      digits only (:func:`~espnet2_distilmos.mos.host.own_settings`). A backward pass
      through a score is the caller's, under the caller's settings.
    * *training*: ``train()`` and ``requires_grad_()`` of a module that holds ``model``
      change nothing here. Weights that were moved or cast are refused.
    * *threads*: one predictor may be called from several; they take turns.
    * *processes*: a predictor can be copied and pickled, for spawned ones too; the copy
      is loaded anew from the configuration and the weights. (Upstreams of s3prl need
      their own files for that: unpack a .zip first.) Forked children can score on the
      CPU, with one thread: torch's other threads are not forked, and it would wait for
      them for ever. ``torch.set_num_threads(1)`` is done there on the first score; call
      it before anything else of torch. For more threads, or a GPU, load the model in
      the child or start processes by spawn.

    Args:
        train_config: the experiment's ``config.yaml``.
        model_file: the weights.
        device: such as ``cpu``, ``cuda``, ``cuda:1``.
        channel: ``mean`` of all channels, or the number of one, from 0.
        max_seconds: longest utterance that is scored whole.
        batch_seconds: limit on the padded size of a batch; None for 2 on the CPU and
            240 elsewhere.
        scale: a ``scale.json`` of ``distilmos calibrate --fit-scale``, or its content:
            scores are given on the scale of another listening test.
        calibration: a file of ``distilmos calibrate``; None for the one beside
            ``train_config``, if it is there and of this model.
        corpus: which of the corpora of a training with ``corpus_embedding`` to score
            as; None for the mean over them.
        listener: of a training with ``listener_embedding``, ``mean`` to score as the
            mean listener, or ``all`` for the mean over all listeners of the training.
        knn: how many neighbours; None for the model's own score.
        knn_weight: w, the neighbours' share of the score, in [0, 1]; None for 0.5.
        knn_datastore: a file of ``distilmos calibrate --datastore``; None for the one
            beside ``train_config``.

    Raises:
        ValueError: for a model that cannot be loaded, an impossible option, or a scale,
            calibration or datastore of another model.
        OSError: when a file cannot be opened.
    """

    def __init__(
        self,
        train_config: str,
        model_file: str,
        device: str = "cpu",
        channel: Channel = "mean",
        max_seconds: float = 30.0,
        batch_seconds: Optional[float] = None,
        scale: Union[str, Mapping[str, Any], None] = None,
        calibration: Optional[str] = None,
        corpus: Optional[str] = None,
        listener: str = "mean",
        knn: Optional[int] = None,
        knn_weight: Optional[float] = None,
        knn_datastore: Optional[str] = None,
    ):
        self.device = _device(device)
        self.channel = check_channel(channel)
        if batch_seconds is None:
            on_cpu = self.device.type == "cpu"
            batch_seconds = _BATCH_SECONDS if on_cpu else _BATCH_SECONDS_ON_GPU
        check_seconds("batch_seconds", batch_seconds)
        check_seconds("max_seconds", max_seconds)
        with own_settings(self.device, grad=True):
            files = train_config, model_file
            self.model, self.config = load_model(*files, str(self.device))
        self.model.set_corpus(corpus)
        self.model.set_listener(listener)
        self._settle()
        frontend = self.model.frontend
        self.sample_rate = frontend.sample_rate
        self.minimum_samples = frontend.minimum_samples
        self.frame_shift = frontend.frame_shift * self.model.head.frame_stride
        self.frame_centre = frontend.frame_centre
        self.batch_seconds = batch_seconds
        limit = int(max_seconds * self.sample_rate)
        if frontend.maximum_samples is not None:
            limit = min(limit, frontend.maximum_samples)
        window = int(WINDOW_SECONDS * self.sample_rate)
        self.windows = WindowPlan.make(
            limit, window, self.frame_shift, self.minimum_samples
        )
        self._start_process()
        beside = os.path.dirname(train_config)
        self.knn, self.knn_weight = _checked_neighbours(knn, knn_weight, knn_datastore)
        self.datastore: Optional[Datastore] = None
        if self.knn is not None:
            path = knn_datastore or os.path.join(beside, DATASTORE)
            self.datastore = self.read_datastore(path)
            self.datastore.check_neighbours(self.knn)
        if isinstance(scale, (str, os.PathLike)):
            scale = read_scale(scale)
        model = self.method_fingerprint
        options = {"scale": scale, "score_range": self.config.get("score_range")}
        self.confidence = Confidence(model, **options)
        path = calibration or os.path.join(beside, CALIBRATION)
        if calibration is not None or os.path.exists(path):
            try:
                self.confidence = Confidence(model, read_calibration(path), **options)
            except ValueError as error:
                if calibration is not None:
                    raise
                # Scores can be had without; whoever asks for intervals is told.
                self.confidence.missing = str(error)

    def _start_process(self) -> None:
        """Be of this process."""
        self._pid = os.getpid()
        # By process: a fork may copy a lock that a thread of the parent holds.
        self._turns: Dict[int, threading.Lock] = {}

    def __getstate__(self) -> Dict[str, Any]:
        """All but the network, which need not be picklable, and its weights."""
        weights = io.BytesIO()
        torch.save(self.model.state_dict(), weights)
        state = {k: v for k, v in self.__dict__.items() if k not in ("model", "_turns")}
        chosen = {"corpus": self.model.corpus, "listener": self.model.listener}
        return {**state, "chosen": chosen, "weights": weights.getvalue()}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        chosen, weights = state.pop("chosen"), io.BytesIO(state.pop("weights"))
        self.__dict__.update(state)
        self._start_process()
        device = str(_device(self.device))
        with own_settings(self.device, grad=True):
            states = torch.load(weights, map_location="cpu", weights_only=True)
            self.model = restore_model(self.config, states, "a pickled model", device)
        self.model.set_corpus(chosen["corpus"])
        self.model.set_listener(chosen["listener"])
        self._settle()

    @classmethod
    def from_pretrained(cls, model: str, **options: Any) -> "MOSPredictor":
        """Load a trained model.

        Args:
            model: an experiment directory (its best model by the first criterion of
                training), a model file in one, a packed .zip, a ``user/name`` of the
                Hugging Face hub, or ``distilmos-wavlm`` or ``distilmos-w2v2``, which
                the DistilMOS authors released (both need a network at the first use).
            options: as of the constructor, from ``device`` on.

        Raises:
            ValueError, OSError: as the constructor, and when there is no such model.
        """
        with open_trained_model(model) as (train_config, model_file):
            return cls(train_config, model_file, **options)

    def read_datastore(self, path: str) -> Datastore:
        """Read a datastore of this model.

        Raises:
            ValueError: it is not there, cannot be read, or is of another model.
        """
        mend = "`distilmos calibrate MODEL --labels DATA_DIR --datastore` makes it"
        if not os.path.exists(path):
            raise ValueError(
                f"{path} is not there, expected the datastore whose labels knn takes; "
                f"{mend}"
            )
        datastore = Datastore.read(path)
        if datastore.model != self.model_fingerprint:
            raise ValueError(
                f"{path} is of the model {datastore.model} and this is the model "
                f"{self.model_fingerprint}, expected one of this, as embeddings of two "
                f"models have nothing in common; {mend}"
            )
        return datastore

    @cached_property
    def fingerprint(self) -> str:
        """Identify what scores: the network, its weights, and the policies.

        12 hexadecimal digits. Device and batch size are not part of it.
        """
        plan = self.windows
        parts = {
            **self._network(),
            "scale": scale_fingerprint(self.confidence.scale),
            "channel": self.channel,
            "windows": [plan.limit, plan.window, plan.hop],
            **self._neighbours(),
        }
        return _hash(parts, self.model.state_dict().items())

    @cached_property
    def model_fingerprint(self) -> str:
        """Identify the network and its weights in milliseconds, for datastores.

        12 hexadecimal digits. Some evenly spaced values of each large tensor are looked
        at: training changes all of them.
        """
        samples = []
        for key, value in self.model.state_dict().items():
            values = value.reshape(-1)
            values = values[:: max(1, len(values) // _FINGERPRINT_VALUES)]
            samples.append((f"{key} {tuple(value.shape)}", values))
        return _hash(self._network(), samples)

    @property
    def method_fingerprint(self) -> str:
        """Identify what gives the scores before any scale, for scales and calibrations.

        ``model_fingerprint``, but for the neighbours that scores are blended with.
        """
        neighbours = self._neighbours()
        if not neighbours:
            return self.model_fingerprint
        return _hash({"model": self.model_fingerprint, **neighbours}, [])

    def _neighbours(self) -> Dict[str, Any]:
        if self.datastore is None:
            return {}
        return {"knn": [self.knn, self.knn_weight, self.datastore.fingerprint]}

    def _network(self) -> Dict[str, Any]:
        """The network's configuration; packing takes the directories out of names."""
        network = {
            key: _without_directories(self.config.get(key))
            for key in ("frontend", "frontend_conf", "head", "head_conf")
        }
        if self.model.corpus is not None:
            network["corpus"] = self.model.corpus
        if self.model.listener != "mean":
            network["listener"] = self.model.listener
        return network

    # In memory

    def __call__(
        self,
        wave: Union[Wave, Sequence[Wave]],
        fs: Union[int, Sequence[int]],
        token_posteriors: bool = False,
        grad: bool = False,
    ) -> Union[MOSResult, List[MOSResult]]:
        """Score one waveform, or a list of them.

        Args:
            wave: NumPy array or tensor, (N,) or (channels, N), or a list of these of
                any lengths. Floats in [-1, 1]; int16, int32 and uint8 at full scale.
            fs: sampling rate in Hz, a number of Python, NumPy or torch, or one a
                waveform.
            token_posteriors: give the token predictors' posteriors too.
            grad: give tensors that can be differentiated with respect to the waveform,
                at any rate; for use as a loss or a reward. The model's own weights get
                no gradient. Waveforms that need a gradient must be tensors.

        Returns:
            A result, or a list of results in the order of the list.

        Raises:
            ValueError: a waveform cannot be scored; the sentence says which, and why.
        """
        with self._own_settings(grad):
            return self._score(wave, fs, token_posteriors, grad)

    def _own_settings(self, grad: bool) -> ContextManager[None]:
        """What everything is computed under, in the predictor's process or a child.

        Raises:
            ValueError: the process is a forked child, and the model is on a GPU.
        """
        if self._pid != os.getpid():
            if self.device.type != "cpu":
                raise ValueError(
                    f"found a forked process with a model on {self.device}, expected "
                    "one that was spawned, or a model that was loaded in it; use "
                    "multiprocessing.get_context('spawn')"
                )
            if torch.get_num_threads() != 1:
                # The others were not forked, and would be waited for.
                torch.set_num_threads(1)
        return own_settings(self.device, grad)

    def _score(
        self,
        wave: Union[Wave, Sequence[Wave]],
        fs: Union[int, Sequence[int]],
        token_posteriors: bool,
        grad: bool,
    ) -> Union[MOSResult, List[MOSResult]]:
        """As :meth:`__call__`, in the settings that are set."""
        if grad and (self.confidence.scale or {}).get("kind") == "monotone":
            raise ValueError(
                "found a monotone scale, which is flat between its steps, expected a "
                "linear one or none for gradients; fit the scale with --fit-scale "
                "linear"
            )
        if grad and self.datastore is not None:
            raise ValueError(
                f"found knn={self.knn}, whose neighbours are looked up, expected None "
                "for gradients; load the model without it"
            )
        if not isinstance(wave, (list, tuple)):
            return self._score([wave], [fs], token_posteriors, grad)[0]
        fs = _plain(fs)
        rates = fs if isinstance(fs, (list, tuple)) else [fs] * len(wave)
        if len(rates) != len(wave):
            raise ValueError(
                f"found {len(wave)} waveforms and {len(rates)} sampling rates, "
                "expected one rate, or one a waveform"
            )
        columns = self._token_columns(token_posteriors)
        names = [f"waveform {i} of {len(wave)}" for i in range(len(wave))]
        waves = [self._prepare(*one, grad) for one in zip(wave, rates, names)]
        scored: Dict[int, _Scored] = {}
        short = {}
        for i, one in enumerate(waves):
            if len(one) <= self.windows.limit:
                short[i] = len(one)
            else:
                scored[i] = self._score_long([one], names[i], columns, grad)
        for chosen in plan_batches(short, self.batch_seconds * self.sample_rate):
            batch = self._forward([waves[i] for i in chosen], columns, grad)
            scored.update(zip(chosen, batch))
        return [self._result(scored[i], names[i], grad) for i in range(len(wave))]

    def _prepare(self, wave: Wave, fs: int, name: str, grad: bool) -> torch.Tensor:
        """Mono float32 at the model's rate and on its device, (N,), checked."""
        fs = _checked_rate(fs, name)
        channels = _checked_channels(wave, name)
        channels = channels if grad else channels.detach()
        check_has_channel(self.channel, len(channels), name)
        wave = channels.mean(0) if self.channel == "mean" else channels[self.channel]
        if len(wave):
            check_samples(wave.detach().cpu().numpy(), name)
            if fs != self.sample_rate:
                wave = _Resample.apply(wave, fs, float(self.sample_rate))
        check_length(len(wave), self.minimum_samples, self.sample_rate, name)
        return wave.clamp(-1.0, 1.0).to(self.device)

    def _token_columns(self, are_wanted: bool) -> Dict[int, str]:
        """Numbers and ids of the token predictors to be asked."""
        columns = {i: column.id for i, column in enumerate(self.model.token_columns)}
        if are_wanted and not columns:
            raise ValueError(
                "found no token predictors in this model, expected some for "
                "token_posteriors; train with tokens (stage 5), or leave that out"
            )
        return columns if are_wanted else {}

    # The core that everything goes through

    def _forward(
        self, waves: Sequence[torch.Tensor], columns: Mapping[int, str], grad: bool
    ) -> List[_Scored]:
        """Waveforms (n,) to scores; the tensors are on the CPU but with ``grad``."""
        lengths = torch.tensor([len(wave) for wave in waves])
        speech = torch.nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
        # Frontends keep the lengths of the batch at hand: one batch at a time.
        turn = self._turns.setdefault(os.getpid(), threading.Lock())
        with turn, self._own_settings(grad):
            self._settle()
            found = self.model.inference(
                speech.to(self.device), lengths.to(self.device), list(columns), grad
            )
            values = [found.utt_mos, found.frame_mos, found.embedding]
            if columns:
                values += [logits.float().softmax(-1) for logits in found.token_logits]
            values = [
                value.float() if grad else value.float().cpu() for value in values
            ]
            scored = []
            for i, (n, *item) in enumerate(zip(found.lengths.tolist(), *values)):
                score, frames, embedding, *posteriors = item
                tracks = [posterior[:n] for posterior in posteriors]
                scored.append(
                    _Scored(
                        score,
                        frames[:n],
                        embedding,
                        dict(zip(columns.values(), tracks)),
                        len(waves[i]),
                        not bool(waves[i].detach().any()),
                    )
                )
            return scored

    def _settle(self) -> None:
        """Undo what a trainer does to every module that it finds.

        Raises:
            ValueError: it moved or cast the weights.
        """
        self.model.scores_only = True
        on_gpu = self.device.type == "cuda"
        for module in self.model.modules():
            # cuDNN has gradients in train mode only; without dropout nothing else
            # changes.
            is_rnn = isinstance(module, torch.nn.RNNBase) and module.dropout == 0
            if module.training != (is_rnn and on_gpu):
                module.training = is_rnn and on_gpu
        for weight in self.model.parameters():
            weight.requires_grad_(False)
            if (weight.dtype, weight.device) != (torch.float32, self.device):
                raise ValueError(
                    f"found weights of {weight.dtype} on {weight.device}, expected "
                    f"those that were loaded, torch.float32 on {self.device}; load the "
                    "model again, with device=... for another device"
                )

    def _score_long(
        self,
        blocks: Iterable[torch.Tensor],
        name: str,
        columns: Mapping[int, str],
        grad: bool,
    ) -> _Scored:
        """Score a waveform that comes in blocks, in windows where it is long.

        Raises:
            AudioError: as what gives the blocks, or it is too short.
        """
        starts: List[int] = []
        scored: List[_Scored] = []
        room = self.batch_seconds * self.sample_rate
        count = max(int(room // self.windows.window), 1)
        windows = self.windows.split(blocks)
        while batch := list(itertools.islice(windows, count)):
            length = len(batch[0][1])
            check_length(length, self.minimum_samples, self.sample_rate, name)
            starts += [start for start, _ in batch]
            scored += self._forward([wave for _, wave in batch], columns, grad)
        if len(scored) == 1:
            return scored[0]
        first_frames = [start // self.frame_shift for start in starts]
        frames, shares = blend([item.frames for item in scored], first_frames)
        # Zero for heads whose utterance score is the mean of the frames.
        beyond = torch.stack([item.score - item.frames.mean() for item in scored])
        embedding = torch.stack([item.embedding for item in scored])
        posteriors = {
            name: blend([item.posteriors[name] for item in scored], first_frames)[0]
            for name in scored[0].posteriors
        }
        return _Scored(
            (frames.double().mean() + (shares * beyond).sum()).float(),
            frames,
            (shares[:, None] * embedding).sum(0),
            posteriors,
            starts[-1] + scored[-1].num_samples,
            all(item.is_silent for item in scored),
            f"longer than {self.windows.limit / self.sample_rate:g} s: scored in "
            f"{len(scored)} windows of {self.windows.window / self.sample_rate:g} s",
        )

    def _result(self, item: _Scored, name: str, grad: bool) -> MOSResult:
        score = float(item.score.detach())
        if not math.isfinite(score):
            raise ValueError(
                f"{name} got the score {score}, expected a finite number; the model is "
                "broken, train it again or choose another epoch's"
            )
        if self.datastore is not None:
            label = self.datastore.label(item.embedding.numpy(), self.knn)
            score = (1 - self.knn_weight) * score + self.knn_weight * label
        notes = [item.note] if item.note else []
        if item.is_silent:
            notes.append("digital silence")
        if self.confidence.is_extrapolated(score):
            notes.append("beyond the scores that the scale was fitted to")
        if off_scale := self.confidence.off_scale(score):
            notes.append(off_scale)
        times = self.frame_centre + self.frame_shift * np.arange(len(item.frames))

        def given(values: torch.Tensor) -> Any:
            # A copy: a slice would keep the whole batch.
            return values if grad else values.numpy().copy()

        return MOSResult(
            score=self._on_scale(item.score if grad else score),
            frames=self._on_scale(given(item.frames)),
            times=times / self.sample_rate,
            embedding=given(item.embedding),
            seconds=item.num_samples / self.sample_rate,
            note="; ".join(notes),
            token_posteriors={k: given(p) for k, p in item.posteriors.items()} or None,
            raw_score=score,
            confidence=self.confidence,
        )

    def _on_scale(self, values: Any) -> Any:
        """Scores or frames on the scale of the results, in what they come in."""
        scale = self.confidence.scale
        if scale is None:
            return values
        if isinstance(values, torch.Tensor):  # with its gradient; never monotone
            return scale["intercept"] + scale["slope"] * values
        values = self.confidence.rescale(values)
        return values.astype(np.float32) if values.ndim else float(values)

    # Files

    def predict_files(
        self,
        paths: Iterable[str],
        num_threads: int = 2,
        in_order: bool = True,
        token_posteriors: bool = False,
        utt_ids: Optional[Iterable[str]] = None,
    ) -> Iterator[FileResult]:
        """Score files: decoded ahead in threads, in length-sorted batches.

        A file that cannot be scored gives a result with a sentence, and the others
        are scored. Memory does not grow with the number or the length of the files
        (frame scores and embeddings of up to 1000 files are held for the order), but
        for what the caller keeps.

        Args:
            paths: audio files in any format of libsndfile, at any rate; may be a
                generator.
            num_threads: decoding threads.
            in_order: give the results in the order of ``paths``, each when those before
                it are there; else each as soon as there is one.
            token_posteriors: give the token predictors' posteriors too.
            utt_ids: names of the utterances for the sentences, one a path; None for
                the paths alone.

        Yields:
            A result a path.
        """
        columns = self._token_columns(token_posteriors)
        files = zip(paths, itertools.repeat("") if utt_ids is None else utt_ids)
        for start in itertools.count(0, _SORTED_FILES):
            block = list(itertools.islice(files, _SORTED_FILES))
            if not block:
                return
            waiting: Dict[int, FileResult] = {}
            following = start
            for i, result, error in self._predict_block(block, num_threads, columns):
                found = FileResult(start + i, block[i][0], result, error)
                if not in_order:
                    yield found
                    continue
                waiting[found.index] = found
                while following in waiting:
                    yield waiting.pop(following)
                    following += 1

    def _predict_block(
        self,
        block: Sequence[Tuple[str, str]],
        num_threads: int,
        columns: Mapping[int, str],
    ) -> Iterator[Tuple[int, Optional[MOSResult], str]]:
        """Place in the block, result and sentence of each path and name."""
        batches = AudioBatches(
            {i: path for i, (path, _) in enumerate(block)},
            self.batch_seconds,
            fs=self.sample_rate,
            minimum_samples=self.minimum_samples,
            num_threads=num_threads,
            channel=self.channel,
            maximum_samples=self.windows.limit,
            names={i: name for i, (_, name) in enumerate(block)},
        )
        num_told = 0
        for batch in itertools.chain(batches, [None]):
            new = list(batches.failures.items())[num_told:]
            num_told += len(new)
            for i, error in new:
                yield i, None, error
            if batch is None:
                break
            rows = zip(batch.speech, batch.speech_lengths)
            waves = [torch.from_numpy(row[:n]) for row, n in rows]
            try:
                scored = self._forward(waves, columns, False)
            except RuntimeError:
                # Out of memory, say: one at a time, and each with its own sentence.
                scored = [None] * len(waves)
            for i, wave, item in zip(batch.utt_ids, waves, scored):
                yield i, *self._file_result(block[i], [wave], item, columns)
        for i in batches.too_long:
            path, utt_id = block[i]
            blocks = read_blocks(path, self.sample_rate, utt_id, self.channel)
            ahead = map_ahead(lambda _: next(blocks, None), itertools.count())
            ahead = itertools.takewhile(lambda made: made is not None, ahead)
            waves = map(torch.from_numpy, ahead)
            yield i, *self._file_result(block[i], waves, None, columns)

    def _file_result(
        self,
        file: Tuple[str, str],
        blocks: Iterable[torch.Tensor],
        item: Optional[_Scored],
        columns: Mapping[int, str],
    ) -> Tuple[Optional[MOSResult], str]:
        """Result and sentence of a path and name, scored already or in blocks."""
        name = describe(*file)
        try:
            if item is None:
                with self._own_settings(False):
                    item = self._score_long(blocks, name, columns, False)
            return self._result(item, name, False), ""
        except ValueError as error:  # as AudioError is
            return None, str(error)
        except (RuntimeError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            return None, (
                f"{name} could not be scored ({reason}), expected a score; try a "
                "smaller --max-seconds or another device."
            )


def _checked_neighbours(
    knn: Any, weight: Any, datastore: Optional[str]
) -> Tuple[Optional[int], Optional[float]]:
    """``knn`` and ``knn_weight``, both None without neighbours.

    Raises:
        ValueError: one of them is impossible, or weight or datastore are of no use.
    """
    knn, weight = _plain(knn), _plain(weight)
    if knn is None:
        for name, value in (("knn_datastore", datastore), ("knn_weight", weight)):
            if value is not None:
                raise ValueError(
                    f"found {name}={value!s:.80} without knn, expected both; give knn, "
                    "such as 8"
                )
        return None, None
    if not isinstance(knn, int) or isinstance(knn, bool) or knn < 1:
        raise ValueError(f"found knn={knn!r:.80}, expected a number of neighbours")
    weight = _KNN_WEIGHT if weight is None else weight
    is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight <= 1:
        raise ValueError(
            f"found knn_weight={weight!r:.80}, expected a share from 0 to 1"
        )
    return knn, float(weight)


def _plain(value: Any) -> Any:
    """Python's own for a number or a list of numbers of NumPy or torch."""
    is_array = isinstance(value, (np.ndarray, np.generic, torch.Tensor))
    return value.tolist() if is_array else value


def _checked_rate(fs: Any, name: str) -> float:
    """The sampling rate of a waveform in memory.

    Raises:
        ValueError: it is no number, or none that a sampling rate can be.
    """
    low, high = SAMPLE_RATES
    fs = _plain(fs)
    is_number = isinstance(fs, numbers.Real) and not isinstance(fs, bool)
    if not is_number or not low <= fs <= high:
        raise ValueError(
            f"{name}: found fs={fs!r:.80}, expected a sampling rate from {low} to "
            f"{high} Hz, a number"
        )
    return float(fs)


def _checked_channels(wave: Any, name: str) -> torch.Tensor:
    """Whatever stands for a waveform in memory as float32, (channels, N).

    Raises:
        ValueError: it is of another kind, type or shape; it says which.
    """
    kind = type(wave).__name__
    if isinstance(wave, torch.Tensor):
        dtype = str(wave.dtype).split(".")[-1]
        layout = "nested" if wave.is_nested else str(wave.layout).split(".")[-1]
        layout = "meta" if wave.is_meta else layout.strip("_")
        if layout != "strided":
            raise ValueError(
                f"{name} is a {layout} tensor, expected a dense one that holds "
                "samples; give wave.to_dense(), or an array"
            )
    else:
        try:
            wave = np.asarray(wave)
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"{name} is a {kind} that makes no array ({str(error):.80}), expected "
                "an array or tensor of numbers"
            ) from error
        dtype = wave.dtype.name
    if "float" not in dtype and dtype not in _INTEGERS:
        is_number = dtype != "object" and not dtype.startswith(("str", "bytes"))
        raise ValueError(
            f"{name} is of type {dtype if is_number else f'{kind} ({dtype})'}, "
            "expected floats in [-1, 1], or int16, int32 or uint8 at full scale"
        )
    if isinstance(wave, np.ndarray):
        # Any byte order, any strides.
        native = "float32" if "float" in dtype else dtype
        wave = torch.from_numpy(np.array(wave, native, order="C"))
    if dtype in _INTEGERS:
        silence, full_scale = _INTEGERS[dtype]
        wave = (wave.double() - silence) / full_scale
    wave = wave.to(torch.float32).resolve_neg()
    channels = wave if wave.dim() == 2 else wave[None]
    if channels.dim() != 2 or not 0 < len(channels) <= _MAX_CHANNELS:
        mend = "transpose it, or give a batch as a list of arrays"
        if wave.dim() == 0:
            mend = "it is a single number: make one array of a list of numbers"
        raise ValueError(
            f"{name} has the shape {tuple(wave.shape)}, expected (samples,) or "
            f"(channels, samples); {mend}"
        )
    return channels


def _hash(parts: Mapping[str, Any], values: Iterable[Tuple[str, torch.Tensor]]) -> str:
    """12 hexadecimal digits of JSON-ready values and named tensors."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for key, value in values:
        digest.update(key.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy())
    return digest.hexdigest()[:12]


def _without_directories(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_directories(v) for k, v in value.items()}
    return os.path.basename(value) if isinstance(value, str) else value


class _Resample(torch.autograd.Function):
    """soxr's resampler, the one that files go through, with its gradient.

    Resampling is linear, y = A x, with a symmetric low-pass filter at half the lower
    rate; its transpose is resampling back, times the ratio of the rates (the filter's
    gain is one from either side).
    """

    @staticmethod
    def forward(ctx, wave: torch.Tensor, fs: float, sample_rate: float):
        ctx.rates, ctx.length = (fs, sample_rate), len(wave)
        return _soxr(wave, fs, sample_rate)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        fs, sample_rate = ctx.rates
        back = _soxr(gradient, sample_rate, fs) * (sample_rate / fs)
        back = torch.nn.functional.pad(back, (0, max(0, ctx.length - len(back))))
        return back[: ctx.length], None, None


def _soxr(wave: torch.Tensor, fs: float, sample_rate: float) -> torch.Tensor:
    import soxr

    samples = wave.detach().cpu().contiguous().numpy()
    resampled = soxr.resample(samples, fs, sample_rate, quality="VHQ")
    return torch.from_numpy(resampled).to(wave.device)


def _device(name: Union[str, torch.device]) -> torch.device:
    try:
        # Says whether it is there, and which one "cuda" is at present.
        there = torch.zeros(1, device=torch.device(name))
        there.cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:120]
        raise ValueError(
            f"found device={str(name)!r}, which is not available here ({reason}), "
            "expected cpu or a device of this machine such as cuda"
        ) from error
    return there.device
