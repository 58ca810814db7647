#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of the Tencent corpus (ConferencingSpeech 2022): Mandarin, 1 to 5.

The owner's layout, ``TencentCorups.zip``: two lists of means whose paths start at the
folder, and no systems; a tenth of the clips becomes the validation set::

    withoutReverberationTrainDevMOS.csv    deg_wav,mos
                                           ./withoutReverberationTrainDev/00001.wav,1.08
    withReverberationTrainDevMOS.csv       ./withReverberationTrainDevMOS/0000.wav,1.12
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

LISTS = ("withoutReverberationTrainDevMOS.csv", "withReverberationTrainDevMOS.csv")
CLIPS = 8366 + 3197


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    wanted = wanted_sets(args, ["train", "dev"])
    inner = os.path.join(args.corpus, "TencentCorups")  # the owner's spelling
    root = inner if os.path.isdir(inner) else args.corpus
    train = ClipSet("train", CLIPS, systems=False)
    for name in LISTS:
        path = os.path.join(root, name)
        for where, row in read_table(path, ("deg_wav", "mos"), train.faults):
            wav = os.path.normpath(row["deg_wav"])
            folder, stem = os.path.split(os.path.splitext(wav)[0])
            train.add(
                where,
                f"{folder}_{stem}",
                os.path.join(root, wav),
                "",
                row["mos"],
                domain="tencent_reverberant" if "withRev" in name else "tencent",
            )
    dev = train.hold_out("dev", 0.1)
    return [clip_set for clip_set in (train, dev) if clip_set.name in wanted]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="what TencentCorups.zip was unpacked to")
    sys.exit(run_parser(parser, read))
