#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of TMHINT-QI: noisy and enhanced Mandarin, quality 1 to 5.

The owner's layout, ``TMHINTQI.zip``: ``train/*.wav``, ``test/*.wav`` and
``raw_data.csv`` with a row for each vote, its columns in any order::

    idx,method,uttr,snr,noise,quality_score,intelligibility_score,file_name

A clip is of the set whose folder has its audio. There is no validation set: a tenth of
the training sentences becomes one.
"""

import argparse
import os
import sys
from typing import Dict, List

from espnet2_distilmos.data.corpus import (
    ClipSet,
    name_some,
    one_word,
    read_table,
    run_parser,
    wanted_sets,
)
from espnet2_distilmos.data.datadir import DataError

PUBLISHED = {"train": 12937, "test": 1978}
COLUMNS = ("method", "snr", "noise", "quality_score", "file_name")
SUBJECT = ("ID", "id", "subject", "listener", "idx")  # who voted, under one of these
OPTIONAL = (*SUBJECT, "uttr")
NOTHING = ("", "nan", "na", "none")


def system_of(row: Dict[str, str]) -> str:
    """Return the method with signal-to-noise ratio and noise, where it has any."""
    parts = [row["method"]]
    if row["snr"].lower() not in NOTHING:
        parts.append(f"SNR{row['snr']}")
    if row["noise"].lower() not in NOTHING:
        parts.append(row["noise"])
    return one_word("-".join(parts))


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    wanted = wanted_sets(args, ["train", "dev", "test"])
    inner = os.path.join(args.corpus, "TMHINTQI")
    root = inner if os.path.isdir(inner) else args.corpus
    audio = {}
    for name in PUBLISHED:
        folder = os.path.join(root, name)
        if not os.path.isdir(folder):
            raise DataError(
                f"{folder} is not there, expected the folder of the {name} clips; "
                "unpack TMHINTQI.zip or correct TMHINT_QI in db.sh."
            )
        audio[name] = set(os.listdir(folder))
    faults: List[str] = []
    path = os.path.join(root, "raw_data.csv")
    # A clip that a listener did not rate for quality has an empty cell.
    rows = [
        (where, row)
        for where, row in read_table(path, COLUMNS, faults, optional=OPTIONAL)
        if row["quality_score"].lower() not in NOTHING
    ]
    subject = next((name for name in SUBJECT if rows and name in rows[0][1]), None)
    if subject and len({row[subject] for _, row in rows}) == len(rows):
        subject = None  # a number for each row, and nobody's name
    clip_sets = {
        name: ClipSet(name, number, keep_votes=subject is not None)
        for name, number in PUBLISHED.items()
    }
    unknown = set()
    for where, row in rows:
        wav = f"{one_word(row['file_name'])}.wav"
        names = [name for name in PUBLISHED if wav in audio[name]]
        if not names:
            unknown.add(wav)
            continue
        # A test clip may lie in train too; it is the test's.
        clip_sets[names[-1]].add(
            where,
            wav[:-4],
            os.path.join(root, names[-1], wav),
            system_of(row),
            row["quality_score"],
            f"subject{one_word(row[subject])}" if subject else "unknown",
            source=one_word(row.get("uttr", "")),
            domain="tmhint_qi",
        )
    if unknown:
        faults.append(
            f"{path} has {len(unknown)} clips ({name_some(sorted(unknown))}) that are "
            f"neither in {root}/train nor in {root}/test, expected all; unpack "
            "TMHINTQI.zip again, or go on without them with --skip_bad true."
        )
    clip_sets["train"].faults += faults
    train, test = clip_sets["train"], clip_sets["test"]
    found = [train, train.hold_out("dev", 0.1), test]
    return [clip_set for clip_set in found if clip_set.name in wanted]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="what TMHINTQI.zip was unpacked to")
    sys.exit(run_parser(parser, read))
