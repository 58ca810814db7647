#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write the audio of a wav.scp as mono files of one sampling rate (stage 2)."""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from typing import Dict, Iterator, NamedTuple, Optional, Tuple

import soundfile

from espnet2_distilmos.cli import call, progress
from espnet2_distilmos.data.audio import AudioError, read_audio
from espnet2_distilmos.data.datadir import atomic_write, path_of_id, read_scp, write_scp

# A segment may end this much after its recording, as in Kaldi: it is shortened.
_MAX_OVERSHOOT_SECONDS = 0.5


class Piece(NamedTuple):
    """A part of a recording that becomes one file."""

    recording: str
    start: float = 0.0
    end: float = -1.0  # seconds; negative is the recording's end


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write the audio of a wav.scp as mono 16-bit files of one sampling "
        "rate. Files that are there already, made from the same source, are kept.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--wav_scp", required=True, help="Lines 'id path'.")
    parser.add_argument(
        "--output_dir", required=True, help="Where wav.scp and the rest are written."
    )
    parser.add_argument(
        "--audio_dir", help="Where the audio is written; OUTPUT_DIR/data if not given."
    )
    parser.add_argument("--fs", type=int, default=16000, help="Hz")
    parser.add_argument("--audio_format", choices=("flac", "wav"), default="flac")
    parser.add_argument(
        "--segments", help="Lines 'id recording start end' in seconds, as in Kaldi."
    )
    parser.add_argument(
        "--min_seconds",
        type=float,
        default=0.1,
        help="Shorter audio is refused: a model's frame does not fit in it.",
    )
    parser.add_argument(
        "--bad_exit_code",
        type=int,
        default=1,
        help="Exit code when an utterance could not be written; they are listed in "
        "OUTPUT_DIR/errors.txt in any case.",
    )
    return parser


def read_pieces(
    wav_scp: str, segments: Optional[str]
) -> Tuple[Dict[str, Piece], Dict[str, str]]:
    """Read what is to be written.

    Returns:
        Pieces by utterance id, and sentences by the ids that are faulty.

    Raises:
        DataError: A file is missing or has an id twice.
    """
    recordings = read_scp(wav_scp, need_value=False)
    if segments is None:
        pieces = {utt_id: Piece(path) for utt_id, path in recordings.items() if path}
        errors = {
            utt_id: f"utterance {utt_id}: {wav_scp} has no path for it, expected "
            "'id path'; complete or remove the line."
            for utt_id, path in recordings.items()
            if not path
        }
        return pieces, errors
    pieces, errors = {}, {}
    for utt_id, text in read_scp(segments, need_value=False).items():
        try:
            recording, start, end = text.split()
            piece = Piece(recordings[recording], float(start), float(end))
            if not (0 <= piece.start < math.inf and abs(piece.end) < math.inf):
                raise ValueError("not a time")
            if 0 <= piece.end <= piece.start:
                raise ValueError("no duration")
            pieces[utt_id] = piece
        except (KeyError, ValueError):
            errors[utt_id] = (
                f"utterance {utt_id}: its line of segments is '{text}', expected "
                f"'recording start end' of a recording in {wav_scp}, in seconds and "
                "0 <= start < end; correct the line."
            )
    return pieces, errors


@contextlib.contextmanager
def _as_file(path: str, utt_id: str) -> Iterator[str]:
    """Yield a file name: ``path`` itself, or the output of the command that it is."""
    if not path.endswith("|"):
        yield path
        return
    command = path[:-1].strip()
    with tempfile.NamedTemporaryFile(suffix=".audio") as file:
        try:
            # wav.scp is the user's own file; Kaldi's format runs such lines in a shell.
            result = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.PIPE,
            )
        except (OSError, ValueError) as error:  # too long, or has a null byte
            raise AudioError(
                f"utterance {utt_id}: the command in wav.scp cannot be run ({error}), "
                "expected one for bash; correct the line."
            ) from error
        if result.returncode != 0:
            last = result.stderr.decode("utf-8", "replace").strip().split("\n")[-1]
            raise AudioError(
                f"utterance {utt_id}: the command '{command}' in wav.scp ended with "
                f"code {result.returncode} ({last}), expected audio; correct the line."
            )
        try:
            yield file.name
        except AudioError as error:
            text = str(error).replace(file.name, f"the output of '{command}'")
            raise AudioError(text) from error


