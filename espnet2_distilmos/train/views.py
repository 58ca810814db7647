# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Distorted views of an utterance: what a second pass or a teacher hears."""

import math
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

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
_NOISE = {"noise_scp": None, "noise_snr": (0.0, 20.0)}
_ROOM = {"rir_scp": None, "rt60": (0.2, 0.8)}
_SPEECH = {"speech_prob": 0.2, "speech_snr": (-5.0, 5.0), "speech_share": 0.5}
# Ratios of cross-distortion mapping are whole numbers.
_CROSSED = {**_NOISE, **_ROOM, "noise_snr": (10, 19)}
# Options that a scheme reads, and their defaults.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "mix": {**_NOISE, **_SPEECH, **_ROOM, "noise_prob": 0.4, "reverb_prob": 0.2},
    "single": _CROSSED,
    "double": _CROSSED,
    "systems": {"systems": ()},
}
_CENTS = 500
# Widest rejected band, of the whole range in mel.
_REJECTED = 13.5 / 256


def kinds_of(scheme: str = "mix", systems: Sequence[str] = (), **others) -> List[str]:
    """What the options of a :class:`NoisyView` let be done."""
    return [*SCHEMES.get(scheme, ()), *systems]


def check_view(options: Mapping[str, Any]) -> Dict[str, Any]:
    """Check options of a :class:`NoisyView` but for its audio, and fill in the rest.

    Args:
        options: as a configuration has them; None is the default.

    Returns:
        All that the scheme reads, with ``scheme`` and ``teacher``.

    Raises:
        ValueError: One is unknown, of another scheme, or out of its range.
    """

    def expect(good: bool, name: str, expected: str) -> None:
        if not good:
            raise ValueError(
                f"found noisy_view.{name}={options.get(name)!r}, expected {expected}"
            )

    found = {name: value for name, value in options.items() if value is not None}
    scheme = found.pop("scheme", "mix")
    expect(scheme in list(OPTIONS), "scheme", f"one of {', '.join(OPTIONS)}")
    teacher = found.pop("teacher", TRUE_SIGNAL)
    expect(teacher in TEACHERS, "teacher", f"one of {', '.join(TEACHERS)}")
    read = OPTIONS[scheme]
    for name in found:
        of = [other for other in OPTIONS if name in OPTIONS[other]]
        where = f"it is of scheme {' and '.join(of)}" if of else "it is none"
        names = ", ".join(["scheme", "teacher", *read])
        expect(name in read, name, f"with scheme={scheme} some of {names}; {where}")
    found = {**read, **found}
    for name in sorted({"noise_prob", "speech_prob", "reverb_prob"} & set(found)):
        good = _is_number(found[name]) and 0 <= found[name] <= 1
        expect(good, name, "a number from 0 to 1")
    if scheme == "mix":
        both = found["noise_prob"] + found["speech_prob"]
        expect(both <= 1, "noise_prob", "1 at most together with speech_prob")
        share = found["speech_share"]
        good = _is_number(share) and 0 < share <= 1
        expect(good, "speech_share", "a number above 0, 1 at most")
    for name in sorted({"noise_snr", "speech_snr", "rt60"} & set(found)):
        values = found[name]
        good = isinstance(values, (list, tuple)) and len(values) == 2
        good = good and all(map(_is_number, values)) and values[0] <= values[1]
        expect(good, name, "a list of two numbers, the lower one first")
    for name in sorted({"noise_scp", "rir_scp"} & set(found)):
        good = found[name] is None or isinstance(found[name], str)
        expect(good, name, "the path of a wav.scp")
    if "rt60" in found:
        expect(found["rt60"][0] > 0, "rt60", "seconds above 0")
    if scheme in ("single", "double"):
        whole = all(float(value).is_integer() for value in found["noise_snr"])
        expect(whole, "noise_snr", f"whole numbers with scheme={scheme}")
    if scheme == "systems":
        names = found["systems"]
        good = isinstance(names, (list, tuple)) and len(names) > 0
        good = good and all(name in list(SYSTEMS) for name in names)
        expect(good, "systems", f"with scheme=systems some of {', '.join(SYSTEMS)}")
    return {"scheme": scheme, "teacher": teacher, **found}


