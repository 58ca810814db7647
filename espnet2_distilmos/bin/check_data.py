#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Check labels, ids, systems and listeners of a data directory (stage 3)."""

import argparse
import os
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from espnet2.utils.types import str2bool

from espnet2_distilmos.data.audio import AudioError, read_header
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    parse_metric,
    parse_votes,
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


def _system(text: str, utt_id: str, source: str, score_range: Any) -> str:
    if len(text.split()) > 1:
        raise DataError(
            f"{source}: utterance {utt_id} has the system '{text}', expected one word; "
            "correct the line."
        )
    return text


# By file the parser of a value, which raises a DataError, and an example of a value.
FILES: Dict[str, Tuple[Callable[..., Any], str]] = {
    "metric.scp": (parse_metric, '{"mos": 3.5}` or `{}'),
    "utt2sys": (_system, "system"),
    "votes.scp": (parse_votes, '[["listener1", 4]]'),
    "utt2src": (lambda text, *_: text, "source"),
    "utt2domain": (lambda text, *_: text, "corpus"),
}
# If these are there, they must have a line for every utterance.
COMPLETE = ("utt2src", "utt2domain")


def read_lines(path: str, faults: List[Fault]) -> Dict[str, Tuple[int, str]]:
    """Read lines ``id value``: number and value by id, the first of a repeated id.

    Lines without a value and ids that repeat become faults.
    """
    entries: Dict[str, Tuple[int, str]] = {}
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        sentence = f"{path} cannot be read ({reason}); run stage 1 again or write it."
        faults.append(Fault(None, sentence))
        return entries
    for number, line in enumerate(lines, 1):
        fields = line.split(maxsplit=1)
        if not fields:
            continue
        utt_id, value = fields[0], fields[1].strip() if len(fields) > 1 else ""
        where = f"{path}:{number}: utterance {utt_id}"
        if utt_id in entries:
            sentence = (
                f"{where} has a second line (the first is line {entries[utt_id][0]}), "
                "expected one; remove or rename one."
            )
            faults.append(Fault(utt_id, sentence))
            continue
        if not value:
            sentence = f"{where} has no value, expected `id value`; complete it."
            faults.append(Fault(utt_id, sentence))
        entries[utt_id] = (number, value)
    return entries


def check_file(
    data_dir: str, name: str, utterances: Dict[str, Any], score_range, complete: bool
) -> Tuple[Dict[str, Any], List[Fault]]:
    """Check one file against wav.scp.

    Args:
        data_dir: Data directory.
        name: Key of ``FILES``.
        utterances: Ids of wav.scp.
        score_range: Lowest and highest label.
        complete: Whether every utterance must have a line.

    Returns:
        The values that could be parsed by id, and the faults.
    """
    path = os.path.join(data_dir, name)
    faults: List[Fault] = []
    parse, example = FILES[name]
    values = {}
    entries = read_lines(path, faults)
    for utt_id, (number, text) in entries.items():
        source = f"{path}:{number}"
        if utt_id not in utterances:
            sentence = (
                f"{source}: utterance {utt_id} is not in wav.scp; add its audio or "
                "remove the line."
            )
            faults.append(Fault(utt_id, sentence))
        elif text:
            try:
                values[utt_id] = parse(text, utt_id, source, score_range)
            except DataError as error:
                faults.append(Fault(utt_id, str(error)))
    if complete:
        faults += [
            Fault(
                utt_id,
                f"{path}: utterance {utt_id} has no line, expected `{utt_id} "
                f"{example}`; add it.",
            )
            for utt_id in utterances
            if utt_id not in entries
        ]
    return values, faults


def check_audio(data_dir: str, utterances: Dict[str, Tuple[int, str]]) -> List[Fault]:
    """Find files that cannot be opened, are too short, or occur twice."""
    faults: List[Fault] = []
    owner: Dict[str, str] = {}
    for utt_id, (number, path) in utterances.items():
        if not path:
            continue  # a fault of the line already
        where = f"{os.path.join(data_dir, 'wav.scp')}:{number}: utterance {utt_id}"
        first = owner.setdefault(os.path.abspath(path), utt_id)
        if first != utt_id:
            sentence = f"{where} has the audio of {first}, {path}; remove one of them."
            faults.append(Fault(utt_id, sentence))
            continue
        try:
            samples, rate, _ = read_header(path, utt_id)
        except AudioError as error:
            faults.append(Fault(utt_id, str(error)))
            continue
        if samples < MIN_SECONDS * rate:
            sentence = (
                f"{where}: {path} is {samples / rate:.3f} s long, expected at least "
                f"{MIN_SECONDS} s; remove it."
            )
            faults.append(Fault(utt_id, sentence))
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
        need_labels: Whether labels are demanded.
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
    for name in FILES:
        exists = os.path.exists(os.path.join(data_dir, name))
        if not exists and not needed.get(name, False):
            continue
        complete = needed.get(name, name in COMPLETE)
        values, found = check_file(data_dir, name, utterances, score_range, complete)
        faults += found
        unlabelled = all(value is None for value in values.values())
        if name == "metric.scp" and need_labels and utterances and unlabelled:
            sentence = (
                f"{os.path.join(data_dir, name)} has no usable label, expected some; "
                "this set cannot be trained on or scored."
            )
            faults.append(Fault(None, sentence))
    if audio:
        faults += check_audio(data_dir, utterances)
    bad = {fault.utt_id for fault in faults}
    return [utt_id for utt_id in utterances if utt_id not in bad], faults


def main(cmd=None) -> int:
    args = get_parser().parse_args(cmd)
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
        try:
            with atomic_write(args.good_list) as file:
                file.writelines(f"{utt_id}\n" for utt_id in good)
        except DataError as error:
            print(f"check_data: {error}", file=sys.stderr)
            return 1
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