def source_of(piece: Piece, fs: int) -> str:
    """Return what the file of ``piece`` depends on, to know when it is out of date."""
    source = {"source": piece.recording, "start": piece.start, "end": piece.end}
    source["fs"] = fs
    source["reader"] = 2  # the first also took parts of files and of segments
    # A command, or missing: reading tells.
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(piece.recording)
        source.update(size=status.st_size, time=status.st_mtime_ns)
    return json.dumps(source, sort_keys=True)


def samples_if_current(path: str, source: str) -> Optional[int]:
    """Return the length of an earlier run's file, or None if it is to be made."""
    try:
        with soundfile.SoundFile(path) as f:
            return f.frames if f.comment == source else None
    except (soundfile.LibsndfileError, OSError):
        return None


def format_audio(
    wav_scp: str,
    output_dir: str,
    audio_dir: Optional[str] = None,
    fs: int = 16000,
    audio_format: str = "flac",
    segments: Optional[str] = None,
    min_seconds: float = 0.1,
) -> Tuple[int, Dict[str, str]]:
    """Write every utterance as a mono 16-bit file and list them.

    Args:
        wav_scp: Lines "id path"; a path may be a command that ends in "|".
        output_dir: Gets wav.scp, utt2num_samples and errors.txt.
        audio_dir: Gets the audio; ``output_dir``/data if None.
        fs: Sampling rate of the files in Hz.
        audio_format: "flac" or "wav".
        segments: Lines "id recording start end", seconds; ids in wav_scp are then
            those of recordings.
        min_seconds: Shortest duration that is accepted.

    Returns:
        The number of files written now (the others were there already), and the
        sentence of every utterance that could not be written.

    Raises:
        DataError: An input list is faulty, or the output cannot be written.
    """
    audio_dir = audio_dir or os.path.join(output_dir, "data")
    pieces, errors = read_pieces(wav_scp, segments)
    paths, lengths, written = {}, {}, 0
    decoded = None  # the recording in ``whole``, kept for segments that follow
    for utt_id, piece in progress(pieces.items(), "format_audio", unit="utterance"):
        path = path_of_id(audio_dir, utt_id, f".{audio_format}")
        source = source_of(piece, fs)
        length = samples_if_current(path, source)
        if length is None:
            try:
                if piece.recording != decoded:
                    with _as_file(piece.recording, utt_id) as file:
                        whole = read_audio(file, fs, utt_id)
                    decoded = piece.recording
            except AudioError as error:
                errors[utt_id] = str(error)
                continue
            seconds = len(whole) / fs
            if max(piece.start, piece.end - _MAX_OVERSHOOT_SECONDS) > seconds:
                errors[utt_id] = (
                    f"utterance {utt_id}: its segment is from {piece.start:g} to "
                    f"{piece.end:g} s and {piece.recording} is {seconds:.2f} s long, "
                    "expected one that ends at most "
                    f"{_MAX_OVERSHOOT_SECONDS:g} s after it; correct the line of "
                    "segments."
                )
                continue
            end = None if piece.end < 0 else round(piece.end * fs)
            samples = whole[round(piece.start * fs) : end]
            length = len(samples)
            if length >= min_seconds * fs:
                with atomic_write(path, "wb") as file, soundfile.SoundFile(
                    file, "w", fs, 1, "PCM_16", format=audio_format.upper()
                ) as audio:
                    audio.comment = source
                    audio.write(samples)
                written += 1
        if length < min_seconds * fs:
            errors[utt_id] = (
                f"utterance {utt_id}: {piece.recording} is {length / fs:.3f} s long, "
                f"expected at least {min_seconds:g} s; remove the utterance from "
                "wav.scp."
            )
            continue
        paths[utt_id], lengths[utt_id] = path, length
    write_scp(os.path.join(output_dir, "utt2num_samples"), lengths)
    write_scp(os.path.join(output_dir, "wav.scp"), paths)
    with atomic_write(os.path.join(output_dir, "errors.txt")) as f:
        f.writelines(f"{errors[utt_id]}\n" for utt_id in sorted(errors))
    return written, errors


def main(cmd=None) -> int:
    args = get_parser().parse_args(cmd)
    return call(lambda: format_and_report(**vars(args)))


def format_and_report(bad_exit_code: int, **options) -> int:
    """Run ``format_audio``, print what was refused, and return the exit code."""
    written, errors = format_audio(**options)
    for utt_id in sorted(errors):
        print(f"format_audio: {errors[utt_id]}", file=sys.stderr)
    print(
        f"format_audio: {written} files written, {len(errors)} utterances refused",
        file=sys.stderr,
    )
    return bad_exit_code if errors else 0


if __name__ == "__main__":
    sys.exit(main())
