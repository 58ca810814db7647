#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directory of a MUSHRA test of singing separated from music: quality, 0 to 100.

The owner's layout, github.com/CVSSP/perceptual-study-source-separation, or an extract::

    data/ratings.csv                       experiment, is_replicate, page, sound,
                                           subject, rating: one row a vote
    site/sounds/vocals-10-SIR/HUA.flac     a folder for each page (song)

    ratings.csv    utt,wav,system,mos,source
    votes.csv      utt,listener,score
    flac/voc_vocals-10-SIR_HUA.flac        what the column wav names
"""

import argparse
import os
import sys
from typing import Dict, List, Optional

from espnet2_distilmos.data.corpus import (
    ClipSet,
    one_word,
    read_table,
    run_parser,
    true_or_false,
    wanted_sets,
)
from espnet2_distilmos.data.datadir import DataError

COLUMNS = ("experiment", "is_replicate", "page", "sound", "subject", "rating")
# Clips and votes, with the mixtures and without.
PUBLISHED = {True: (128, 2880), False: (112, 2520)}
# The owner's names of what no algorithm made.
NAMES = {"ref": "reference", "Quality": "quality_anchor", "Interferer": "mixture"}
MIXTURE = "mixture"


def add_ratings(clip_set: ClipSet, root: str, keep_mixture: bool) -> None:
    """Add the votes of the owner's table.

    A listener rated one of the 16 pages twice; both times are flagged as replicates and
    left out, so that a listener has one vote a clip.
    """
    path = os.path.join(root, "data", "ratings.csv")
    for where, row in read_table(path, COLUMNS, clip_set.faults):
        system = NAMES.get(row["sound"], one_word(row["sound"]))
        if row["experiment"] != "quality" or row["is_replicate"] != "False":
            continue
        if system == MIXTURE and not keep_mixture:
            continue
        clip_set.add(
            where,
            f"voc_{row['page']}_{row['sound']}",
            os.path.join(root, "site", "sounds", row["page"], f"{row['sound']}.flac"),
            system,
            row["rating"],
            f"subject{row['subject']}",
            speaker=row["page"],
            source=row["page"],
            domain="vocal_separation",
        )


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the set test.

    Raises:
        DataError: The folder has neither layout.
    """
    wanted_sets(args, ["test"])
    clips, votes = PUBLISHED[args.keep_mixture]
    clip_set = ClipSet("test", clips, (0, 100), published_votes=votes)

    def words(where: str, row: Dict[str, str]) -> Optional[Dict[str, str]]:
        if row["system"] == MIXTURE and not args.keep_mixture:
            return None
        song = row["source"]
        if not song:
            clip_set.faults.append(
                f"{where}: the clip {row['utt']} has no source, expected its song; "
                "complete or remove the row."
            )
            return None
        return dict(speaker=song, source=song, domain="vocal_separation")

    if os.path.exists(os.path.join(args.corpus, "ratings.csv")):
        clip_set.add_extract(args.corpus, words, further=("source",))
    elif os.path.exists(os.path.join(args.corpus, "data", "ratings.csv")):
        add_ratings(clip_set, args.corpus, args.keep_mixture)
    else:
        raise DataError(
            f"{args.corpus} has neither data/ratings.csv nor ratings.csv, expected a "
            "checkout of github.com/CVSSP/perceptual-study-source-separation; correct "
            "VOCAL_SEPARATION in db.sh."
        )
    return [clip_set]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="checkout of the repository, or an extract")
    parser.add_argument(
        "--keep_mixture",
        type=true_or_false,
        default=False,
        help="keep the unseparated mixtures, which the listeners rated as good",
    )
    sys.exit(run_parser(parser, read))
