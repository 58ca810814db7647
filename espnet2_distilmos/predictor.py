# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""MOS of waveforms and files with a trained model."""

import hashlib
import json
import math
import os
import threading
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import (
    Any,
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
import soxr
import torch

from espnet2_distilmos.data.audio import (
    SAMPLE_RATES,
    AudioError,
    Channel,
    check_channel,
    check_samples,
    read_blocks,
)
from espnet2_distilmos.data.batches import AudioBatches, in_background, too_short
from espnet2_distilmos.evaluation.trust import (
    CALIBRATION,
    Confidence,
    read_calibration,
    read_scale,
    scale_fingerprint,
)
from espnet2_distilmos.mos.checkpoint import load_model, open_trained_model
from espnet2_distilmos.mos.windows import WindowPlan, blend

Wave = Union[np.ndarray, torch.Tensor]

# Long utterances are cut into windows of so many seconds, half-overlapping.
WINDOW_SECONDS = 20.0
# Padded seconds of a batch. On the CPU only very short clips gain by company: a batch
# of one needs no mask (tools/benchmark_predict.py).
_BATCH_SECONDS = {"cpu": 2.0}
_BATCH_SECONDS_ON_GPU = 240.0
# Files whose lengths are sorted together; results of more are never held.
_SORTED_FILES = 1000
# More channels than this are taken for samples.
_MAX_CHANNELS = 64
# Values of each tensor that tell checkpoints apart.
_FINGERPRINT_VALUES = 256
# Full scale of integer samples, and the value of silence.
_INTEGERS = {"int16": (0, 2**15), "int32": (0, 2**31), "uint8": (128, 2**7)}


@dataclass(frozen=True)
class MOSResult:
    """What the model says of one waveform.

    NumPy arrays, or with ``grad=True`` tensors on the predictor's device.

    Attributes:
        score: utterance MOS on the scale of the training labels, or on that of
            ``MOSPredictor(scale=...)``; a float.
        frames: frame scores on the same scale, (T,).
        times: where they lie, in seconds from the start, (T,): the middle of the
            frame's receptive field before the transformer. (The transformer itself
            hears the whole utterance.)
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

        The model must have been calibrated (``distilmos calibrate``); what the
        probability is about, and what it costs to leave the calibration's kind of clip
        or listening test, is described in ``evaluation.trust``.

        Raises:
            ValueError: there is no calibration, or it has too few clips for the level.
        """
        return self.confidence.interval(self.raw_score, level)

    @property
    def novelty(self) -> Optional[float]:
        """Distance from the training set: above 1 the score is not to be trusted.

        None where the model's calibration has no training set.
        """
        embedding = self.embedding
        if isinstance(embedding, torch.Tensor):
            embedding = embedding.detach().cpu().numpy()
        return self.confidence.novelty(embedding)

    @property
    def novel(self) -> Optional[bool]:
        """Whether the clip is unlike the training set; None where that is unknown."""
        novelty = self.novelty
        return None if novelty is None else novelty > 1.0


class FileResult(NamedTuple):
    """What became of one file.

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
    """One item of a batch, or one window: tensors."""

    score: torch.Tensor
    frames: torch.Tensor
    embedding: torch.Tensor
    posteriors: Optional[List[torch.Tensor]]
    num_samples: int
    is_silent: bool


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
    * *batch*: the score is the same alone and in any batch (to 1e-4), as the frontends
      are padding-exact.

    Args:
        train_config: the experiment's ``config.yaml``.
        model_file: the weights.
        device: such as ``cpu``, ``cuda``, ``cuda:1``.
        channel: ``mean`` of all channels, or the number of one, from 0.
        max_seconds: longest utterance that is scored whole.
        batch_seconds: limit on the padded size of a batch; None for 2 on the CPU and
            240 elsewhere.
        scale: a ``scale.json`` of ``distilmos calibrate --fit-scale``, or what is in
            one: scores are given on the scale of another listening test.
        calibration: a file of ``distilmos calibrate``; None for the one beside
            ``train_config``, if it is there and of this model.
        corpus: which of the corpora of a training with ``corpus_embedding`` to score
            as; None for the mean over them.

    One predictor may be called from several threads; they take turns.

    Raises:
        ValueError: for a model that cannot be loaded, an impossible option, or a scale
            or calibration of another model.
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
    ):
        self.device = _device(device)
        self.channel = check_channel(channel)
        self.model, self.config = load_model(train_config, model_file, str(self.device))
        self.model.set_corpus(corpus)
        self.model.requires_grad_(False)
        if self.device.type == "cuda":
            for module in self.model.modules():
                if isinstance(module, torch.nn.RNNBase) and module.dropout == 0:
                    # cuDNN has gradients in train mode only; without dropout nothing
                    # else changes.
                    module.train()
        frontend = self.model.frontend
        self.sample_rate = frontend.sample_rate
        self.frame_shift = frontend.frame_shift * self.model.head.frame_stride
        if batch_seconds is None:
            batch_seconds = _BATCH_SECONDS.get(self.device.type, _BATCH_SECONDS_ON_GPU)
        if not batch_seconds > 0:
            raise ValueError(
                f"found batch_seconds={batch_seconds}, expected a positive number"
            )
        if not 0 < max_seconds < math.inf:
            raise ValueError(
                f"found max_seconds={max_seconds}, expected a positive number"
            )
        self.batch_seconds = batch_seconds
        limit = int(max_seconds * self.sample_rate)
        if frontend.maximum_samples is not None:
            limit = min(limit, frontend.maximum_samples)
        self.windows = WindowPlan.make(
            limit, int(WINDOW_SECONDS * self.sample_rate), self.frame_shift
        )
        if self.windows.window < frontend.minimum_samples:
            raise ValueError(
                f"found max_seconds={max_seconds}, which leaves windows of "
                f"{self.windows.window} samples, expected at least the "
                f"{frontend.minimum_samples} of one frame"
            )
        self._fingerprint: Optional[str] = None
        self._turn = threading.Lock()
        self.confidence = self._confidence(
            os.path.dirname(train_config),
            read_scale(scale) if isinstance(scale, (str, os.PathLike)) else scale,
            calibration,
        )

    def _confidence(
        self,
        folder: str,
        scale: Optional[Mapping[str, Any]],
        calibration: Optional[str],
    ) -> Confidence:
        """What is known of the scores; the file beside the model need not fit."""
        model = self.model_fingerprint
        options = {"scale": scale, "score_range": self.config.get("score_range")}
        if calibration is not None:
            return Confidence(model, read_calibration(calibration), **options)
        path = os.path.join(folder, CALIBRATION)
        if not os.path.exists(path):
            return Confidence(model, **options)
        try:
            return Confidence(model, read_calibration(path), **options)
        except ValueError as error:
            # Scores can be had without; whoever asks for intervals is told.
            return Confidence(model, missing=str(error), **options)

    def __getstate__(self) -> Dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_turn"}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state, _turn=threading.Lock())

    @classmethod
    def from_pretrained(cls, model: str, **options: Any) -> "MOSPredictor":
        """Load a trained model.

        Args:
            model: an experiment directory (its best model by the first criterion of
                training), a model file in one, a packed .zip, or a ``user/name`` of
                the Hugging Face hub (which needs a network, or an earlier download).
            options: ``device``, ``channel``, ``max_seconds``, ``batch_seconds``,
                ``scale``, ``calibration``, ``corpus``.

        Raises:
            ValueError, OSError: as the constructor, and when there is no such model.
        """
        with open_trained_model(model) as (train_config, model_file):
            return cls(train_config, model_file, **options)

    @property
    def fingerprint(self) -> str:
        """Identify what scores: the network, its weights, and the policies.

        Returns:
            12 hexadecimal digits. Device and batch size are not part of it.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            parts = self._network()
            parts["scale"] = scale_fingerprint(self.confidence.scale)
            parts["channel"] = self.channel
            parts["windows"] = [
                self.windows.limit,
                self.windows.window,
                self.windows.hop,
            ]
            digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
            for key, value in self.model.state_dict().items():
                array = value.detach().to("cpu", torch.float32).contiguous().numpy()
                digest.update(key.encode())
                digest.update(array)
            self._fingerprint = digest.hexdigest()[:12]
        return self._fingerprint

    @cached_property
    def model_fingerprint(self) -> str:
        """Identify the network and its weights, in milliseconds.

        Of each large tensor some evenly spaced values are looked at: training changes
        all of them.

        Returns:
            12 hexadecimal digits.
        """
        digest = hashlib.sha256()
        digest.update(json.dumps(self._network(), sort_keys=True, default=str).encode())
        for key, value in self.model.state_dict().items():
            values = value.detach().reshape(-1)
            values = values[:: max(1, len(values) // _FINGERPRINT_VALUES)]
            digest.update(f"{key} {tuple(value.shape)}".encode())
            digest.update(values.to("cpu", torch.float32).contiguous().numpy())
        return digest.hexdigest()[:12]

    def _network(self) -> Dict[str, Any]:
        """The network's configuration; packing takes the directories out of names."""
        network = {
            key: _without_directories(self.config.get(key))
            for key in ("frontend", "frontend_conf", "head", "head_conf")
        }
        if self.model.corpus is not None:
            network["corpus"] = self.model.corpus
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
            fs: sampling rate in Hz, or one a waveform.
            token_posteriors: give the token predictors' posteriors too.
            grad: give tensors that can be differentiated with respect to the waveform,
                at any rate; for use as a loss or a reward. The model's own weights get
                no gradient. Waveforms that need a gradient must be tensors.

        Returns:
            A result, or a list of results in the order of the list.

        Raises:
            ValueError: a waveform cannot be scored; the sentence says which, and why.
        """
        if grad and (self.confidence.scale or {}).get("kind") == "monotone":
            raise ValueError(
                "found a monotone scale, which is flat between its steps, expected a "
                "linear one or none for gradients; fit the scale with --fit-scale "
                "linear"
            )
        if not isinstance(wave, (list, tuple)):
            return self([wave], [fs], token_posteriors, grad)[0]
        rates = list(fs) if isinstance(fs, (list, tuple, np.ndarray)) else None
        if rates is None:
            rates = [fs] * len(wave)
        if len(rates) != len(wave):
            raise ValueError(
                f"found {len(wave)} waveforms and {len(rates)} sampling rates, "
                "expected one rate, or one a waveform"
            )
        columns = self._token_columns() if token_posteriors else []
        prepared = []
        for i, (one, rate) in enumerate(zip(wave, rates)):
            name = f"waveform {i} of {len(wave)}" if len(wave) > 1 else "the waveform"
            prepared.append(self._prepare(one, rate, name, grad))

        results: List[Optional[MOSResult]] = [None] * len(wave)
        # Longest first, as files are; equal lengths in their order.
        order = sorted(range(len(wave)), key=lambda i: -len(prepared[i]))
        limit = self.windows.limit
        while order:
            longest = len(prepared[order[0]])
            count = 1
            if longest <= limit:
                room = self.batch_seconds * self.sample_rate
                count = max(int(room // longest), 1)
            chosen, order = order[:count], order[count:]
            if longest > limit:
                name = f"waveform {chosen[0]} of {len(wave)}"
                scored = [self._score_long([prepared[chosen[0]]], name, columns, grad)]
            else:
                scored = [
                    (item, "")
                    for item in self._forward(
                        [prepared[i] for i in chosen], columns, grad
                    )
                ]
            for i, (item, note) in zip(chosen, scored):
                name = f"waveform {i} of {len(wave)}"
                results[i] = self._result(item, note, columns, name, grad)
        return results

    def _prepare(self, wave: Wave, fs: int, name: str, grad: bool) -> torch.Tensor:
        """Mono float32 at the model's rate, (N,), checked."""
        if isinstance(wave, torch.Tensor):
            wave = wave if grad else wave.detach()
            kind = str(wave.dtype).split(".")[-1]
        else:
            array = np.asarray(wave)
            kind = array.dtype.name
            if array.dtype.kind == "f" or kind in _INTEGERS:
                # Any byte order, any strides.
                array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
                wave = torch.from_numpy(
                    array.astype(np.float32) if array.dtype.kind == "f" else array
                )
        if isinstance(wave, torch.Tensor) and kind in _INTEGERS:
            silence, full_scale = _INTEGERS[kind]
            wave = (wave.double() - silence) / full_scale
        elif not isinstance(wave, torch.Tensor) or not wave.is_floating_point():
            raise ValueError(
                f"{name} is of type {kind}, expected floats in [-1, 1], or int16, "
                "int32 or uint8 at full scale"
            )
        wave = wave.to(torch.float32)
        if wave.dim() not in (1, 2) or (
            wave.dim() == 2 and not 0 < wave.size(0) <= _MAX_CHANNELS
        ):
            raise ValueError(
                f"{name} has the shape {tuple(wave.shape)}, expected (samples,) or "
                "(channels, samples); transpose it, or give a batch as a list"
            )
        if wave.dim() == 2:
            if self.channel != "mean" and self.channel >= wave.size(0):
                raise ValueError(
                    f"{name} has {wave.size(0)} channels, expected one with the number "
                    f"{self.channel}, from 0"
                )
            wave = wave.mean(0) if self.channel == "mean" else wave[self.channel]
        elif self.channel not in ("mean", 0):
            raise ValueError(
                f"{name} has 1 channel, expected one with the number {self.channel}, "
                "from 0"
            )
        low, high = SAMPLE_RATES
        if np.ndim(fs) != 0 or isinstance(fs, str) or not low <= float(fs) <= high:
            raise ValueError(
                f"found fs={fs!r}, expected a sampling rate from {low} to {high} Hz"
            )
        if len(wave):
            check_samples(wave.detach().cpu().numpy(), name, "correct the waveform")
            if float(fs) != self.sample_rate:
                wave = _Resample.apply(wave, float(fs), float(self.sample_rate))
        minimum = self.model.frontend.minimum_samples
        if len(wave) < minimum:
            raise ValueError(
                f"{name} has {len(wave)} samples at {self.sample_rate} Hz, expected at "
                f"least the {minimum} of one frame"
            )
        return wave.clamp(-1.0, 1.0)

    def _token_columns(self) -> List[int]:
        columns = list(range(len(self.model.token_columns)))
        if not columns:
            raise ValueError(
                "found no token predictors in this model, expected some for "
                "token_posteriors; train with tokens (stage 5), or leave that out"
            )
        return columns

    # The core that everything goes through

    def score_batch(self, speech: np.ndarray, lengths: np.ndarray) -> List[MOSResult]:
        """Score a padded batch as it is.

        Args:
            speech: (B, N) float32 in [-1, 1] at the model's rate, padded right.
            lengths: valid samples, (B,); none longer than the network can take.

        Returns:
            B results; their scores may be NaN where the model is broken.
        """
        waves = [torch.from_numpy(row[:n]) for row, n in zip(speech, lengths)]
        return [
            self._result(item, "", [], None, False)
            for item in self._forward(waves, [], False)
        ]

    def _forward(
        self, waves: Sequence[torch.Tensor], columns: Sequence[int], grad: bool
    ) -> List[_Scored]:
        """Waveforms (n,) to scores; the tensors are on the CPU but with ``grad``."""
        lengths = torch.tensor([len(wave) for wave in waves])
        silent = [not bool(wave.detach().any()) for wave in waves]
        if len(waves) == 1:
            speech = waves[0][None]
        else:
            speech = torch.nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
        # Frontends keep the lengths of the batch at hand: one batch at a time.
        with self._turn, torch.inference_mode(not grad):
            prediction = self.model.inference(
                speech.to(self.device), lengths.to(self.device), columns, grad
            )
            posteriors = None
            if columns:
                posteriors = [
                    logits.float().softmax(-1) for logits in prediction.token_logits
                ]
            score = prediction.utt_mos.float()
            frames = prediction.frame_mos.float()
            embedding = prediction.embedding.float()
            if not grad:
                score, frames, embedding = score.cpu(), frames.cpu(), embedding.cpu()
                posteriors = posteriors and [p.cpu() for p in posteriors]
            return [
                _Scored(
                    score[i],
                    frames[i, :n],
                    embedding[i],
                    posteriors and [p[i, :n] for p in posteriors],
                    int(lengths[i]),
                    silent[i],
                )
                for i, n in enumerate(prediction.lengths.tolist())
            ]

    def _score_long(
        self,
        blocks: Iterable[torch.Tensor],
        name: str,
        columns: Sequence[int],
        grad: bool,
    ) -> Tuple[_Scored, str]:
        """Score a waveform that comes in blocks, in windows where it is long.

        Raises:
            AudioError: as what gives the blocks.
            ValueError: it is too short.
        """
        starts: List[int] = []
        scored: List[_Scored] = []
        room = self.batch_seconds * self.sample_rate
        count = max(int(room // self.windows.window), 1)
        windows = self.windows.split(blocks)
        while True:
            batch = list(islice(windows, count))
            if not batch:
                break
            minimum = self.model.frontend.minimum_samples
            if len(batch[0][1]) < minimum:
                raise too_short(name, len(batch[0][1]), self.sample_rate, minimum)
            starts += [start for start, _ in batch]
            scored += self._forward([wave for _, wave in batch], columns, grad)
        if len(scored) == 1:
            return scored[0], ""
        joint = self._join(starts, scored)
        seconds = self.windows.window / self.sample_rate
        return joint, (
            f"longer than {self.windows.limit / self.sample_rate:g} s: scored in "
            f"{len(scored)} windows of {seconds:g} s"
        )

    def _join(self, starts: Sequence[int], scored: Sequence[_Scored]) -> _Scored:
        first_frames = [start // self.frame_shift for start in starts]
        frames, shares = blend([item.frames for item in scored], first_frames)
        # Zero for heads whose utterance score is the mean of the frames.
        beyond = torch.stack([item.score - item.frames.mean() for item in scored])
        embedding = torch.stack([item.embedding for item in scored])
        posteriors = None
        if scored[0].posteriors:
            posteriors = [
                blend(tracks, first_frames)[0]
                for tracks in zip(*(item.posteriors for item in scored))
            ]
        return _Scored(
            (frames.double().mean() + (shares * beyond).sum()).float(),
            frames,
            (shares[:, None] * embedding).sum(0),
            posteriors,
            starts[-1] + scored[-1].num_samples,
            all(item.is_silent for item in scored),
        )

    def _result(
        self,
        item: _Scored,
        note: str,
        columns: Sequence[int],
        name: Optional[str],
        grad: bool,
    ) -> MOSResult:
        """The result of an item; ``name`` None lets a NaN pass."""
        score = float(item.score.detach())
        if name is not None and not math.isfinite(score):
            raise ValueError(
                f"{name} got the score {score}, expected a finite number; the model is "
                "broken, train it again or choose another epoch's"
            )
        notes = [note] if note else []
        if item.is_silent:
            notes.append("digital silence")
        if self.confidence.is_extrapolated(score):
            notes.append("beyond the scores that the scale was fitted to")
        centre = self.model.frontend.frame_centre
        times = centre + self.frame_shift * np.arange(len(item.frames))
        posteriors = None
        if columns:
            posteriors = {
                self.model.token_columns[c].id: p if grad else p.numpy()
                for c, p in zip(columns, item.posteriors)
            }
        return MOSResult(
            score=self._on_scale(item.score) if grad else self._on_scale(score),
            # Copies: a slice would keep the whole batch.
            frames=self._on_scale(item.frames if grad else item.frames.numpy().copy()),
            times=times / self.sample_rate,
            embedding=item.embedding if grad else item.embedding.numpy().copy(),
            seconds=item.num_samples / self.sample_rate,
            note="; ".join(notes),
            token_posteriors=posteriors,
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
    ) -> Iterator[FileResult]:
        """Score files: decoded in the background, in length-sorted batches.

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

        Yields:
            A result a path.
        """
        columns = self._token_columns() if token_posteriors else []
        paths = iter(paths)
        start = 0
        while True:
            block = list(islice(paths, _SORTED_FILES))
            if not block:
                return
            waiting: Dict[int, FileResult] = {}
            following = start
            for found in self._predict_block(block, start, num_threads, columns):
                if not in_order:
                    yield found
                    continue
                waiting[found.index] = found
                while following in waiting:
                    yield waiting.pop(following)
                    following += 1
            start += len(block)

    def _predict_block(
        self, paths: Sequence[str], start: int, num_threads: int, columns: Sequence[int]
    ) -> Iterator[FileResult]:
        batches = AudioBatches(
            {i: path for i, path in enumerate(paths)},
            self.batch_seconds,
            fs=self.sample_rate,
            minimum_samples=self.model.frontend.minimum_samples,
            num_threads=num_threads,
            channel=self.channel,
            maximum_samples=self.windows.limit,
            name_utterances=False,
        )
        reported = set()

        def new_failures() -> Iterator[FileResult]:
            for i in [i for i in batches.failures if i not in reported]:
                reported.add(i)
                yield FileResult(start + i, paths[i], None, batches.failures[i])

        yield from new_failures()
        for batch in batches:
            yield from new_failures()
            waves = [
                torch.from_numpy(row[:n])
                for row, n in zip(batch.speech, batch.speech_lengths)
            ]
            try:
                scored = self._forward(waves, columns, False)
            except RuntimeError:
                # Out of memory, say: one at a time, and each with its own sentence.
                scored = [None] * len(waves)
            for i, wave, item in zip(batch.utt_ids, waves, scored):
                yield self._file_result(start + i, paths[i], [wave], item, columns)
        yield from new_failures()
        for i in batches.too_long:
            blocks = read_blocks(paths[i], self.sample_rate, channel=self.channel)
            with in_background(map(torch.from_numpy, blocks)) as waves:
                yield self._file_result(start + i, paths[i], waves, None, columns)

    def _file_result(
        self,
        index: int,
        path: str,
        blocks: Iterable[torch.Tensor],
        item: Optional[_Scored],
        columns: Sequence[int],
    ) -> FileResult:
        try:
            note = ""
            if item is None:
                item, note = self._score_long(blocks, path, columns, False)
            result = self._result(item, note, columns, path, False)
        except (AudioError, ValueError) as error:
            return FileResult(index, path, None, str(error))
        except (RuntimeError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            return FileResult(
                index,
                path,
                None,
                f"{path} could not be scored ({reason}), expected a score; try a "
                "smaller --max-seconds or another device.",
            )
        return FileResult(index, path, result, "")


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
    samples = wave.detach().cpu().contiguous().numpy()
    return torch.from_numpy(soxr.resample(samples, fs, sample_rate, quality="VHQ")).to(
        wave.device
    )


def _device(name: Union[str, torch.device]) -> torch.device:
    try:
        device = torch.device(name)
        # Says whether it is there.
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:120]
        raise ValueError(
            f"found device={str(name)!r}, which is not to be had here ({reason}), "
            "expected cpu or a device of this machine such as cuda"
        ) from error
    return device
