# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Distorted views of an utterance: what a second pass or a teacher hears."""

import dataclasses
from typing import List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import scipy.signal
import soundfile
import torch
import torchaudio
from scipy.signal import fftconvolve

from espnet2_distilmos.data.datadir import DataError, read_scp
from espnet2_distilmos.distortion.signals import coloured_noise, reverberant_tail
from espnet2_distilmos.distortion.systems import SYSTEMS, draw, process

# What may be done to a view, by its scheme; `systems` has the names of its systems.
SCHEMES = {
    "mix": ("noise", "speech", "reverb"),
    "single": ("noise", "gaussian", "reverb"),
    "double": ("noise", "gaussian", "reverb", "pitch", "band_reject"),
    "systems": (),
}
# What teachers hear of a distorted view: the true signal, the view, or another one.
TRUE_SIGNAL, SAME, OWN = TEACHERS = ("clean", "same", "own")
# Lowest and highest ratio in dB; those of "single" and "double" are whole numbers.
_NOISE_SNR = {"mix": (0.0, 20.0), "single": (10, 19), "double": (10, 19)}
_CENTS = 500
# Widest rejected band, of the whole range in mel.
_REJECTED = 13.5 / 256


def kinds_of(scheme: str = "mix", systems: Sequence[str] = (), **others) -> List[str]:
    """What the options of a :class:`NoisyView` let be done."""
    return [*SCHEMES.get(scheme, ()), *systems]


class View(NamedTuple):
    """A distorted waveform and what was done.

    Attributes:
        audio: (N,) float32, in time with the original.
        kinds: names among :attr:`NoisyView.kinds`, in the order in which they came.
        snr: of what was added, in dB; NaN where nothing was.
    """

    audio: np.ndarray
    kinds: Tuple[str, ...]
    snr: float


