# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Decoding of audio files to mono float32 at one sampling rate."""

import os
from typing import Tuple

import numpy as np
import soundfile
import soxr

# Float files may overshoot full scale a little (a mix, a resampler); a peak this
# far above it means samples stored in the integer range, which would only clip.
_MAX_PLAUSIBLE_PEAK = 8.0


class AudioError(ValueError):
    """An audio file that cannot be used; the message is one sentence."""


def _name(path: str, utt_id: str) -> str:
    return f"utterance {utt_id}: {path}" if utt_id else f"{path}"


def _check_is_file(path: str, utt_id: str) -> None:
    name = _name(path, utt_id)
    if path.rstrip().endswith("|"):
        raise AudioError(
            f"{name} is a command and not an audio file; "
            "run stage 2 of the recipe, which writes files."
        )
    if os.path.isdir(path):
        raise AudioError(
            f"{name} is a directory, expected an audio file; correct wav.scp."
        )
    if not os.path.isfile(path):
        raise AudioError(
            f"{name} does not exist, expected an audio file; "
            "correct wav.scp or make the file again (stages 1 and 2)."
        )
    if os.path.getsize(path) == 0:
        raise AudioError(
            f"{name} is empty (0 bytes), expected audio; "
            "make the file again or remove the utterance from wav.scp."
        )


def _unreadable(path: str, utt_id: str, reason: Exception) -> AudioError:
    reason = " ".join(str(reason).split()).rstrip(".")
    return AudioError(
        f"{_name(path, utt_id)} cannot be read as audio ({reason}), expected a format "
        "of libsndfile such as WAV, FLAC, OGG or MP3; convert the file or remove the "
        "utterance from wav.scp."
    )


def read_header(path: str, utt_id: str = "") -> Tuple[int, int, int]:
    """Read the length, rate and channel count without decoding the samples.

    Args:
        path: Audio file that libsndfile can open.
        utt_id: Utterance id, named in error messages.

    Returns:
        Samples per channel, sampling rate in Hz, number of channels.

    Raises:
        AudioError: The file is missing, a directory, empty or not audio.
    """
    path = os.fspath(path)
    _check_is_file(path, utt_id)
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError) as error:
        raise _unreadable(path, utt_id, error) from error
    return info.frames, info.samplerate, info.channels


def read_audio(path: str, fs: int = 16000, utt_id: str = "") -> np.ndarray:
    """Read a file as mono float32 at the rate ``fs``.

    Channels are averaged; another rate is converted with soxr at its "VHQ" setting
    (linear phase, so the signal is not shifted in time). A file of n samples at
    rate r has about ``n * fs / r`` samples afterwards.

    Args:
        path: Audio file that libsndfile can open.
        fs: Wanted sampling rate in Hz.
        utt_id: Utterance id, named in error messages.

    Returns:
        Samples (N,), float32 in [-1, 1], N >= 1; overshoot is clipped as 16-bit
        PCM would clip it.

    Raises:
        AudioError: The file is missing, a directory, empty, not audio, has no
            samples, or has samples that are NaN, infinite or far beyond [-1, 1].
    """
    path = os.fspath(path)
    _check_is_file(path, utt_id)
    name = _name(path, utt_id)
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise _unreadable(path, utt_id, error) from error
    if len(samples) == 0:
        raise AudioError(
            f"{name} has 0 samples, expected audio; "
            "make the file again or remove the utterance from wav.scp."
        )
    bad = int(np.count_nonzero(~np.isfinite(samples)))
    if bad:
        raise AudioError(
            f"{name} has {bad} samples that are NaN or infinite, expected numbers in "
            "[-1, 1]; make the file again or remove the utterance from wav.scp."
        )
    peak = float(np.max(np.abs(samples)))
    if peak > _MAX_PLAUSIBLE_PEAK:
        raise AudioError(
            f"{name} has float samples up to {peak:g}, expected [-1, 1]; "
            "divide by full scale and write the file again."
        )
    samples = samples.mean(axis=1, dtype=np.float32)
    if rate != fs:
        samples = soxr.resample(samples, rate, fs, quality="VHQ")
        if len(samples) == 0:
            raise AudioError(
                f"{name} is too short: nothing is left of it at {fs} Hz; "
                "remove the utterance from wav.scp."
            )
    return np.clip(samples, -1.0, 1.0)
