#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directory of the neural codec MUSHRA test with the BVRNN codec (0 to 100).

The owner's layout, ``mushra_results_dataset`` of the repository: audio at the paths of
the column file, and ``ratings_formated_filtered.csv`` with the columns signal,
condition, ratings, participant_ids, file, where both lists are in brackets and belong
together::

    VCTK_p229_293,Lyra 3,"[9.0, 32.0]","[2, 3]",stim_01/lyra_32.wav

Anchors have no file. An extract is understood too: ``ratings.csv`` with the columns
utt, wav, system, mos, and audio at the paths of the column wav.
"""

import argparse
import json
import os
import sys
from typing import Dict, List

from espnet2_distilmos.data.corpus import (
    ClipSet,
    one_word,
    read_table,
    run_parser,
    wanted_sets,
)

RATINGS = "ratings_formated_filtered.csv"
COLUMNS = ("signal", "condition", "ratings", "participant_ids", "file")
CLIPS = 128  # 16 signals in 7 codec conditions and as the reference


def speaker_of(signal: str) -> str:
    """Return VCTK_p229 of VCTK_p229_293, and TSP_FB07 of TSP_FB07_09."""
    return one_word(signal.rpartition("_")[0])


def add_ratings(clip_set: ClipSet, root: str) -> None:
    """Add the votes of the owner's list of ratings."""
    path = os.path.join(root, RATINGS)
    for where, row in read_table(path, COLUMNS, clip_set.faults):
        if not row["file"]:
            continue
        stem = os.path.splitext(row["file"])[0]
        utt_id = "bvrnn_" + one_word(stem.replace("/", "_"))
        try:
            ratings = json.loads(row["ratings"])
            listeners = json.loads(row["participant_ids"])
        except ValueError:
            ratings, listeners = None, None
        if not isinstance(ratings, list) or not isinstance(listeners, list):
            ratings, listeners = [], [None]
        if len(ratings) != len(listeners) or not ratings:
            clip_set.faults.append(
                f"{where}: clip {utt_id} has the ratings {row['ratings']} of "
                f"{row['participant_ids']}, expected two lists of the same length; "
                "correct the row."
            )
            continue
        for listener, rating in zip(listeners, ratings):
            clip_set.add(
                where,
                utt_id,
                os.path.join(root, "audio", row["file"]),
                one_word(row["condition"]),
                rating,
                f"participant{listener}",
                speaker=speaker_of(row["signal"]),
                source=one_word(row["signal"]),
                domain="bvrnn",
            )


def words_of(where: str, row: Dict[str, str]) -> Dict[str, str]:
    """Return source and domain of a row of an extract."""
    source = "_".join(row["utt"].split("_")[1:3])  # bvrnn_stim_01_lyra_6
    return dict(source=source, domain="bvrnn")


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    wanted_sets(args, ["test"])
    clip_set = ClipSet("test", CLIPS, (0, 100))
    if os.path.exists(os.path.join(args.corpus, "ratings.csv")):
        clip_set.add_extract(args.corpus, words_of)
    else:
        add_ratings(clip_set, args.corpus)
    return [clip_set]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="mushra_results_dataset of the repository")
    sys.exit(run_parser(parser, read))
