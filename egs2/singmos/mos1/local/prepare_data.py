#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of SingMOS, the VoiceMOS Challenge 2024's track 2: singing.

The owner's layout, the archives of the training and the evaluation phase unpacked in
one place; lists without a first line of names::

    DATA/wav/voicemos2024-track2-sys0001-utt0001.wav
    DATA/sets/{train,val,eval}_mos_list.txt
        voicemos2024-track2-sys0001-utt0001,4.000000

Some copies of the lists leave ``voicemos2024-track2-`` away, or have ``.wav``.
"""

import argparse
import os
import sys
from typing import List

from espnet2_distilmos.data.corpus import (
    ClipSet,
    read_table,
    run_parser,
    wanted_sets,
)

SETS = {"train": ("train", 2000), "dev": ("val", 544), "test": ("eval", 645)}
PREFIX = "voicemos2024-track2-"


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    inner = os.path.join(args.corpus, "DATA")
    root = inner if os.path.isdir(inner) else args.corpus
    clip_sets = []
    for name in wanted_sets(args, SETS):
        owners_name, published = SETS[name]
        clip_set = ClipSet(name, published)
        path = os.path.join(root, "sets", f"{owners_name}_mos_list.txt")
        columns = ("wav", "score")
        for where, row in read_table(path, columns, clip_set.faults, header=False):
            utt_id = row["wav"][:-4] if row["wav"].endswith(".wav") else row["wav"]
            if not utt_id.startswith(PREFIX):
                utt_id = PREFIX + utt_id
            clip_set.add(
                where,
                utt_id,
                os.path.join(root, "wav", f"{utt_id}.wav"),
                utt_id[len(PREFIX) :].partition("-")[0],
                row["score"],
                domain="singmos",
            )
        clip_sets.append(clip_set)
    return clip_sets


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="the folder with DATA, or DATA")
    sys.exit(run_parser(parser, read))
