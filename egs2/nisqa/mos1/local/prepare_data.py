#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of the NISQA Corpus.

The owner's layout, ``NISQA_Corpus.zip``: a folder for each database, with a table whose
first line names its columns (db, con, file, filename_deg, filename_ref, votes, mos,
noi, dis, col, loud, ...), and 48 kHz audio::

    NISQA_TEST_FOR/NISQA_TEST_FOR_file.csv
    NISQA_TEST_FOR/deg/c00001_for_cnv_m_0103_01.wav

A "con" is a condition of one database; in training and validation each file is its own.
"""

import argparse
import os
import sys
from typing import List

from espnet2_distilmos.data.corpus import (
    ClipSet,
    one_word,
    read_table,
    run_parser,
    wanted_sets,
)

# By data directory its databases, with the number of their files.
SETS = {
    "train": {"NISQA_TRAIN_SIM": 10000, "NISQA_TRAIN_LIVE": 1020},
    "dev": {"NISQA_VAL_SIM": 2500, "NISQA_VAL_LIVE": 200},
    "test_for": {"NISQA_TEST_FOR": 240},
    "test_p501": {"NISQA_TEST_P501": 240},
    "test_livetalk": {"NISQA_TEST_LIVETALK": 232},
}
NOTHING = ("", "nan", "na", "n/a", "-")  # how tables write an empty cell


def condition(text: str) -> str:
    """Return the condition's number as one word; some writers make 1 a 1.0."""
    return one_word(text[:-2] if text.endswith(".0") else text)


def stem(name: str) -> str:
    """Return a file's name as one word, without folders and ending."""
    return one_word(os.path.splitext(os.path.basename(name.replace("\\", "/")))[0])


def add_database(clip_set: ClipSet, root: str, database: str) -> None:
    """Add the clips of one database's table."""
    path = os.path.join(root, database, f"{database}_file.csv")
    if not os.path.exists(path):
        clip_set.faults.append(
            f"{clip_set.name}: {path} is not there, expected the table of this "
            "database; unpack all of NISQA_Corpus.zip, or go on without with "
            "--skip_bad true."
        )
        return
    columns = ("con", "filename_deg", "mos")
    optional = ("filename_ref",)
    for where, row in read_table(path, columns, clip_set.faults, optional=optional):
        reference = row.get("filename_ref", "")
        clip_set.add(
            where,
            f"{database}_{stem(row['filename_deg'])}",
            os.path.join(root, database, "deg", row["filename_deg"]),
            f"{database}_con{condition(row['con'])}" if row["con"] else "",
            row["mos"],
            source="" if reference.lower() in NOTHING else stem(reference),
            domain=database,
        )


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    inner = os.path.join(args.corpus, "NISQA_Corpus")
    root = inner if os.path.isdir(inner) else args.corpus
    clip_sets = []
    for name in wanted_sets(args, SETS):
        clip_set = ClipSet(name, sum(SETS[name].values()))
        for database in SETS[name]:
            add_database(clip_set, root, database)
        clip_sets.append(clip_set)
    return clip_sets


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="NISQA_Corpus, or the folder that it is in")
    sys.exit(run_parser(parser, read))
