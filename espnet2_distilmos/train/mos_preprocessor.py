# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""From what the data files hold to what the model takes."""

import dataclasses
import logging
import zlib
from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import soundfile
import torch
from espnet2.train.preprocessor import AbsPreprocessor

from espnet2_distilmos.data.datadir import (
    DataError,
    parse_metric,
    parse_votes,
    read_scp,
)
from espnet2_distilmos.train.views import OWN, SAME, NoisyView

# Frames by which tokens and audio may differ: upstreams pad their ends differently.
MAX_FRAME_DIFFERENCE = 2
SAMPLE_RATE = 16000


@dataclasses.dataclass(eq=False, repr=False)
class MOSPreprocessor(AbsPreprocessor):
    """Check an utterance, read its label, crop audio and tokens together.

    Args:
        train: True for training data, where cropping applies.
        wav_paths: audio file by utterance. ESPnet's ``sound`` type drops the rate, so
            the header is read again.
        score_range: (lowest, highest) label, or None.
        min_seconds, max_seconds: limits of the durations.
        crop_seconds: random crop in training, starting on a frame boundary.
        token_info: contents of tokens.json, or None without tokens.
        noisy_view: makes a distorted waveform of each training utterance, and one for
            the teachers, or None.
        listeners: names of those who have an embedding; votes of others are left out.
        corpora: names of all; those that have an embedding are the first.
        aux_keys: further keys of metric.scp whose scores a loss reads.
        votes_per_utterance: as many votes are drawn at random; None for all.

    Raises:
        DataError: one sentence: utterance, found, expected, what mends it.
    """

    train: bool
    wav_paths: Mapping[str, str] = dataclasses.field(default_factory=dict)
    score_range: Optional[Tuple[float, float]] = (1.0, 5.0)
    min_seconds: float = 0.1
    max_seconds: Optional[float] = None
    crop_seconds: Optional[float] = None
    token_info: Optional[Mapping] = None
    noisy_view: Optional[NoisyView] = None
    listeners: Sequence[str] = ()
    corpora: Sequence[str] = ()
    aux_keys: Sequence[str] = ()
    votes_per_utterance: Optional[int] = None

    def __post_init__(self):
        _expect(
            self.crop_seconds is None or self.crop_seconds >= self.min_seconds,
            f"found crop_seconds={self.crop_seconds}, expected at least "
            f"min_seconds={self.min_seconds}",
        )
        self._listeners = {name: index for index, name in enumerate(self.listeners)}
        self._corpora = {name: index for index, name in enumerate(self.corpora)}
        self._rate_checked = set()

    def __call__(self, uid: str, data: Dict[str, object]) -> Dict[str, np.ndarray]:
        """Prepare one utterance.

        Args:
            uid: utterance id.
            data: ``speech`` (N,) or (N, channels); as far as there are, the texts
                ``mos`` (``{"mos": 3.5}``), ``votes`` (``[["listener1", 4]]``) and
                ``corpus``, and ``tokens`` (T, S).

        Returns:
            ``speech`` (N,) float32, ``mos`` (1,) float32 (NaN if unlabelled), its
            standard error by the votes ``mos_se`` (1,) float32 (NaN of less than two),
            ``aux`` (K,) float32 (NaN of what is not there), ``corpus`` (1,) int64,
            ``tokens`` (T, S) int64; of a noisy view what was done, ``distortion`` (K,)
            float32 and ``snr`` (1,) float32 in dB; in training also ``noisy`` (N,)
            float32, ``heard`` (N,) float32 where the teachers do not hear the true
            signal, ``votes`` (V,) float32 and ``listeners`` (V,) int64. A validation is
            as inference is, without listeners and distortion.
        """
        prepared = {"speech": self._speech(uid, data["speech"])}
        if "mos" in data:
            score = parse_metric(
                data["mos"], uid, "metric.scp", score_range=self.score_range
            )
            score = np.nan if score is None else score
            prepared["mos"] = np.array([score], dtype=np.float32)
            if self.aux_keys:
                scores = [
                    parse_metric(data["mos"], uid, "metric.scp", name=key)
                    for key in self.aux_keys
                ]
                prepared["aux"] = np.array(scores, dtype=np.float32)  # None is NaN
        if "tokens" in data:
            tokens = np.asarray(data["tokens"]).astype(np.int64)
            self._check_tokens(uid, tokens, len(prepared["speech"]))
            prepared["tokens"] = tokens
        if "votes" in data:
            votes = parse_votes(data["votes"], uid, "votes.scp", self.score_range)
            prepared["mos_se"] = _standard_error([score for _, score in votes])
            if self.train and self.listeners:
                prepared["votes"], prepared["listeners"] = self._votes(uid, votes)
        if "corpus" in data:
            index = self._corpora.get(data["corpus"])
            _expect(
                index is not None,
                f"utterance {uid}: found the corpus {data['corpus']!r}, expected one "
                f"of {', '.join(self.corpora)}: correct utt2domain",
            )
            prepared["corpus"] = np.array([index], dtype=np.int64)
        if self.train and self.crop_seconds is not None:
            self._crop(prepared)
        if self.noisy_view is not None:
            prepared.update(self._views(uid, prepared["speech"]))
        return prepared

    def _views(self, uid: str, speech: np.ndarray) -> Dict[str, np.ndarray]:
        """What a second pass and the teachers hear, and what was done to the former."""
        make = self.noisy_view
        if not self.train:
            return dict(zip(("distortion", "snr"), make.labels()))
        view = make(uid, speech, _rng(uid))
        views = {"noisy": view.audio}
        if make.teacher == SAME:
            views["heard"] = view.audio
        elif make.teacher == OWN:
            views["heard"] = make(uid, speech, _rng(uid, of_teacher=True)).audio
        return views | dict(zip(("distortion", "snr"), make.labels(view)))

    def _votes(
        self, uid: str, pairs: Sequence[Tuple[str, float]]
    ) -> Tuple[np.ndarray, np.ndarray]:
        votes = [
            (score, self._listeners[listener])
            for listener, score in pairs
            if listener in self._listeners
        ]
        count = self.votes_per_utterance
        if count is not None and len(votes) > count:
            chosen = _rng(uid).choice(len(votes), count, replace=False)
            votes = [votes[i] for i in chosen]
        scores = np.array([score for score, _ in votes], dtype=np.float32)
        return scores, np.array([index for _, index in votes], dtype=np.int64)

    def _speech(self, uid: str, speech) -> np.ndarray:
        path = self.wav_paths.get(uid)
        where = f"utterance {uid}" + (f" ({path})" if path else "")
        if path is not None and uid not in self._rate_checked:
            rate = soundfile.info(path).samplerate
            _expect(
                rate == SAMPLE_RATE,
                f"{where}: found audio at {rate} Hz, expected {SAMPLE_RATE} Hz: "
                "rerun stage 2, which resamples",
            )
            self._rate_checked.add(uid)
        speech = np.asarray(speech, dtype=np.float32)
        if speech.ndim == 2:
            speech = speech.mean(axis=1)
        _expect(
            np.isfinite(speech).all(),
            f"{where}: found NaN or infinite samples, expected finite ones: rerun "
            "stage 2, which leaves such files out",
        )
        seconds, longest = len(speech) / SAMPLE_RATE, self.max_seconds
        _expect(
            seconds >= self.min_seconds and not (longest and seconds > longest),
            f"{where}: found {seconds:.3f} s of audio, expected {self.min_seconds} to "
            f"{longest or 'any number of'} s: rerun stage 4, which filters by duration",
        )
        return speech

    def _check_tokens(self, uid: str, tokens: np.ndarray, samples: int) -> None:
        _expect(
            self.token_info is not None,
            f"utterance {uid}: found tokens but no description of them, expected "
            "--token_info with the tokens.json beside tokens.scp",
        )
        sizes = np.array([column["K"] for column in self.token_info["columns"]])
        mend = "rerun stage 5 for this data"
        _expect(
            tokens.ndim == 2 and tokens.shape[1] == len(sizes),
            f"utterance {uid}: found tokens of shape {tokens.shape}, expected "
            f"(frames, {len(sizes)}): {mend}",
        )
        if len(tokens) == 0:
            return  # Agreed form of an utterance without tokens.
        outside = np.argwhere((tokens < 0) | (tokens >= sizes))
        _expect(
            len(outside) == 0,
            f"utterance {uid}: found tokens outside of 0 to K - 1, the first at "
            f"(frame, column) {outside[:1].tolist()}, expected those of the codebooks "
            f"with K = {sizes.tolist()}: {mend}",
        )
        # A network without padding loses its receptive field at the end; one that
        # pads gives its first frame from one sample on.
        shift = self.token_info["frame_shift"]
        field = self.token_info.get("minimum_samples", shift)
        expected = (samples - field) // shift + 1
        _expect(
            abs(len(tokens) - expected) <= MAX_FRAME_DIFFERENCE,
            f"utterance {uid}: found {len(tokens)} token frames, expected {expected} "
            f"for {samples} samples: the tokens are of other audio, {mend}",
        )

    def _crop(self, prepared: Dict[str, np.ndarray]) -> None:
        speech = prepared["speech"]
        shift = self.token_info["frame_shift"] if self.token_info else 1
        length = int(self.crop_seconds * SAMPLE_RATE)
        if len(speech) <= length:
            return
        # ESPnet seeds NumPy's global generator per epoch and worker.
        start = np.random.randint((len(speech) - length) // shift + 1)
        prepared["speech"] = speech[start * shift : start * shift + length]
        if "tokens" in prepared:
            # The model cuts the last frame off where the network gives one less.
            frames = length // shift
            prepared["tokens"] = prepared["tokens"][start : start + frames]


def _expect(good: bool, otherwise: str) -> None:
    if not good:
        raise DataError(otherwise)


def _standard_error(votes: Sequence[float]) -> np.ndarray:
    """Of the mean, (1,); NaN of less than two votes."""
    error = np.nan
    if len(votes) > 1:
        error = np.std(votes, ddof=1) / len(votes) ** 0.5
    return np.array([error], dtype=np.float32)


def _rng(uid: str, of_teacher: bool = False) -> np.random.Generator:
    """Random numbers of an utterance in an epoch, whatever was drawn before."""
    seeds = [epoch_seed(), zlib.crc32(uid.encode())]
    return np.random.default_rng([*seeds, 1] if of_teacher else seeds)


def epoch_seed() -> int:
    """A number that all workers of an epoch share, and no two epochs of a training.

    ESPnet seeds torch anew for each epoch; torch gives each worker that seed's number
    plus the worker's own.
    """
    worker = torch.utils.data.get_worker_info()
    return torch.initial_seed() - (0 if worker is None else worker.id)


def wav_paths_of(data: Sequence[Tuple[str, str, str]]) -> Dict[str, str]:
    """Audio files whose headers can be checked, by utterance.

    Args:
        data: path, name and type of data files, as ESPnet's task has them.
    """
    paths: Dict[str, str] = {}
    for path, name, kind in data:
        if name == "speech" and kind == "sound":
            paths.update(read_scp(path))
        elif name == "speech":
            logging.warning(
                f"{path} is of type {kind}: its sampling rate cannot be checked"
            )
    return paths
