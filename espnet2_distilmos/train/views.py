# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A distorted view of an utterance, whose tokens stay those of the true signal."""

import dataclasses
from typing import Mapping, Optional, Sequence

import numpy as np
import soundfile
from scipy.signal import fftconvolve

from espnet2_distilmos.data.datadir import DataError, read_scp
from espnet2_distilmos.distortion.signals import coloured_noise, reverberant_tail


@dataclasses.dataclass
class NoisyView:
    """Reverberation, then noise or another speaker, at a stated ratio.

    For the masked view only, never for losses on labels: the label of a distorted clip
    is not known. M2D-S (arXiv 2305.14079) and WavLM (Chen et al. 2022, section III-B)
    predict the clean signal's tokens likewise.

    An utterance gets a room with ``reverb_prob``; independently noise with
    ``noise_prob``, or else another speaker with ``speech_prob``, or else nothing.

    Args:
        noise_prob: probability of noise.
        noise_scp: ``wav.scp`` of noises; None makes white and pink noise.
        noise_snr: lowest and highest ratio of speech to noise in dB, drawn evenly.
        speech_prob: probability of another utterance of the training set.
        speech_snr: lowest and highest ratio to it in dB.
        speech_share: most of the utterance that it covers, at a random place.
        reverb_prob: probability of a room.
        rir_scp: ``wav.scp`` of impulse responses; None makes decaying noise.
        rt60: shortest and longest reverberation time of made responses in s.
        wav_paths: audio file by utterance, of the other speakers.
        sample_rate: of all audio.

    Raises:
        ValueError: for impossible options.
        DataError: when a list cannot be read.
    """

    noise_prob: float = 0.4
    noise_scp: Optional[str] = None
    noise_snr: Sequence[float] = (0.0, 20.0)
    speech_prob: float = 0.2
    speech_snr: Sequence[float] = (-5.0, 5.0)
    speech_share: float = 0.5
    reverb_prob: float = 0.2
    rir_scp: Optional[str] = None
    rt60: Sequence[float] = (0.2, 0.8)
    wav_paths: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    sample_rate: int = 16000

    def __post_init__(self):
        either = self.noise_prob + self.speech_prob
        shares = (self.noise_prob, self.speech_prob, either, self.speech_share)
        ranges = (self.noise_snr, self.speech_snr, self.rt60)
        if not (
            all(0 <= share <= 1 for share in (*shares, self.reverb_prob))
            and all(low <= high for low, high in ranges)
            and self.rt60[0] > 0
            and (self.speech_prob == 0 or len(self.wav_paths) > 1)
        ):
            raise ValueError(
                f"found noisy_view {self}, expected shares from 0 to 1, of noise and "
                "speech together; ranges that begin with the lowest value, rt60 above "
                "0; and speech_prob=0 with less than two audio files"
            )
        self._ids = sorted(self.wav_paths)
        self._noises = list(read_scp(self.noise_scp).values()) if self.noise_scp else []
        self._rooms = list(read_scp(self.rir_scp).values()) if self.rir_scp else []

    def __call__(
        self, uid: str, speech: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Distort one utterance.

        Args:
            uid: its id; it is not mixed with itself.
            speech: (N,) in [-1, 1].
            generator: the source of all random numbers.

        Returns:
            (N,) float32, in time with ``speech``: the direct sound of a room does not
            come later, and the energy stays.
        """
        noisy = speech
        if generator.random() < self.reverb_prob:
            noisy = reverberate(noisy, self._room(generator))
        kind = generator.random()
        if kind < self.noise_prob:
            noise = self._noise(len(speech), generator)
            noisy = mix(noisy, noise, generator.uniform(*self.noise_snr))
        elif kind < self.noise_prob + self.speech_prob:
            other, start = self._speaker(uid, len(speech), generator)
            noisy = mix(noisy, other, generator.uniform(*self.speech_snr), start)
        return np.asarray(noisy, dtype=np.float32)

    def _read(self, path: str, generator: np.random.Generator, length: int = 0):
        """(n,) of a file, or ``length`` samples of it from a random place."""
        with soundfile.SoundFile(path) as file:
            if file.samplerate != self.sample_rate:
                raise DataError(
                    f"{path}: found audio at {file.samplerate} Hz, expected "
                    f"{self.sample_rate} Hz: resample it (as stage 2 does)"
                )
            if 0 < length < file.frames:
                file.seek(int(generator.integers(file.frames - length + 1)))
            samples = file.read(length or -1, dtype="float32", always_2d=True)
        return samples.mean(axis=1)

    def _noise(self, length: int, generator: np.random.Generator) -> np.ndarray:
        if not self._noises:
            return coloured_noise(length, generator, generator.random() < 0.5)
        path = self._noises[int(generator.integers(len(self._noises)))]
        noise = self._read(path, generator, length)
        # A short noise goes on from its beginning.
        return np.resize(noise, length) if len(noise) else np.zeros(length)

    def _speaker(self, uid: str, length: int, generator: np.random.Generator):
        """Another utterance, and where it begins."""
        place = int(generator.integers(len(self._ids)))
        if self._ids[place] == uid:
            place = (place + 1) % len(self._ids)
        longest = max(1, int(self.speech_share * length))
        wanted = int(generator.integers(1, longest + 1))
        other = self._read(self.wav_paths[self._ids[place]], generator, wanted)
        return other, int(generator.integers(length - len(other) + 1))

    def _room(self, generator: np.random.Generator) -> np.ndarray:
        if not self._rooms:
            rt60 = generator.uniform(*self.rt60)
            return synthetic_room(rt60, self.sample_rate, generator)
        path = self._rooms[int(generator.integers(len(self._rooms)))]
        return self._read(path, generator)


def mix(
    speech: np.ndarray, other: np.ndarray, snr: float, start: int = 0
) -> np.ndarray:
    """Add a signal at a ratio of powers.

    Args:
        speech: (N,).
        other: (n,), n at most N - start.
        snr: mean power of ``speech`` over that of ``other``, in dB, each over its own
            samples.
        start: sample where ``other`` begins.

    Returns:
        (N,); ``speech`` itself where one of the two is silent.
    """
    power = np.mean(np.square(speech, dtype=np.float64))
    other_power = np.mean(np.square(other, dtype=np.float64)) if len(other) else 0.0
    if power == 0 or other_power == 0:
        return speech
    mixed = np.array(speech, dtype=np.float64)
    gain = np.sqrt(power / other_power / 10 ** (snr / 10))
    mixed[start : start + len(other)] += gain * other
    return mixed


def synthetic_room(
    rt60: float, sample_rate: int, generator: np.random.Generator
) -> np.ndarray:
    """Impulse response of a room: direct sound, then decaying noise.

    Args:
        rt60: seconds in which the energy decays by 60 dB.
        sample_rate: in Hz.
        generator: draws the noise, and the ratio of direct to reverberant energy,
            0 to 10 dB.
    """
    tail = reverberant_tail(rt60, generator, sample_rate, silence=0.0025)
    ratio = 10 ** (generator.uniform(0.0, 10.0) / 10)
    tail /= np.sqrt(ratio * np.square(tail).sum())
    tail[0] = 1.0
    return tail


def reverberate(speech: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Speech (N,) in a room, in time with its direct sound, at equal energy: (N,)."""
    if not np.any(response):
        return speech
    response = response[np.argmax(np.abs(response)) :]
    wet = fftconvolve(speech.astype(np.float64), response)[: len(speech)]
    energy = np.square(wet).sum()
    if energy == 0:
        return speech
    return wet * np.sqrt(np.square(speech, dtype=np.float64).sum() / energy)
