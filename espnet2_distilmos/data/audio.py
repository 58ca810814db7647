# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Decoding of audio files to mono float32 at one sampling rate."""

import contextlib
import os
from typing import Iterator, Optional, Tuple, Union

import numpy as np
import soundfile

from espnet2_distilmos.data.containers import Contents, Spliced, examine
from espnet2_distilmos.data.names import FOREIGN_SUFFIXES

# Float files may overshoot full scale a little (a mix, a resampler); a peak this
# far above it means samples stored in the integer range, which would only clip.
MAX_PLAUSIBLE_PEAK = 8.0

# Read from a file at a time: what a header declares is never allocated at once.
_BLOCK_SAMPLES = 1 << 18

# A file may lack this much of what its header declares: sloppy writers count the
# header as data.
_TOLERATED_LOSS_SECONDS = 0.05

# What libsndfile reads as many samples of as there are bytes for.
_SAMPLE_BYTES = {
    **dict.fromkeys(("PCM_S8", "PCM_U8", "ULAW", "ALAW"), 1),
    **{"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8},
}

# Containers of which :func:`examine` tells a part from the whole, as libsndfile names
# them; it opens others (MAT5, PVF, IRCAM, ...) that no one keeps speech in.
_CONTAINERS = frozenset("WAV WAVEX RF64 W64 AIFF AU CAF NIST VOC FLAC OGG MP3".split())

# Sampling rates in Hz beyond which a header is taken to be broken.
SAMPLE_RATES = (1000, 768000)

# ``mean`` of all channels, or the number of one, from 0.
Channel = Union[str, int]


class AudioError(ValueError):
    """Audio that cannot be used; the message is one sentence."""


def describe(path: str, utt_id: str = "") -> str:
    """Name a file, and its utterance where it has one, for a message."""
    return f"utterance {utt_id}: {path}" if utt_id else f"{path}"


@contextlib.contextmanager
def _open(path: str, name: str) -> Iterator[Tuple[soundfile.SoundFile, int]]:
    """Open a file, and count its samples per channel.

    What goes wrong then or in the block is an AudioError, of which the file's being cut
    off, or holding more than would be read, is a kind.
    """
    found = ""
    if path.rstrip().endswith("|"):
        found = "is a command (stage 2 of the recipe makes files of them)"
    elif os.path.isdir(path):
        found = "is a directory"
    elif os.path.islink(path) and not os.path.exists(path):
        found = f"is a broken link to {os.readlink(path)}"
    elif not os.path.exists(path):
        found = "does not exist"
    elif not os.path.isfile(path):
        found = "is a device or pipe"
    elif os.path.getsize(path) == 0:
        found = "is empty (0 bytes)"
    elif path.lower().endswith(".raw"):
        found = "has no header, which would say the rate"
    if found:
        raise AudioError(
            f"{name} {found}, expected an audio file; correct the path, make the file "
            "again or leave it out."
        )
    contents = Contents()
    try:
        with open(path, "rb") as raw:
            contents = examine(raw)
            # As bytes: a name need not be text in any encoding.
            source = os.fsencode(path)
            if contents.head:
                source = Spliced(raw, contents.head, contents.skip)
            with soundfile.SoundFile(source) as file:
                yield file, _whole_frames(file, contents, name)
    except (soundfile.SoundFileError, OSError) as error:
        suffix = os.path.splitext(path)[1].lower()
        reason = getattr(error, "error_string", None) or str(error)
        if suffix in FOREIGN_SUFFIXES:
            reason = f"libsndfile has no decoder of {suffix[1:]}"
        elif contents.declared > contents.held and not contents.per_second:
            lengths = f"{contents.declared} bytes", f"{contents.held}"
            raise _cut_off(name, *lengths) from error
        raise AudioError(
            f"{name} cannot be read as audio "
            f"({' '.join(reason.split()).rstrip('.') or 'its samples are damaged'}), "
            "expected WAV, FLAC, OGG, OPUS or MP3; convert it, for example with "
            f"`ffmpeg -i FILE{suffix} NEW.wav`, or leave it out."
        ) from error


def _whole_frames(file: soundfile.SoundFile, contents: Contents, name: str) -> int:
    """Samples per channel that reading gives.

    Raises:
        AudioError: They are, or could be, a part of what the file declares or holds.
    """
    if file.format not in _CONTAINERS:
        raise AudioError(
            f"{name} is {file.format}, of which a part cannot be told from the whole, "
            "expected WAV, FLAC, OGG, OPUS or MP3; convert it or leave it out."
        )
    if contents.fault:
        raise AudioError(
            f"{name} {contents.fault}, expected one whole recording; make it again, "
            "leave it out, or take what can be read, for example with "
            "`ffmpeg -i FILE NEW.wav`."
        )
    frames, per_second = file.frames, contents.per_second
    if contents.held == 0 or frames == 0:
        return frames
    readable = frames / file.samplerate
    if per_second:  # MP3, of which libsndfile may only estimate the length
        frames = min(frames, contents.held)
        readable = contents.declared / per_second
    elif file.subtype in _SAMPLE_BYTES:
        per_frame = file.channels * _SAMPLE_BYTES[file.subtype]
        per_second = file.samplerate * per_frame
        # Of some containers libsndfile also plays what follows the samples.
        frames = min(frames, contents.declared // per_frame)
    else:  # compressed: bytes go with seconds
        per_second = min(contents.declared, contents.held) / readable
    declared, held = contents.declared / per_second, contents.held / per_second
    lengths = f"{min(declared, readable):.2f} s", f"{held:.2f} s"
    if declared - held > _TOLERATED_LOSS_SECONDS:
        raise _cut_off(name, f"{declared:.2f} s", lengths[1])
    if held - min(declared, readable) > _TOLERATED_LOSS_SECONDS:
        raise AudioError(
            f"{name} would be read in part: its header declares {lengths[0]} and the "
            f"file holds {lengths[1]}, expected both alike; make it again, for example "
            "with `ffmpeg -i FILE NEW.wav`, or leave it out."
        )
    return frames


def _cut_off(name: str, declared: str, held: str) -> AudioError:
    return AudioError(
        f"{name} is cut off: its header declares {declared} and the file holds {held}, "
        "expected both alike; make it again or leave it out."
    )


def read_header(path: str, utt_id: str = "") -> Tuple[int, int, int]:
    """Read the length, rate and channel count without decoding the samples.

    Args:
        path: Audio file that libsndfile can open.
        utt_id: Utterance id, named in error messages.

    Returns:
        Samples per channel, sampling rate in Hz, number of channels.

    Raises:
        AudioError: The file is missing, a directory, empty, not audio, or cut off.
    """
    with _open(os.fspath(path), describe(path, utt_id)) as (file, frames):
        return frames, file.samplerate, file.channels


def check_samples(samples: np.ndarray, name: str) -> None:
    """Refuse samples that no decoder or network should have made.

    Args:
        samples: float, any shape, not empty.
        name: of the file or waveform, starts the message.

    Raises:
        AudioError: Samples are NaN, infinite or far beyond [-1, 1].
    """
    # The peak is NaN where a sample is; one pass for the usual case.
    peak = float(max(np.max(samples), -np.min(samples)))
    if peak <= MAX_PLAUSIBLE_PEAK:
        return
    found = f"float samples up to {peak:g}, as of integers"
    if not np.isfinite(peak):
        bad = int(np.count_nonzero(~np.isfinite(samples)))
        found = f"{bad} samples that are NaN or infinite"
    raise AudioError(
        f"{name} has {found}, expected numbers in [-1, 1]; make it again or leave it "
        "out."
    )


def check_length(num_samples: int, minimum_samples: int, fs: int, name: str) -> None:
    """Refuse what is shorter than a frame.

    Raises:
        AudioError: There are fewer than ``minimum_samples`` at ``fs``.
    """
    if num_samples < minimum_samples:
        raise AudioError(
            f"{name} has {num_samples} samples at {fs} Hz, expected at least the "
            f"{minimum_samples} of one frame; leave it out."
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


def check_has_channel(channel: Channel, num_channels: int, name: str) -> None:
    """Refuse a channel that is not there.

    Raises:
        AudioError: Of ``num_channels`` channels none has this number.
    """
    if channel != "mean" and channel >= num_channels:
        raise AudioError(
            f"{name} has {num_channels} channels, expected one with the number "
            f"{channel}, from 0; choose another channel or the mean."
        )


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
    name = describe(path, utt_id)
    with _open(path, name) as (file, frames):
        rate = file.samplerate
        low, high = SAMPLE_RATES
        if not low <= rate <= high:
            raise AudioError(
                f"{name} declares a sampling rate of {rate} Hz, expected one from "
                f"{low} to {high} Hz; make it again or leave it out."
            )
        check_has_channel(channel, file.channels, name)
        resampler = None
        if rate != fs:
            import soxr

            resampler = soxr.ResampleStream(rate, fs, 1, "float32", quality="VHQ")
        length = num_given = 0
        is_last = is_short = False
        while not is_last:
            count = min(_BLOCK_SAMPLES // file.channels, frames - length)
            block = file.read(count, dtype="float32", always_2d=True)
            is_last = len(block) == 0
            if is_last and length == 0:
                break
            if not is_last:
                # Behind damage decoders stop, and go on anywhere when asked again.
                if is_short:
                    raise AudioError(
                        f"{name} is damaged {length / rate:.2f} s from its start or "
                        "earlier, expected audio without a gap; make it again or leave "
                        "it out."
                    )
                check_samples(block, name)
                is_short = len(block) < count
            elif (frames - length) / rate > _TOLERATED_LOSS_SECONDS:
                lengths = f"{frames / rate:.2f} s", f"{length / rate:.2f} s"
                raise _cut_off(name, *lengths)
            length += len(block)
            if channel == "mean":
                mono = block.mean(axis=1, dtype=np.float32)
            else:
                mono = np.ascontiguousarray(block[:, channel])
            if resampler is not None:
                mono = resampler.resample_chunk(mono, last=is_last)
            if len(mono):
                num_given += len(mono)
                yield np.clip(mono, -1.0, 1.0)
    if num_given == 0:
        raise AudioError(
            f"{name} has 0 samples, expected audio; make it again or leave it out."
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
