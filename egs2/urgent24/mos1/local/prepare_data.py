#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directory of the human ratings of URGENT 2024: enhanced speech, 1 to 5.

What ``local/download.py`` writes, which is what the recipe of SHEET writes too::

    wavs/P426-fileid_184.wav
    metadata.csv    wav_path,system_id,sample_id,sampling_rate,score,raw_ratings
                    wavs/P426-fileid_184.wav,...,22050,2.375,"[3, 3, 4, 2, 2, 2, 1, 2]"

The id is the system, and the noisy recording that it enhanced.
"""

import argparse
import json
import os
import sys
from typing import List

from espnet2_distilmos.data.corpus import (
    ClipSet,
    read_table,
    run_parser,
    wanted_sets,
)

CLIPS = 6900  # 300 recordings, noisy and from 22 systems


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    wanted_sets(args, ["test"])
    # The ratings of a clip are in the order of no list of listeners.
    test = ClipSet("test", CLIPS, keep_votes=False)
    path = os.path.join(args.corpus, "metadata.csv")
    means = {}
    columns = ("sample_id", "score", "wav_path")
    optional = ("raw_ratings",)
    for where, row in read_table(path, columns, test.faults, optional=optional):
        system, _, recording = row["sample_id"].partition("-")
        try:
            ratings = json.loads(row.get("raw_ratings") or "[]")
            means[row["sample_id"]] = float(row["score"])
        except ValueError:
            ratings = None
        if not isinstance(ratings, list) or row["sample_id"] in test:
            test.faults.append(
                f"{where}: clip {row['sample_id']} has the score {row['score']!r} "
                f"and the ratings {row.get('raw_ratings')!r}, expected a number and a "
                "list, once for every clip; remove the row or download the corpus "
                "again."
            )
            continue
        clip = dict(
            utt_id=row["sample_id"],
            path=os.path.join(args.corpus, row["wav_path"]),
            system=system,
            source=recording,
            domain="urgent24",
        )
        for rating in ratings:
            test.add(where, score=rating, listener="unknown", **clip)
        if not ratings:
            test.add(where, score=row["score"], **clip)
    test.check_means(path, means)
    return [test]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="the folder of metadata.csv")
    sys.exit(run_parser(parser, read))