@dataclasses.dataclass
class NoisyView:
    """A distorted view of each utterance, and one for its teachers.

    For the masked view only, never for losses on labels: the label of a distorted clip
    is not known. The schemes:

    * ``mix``: a room with ``reverb_prob``; independently noise with ``noise_prob``, or
      else another speaker with ``speech_prob``, or else nothing. M2D-S (arXiv
      2305.14079) and WavLM (Chen et al. 2022, section III-B) distort so.
    * ``single``: noise (0.3), white noise (0.4) or a room (0.3).
    * ``double``: noise (1/2), white noise or nothing (1/4 each), then a room, another
      pitch, a rejected band or nothing (1/4 each). Both are those of cross-distortion
      mapping (arXiv 2210.07978), at a whole number of 10 to 19 dB over the utterance,
      up to 500 cents, and up to 5 % of the range in mel.
    * ``systems``: one of ``systems``, degradations of
      :mod:`~espnet2_distilmos.distortion.systems`, at the level of the utterance.

    What the teachers of a training hear of a utterance is the true signal (``clean``;
    setup 1 of cross-distortion mapping), the same view (``same``, its control) or a
    view drawn independently (``own``, its setup 2).

    Args:
        scheme: one of the above.
        teacher: one of the above.
        systems: names of degradations, for the scheme ``systems``.
        noise_prob: probability of noise.
        noise_scp: ``wav.scp`` of noises; None makes white and pink noise, in ``single``
            and ``double``, which have white noise, pink.
        noise_snr: lowest and highest ratio of speech to noise in dB, drawn evenly; None
            is 0 to 20 in ``mix``, 10 to 19 in others, where it is a whole number.
        speech_prob: probability of another utterance of the training set.
        speech_snr: lowest and highest ratio to it in dB.
        speech_share: most of the utterance that it covers, at a random place.
        reverb_prob: probability of a room.
        rir_scp: ``wav.scp`` of impulse responses; None makes decaying noise.
        rt60: shortest and longest reverberation time of made responses in s.
        wav_paths: audio file by utterance, of the other speakers.
        sample_rate: of all audio.

    Attributes:
        kinds: all that may be done.

    Raises:
        ValueError: for impossible options.
        DataError: when a list cannot be read.
    """

    scheme: str = "mix"
    teacher: str = TRUE_SIGNAL
    systems: Sequence[str] = ()
    noise_prob: float = 0.4
    noise_scp: Optional[str] = None
    noise_snr: Optional[Sequence[float]] = None
    speech_prob: float = 0.2
    speech_snr: Sequence[float] = (-5.0, 5.0)
    speech_share: float = 0.5
    reverb_prob: float = 0.2
    rir_scp: Optional[str] = None
    rt60: Sequence[float] = (0.2, 0.8)
    wav_paths: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    sample_rate: int = 16000

    def __post_init__(self):
        self._check_scheme()
        if self.noise_snr is None:
            self.noise_snr = _NOISE_SNR.get(self.scheme, _NOISE_SNR["mix"])
        either = self.noise_prob + self.speech_prob
        shares = (self.noise_prob, self.speech_prob, either, self.speech_share)
        ranges = (self.noise_snr, self.speech_snr, self.rt60)
        mixes_speech = self.scheme == "mix" and self.speech_prob > 0
        if not (
            all(0 <= share <= 1 for share in (*shares, self.reverb_prob))
            and all(low <= high for low, high in ranges)
            and self.rt60[0] > 0
            and (not mixes_speech or len(self.wav_paths) > 1)
        ):
            raise ValueError(
                f"found noisy_view {self}, expected shares from 0 to 1, of noise and "
                "speech together; ranges that begin with the lowest value, rt60 above "
                "0; and speech_prob=0 with less than two audio files"
            )
        self.kinds = kinds_of(self.scheme, self.systems)
        self._ids = sorted(self.wav_paths)
        self._noises = _read_list("noise_scp", self.noise_scp)
        self._rooms = _read_list("rir_scp", self.rir_scp)

    def _check_scheme(self):
        for option, known in (("scheme", SCHEMES), ("teacher", TEACHERS)):
            if getattr(self, option) not in known:
                raise ValueError(
                    f"found noisy_view.{option}={getattr(self, option)!r}, expected "
                    f"one of {', '.join(known)}"
                )
        unknown = [name for name in self.systems if name not in SYSTEMS]
        if unknown or bool(self.systems) != (self.scheme == "systems"):
            raise ValueError(
                f"found noisy_view.systems={list(self.systems)} with scheme="
                f"{self.scheme}, expected with scheme=systems, and with no other, some "
                f"of {', '.join(SYSTEMS)}"
            )

    def __call__(
        self, uid: str, speech: np.ndarray, generator: np.random.Generator
    ) -> View:
        """Distort one utterance.

        Args:
            uid: its id; it is not mixed with itself.
            speech: (N,) in [-1, 1]; it is not changed.
            generator: the source of all random numbers.

        Returns:
            The view: in time with ``speech``, as the direct sound of a room does not
            come later, and of the same energy before something is added.
        """
        drawing = {"mix": self._mix, "systems": self._system}
        audio, kinds, snr = drawing.get(self.scheme, self._crossed)(
            uid, speech, generator
        )
        return View(np.asarray(audio, dtype=np.float32), tuple(kinds), snr)

    def labels(self, view: Optional[View] = None) -> Tuple[np.ndarray, np.ndarray]:
        """What was done to a view, as a training batch has it.

        Args:
            view: None is the true signal.

        Returns:
            (K,) float32, 1 of each of ``kinds`` that was done and else 0; and the
            ratio (1,) float32 in dB, NaN where nothing was added.
        """
        done, snr = (view.kinds, view.snr) if view is not None else ((), np.nan)
        kinds = [float(kind in done) for kind in self.kinds]
        return np.array(kinds, dtype=np.float32), np.array([snr], dtype=np.float32)

    def _mix(self, uid, speech, generator):
        noisy, kinds, snr = speech, [], np.nan
        if generator.random() < self.reverb_prob:
            noisy = reverberate(noisy, self._room(generator))
            kinds.append("reverb")
        kind = generator.random()
        if kind < self.noise_prob:
            noise = self._noise(len(speech), generator)
            snr = generator.uniform(*self.noise_snr)
            noisy = mix(noisy, noise, snr)
            kinds.append("noise")
        elif kind < self.noise_prob + self.speech_prob:
            other, start = self._speaker(uid, len(speech), generator)
            snr = generator.uniform(*self.speech_snr)
            noisy = mix(noisy, other, snr, start)
            kinds.append("speech")
        return noisy, kinds, snr

    def _crossed(self, uid, speech, generator):
        if self.scheme == "single":
            steps = [generator.choice(SCHEMES["single"], p=(0.3, 0.4, 0.3))]
        else:
            added = generator.choice(("noise", "gaussian", None), p=(0.5, 0.25, 0.25))
            steps = [added, generator.choice(("reverb", "pitch", "band_reject", None))]
        kinds: List[str] = [str(kind) for kind in steps if kind is not None]
        noisy, snr = speech, np.nan
        for kind in kinds:
            if kind == "reverb":
                noisy = reverberate(noisy, self._room(generator))
            elif kind == "pitch":
                noisy = shift_pitch(noisy, generator.uniform(-_CENTS, _CENTS))
            elif kind == "band_reject":
                noisy = reject_band(noisy, self.sample_rate, generator)
            else:
                low, high = self.noise_snr
                snr = float(generator.integers(int(low), int(high), endpoint=True))
                noise = generator.standard_normal(len(speech))
                if kind == "noise":
                    noise = self._noise(len(speech), generator, pink=True)
                noisy = mix(noisy, noise, snr)
        return noisy, kinds, snr

    def _system(self, uid, speech, generator):
        name = self.systems[int(generator.integers(len(self.systems)))]
        level = np.sqrt(np.mean(np.square(speech, dtype=np.float64)))
        if level == 0:
            return speech, [], np.nan
        step = draw(name, generator)
        audio = speech.astype(np.float64)
        degraded = process(audio, [step], 20 * np.log10(level), generator) / 32767
        return degraded, [name], step[1].get("snr_db", np.nan)

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

    def _noise(
        self, length: int, generator: np.random.Generator, pink: Optional[bool] = None
    ) -> np.ndarray:
        if not self._noises:
            if pink is None:
                pink = generator.random() < 0.5
            return coloured_noise(length, generator, pink)
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


