# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Decoding of audio files to mono float32 at one sampling rate."""

import os
from typing import Iterator, Optional, Tuple, Union

import numpy as np
import soundfile
import soxr

# Float files may overshoot full scale a little (a mix, a resampler); a peak this
# far above it means samples stored in the integer range, which would only clip.
MAX_PLAUSIBLE_PEAK = 8.0

# Read from a file at a time: what a header declares is never allocated at once.
_BLOCK_SAMPLES = 1 << 18

# A file may lack this much of what its header declares: sloppy writers count the
# header as data.
_TOLERATED_LOSS_SECONDS = 0.05

# Sampling rates in Hz beyond which a header is taken to be broken.
SAMPLE_RATES = (1000, 768000)

# Lengths in a RIFF header that mean "unknown": written to a pipe.
_UNKNOWN_RIFF_LENGTH = 0x7FFFF000

# What libsndfile decodes, by the ending of the name.
AUDIO_SUFFIXES = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64 "
    ".sph .nist .voc".split()
)
# Audio all the same, for other decoders.
FOREIGN_SUFFIXES = frozenset(
    ".m4a .aac .mp4 .m4b .wma .webm .weba .amr .ac3 .eac3 .mka .3gp .ape .wv .tta "
    ".mpc .spx .dsf .dff".split()
)

# ``mean`` of all channels, or the number of one, from 0.
Channel = Union[str, int]


class AudioError(ValueError):
    """An audio file that cannot be used; the message is one sentence."""


def _name(path: str, utt_id: str) -> str:
    return f"utterance {utt_id}: {path}" if utt_id else f"{path}"


def _advice(utt_id: str) -> str:
    if utt_id:
        return "make the file again or remove the utterance from wav.scp."
    return "make the file again or leave it out."


def _check_is_file(path: str, utt_id: str) -> None:
    name = _name(path, utt_id)
    if path.rstrip().endswith("|"):
        raise AudioError(
            f"{name} is a command and not an audio file; "
            "run stage 2 of the recipe, which writes files."
        )
    correct = "correct wav.scp" if utt_id else "leave it out"
    if os.path.isdir(path):
        raise AudioError(f"{name} is a directory, expected an audio file; {correct}.")
    if os.path.islink(path) and not os.path.exists(path):
        raise AudioError(
            f"{name} is a broken link to {os.readlink(path)}, expected an audio file; "
            f"{correct} or mend the link."
        )
    if not os.path.exists(path):
        raise AudioError(
            f"{name} does not exist, expected an audio file; "
            + (
                "correct wav.scp or make the file again (stages 1 and 2)."
                if utt_id
                else "correct the name."
            )
        )
    if not os.path.isfile(path):
        raise AudioError(
            f"{name} is a device or pipe, expected an audio file; {correct}."
        )
    if os.path.getsize(path) == 0:
        raise AudioError(
            f"{name} is empty (0 bytes), expected audio; {_advice(utt_id)}"
        )


def _unreadable(path: str, utt_id: str, reason: Exception) -> AudioError:
    name = _name(path, utt_id)
    suffix = os.path.splitext(path)[1].lower()
    if suffix in FOREIGN_SUFFIXES:
        return AudioError(
            f"{name} is {suffix[1:]}, which libsndfile cannot decode, expected WAV, "
            "FLAC, OGG, OPUS or MP3; convert it, for example with "
            f"`ffmpeg -i FILE{suffix} FILE.wav`."
        )
    reason = getattr(reason, "error_string", None) or str(reason)
    reason = " ".join(str(reason).split()).rstrip(".")
    return AudioError(
        f"{name} cannot be read as audio ({reason}), expected a format of libsndfile "
        "such as WAV, FLAC, OGG or MP3; convert the file or "
        + ("remove the utterance from wav.scp." if utt_id else "leave it out.")
    )


def _open(path: str, utt_id: str) -> soundfile.SoundFile:
    _check_is_file(path, utt_id)
    try:
        # As bytes: a name need not be text in any encoding.
        return soundfile.SoundFile(os.fsencode(path))
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        # TypeError: a headerless format, by the ending of the name (.raw)
        raise _unreadable(path, utt_id, error) from error


