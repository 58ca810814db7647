#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Check labels, ids, systems and listeners of a data directory (stage 3)."""

import argparse
import os
import sys
from typing import Dict, List, NamedTuple, Optional, Tuple

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


class Checker:
    """Collects the faults of one data directory."""

    def __init__(self, data_dir: str):
        self.data_dir = data_dir
        self.faults: List[Fault] = []

    def path(self, name: str) -> str:
        return os.path.join(self.data_dir, name)

    def exists(self, name: str) -> bool:
        return os.path.exists(self.path(name))

    def add(self, utt_id: Optional[str], sentence: str) -> None:
        self.faults.append(Fault(utt_id, sentence))

    def read(self, name: str) -> Dict[str, Tuple[int, str]]:
        """Read lines "id value"; report ids without a value and ids that repeat.

        Returns:
            Line number and value by id. The first line of a repeated id is kept.
        """
        entries: Dict[str, Tuple[int, str]] = {}
        path = self.path(name)
        try:
            with open(path, encoding="utf-8") as f:
                lines = f.read().splitlines()
        except UnicodeDecodeError as error:
            self.add(None, f"{path} is not UTF-8 text ({error}); convert it.")
            return entries
        except OSError as error:
            self.add(
                None,
                f"{path} cannot be read ({error.strerror}); run the recipe's stage "
                "1 again or write it.",
            )
            return entries
        for number, line in enumerate(lines, 1):
            fields = line.split(None, 1)
            if not fields:
                continue
            utt_id, value = fields[0], fields[1].strip() if len(fields) > 1 else ""
            if utt_id in entries:
                self.add(
                    utt_id,
                    f"{path}:{number}: utterance {utt_id} has a second line (the first "
                    f"is line {entries[utt_id][0]}), expected one; ids are unique: "
                    "remove or rename one.",
                )
                continue
            if not value:
                self.add(
                    utt_id,
                    f"{path}:{number}: utterance {utt_id} has no value, expected 'id "
                    "value'; complete or remove the line.",
                )
            entries[utt_id] = (number, value)
        return entries

    def check_ids(self, name: str, entries, utterances) -> None:
        """Report lines of ``name`` whose utterance has no audio."""
        for utt_id, (number, _) in entries.items():
            if utt_id not in utterances:
                self.add(
                    utt_id,
                    f"{self.path(name)}:{number}: utterance {utt_id} is not in "
                    f"{self.path('wav.scp')}; add its audio or remove the line.",
                )

    def check_labels(self, utterances, score_range, need_labels: bool) -> None:
        if not self.exists("metric.scp") and not need_labels:
            return
        entries = self.read("metric.scp")
        self.check_ids("metric.scp", entries, utterances)
        labelled = 0
        for utt_id in utterances:
            if utt_id not in entries:
                if need_labels:
                    self.add(
                        utt_id,
                        f"{self.path('metric.scp')}: utterance {utt_id} has no label, "
                        f"expected '{utt_id} {{\"mos\": 3.5}}', or '{utt_id} {{}}' if "
                        "it is unlabelled; add the line.",
                    )
                continue
            number, text = entries[utt_id]
            if not text:
                continue  # reported when read
            source = f"{self.path('metric.scp')}:{number}"
            try:
                label = parse_metric(text, utt_id, source, score_range=score_range)
            except DataError as error:
                self.add(utt_id, str(error))
                continue
            labelled += label is not None
        if need_labels and utterances and not labelled:
            self.add(
                None,
                f"{self.path('metric.scp')} has no usable label, expected some; this "
                "set cannot be trained on or scored.",
            )

    def check_systems(self, utterances, need_systems: bool) -> None:
        if not self.exists("utt2sys") and not need_systems:
            return
        entries = self.read("utt2sys")
        self.check_ids("utt2sys", entries, utterances)
        for utt_id in utterances:
            if need_systems and utt_id not in entries:
                self.add(
                    utt_id,
                    f"{self.path('utt2sys')}: utterance {utt_id} has no system, "
                    f"expected '{utt_id} system'; add the line.",
                )
        for utt_id, (number, value) in entries.items():
            if len(value.split()) > 1:
                self.add(
                    utt_id,
                    f"{self.path('utt2sys')}:{number}: utterance {utt_id} has the "
                    f"system '{value}', expected one word; correct the line.",
                )

    def check_audio(self, utterances) -> None:
        """Report files that cannot be opened, are too short, or occur twice."""
        owner: Dict[str, str] = {}
        for utt_id, (number, path) in utterances.items():
            if not path:
                continue  # reported when read
            where = f"{self.path('wav.scp')}:{number}"
            first = owner.setdefault(os.path.abspath(path), utt_id)
            if first != utt_id:
                self.add(
                    utt_id,
                    f"{where}: utterance {utt_id} has the audio of {first}, {path}, "
                    "expected a file of its own; remove one of them.",
                )
                continue
            try:
                samples, rate, _ = read_header(path, utt_id)
            except AudioError as error:
                self.add(utt_id, str(error))
                continue
            if samples < MIN_SECONDS * rate:
                self.add(
                    utt_id,
                    f"{where}: utterance {utt_id}: {path} is {samples / rate:.3f} s "
                    f"long, expected at least {MIN_SECONDS} s; remove it.",
                )

    def check_votes(self, utterances, score_range) -> None:
        if not self.exists("votes.scp"):
            return
        entries = self.read("votes.scp")
        self.check_ids("votes.scp", entries, utterances)
        for utt_id, (number, text) in entries.items():
            if not text:
                continue
            source = f"{self.path('votes.scp')}:{number}"
            try:
                parse_votes(text, utt_id, source, score_range)
            except DataError as error:
                self.add(utt_id, str(error))