def _is_number(value: Any) -> bool:
    """Whether a value of YAML is a finite number."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and math.isfinite(value)


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


class _Done:
    """What has been done to speech so far; steps that change nothing do not count."""

    def __init__(self, speech: np.ndarray):
        self.audio = speech
        self.kinds: List[str] = []
        self.snr = np.nan

    def add(self, kind: str, audio: np.ndarray, snr: Optional[float] = None) -> None:
        if audio is self.audio:
            return
        self.audio = audio
        self.kinds.append(kind)
        if snr is not None:
            self.snr = snr


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
        wav_paths: audio file by utterance, of the other speakers; for ``mix``.
        sample_rate: of all audio.
        options: those of :data:`OPTIONS` that the scheme reads, else its defaults:

            * scheme, teacher: one of the above.
            * systems: names of degradations.
            * noise_prob, speech_prob, reverb_prob: probabilities of noise, of another
              utterance of the training set, and of a room.
            * noise_scp: ``wav.scp`` of noises; None makes white and pink noise, in
              ``single`` and ``double``, which have white noise, pink.
            * noise_snr: lowest and highest ratio of speech to noise in dB, drawn
              evenly; whole numbers in ``single`` and ``double``.
            * speech_snr: lowest and highest ratio to the other utterance in dB.
            * speech_share: most of the utterance that it covers, at a random place.
            * rir_scp: ``wav.scp`` of impulse responses; None makes decaying noise.
            * rt60: shortest and longest reverberation time of made responses in s.

    Attributes:
        kinds: all that may be done.

    Raises:
        ValueError: for impossible options.
        DataError: A list, or a file of it, cannot be read or is of another rate.
    """

    def __init__(
        self,
        wav_paths: Optional[Mapping[str, str]] = None,
        sample_rate: int = 16000,
        **options,
    ):
        self.wav_paths = dict(wav_paths or {})
        self.sample_rate = sample_rate
        self.options = check_view(options)
        self.scheme, self.teacher = self.options["scheme"], self.options["teacher"]
        self.kinds = kinds_of(**self.options)
        if self.options.get("speech_prob") and len(self.wav_paths) < 2:
            raise ValueError(
                f"found noisy_view.speech_prob={self.options['speech_prob']} and "
                f"{len(self.wav_paths)} audio files, expected two or more: set it to 0"
            )
        self._ids = sorted(self.wav_paths)
        self._noises = self._read_list("noise_scp")
        self._rooms = self._read_list("rir_scp")

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
        done = drawing.get(self.scheme, self._crossed)(uid, speech, generator)
        return View(np.asarray(done.audio, np.float32), tuple(done.kinds), done.snr)

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
        options = self.options
        done = _Done(speech)
        if generator.random() < options["reverb_prob"]:
            done.add("reverb", reverberate(speech, self._room(generator)))
        kind = generator.random()
        if kind < options["noise_prob"]:
            noise = self._noise(len(speech), generator)
            snr = generator.uniform(*options["noise_snr"])
            done.add("noise", mix(done.audio, noise, snr), snr)
        elif kind < options["noise_prob"] + options["speech_prob"]:
            other, start = self._speaker(uid, len(speech), generator)
            snr = generator.uniform(*options["speech_snr"])
            done.add("speech", mix(done.audio, other, snr, start), snr)
        return done

    def _crossed(self, uid, speech, generator):
        if self.scheme == "single":
            steps = [generator.choice(SCHEMES["single"], p=(0.3, 0.4, 0.3))]
        else:
            added = generator.choice(("noise", "gaussian", None), p=(0.5, 0.25, 0.25))
            steps = [added, generator.choice(("reverb", "pitch", "band_reject", None))]
        done = _Done(speech)
        for kind in (str(kind) for kind in steps if kind is not None):
            if kind == "reverb":
                done.add(kind, reverberate(done.audio, self._room(generator)))
            elif kind == "pitch":
                cents = generator.uniform(-_CENTS, _CENTS)
                done.add(kind, shift_pitch(done.audio, cents))
            elif kind == "band_reject":
                done.add(kind, reject_band(done.audio, self.sample_rate, generator))
            else:
                low, high = map(int, self.options["noise_snr"])
                snr = float(generator.integers(low, high, endpoint=True))
                noise = generator.standard_normal(len(speech))
                if kind == "noise":
                    noise = self._noise(len(speech), generator, pink=True)
                done.add(kind, mix(done.audio, noise, snr), snr)
        return done

    def _system(self, uid, speech, generator):
        names = self.options["systems"]
        name = names[int(generator.integers(len(names)))]
        level = np.sqrt(np.mean(np.square(speech, dtype=np.float64)))
        done = _Done(speech)
        if level == 0:
            return done
        step = draw(name, generator)
        audio = speech.astype(np.float64)
        degraded = process(audio, [step], 20 * np.log10(level), generator) / 32767
        done.add(name, degraded, step[1].get("snr_db", np.nan))
        return done

    def _read_list(self, option: str) -> List[str]:
        """Files of a wav.scp that an option names, if it does, looked at once."""
        path = self.options.get(option)
        if not path:
            return []
        where = f"noisy_view.{option}"
        if not os.path.exists(path):
            raise DataError(f"{where}: found no file {path}, expected a wav.scp.")
        files = read_scp(path)
        if not files:
            raise DataError(
                f"{where}: {path} is empty, expected lines `name file` of audio: fill "
                "it, or leave the option out"
            )
        for name, file in files.items():
            try:
                found = soundfile.info(file)
            except (soundfile.SoundFileError, OSError, TypeError) as error:
                raise DataError(
                    f"{where}: {name} of {path}: found {file}, which cannot be read "
                    f"({error}), expected audio at {self.sample_rate} Hz"
                ) from error
            if found.samplerate != self.sample_rate or not found.frames:
                raise DataError(
                    f"{where}: {name} of {path}: found {found.frames} samples at "
                    f"{found.samplerate} Hz in {file}, expected some at "
                    f"{self.sample_rate} Hz: resample it (as stage 2 does)"
                )
        return list(files.values())

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
        return np.resize(noise, length)

    def _speaker(self, uid: str, length: int, generator: np.random.Generator):
        """Another utterance, and where it begins."""
        place = int(generator.integers(len(self._ids)))
        if self._ids[place] == uid:
            place = (place + 1) % len(self._ids)
        longest = max(1, int(self.options["speech_share"] * length))
        wanted = int(generator.integers(1, longest + 1))
        other = self._read(self.wav_paths[self._ids[place]], generator, wanted)
        return other, int(generator.integers(length - len(other) + 1))

    def _room(self, generator: np.random.Generator) -> np.ndarray:
        if not self._rooms:
            rt60 = generator.uniform(*self.options["rt60"])
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
    """Speech (N,) in a room, in time with its direct sound, at equal energy: (N,).

    Silence, and speech in a response of zeros, are returned as they are.
    """
    if not np.any(response):
        return speech
    response = response[np.argmax(np.abs(response)) :]
    wet = fftconvolve(speech.astype(np.float64), response)[: len(speech)]
    energy = np.square(wet).sum()
    if energy == 0:
        return speech
    return wet * np.sqrt(np.square(speech, dtype=np.float64).sum() / energy)


