#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Check labels, ids, systems and listeners of a data directory (stage 3)."""

import argparse
import os
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from espnet2.utils.types import str2bool

from espnet2_distilmos.cli import call
from espnet2_distilmos.data.audio import AudioError, read_header
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    parse_metric,
    parse_votes,
    scan_scp,
)

MIN_SECONDS = 0.1  # as scripts/audio/format_wav_scp.sh wants it


class Fault(NamedTuple):
    """One thing that is wrong; ``utt_id`` is None if it concerns the whole set."""

    utt_id: Optional[str]
    sentence: str


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Check a data directory and report every fault at once, one "
        "sentence each.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data_dir", required=True)
    parser.add_argument(
        "--score_range", type=float, nargs=2, default=(1.0, 5.0), metavar=("LOW", "UP")
    )
    parser.add_argument(
        "--need_labels",
        type=str2bool,
        default=True,
        help="Every utterance has a line in metric.scp ('{}' is unlabelled), and at "
        "least one a label.",
    )
    parser.add_argument(
        "--need_systems",
        type=str2bool,
        default=True,
        help="Every utterance has a system in utt2sys.",
    )
    parser.add_argument(
        "--check_audio",
        type=str2bool,
        default=False,
        help="Open the header of every audio file; stage 2 of a recipe reads them "
        "whole, so that only a check before stage 2 needs this.",
    )
    parser.add_argument(
        "--good_list", help="File for the ids of the utterances without a fault."
    )
    parser.add_argument(
        "--bad_exit_code",
        type=int,
        default=1,
        help="Exit code when only single utterances are at fault.",
    )
    return parser


def _one_word(text: str, utt_id: str, source: str, score_range: Any) -> str:
    if len(text.split()) > 1:
        raise DataError(
            f"{source}: utterance {utt_id} has the system '{text}', expected one word; "
            "correct the line."
        )
    return text


# Parsers of the values by file; they raise a DataError.
PARSERS: Dict[str, Callable[..., Any]] = {
    "metric.scp": parse_metric,
    "utt2sys": _one_word,
    "votes.scp": parse_votes,
    "utt2src": lambda text, *_: text,
    "utt2domain": lambda text, *_: text,
}
# If these are there, they must have a line for every utterance.
COMPLETE = ("utt2src", "utt2domain")


def read_lines(path: str, faults: List[Fault]) -> Dict[str, str]:
    """Read lines ``id value``; what is wrong with the file is added to ``faults``."""
    try:
        values, found = scan_scp(path)
    except DataError as error:
        faults.append(Fault(None, str(error)))
        return {}
    faults += [Fault(utt_id, sentence) for utt_id, sentence in found.items()]
    return values


def check_audio(wav_scp: str, paths: Dict[str, str]) -> List[Fault]:
    """Find files that cannot be opened, are too short, or occur twice."""
    faults: List[Fault] = []
    owner: Dict[str, str] = {}
    for utt_id, path in paths.items():
        if not path:
            continue  # a fault of the line already
        where = f"{wav_scp}: utterance {utt_id}: {path}"
        first = owner.setdefault(os.path.abspath(path), utt_id)
        try:
            if first != utt_id:
                raise AudioError(
                    f"{where} is the audio of {first}; remove one of them."
                )
            samples, rate, _ = read_header(path, utt_id)
            if samples < MIN_SECONDS * rate:
                raise AudioError(
                    f"{where} is {samples / rate:.3f} s long, expected at least "
                    f"{MIN_SECONDS} s; remove it."
                )
        except AudioError as error:
            faults.append(Fault(utt_id, str(error)))
    return faults


def check_data(
    data_dir: str,
    score_range: Tuple[float, float] = (1.0, 5.0),
    need_labels: bool = True,
    need_systems: bool = True,
    audio: bool = False,
) -> Tuple[List[str], List[Fault]]:
    """Check wav.scp, metric.scp, utt2sys, utt2src, utt2domain and votes.scp.

    Args:
        data_dir: Data directory.
        score_range: Lowest and highest label.
        need_labels: Whether every utterance must have a line in metric.scp, and one of
            them a label.
        need_systems: Whether every utterance must have a system.
        audio: Whether the headers of the audio are read.

    Returns:
        Ids without a fault, in the order of wav.scp, and all faults.
    """
    low, high = score_range
    if not low < high:
        sentence = f"--score_range {low:g} {high:g} is empty; give the lower end first."
        return [], [Fault(None, sentence)]
    faults: List[Fault] = []
    wav_scp = os.path.join(data_dir, "wav.scp")
    utterances = read_lines(wav_scp, faults)
    if not utterances:
        sentence = f"{wav_scp} has no utterance, expected lines `id path`; write it."
        faults.append(Fault(None, sentence))
    needed = {"metric.scp": need_labels, "utt2sys": need_systems}
    for name, parse in PARSERS.items():
        path = os.path.join(data_dir, name)
        if not os.path.exists(path) and not needed.get(name, False):
            continue
        lines = read_lines(path, faults)
        values = {}
        for utt_id, text in lines.items():
            try:
                if utt_id not in utterances:
                    raise DataError(
                        f"{path}: utterance {utt_id} is not in wav.scp; add its audio "
                        "or remove the line."
                    )
                if text:
                    values[utt_id] = parse(text, utt_id, path, score_range)
            except DataError as error:
                faults.append(Fault(utt_id, str(error)))
        if needed.get(name, name in COMPLETE):
            for utt_id in utterances:
                if utt_id not in lines:
                    sentence = f"{path}: utterance {utt_id} has no line; add it."
                    faults.append(Fault(utt_id, sentence))
        unlabelled = all(value is None for value in values.values())
        if name == "metric.scp" and need_labels and utterances and unlabelled:
            sentence = (
                f"{path} has no usable label, expected some; this set cannot be "
                "trained on or scored."
            )
            faults.append(Fault(None, sentence))
    if audio:
        faults += check_audio(wav_scp, utterances)
    bad = {fault.utt_id for fault in faults}
    return [utt_id for utt_id in utterances if utt_id not in bad], faults


def main(cmd=None) -> int:
    args = get_parser().parse_args(cmd)
    return call(lambda: check_and_report(args))


def check_and_report(args: argparse.Namespace) -> int:
    """Check, print a sentence for each fault, write the list of good ids.

    Returns:
        0; ``--bad_exit_code`` where single utterances are at fault; 1 where the set
        or all of it is.
    """
    good, faults = check_data(
        args.data_dir,
        tuple(args.score_range),
        args.need_labels,
        args.need_systems,
        args.check_audio,
    )
    for fault in faults:
        print(f"check_data: {fault.sentence}", file=sys.stderr)
    if args.good_list is not None:
        with atomic_write(args.good_list) as file:
            file.writelines(f"{utt_id}\n" for utt_id in good)
    print(
        f"check_data: {args.data_dir}: {len(good)} utterances are good, "
        f"{len(faults)} faults",
        file=sys.stderr,
    )
    if any(fault.utt_id is None for fault in faults) or (faults and not good):
        return 1
    return args.bad_exit_code if faults else 0


if __name__ == "__main__":
    sys.exit(main())