def check_data(
    data_dir: str,
    score_range: Tuple[float, float] = (1.0, 5.0),
    need_labels: bool = True,
    need_systems: bool = True,
    check_audio: bool = False,
) -> Tuple[List[str], List[Fault]]:
    """Check wav.scp, metric.scp, utt2sys, utt2src, utt2domain and votes.scp.

    Args:
        data_dir: Data directory.
        score_range: Lowest and highest label.
        need_labels: Whether labels are demanded.
        need_systems: Whether every utterance must have a system.
        check_audio: Whether the headers of the audio are read.

    Returns:
        Ids without a fault, in the order of wav.scp, and all faults.
    """
    low, high = score_range
    checker = Checker(data_dir)
    if not low < high:
        checker.add(
            None, f"--score_range {low:g} {high:g} is empty; give the lower end first."
        )
        return [], checker.faults
    utterances = checker.read("wav.scp")
    if not utterances:
        checker.add(
            None,
            f"{checker.path('wav.scp')} has no utterance, expected 'id path' lines; "
            "see the stage before this one.",
        )
    checker.check_labels(utterances, (low, high), need_labels)
    checker.check_systems(utterances, need_systems)
    checker.check_votes(utterances, (low, high))
    if check_audio:
        checker.check_audio(utterances)
    for name in ("utt2src", "utt2domain"):
        if checker.exists(name):
            entries = checker.read(name)
            checker.check_ids(name, entries, utterances)
            for utt_id in utterances:
                if utt_id not in entries:
                    checker.add(
                        utt_id,
                        f"{checker.path(name)}: utterance {utt_id} has no line, "
                        f"expected one for every utterance; add it or remove {name}.",
                    )
    bad = {fault.utt_id for fault in checker.faults}
    return [utt_id for utt_id in utterances if utt_id not in bad], checker.faults


def main(cmd=None) -> int:
    args = vars(get_parser().parse_args(cmd))
    good_list, bad_exit_code = args.pop("good_list"), args.pop("bad_exit_code")
    args["score_range"] = tuple(args["score_range"])
    good, faults = check_data(**args)
    for fault in faults:
        print(f"check_data: {fault.sentence}", file=sys.stderr)
    if good_list is not None:
        try:
            with atomic_write(good_list) as f:
                f.writelines(f"{utt_id}\n" for utt_id in good)
        except DataError as error:
            print(f"check_data: {error}", file=sys.stderr)
            return 1
    print(
        f"check_data: {args['data_dir']}: {len(good)} utterances are good, "
        f"{len(faults)} faults",
        file=sys.stderr,
    )
    if any(fault.utt_id is None for fault in faults) or (faults and not good):
        return 1
    return bad_exit_code if faults else 0


if __name__ == "__main__":
    sys.exit(main())