def shift_pitch(speech: np.ndarray, cents: float) -> np.ndarray:
    """Speech (N,) at another pitch, as long and in time: (N,) float64.

    A phase vocoder stretches it, and it is played faster or slower.
    """
    factor = 2 ** (cents / 1200)
    size, hop = 512, 128
    window = torch.hann_window(size)
    samples = torch.from_numpy(np.array(speech, dtype=np.float32))
    if len(samples) <= size:  # shorter than a window; nothing can be said of its pitch
        return np.array(speech, dtype=np.float64)
    spectrum = torch.stft(samples, size, hop, window=window, return_complex=True)
    advance = torch.linspace(0, np.pi * hop, size // 2 + 1)[:, None]
    spectrum = torchaudio.functional.phase_vocoder(spectrum, 1 / factor, advance)
    length = round(len(samples) * factor)
    stretched = torch.istft(spectrum, size, hop, window=window, length=length)
    return scipy.signal.resample(stretched.double().numpy(), len(samples))


def reject_band(
    speech: np.ndarray, sample_rate: int, generator: np.random.Generator
) -> np.ndarray:
    """Speech (N,) without a band of frequencies, in time: (N,) float64.

    The band is up to 13.5/256 of the range in mel wide, anywhere in it.
    """
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    width = generator.uniform(0, _REJECTED) * top
    low = generator.uniform(0, top - width)
    edges = 700 * (10 ** (np.array([low, low + width]) / 2595) - 1)
    spectrum = np.fft.rfft(np.asarray(speech, dtype=np.float64))
    frequencies = np.fft.rfftfreq(len(speech), 1 / sample_rate)
    spectrum[(frequencies >= edges[0]) & (frequencies <= edges[1])] = 0.0
    return np.fft.irfft(spectrum, len(speech))


def _read_list(option: str, path: Optional[str]) -> List[str]:
    """Files of a wav.scp that an option names, if it does."""
    if not path:
        return []
    files = list(read_scp(path).values())
    if not files:
        raise DataError(
            f"{path} is empty, expected lines `name file` of audio for noisy_view."
            f"{option}: fill it, or leave the option out"
        )
    return files