def _data_bytes(path: str) -> Tuple[int, int]:
    """Bytes of audio that a WAV header declares, and those that the file holds.

    libsndfile silently plays what is left of a file that was cut off.

    Returns:
        Two zeros where the header declares nothing.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if file.read(4) != b"RIFF":
            return 0, 0
        file.seek(12)
        while True:
            header = file.read(8)
            if len(header) < 8:
                return 0, 0
            length = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                if length >= _UNKNOWN_RIFF_LENGTH:
                    return 0, 0
                return length, min(length, size - file.tell())
            # Chunks start at even places.
            file.seek(length + length % 2, os.SEEK_CUR)


def _cut_off(path: str, utt_id: str, declared: float, found: float) -> AudioError:
    return AudioError(
        f"{_name(path, utt_id)} is cut off: its header declares {declared:.2f} s and "
        f"the file holds {found:.2f} s, expected both alike; {_advice(utt_id)}"
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
    with _open(path, utt_id) as file:
        return file.frames, file.samplerate, file.channels


def check_samples(samples: np.ndarray, name: str, advice: str) -> None:
    """Refuse samples that no decoder or network should have made.

    Args:
        samples: float, any shape, not empty.
        name: of the file or waveform, starts the message.
        advice: ends the message.

    Raises:
        AudioError: Samples are NaN, infinite or far beyond [-1, 1].
    """
    # The peak is NaN where a sample is; one pass for the usual case.
    peak = float(max(np.max(samples), -np.min(samples)))
    if not np.isfinite(peak):
        bad = int(np.count_nonzero(~np.isfinite(samples)))
        raise AudioError(
            f"{name} has {bad} samples that are NaN or infinite, expected numbers in "
            f"[-1, 1]; {advice}"
        )
    if peak > MAX_PLAUSIBLE_PEAK:
        raise AudioError(
            f"{name} has float samples up to {peak:g}, expected [-1, 1]; "
            "divide by full scale and write the file again."
        )


def check_channel(channel: Channel) -> Channel:
    """Return ``mean`` or a channel number.

    Raises:
        ValueError: It is neither.
    """
    if channel == "mean":
        return channel
    if str(channel).isdecimal() and not isinstance(channel, bool):
        return int(channel)
    raise ValueError(
        f"found channel={channel!r}, expected mean or the number of a channel, from 0"
    )


def _to_mono(
    samples: np.ndarray, channel: Channel, path: str, utt_id: str
) -> np.ndarray:
    if channel == "mean":
        return samples.mean(axis=1, dtype=np.float32)
    if channel >= samples.shape[1]:
        raise AudioError(
            f"{_name(path, utt_id)} has {samples.shape[1]} channels, expected one with "
            f"the number {channel}, from 0; choose another channel or the mean."
        )
    return np.ascontiguousarray(samples[:, channel])


def _native_blocks(
    path: str, utt_id: str, channel: Channel
) -> Iterator[Tuple[np.ndarray, int]]:
    """Mono blocks at the file's own rate, and that rate; at least one sample."""
    name = _name(path, utt_id)
    with _open(path, utt_id) as file:
        rate, declared = file.samplerate, file.frames
        if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
            raise AudioError(
                f"{name} declares a sampling rate of {rate} Hz, expected one from "
                f"{SAMPLE_RATES[0]} to {SAMPLE_RATES[1]} Hz; {_advice(utt_id)}"
            )
        # Some containers say "unknown" as a number of 63 bits.
        exact = file.format in ("WAV", "WAVEX", "FLAC", "RF64", "W64")
        exact = exact and 0 < declared < 1 << 60
        if file.format in ("WAV", "WAVEX"):
            try:
                expected, found = _data_bytes(path)
            except OSError as error:
                raise _unreadable(path, utt_id, error) from error
            if found < expected and declared:
                # Compressed or not, bytes go with seconds.
                seconds = declared / rate
                total = seconds * expected / max(found, 1)
                if total - seconds > _TOLERATED_LOSS_SECONDS:
                    raise _cut_off(path, utt_id, total, seconds)
        length = 0
        while True:
            try:
                block = file.read(
                    _BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True
                )
            except (soundfile.SoundFileError, OSError) as error:
                raise _unreadable(path, utt_id, error) from error
            if len(block) == 0:
                break
            length += len(block)
            check_samples(block, name, _advice(utt_id))
            yield _to_mono(block, channel, path, utt_id), rate
    if length == 0:
        raise AudioError(f"{name} has 0 samples, expected audio; {_advice(utt_id)}")
    if exact and (declared - length) / rate > _TOLERATED_LOSS_SECONDS:
        raise _cut_off(path, utt_id, declared / rate, length / rate)


def read_blocks(
    path: str, fs: int = 16000, utt_id: str = "", channel: Channel = "mean"
) -> Iterator[np.ndarray]:
    """Read a file in blocks; joined, they are what :func:`read_audio` returns.

    Memory does not grow with the length of the file or with what its header declares.

    Args:
        path, fs, utt_id, channel: as of :func:`read_audio`.

    Yields:
        Samples (n,), float32 in [-1, 1], n >= 1.

    Raises:
        AudioError: as of :func:`read_audio`; blocks before the fault are out by then.
    """
    path = os.fspath(path)
    stream = None
    empty = True
    last = np.zeros(0, dtype=np.float32)
    for block, rate in _native_blocks(path, utt_id, channel):
        if rate != fs:
            if stream is None:
                stream = soxr.ResampleStream(
                    rate, fs, 1, dtype="float32", quality="VHQ"
                )
            block = stream.resample_chunk(block)
        if len(block):
            empty = False
            yield np.clip(block, -1.0, 1.0)
    if stream is not None:
        last = stream.resample_chunk(last, last=True)
        if len(last):
            empty = False
            yield np.clip(last, -1.0, 1.0)
    if empty:
        raise AudioError(
            f"{_name(path, utt_id)} is too short: nothing is left of it at {fs} Hz; "
            + ("remove the utterance from wav.scp." if utt_id else "leave it out.")
        )


def read_audio(
    path: str,
    fs: int = 16000,
    utt_id: str = "",
    channel: Channel = "mean",
    maximum_samples: Optional[int] = None,
) -> Optional[np.ndarray]:
    """Read a file as mono float32 at the rate ``fs``.

    Channels are averaged unless one is chosen; another rate is converted with soxr at
    its "VHQ" setting (linear phase, so the signal is not shifted in time). A file of n
    samples at rate r has about ``n * fs / r`` samples afterwards.

    Args:
        path: Audio file that libsndfile can open.
        fs: Wanted sampling rate in Hz.
        utt_id: Utterance id, named in error messages.
        channel: ``mean``, or the number of a channel, from 0.
        maximum_samples: Read no more than this, at ``fs``; None for all.

    Returns:
        Samples (N,), float32 in [-1, 1], N >= 1; overshoot is clipped as 16-bit
        PCM would clip it. None where the file has more than ``maximum_samples``.

    Raises:
        AudioError: The file is missing, a directory, empty, not audio, cut off, has
            no samples or no such channel, or has samples that are NaN, infinite or
            far beyond [-1, 1].
    """
    blocks = []
    length = 0
    for block in read_blocks(path, fs, utt_id, channel):
        blocks.append(block)
        length += len(block)
        if maximum_samples is not None and length > maximum_samples:
            return None
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
