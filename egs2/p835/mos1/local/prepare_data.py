#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write the data directories of all folds, of p835 as a whole, bvrnn and speech."""

import argparse
import os
import sys
from collections import defaultdict
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from corpus import TALKERS, Clip, draw_speech, read_bvrnn, read_p835

from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    write_metric_scp,
    write_scp,
)

NUM_GROUPS = 3


class Fold(NamedTuple):
    """Who and what is held out; ``group`` is None where all conditions are heard."""

    name: str
    test_talker: str
    valid_talker: str
    group: Optional[int]


def all_folds(leave: str) -> List[Fold]:
    """List the folds: every talker is the test talker once and the validation's once.

    The validation talker is the one after the test talker in the order f1, f2, f3, m1,
    m2, m3, and f1 after m3. With ``leave`` ``conditions`` each of them is split in
    three, a group of conditions in the test set, the others in training and validation.
    """
    pairs = [
        (talker, TALKERS[(i + 1) % len(TALKERS)]) for i, talker in enumerate(TALKERS)
    ]
    if leave == "talkers":
        return [Fold(test, test, valid, None) for test, valid in pairs]
    return [
        Fold(f"{test}_g{group}", test, valid, group)
        for test, valid in pairs
        for group in range(NUM_GROUPS)
    ]


def condition_group(system: str) -> int:
    """Return the group of a system: 0, 1 or 2 by the number of its condition.

    Both bandwidths of a condition are in one group, as they are the same degradation.
    Every third condition makes a group, so that each has mild and severe ones.
    """
    return int(system.rpartition("c")[2]) % NUM_GROUPS


def split(
    clips: Sequence[Clip], fold: Fold
) -> Tuple[List[Clip], List[Clip], List[Clip]]:
    """Divide the clips into training, validation and test set of a fold.

    Clips of a held-out condition by other talkers, and of a heard condition by the
    test talker, are in no set.
    """
    train, valid, test = [], [], []
    for clip in clips:
        held_out = fold.group is None or condition_group(clip.system) == fold.group
        if clip.source == fold.test_talker:
            if held_out:
                test.append(clip)
        elif fold.group is None or not held_out:
            (valid if clip.source == fold.valid_talker else train).append(clip)
    return train, valid, test


def write_set(folder: str, clips: Sequence[Clip], scale: str = "") -> None:
    """Write a data directory.

    Args:
        folder: Directory to write.
        clips: Its clips; their source is both speaker and bootstrap cluster.
        scale: Lowest and highest score, where it is not the training's.

    Raises:
        DataError: Nothing can be written.
    """
    of_source: Dict[str, List[str]] = defaultdict(list)
    for clip in clips:
        of_source[clip.source].append(clip.utt_id)
    sources = {clip.utt_id: clip.source for clip in clips}
    write_scp(f"{folder}/wav.scp", {clip.utt_id: clip.path for clip in clips})
    write_scp(f"{folder}/utt2spk", sources)
    write_scp(f"{folder}/spk2utt", {s: " ".join(u) for s, u in of_source.items()})
    write_scp(f"{folder}/utt2sys", {clip.utt_id: clip.system for clip in clips})
    write_scp(f"{folder}/utt2src", sources)
    write_metric_scp(f"{folder}/metric.scp", {clip.utt_id: clip.mos for clip in clips})
    if scale:
        with atomic_write(f"{folder}/score_range") as file:
            file.write(f"{scale}\n")


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--p835", required=True, help="folder of the P.835 clips")
    parser.add_argument("--bvrnn", default="", help="folder of bvrnn; empty: without")
    parser.add_argument(
        "--speech", default="", help="folder of speech without ratings; empty: without"
    )
    parser.add_argument(
        "--num_speech", type=int, default=400, help="how many files of it are drawn"
    )
    parser.add_argument("--leave", choices=("talkers", "conditions"), default="talkers")
    parser.add_argument("--out", default="data", help="where the directories go")
    args = parser.parse_args(argv)

    faults: List[str] = []
    try:
        clips, faults = read_p835(args.p835)
        write_set(os.path.join(args.out, "p835"), clips)
        for fold in all_folds(args.leave):
            parts = split(clips, fold)
            for name, part in zip(("train", "dev", "test"), parts):
                write_set(os.path.join(args.out, f"{name}_{fold.name}"), part)
            counts = ", ".join(map(str, map(len, parts)))
            print(
                f"{args.out}/{{train,dev,test}}_{fold.name}: {counts} clips",
                file=sys.stderr,
            )
        if args.bvrnn:
            clips, more = read_bvrnn(args.bvrnn)
            faults += more
            write_set(os.path.join(args.out, "bvrnn"), clips, scale="0 100")
            print(f"{args.out}/bvrnn: {len(clips)} clips", file=sys.stderr)
        if args.speech:
            drawn = draw_speech(args.speech, args.num_speech)
            folder = os.path.join(args.out, "speech")
            write_scp(f"{folder}/wav.scp", drawn)
            # Nobody asks who speaks: every utterance is a speaker of its own.
            for name in ("utt2spk", "spk2utt"):
                write_scp(f"{folder}/{name}", {utt_id: utt_id for utt_id in drawn})
            print(f"{folder}: {len(drawn)} utterances", file=sys.stderr)
    except DataError as error:
        faults.append(str(error))
    for fault in faults:
        print(f"prepare_data: {fault}", file=sys.stderr)
    if faults:
        print(
            f"prepare_data: {len(faults)} faults; mend them and run stage 1 again, or "
            "go on without these clips from stage 2.",
            file=sys.stderr,
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
