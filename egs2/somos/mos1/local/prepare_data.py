#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of SOMOS, the Samsung Open MOS dataset: clean and full.

The owner's layout, readme.txt of ``somos.zip`` (Zenodo 7378801)::

    audios/novel_2007_0098_015.wav
    training_files/split1/{clean,full}/{TRAIN,VALID,TEST}SET
        names in the first line: systemId,utteranceId,choice,listenerId
    training_files/split1/{clean,full}/{train,valid,test}_mos_list.txt
        names in the first line: utteranceId,mean

The utteranceId is the sentenceId and the systemId, joined by ``_``. "clean" keeps the
votes of test pages that passed four quality checks; the clips are the same.
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

SETS = {"train": ("train", 14100), "dev": ("valid", 3000), "test": ("test", 3000)}
SUBSETS = {"clean": "", "full": "_full"}


def audio_dir(root: str) -> str:
    """Return where audios.zip was unpacked: it has a folder of its own."""
    inner = os.path.join(root, "audios", "audios")
    return inner if os.path.isdir(inner) else os.path.join(root, "audios")


def without_ending(utterance: str) -> str:
    """Return a file's name without its ending."""
    return utterance[:-4] if utterance.endswith(".wav") else utterance


def read_set(
    root: str, subset: str, name: str, owners_name: str, published: int
) -> ClipSet:
    """Read the votes of one set of a subset (clean or full)."""
    lists = os.path.join(root, "training_files", "split1", subset)
    # The subsets share their audio; within one, no file may be in two sets.
    clip_set = ClipSet(name + SUBSETS[subset], published, group=subset)
    audio = audio_dir(root)
    columns = ("systemId", "utteranceId", "choice", "listenerId")
    path = os.path.join(lists, f"{owners_name.upper()}SET")
    for where, row in read_table(path, columns, clip_set.faults):
        utt_id, system = without_ending(row["utteranceId"]), row["systemId"]
        sentence = utt_id[: -len(system) - 1]
        if not system or not sentence or utt_id != f"{sentence}_{system}":
            clip_set.faults.append(
                f"{where}: utteranceId {row['utteranceId']} does not end in its "
                f"systemId {system!r}, expected SENTENCE_SYSTEM.wav; correct the line."
            )
            continue
        clip_set.add(
            where,
            utt_id,
            os.path.join(audio, f"{utt_id}.wav"),
            f"somos{system}",  # "000" would be taken for a number by some tools
            row["choice"],
            row["listenerId"],
            speaker="somos",  # all systems have the voice of LJ Speech
            source=sentence,
            domain="somos",
        )
    means = os.path.join(lists, f"{owners_name}_mos_list.txt")
    if os.path.exists(means):
        published_means = {}
        for where, row in read_table(means, ("utteranceId", "mean"), clip_set.faults):
            try:
                published_means[without_ending(row["utteranceId"])] = float(row["mean"])
            except ValueError:
                clip_set.faults.append(
                    f"{where}: clip {row['utteranceId']} has the mean {row['mean']!r}, "
                    "expected a number; correct the line."
                )
        clip_set.check_means(means, published_means)
    return clip_set


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    clip_sets = []
    known = [name + ending for ending in SUBSETS.values() for name in SETS]
    wanted = wanted_sets(args, known)
    for subset, ending in SUBSETS.items():
        path = os.path.join(args.corpus, "training_files", "split1", subset)
        if not os.path.isdir(path):
            raise DataError(
                f"{path} is not there, expected somos.zip unpacked in {args.corpus}; "
                "correct SOMOS in db.sh."
            )
        for name, files in SETS.items():
            if name + ending in wanted:
                clip_sets.append(read_set(args.corpus, subset, name, *files))
    return clip_sets


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="where somos.zip and audios.zip were unpacked")
    sys.exit(run_parser(parser, read))
