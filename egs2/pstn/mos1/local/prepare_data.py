#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of the PSTN corpus (ConferencingSpeech 2022): telephone, 1 to 5.

The owner's layout, ``train.zip``: 8 kHz audio in ``pstn_train`` beside
``pstn_train.csv`` with the columns filename, MOS, std, 95%CI, votes, and no systems. A
tenth of the clips becomes the validation set.
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

CLIPS = 58709


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    wanted = wanted_sets(args, ["train", "dev"])
    inner = os.path.join(args.corpus, "pstn_train")
    root = inner if os.path.isdir(inner) else args.corpus
    train = ClipSet("train", CLIPS, systems=False)
    path = os.path.join(root, "pstn_train.csv")
    for where, row in read_table(path, ("filename", "MOS"), train.faults):
        train.add(
            where,
            f"pstn_{one_word(os.path.splitext(row['filename'])[0])}",
            os.path.join(root, row["filename"]),
            "",
            row["MOS"],
            domain="pstn",
        )
    dev = train.hold_out("dev", 0.1)
    return [clip_set for clip_set in (train, dev) if clip_set.name in wanted]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="pstn_train, or the folder that it is in")
    sys.exit(run_parser(parser, read))
