#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of the VoiceMOS Challenge 2022: main track (BVCC) or OOD track.

The owner's layout, README of ``main.tar.gz`` and ``ood.tar.gz`` (Zenodo 6572573)::

    DATA/wav/sys64e2f-utt9c183cd.wav
    DATA/sets/{TRAINSET,DEVSET,TESTSET}       sysID,uttID,rating,ignore,listenerinfo
    DATA/sets/{train,val,test}_mos_list.txt   uttID,mean of the ratings
    DATA/sets/unlabeled_mos_list.txt          uttID (OOD track)

with listenerinfo ``{}_AGERANGE_LISTENERID_GENDER_ignore_ignore_HEARINGIMPAIRMENT``. The
OOD track's rating files leave ``.wav`` away.
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
from espnet2_distilmos.data.datadir import DataError

# By track: the domain, and by data directory the file of votes, the file of means, and
# the number of clips in the challenge's summary (arXiv 2203.11389).
TRACKS = {
    "main": (
        "bvcc",
        {
            "train": ("TRAINSET", "train_mos_list.txt", 4974),
            "dev": ("DEVSET", "val_mos_list.txt", 1066),
            "test": ("TESTSET", "test_mos_list.txt", 1066),
        },
    ),
    "ood": (
        "bc19",
        {
            "train": ("TRAINSET", "train_mos_list.txt", 136),
            "dev": ("DEVSET", "val_mos_list.txt", 136),
            "test": ("TESTSET", "test_mos_list.txt", 540),
        },
    ),
}
UNLABELLED = ("unlabeled_mos_list.txt", 540)
VOTE_COLUMNS = ("system", "wav", "score", "ignored", "listener")


def listener_id(info: str) -> str:
    """Return LISTENERID of a listenerinfo; nothing if it lacks the seven fields."""
    fields = info.split("_")
    return "_".join(fields[2:-4]) if len(fields) >= 7 else ""


class Track:
    """The lists of one track; ``root`` holds ``DATA``, or is ``DATA``."""

    def __init__(self, root: str, domain: str):
        inner = os.path.join(root, "DATA")
        self.root = inner if os.path.isdir(inner) else root
        self.domain = domain
        if not os.path.isdir(os.path.join(self.root, "sets")):
            raise DataError(
                f"{root} has no DATA/sets, expected the unpacked archive of the track "
                "after its scripts 01_get.py to 03_preprocess.py; correct the path in "
                "db.sh."
            )

    def path(self, name: str) -> str:
        return os.path.join(self.root, "sets", name)

    def add(self, clip_set: ClipSet, where, wav, system=None, **row) -> None:
        """Add a row; ``wav`` is a file name with or without its ending."""
        utt_id = wav[:-4] if wav.endswith(".wav") else wav
        path = os.path.join(self.root, "wav", f"{utt_id}.wav")
        # The system is the part of the name before the dash.
        system = system or utt_id.partition("-")[0]
        clip_set.add(where, utt_id, path, system, domain=self.domain, **row)

    def add_votes(self, clip_set: ClipSet, votes: str) -> None:
        """Add the rows of a rating file; a line that stands there twice is a fault."""
        known = set()
        columns = VOTE_COLUMNS
        for where, row in read_table(
            self.path(votes), columns, clip_set.faults, header=False
        ):
            line = tuple(row.values())
            if line in known:
                clip_set.faults.append(
                    f"{where} is the same line as an earlier one ({','.join(line)}), "
                    "expected every rating once; remove the line."
                )
                continue
            known.add(line)
            row["listener"] = listener_id(row["listener"])
            row.pop("ignored")
            self.add(clip_set, where, **row)

    def means(self, clip_set: ClipSet, means: str):
        """Return (where, file name, mean as text) of a list of means."""
        rows = read_table(
            self.path(means), ("wav", "score"), clip_set.faults, header=False
        )
        return [(where, row["wav"], row["score"]) for where, row in rows]

    def read_set(self, name: str, votes: str, means: str, published: int) -> ClipSet:
        """Read a set from its ratings, held against its means; or from the means."""
        clip_set = ClipSet(name, published)
        has_means = os.path.exists(self.path(means))
        if os.path.exists(self.path(votes)) or not has_means:
            self.add_votes(clip_set, votes)
            if has_means:
                published_means = {}
                for where, wav, score in self.means(clip_set, means):
                    try:
                        published_means[wav.replace(".wav", "")] = float(score)
                    except ValueError:
                        clip_set.faults.append(
                            f"{where}: clip {wav} has the mean {score!r}, expected a "
                            "number; correct the line."
                        )
                clip_set.check_means(self.path(means), published_means)
        else:
            for where, wav, score in self.means(clip_set, means):
                self.add(clip_set, where, wav, score=score)
        return clip_set

    def read_unlabelled(self, train: ClipSet) -> ClipSet:
        """Return the training clips together with those that have no label."""
        path, number = UNLABELLED
        clip_set = ClipSet(
            "train_unlabelled", (train.published or 0) + number, group=None
        )
        for clip in train.clips():
            for listener, score in clip.votes or ((None, clip.score),):
                self.add(clip_set, path, clip.utt_id, score=score, listener=listener)
        for where, row in read_table(
            self.path(path), ("wav",), clip_set.faults, header=False
        ):
            self.add(clip_set, where, row["wav"], score=None)
        return clip_set


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    domain, sets = TRACKS[args.track]
    track = Track(args.corpus, domain)
    has_unlabelled = os.path.exists(track.path(UNLABELLED[0]))
    wanted = wanted_sets(args, [*sets, *(["train_unlabelled"] * has_unlabelled)])
    clip_sets = [
        track.read_set(name, *files) for name, files in sets.items() if name in wanted
    ]
    if "train_unlabelled" in wanted:
        train = track.read_set("train", *sets["train"])
        clip_sets.append(track.read_unlabelled(train))
    return clip_sets


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="the unpacked archive, or DATA in it")
    parser.add_argument("--track", choices=sorted(TRACKS), default="main")
    sys.exit(run_parser(parser, read))