def shift_pitch(speech: np.ndarray, cents: float) -> np.ndarray:
    """Speech (N,) at another pitch, as long and in time: (N,).

    A phase vocoder stretches it, and it is played faster or slower. Silence, and 512
    samples or less, are returned as they are.
    """
    factor = 2 ** (cents / 1200)
    size, hop = 512, 128
    window = torch.hann_window(size)
    samples = torch.from_numpy(np.array(speech, dtype=np.float32))
    # Shorter than a window, or silent: nothing can be said of its pitch.
    if len(samples) <= size or not torch.any(samples):
        return speech
    spectrum = torch.stft(samples, size, hop, window=window, return_complex=True)
    advance = torch.linspace(0, np.pi * hop, size // 2 + 1)[:, None]
    spectrum = torchaudio.functional.phase_vocoder(spectrum, 1 / factor, advance)
    length = round(len(samples) * factor)
    stretched = torch.istft(spectrum, size, hop, window=window, length=length)
    return scipy.signal.resample(stretched.double().numpy(), len(samples))


def reject_band(
    speech: np.ndarray, sample_rate: int, generator: np.random.Generator
) -> np.ndarray:
    """Speech (N,) without a band of frequencies, in time: (N,).

    The band is up to 13.5/256 of the range in mel wide, anywhere in it; speech that
    has nothing there is returned as it is.
    """
    top = 2595 * np.log10(1 + sample_rate / 2 / 700)
    width = generator.uniform(0, _REJECTED) * top
    low = generator.uniform(0, top - width)
    edges = 700 * (10 ** (np.array([low, low + width]) / 2595) - 1)
    spectrum = np.fft.rfft(np.asarray(speech, dtype=np.float64))
    frequencies = np.fft.rfftfreq(len(speech), 1 / sample_rate)
    band = (frequencies >= edges[0]) & (frequencies <= edges[1])
    if not np.any(spectrum[band]):
        return speech
    spectrum[band] = 0.0
    return np.fft.irfft(spectrum, len(speech))
