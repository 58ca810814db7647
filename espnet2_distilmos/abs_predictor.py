# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What predictors share whatever computes the network; nothing here imports torch."""

import hashlib
import itertools
import json
import math
import numbers
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
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
from espnet2_distilmos.mos.windows import WindowPlan, blend

# np.ndarray, or torch.Tensor where torch computes.
Array = Any
Wave = Any

# Long utterances are cut into windows of so many seconds, half-overlapping.
WINDOW_SECONDS = 20.0
# Files whose lengths are sorted together; results of more are never held.
_SORTED_FILES = 1000
# More channels than this are taken for samples.
_MAX_CHANNELS = 64
_KNN_WEIGHT = 0.5
PRECISIONS = ("fp32", "bf16")
# Silence and full scale of integer samples.
INTEGERS = {"int16": (0, 2**15), "int32": (0, 2**31), "uint8": (128, 2**7)}


def to_numpy(values: Array) -> np.ndarray:
    """Values of an array, or of a tensor without its gradient."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


@dataclass(frozen=True, eq=False)
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
        return self.confidence.novelty(to_numpy(self.embedding))

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


class Scored(NamedTuple):
    """One item of a batch, or the windows of a waveform joined: arrays or tensors."""

    score: Array
    frames: Array
    embedding: Array
    posteriors: Dict[str, Array]
    num_samples: int
    is_silent: bool
    note: str = ""


class AbsMOSPredictor(ABC):
    """A model that scores waveforms and files.

    A subclass sets ``sample_rate``, ``minimum_samples``, ``frame_shift`` and
    ``frame_centre`` (samples) and ``score_range``, then calls :meth:`_set_policies`;
    it computes in :meth:`_forward`. The policies are those that
    :class:`~espnet2_distilmos.predictor.MOSPredictor` states.

    Attributes:
        model_fingerprint: identifies the network and its weights.
        fingerprint: the same with the policies; the ``scorer`` of a table of scores.
        score_range: lowest and highest label of the training; None where unknown.
        config: of the training; empty where unknown.
        about: a line that whoever scores with the model should read, or "".
    """

    # The library of arrays; how its samples are made; a number in single precision.
    _arrays = np
    _from_numpy = staticmethod(lambda samples: samples)
    _single = staticmethod(np.float32)

    model_fingerprint: str
    fingerprint: str
    score_range: Optional[Sequence[float]]
    config: Mapping[str, Any] = {}
    about = ""

    def _set_policies(
        self,
        beside: str,
        channel: Channel,
        max_seconds: float,
        maximum_samples: Optional[int],
        batch_seconds: float,
        scale: Union[str, Mapping[str, Any], None],
        calibration: Optional[str],
        knn: Optional[int],
        knn_weight: Optional[float],
        knn_datastore: Optional[str],
    ) -> None:
        """Check and keep the options.

        Args:
            beside: where calibration and datastore are looked for.
            maximum_samples: that the network takes at once; None for no limit.

        Raises:
            ValueError: an option is impossible, or of another model.
        """
        self.channel = check_channel(channel)
        check_seconds("batch_seconds", batch_seconds)
        check_seconds("max_seconds", max_seconds)
        self.batch_seconds = batch_seconds
        limit = int(max_seconds * self.sample_rate)
        if maximum_samples is not None:
            limit = min(limit, maximum_samples)
        window = int(WINDOW_SECONDS * self.sample_rate)
        self.windows = WindowPlan.make(
            limit, window, self.frame_shift, self.minimum_samples
        )
        self.knn, self.knn_weight = _checked_neighbours(knn, knn_weight, knn_datastore)
        self.datastore: Optional[Datastore] = None
        if self.knn is not None:
            path = knn_datastore or os.path.join(beside, DATASTORE)
            self.datastore = self.read_datastore(path)
            self.datastore.check_neighbours(self.knn)
        if isinstance(scale, (str, os.PathLike)):
            scale = read_scale(scale)
        model = self.method_fingerprint
        options = {"scale": scale, "score_range": self.score_range}
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

    @property
    def method_fingerprint(self) -> str:
        """Identify what gives the scores before any scale, for scales and calibrations.

        ``model_fingerprint``, but for the neighbours that scores are blended with.
        """
        neighbours = self._neighbours()
        if not neighbours:
            return self.model_fingerprint
        return digest({"model": self.model_fingerprint, **neighbours})

    def _neighbours(self) -> Dict[str, Any]:
        if self.datastore is None:
            return {}
        return {"knn": [self.knn, self.knn_weight, self.datastore.fingerprint]}

    def _policies(self) -> Dict[str, Any]:
        """What is part of ``fingerprint`` beside the network."""
        plan = self.windows
        return {
            "scale": scale_fingerprint(self.confidence.scale),
            "channel": self.channel,
            "windows": [plan.limit, plan.window, plan.hop],
            **self._neighbours(),
        }

    def own_weights(self) -> None:
        """Read the model's file whole, for processes that outlast it.

        Where weights are mapped to it, writing into it meanwhile would end the process.
        """

    # What computes

    def _own_settings(self, grad: bool) -> ContextManager[None]:
        """What everything is computed under."""
        if grad:
            raise ValueError(
                "found grad=True, expected False: onnxruntime gives no gradients; load "
                "a trained model for them"
            )
        return np.errstate(all="ignore")

    def _token_columns(self, are_wanted: bool) -> Dict[int, str]:
        """Numbers and ids of the token predictors to be asked."""
        if are_wanted:
            raise ValueError(
                "found no token predictors in this model, expected some for "
                "token_posteriors; leave that out"
            )
        return {}

    @abstractmethod
    def _forward(
        self, waves: Sequence[Array], columns: Mapping[int, str], grad: bool
    ) -> List[Scored]:
        """Waveforms (n,) to scores."""

    def _prepare(self, wave: Wave, fs: int, name: str, grad: bool) -> Array:
        """Mono float32 at the model's rate, (N,), checked."""
        fs = checked_rate(fs, name)
        channels = checked_channels(to_numpy(wave), name)
        check_has_channel(self.channel, len(channels), name)
        wave = channels.mean(0) if self.channel == "mean" else channels[self.channel]
        if len(wave):
            check_samples(wave, name)
            if fs != self.sample_rate:
                wave = resample(wave, fs, self.sample_rate)
        check_length(len(wave), self.minimum_samples, self.sample_rate, name)
        return wave.clip(-1.0, 1.0)

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
        rates = rates_of(wave, fs)
        columns = self._token_columns(token_posteriors)
        names = [f"waveform {i} of {len(wave)}" for i in range(len(wave))]
        waves = [self._prepare(*one, grad) for one in zip(wave, rates, names)]
        scored: Dict[int, Scored] = {}
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

    def _score_long(
        self,
        blocks: Iterable[Array],
        name: str,
        columns: Mapping[int, str],
        grad: bool,
    ) -> Scored:
        """Score a waveform that comes in blocks, in windows where it is long.

        Raises:
            AudioError: as what gives the blocks, or it is too short.
        """
        starts: List[int] = []
        scored: List[Scored] = []
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
        beyond = self._arrays.stack(
            [item.score - item.frames.mean() for item in scored]
        )
        embedding = self._arrays.stack([item.embedding for item in scored])
        posteriors = {
            name: blend([item.posteriors[name] for item in scored], first_frames)[0]
            for name in scored[0].posteriors
        }
        mean = frames.mean(dtype=self._arrays.float64)
        return Scored(
            self._single(mean + (shares * beyond).sum()),
            frames,
            (shares[:, None] * embedding).sum(0),
            posteriors,
            starts[-1] + scored[-1].num_samples,
            all(item.is_silent for item in scored),
            f"longer than {self.windows.limit / self.sample_rate:g} s: scored in "
            f"{len(scored)} windows of {self.windows.window / self.sample_rate:g} s",
        )

    def _result(self, item: Scored, name: str, grad: bool) -> MOSResult:
        score = float(to_numpy(item.score))
        if not math.isfinite(score):
            raise ValueError(
                f"{name} got the score {score}, expected a finite number; the model is "
                "broken, train it again or choose another epoch's"
            )
        if self.datastore is not None:
            label = self.datastore.label(to_numpy(item.embedding), self.knn)
            score = (1 - self.knn_weight) * score + self.knn_weight * label
        notes = [item.note] if item.note else []
        if item.is_silent:
            notes.append("digital silence")
        if self.confidence.is_extrapolated(score):
            notes.append("beyond the scores that the scale was fitted to")
        if off_scale := self.confidence.off_scale(score):
            notes.append(off_scale)
        times = self.frame_centre + self.frame_shift * np.arange(len(item.frames))

        def given(values: Array) -> Any:
            # A copy: a slice would keep the whole batch.
            return values if grad else to_numpy(values).copy()

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
        if hasattr(values, "detach"):  # with its gradient; never monotone
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
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise ValueError(
                f"found the path {paths!s:.80}, expected an iterable of paths; give "
                "[path]"
            )
        paths = map(os.fsdecode, paths)
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
            waves = [self._from_numpy(row[:n]) for row, n in rows]
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
            waves = map(self._from_numpy, ahead)
            yield i, *self._file_result(block[i], waves, None, columns)

    def _file_result(
        self,
        file: Tuple[str, str],
        blocks: Iterable[Array],
        item: Optional[Scored],
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
    knn, weight = plain(knn), plain(weight)
    if knn is None:
        for name, value in (("knn_datastore", datastore), ("knn_weight", weight)):
            if value is not None:
                raise ValueError(
                    f"found {name}={value!s:.80} without knn, expected both; give knn, "
                    "such as 8"
                )
        return None, None
    if not isinstance(knn, int) or isinstance(knn, bool) or knn < 1:
        raise ValueError(
            f"found knn={knn!r:.80}, expected a number of neighbours of 1 or more"
        )
    weight = _KNN_WEIGHT if weight is None else weight
    is_number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight <= 1:
        raise ValueError(
            f"found knn_weight={weight!r:.80}, expected a share from 0 to 1"
        )
    return knn, float(weight)


def check_precision(precision: str, choices: Sequence[str] = PRECISIONS) -> str:
    """Refuse another precision than one of ``choices``.

    Raises:
        ValueError: it says which there are.
    """
    if precision not in choices:
        raise ValueError(
            f"found precision={precision!s:.80}, expected {' or '.join(choices)}"
        )
    return precision


def plain(value: Any) -> Any:
    """Python's own for a number or a list of numbers of NumPy or torch."""
    return value.tolist() if hasattr(value, "tolist") else value


def rates_of(waves: Sequence[Wave], fs: Any) -> Sequence[Any]:
    """The sampling rate of each waveform, of one for all or one a waveform.

    Raises:
        ValueError: there are as many as neither.
    """
    fs = plain(fs)
    rates = fs if isinstance(fs, (list, tuple)) else [fs] * len(waves)
    if len(rates) != len(waves):
        raise ValueError(
            f"found {len(waves)} waveforms and {len(rates)} sampling rates, expected "
            "one rate, or one a waveform"
        )
    return rates


def resample(wave: np.ndarray, fs: float, sample_rate: float) -> np.ndarray:
    """Samples (N,) at another rate, by soxr as for files."""
    import soxr

    return soxr.resample(wave, fs, sample_rate, quality="VHQ")


def digest(parts: Mapping[str, Any], values: Iterable[Tuple[str, Any]] = ()) -> str:
    """12 hexadecimal digits of JSON-ready values and named float32 arrays."""
    found = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
    for key, value in values:
        found.update(key.encode())
        found.update(value)
    return found.hexdigest()[:12]


def checked_rate(fs: Any, name: str) -> float:
    """The sampling rate of a waveform in memory.

    Raises:
        ValueError: it is no number, or none that a sampling rate can be.
    """
    low, high = SAMPLE_RATES
    fs = plain(fs)
    is_number = isinstance(fs, numbers.Real) and not isinstance(fs, bool)
    if not is_number or not low <= fs <= high:
        raise ValueError(
            f"{name}: found fs={fs!r:.80}, expected a sampling rate from {low} to "
            f"{high} Hz, a number"
        )
    return float(fs)


def check_type(dtype: str, kind: str, name: str) -> None:
    """Refuse samples of another type than floats and ``INTEGERS``.

    Raises:
        ValueError: it says which.
    """
    if "float" not in dtype and dtype not in INTEGERS:
        is_number = dtype != "object" and not dtype.startswith(("str", "bytes"))
        raise ValueError(
            f"{name} is of type {dtype if is_number else f'{kind} ({dtype})'}, "
            "expected floats in [-1, 1], or int16, int32 or uint8 at full scale"
        )


def check_shape(shape: Sequence[int], name: str) -> None:
    """Refuse what is neither (samples,) nor (channels, samples).

    Raises:
        ValueError: it says which.
    """
    num_channels = shape[0] if len(shape) == 2 else 1
    if len(shape) not in (1, 2) or not 0 < num_channels <= _MAX_CHANNELS:
        mend = "transpose it, or give a batch as a list of arrays"
        if not shape:
            mend = "it is a single number: make one array of a list of numbers"
        raise ValueError(
            f"{name} has the shape {tuple(shape)}, expected (samples,) or "
            f"(channels, samples); {mend}"
        )


def checked_channels(wave: Any, name: str) -> np.ndarray:
    """What NumPy makes an array of, as float32, (channels, N).

    Raises:
        ValueError: it is of another kind, type or shape; it says which.
    """
    kind = type(wave).__name__
    try:
        wave = np.asarray(wave)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{name} is a {kind} that makes no array ({str(error):.80}), expected "
            "an array or tensor of numbers"
        ) from error
    dtype = wave.dtype.name
    check_type(dtype, kind, name)
    check_shape(wave.shape, name)
    if dtype in INTEGERS:
        silence, full_scale = INTEGERS[dtype]
        wave = (wave.astype(np.float64) - silence) / full_scale
    # Any byte order, any strides.
    return np.array(np.atleast_2d(wave), np.float32, order="C")
