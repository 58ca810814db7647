#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of the VoiceMOS Challenge 2023: test sets only.

Track 1 is French TTS (Blizzard 2023: hub 1a, voice NEB, and spoke 1b, voice AD), track
2 singing voice conversion (SVCC 2023), track 3 noisy and enhanced Mandarin. The
archives of the tracks unpacked in track1, track2, track3, and beside the audio, in
answers, or at the top, the answers without a first line of names; a folder of one track
alone may have its audio at the top or in a folder of its own, and ``answer.csv``::

    track1/VoiceMOS2023Track1-A-AD_test_0026.wav
    answers/track1_answer.txt    VoiceMOS2023Track1-A-AD_test_0026,4.42105263157895
    answers/track2_answer.txt    VoiceMOS2023Track2-B01-SF1-CDF1-30001,2.857142857142857
    answers/track3_answer.txt    VoiceMOS2023Track3-clean_TMHINT_b1_01_03,5.0

The system is part of the name. For track 2, ``listener_wise_answer.csv`` (sample_id,
listener_name, score) may lie beside the answers: its votes are kept then.
"""

import argparse
import glob
import os
import re
import sys
from typing import List, NamedTuple, Optional

from espnet2_distilmos.data.corpus import (
    ClipSet,
    read_table,
    run_parser,
    wanted_sets,
)

# By data directory the track and its clips, as in the summary (arXiv 2310.02640).
SETS = {
    "track1a": ("track1", 882),
    "track1b": ("track1", 578),
    "track2": ("track2", 4040),
    "track3": ("track3", 1960),
}


class Name(NamedTuple):
    """What the name of a clip says."""

    set_name: str
    system: str
    speaker: str
    source: str  # the sentence, of a singer


def parse(name: str) -> Optional[Name]:
    """Read a clip's name; None if it is no clip of the challenge."""
    match = re.fullmatch(r"VoiceMOS2023Track1-(.+)-(NEB|AD)_(.+)", name)
    if match:
        system, voice, sentence = match.groups()
        set_name = "track1a" if voice == "NEB" else "track1b"
        return Name(set_name, f"{system}-{voice}", voice, sentence)
    match = re.fullmatch(r"VoiceMOS2023Track2-([^-]+)-([^-]+)-([^-]+)-([^-]+)", name)
    if match:
        system, singer, target, song = match.groups()
        return Name("track2", system, target, f"{singer}-{song}")
    match = re.fullmatch(r"VoiceMOS2023Track3-(?:(.+)_)?TMHINT_([^_]+)_(.+)", name)
    if match:
        system, speaker, sentence = match.groups()
        # Without a system it is the recording itself, which the challenge leaves out.
        return Name("track3", system or "", speaker, f"{speaker}_{sentence}")
    return None


def find(root: str, track: str, pattern: str) -> Optional[str]:
    """Return the file of a track's answers, if there is one."""
    for folder in (root, os.path.join(root, "answers"), os.path.join(root, track)):
        found = sorted(glob.glob(os.path.join(glob.escape(folder), pattern)))
        if found:
            return found[0]
    return None


def audio_folder(root: str, track: str) -> str:
    """Return where the audio of a track lies: in its folder, at the top, or below."""
    folder = os.path.join(root, track)
    below = sorted(glob.glob(os.path.join(glob.escape(folder), "*")))
    top = sorted(glob.glob(os.path.join(glob.escape(root), "*")))
    for place in (folder, *below, root, *top):
        pattern = f"VoiceMOS2023{track.capitalize()}-*.wav"
        if glob.glob(os.path.join(glob.escape(place), pattern)):
            return place
    return folder


def read_set(root: str, name: str) -> ClipSet:
    """Read the answers of one track."""
    track, published = SETS[name]
    clip_set = ClipSet(name, published)
    answers = find(root, track, f"{track}_answer.txt") or find(
        root, track, "answer.csv"
    )
    if answers is None:
        clip_set.faults.append(
            f"{name}: {root} has no {track}_answer.txt, expected it there, in answers "
            f"or in {track}; README.md says where it is published."
        )
        return clip_set
    rows = read_table(answers, ("clip", "score"), clip_set.faults, header=False)
    votes = find(root, track, "*listener_wise_answer.csv") if name == "track2" else None
    means = {row["clip"]: row["score"] for _, row in rows}
    if votes is not None:
        columns = ("sample_id", "listener_name", "score")
        rows = [
            (where, {"clip": row["sample_id"], **row})
            for where, row in read_table(votes, columns, clip_set.faults)
            if row["sample_id"] in means
        ]
    folder = audio_folder(root, track)
    for where, row in rows:
        clip = parse(row["clip"])
        if clip is None:
            clip_set.faults.append(
                f"{where}: {row['clip']!r} is no name of a clip of {track}, expected "
                f"'VoiceMOS2023{track.capitalize()}-SYSTEM...'; correct the line."
            )
        elif clip.set_name == name and clip.system:
            clip_set.add(
                where,
                row["clip"],
                os.path.join(folder, f"{row['clip']}.wav"),
                clip.system,
                row["score"],
                row.get("listener_name"),
                speaker=clip.speaker,
                source=clip.source,
                domain=f"vmc23_{name}",
            )
    if votes is not None:
        clip_set.check_means(answers, {clip: float(m) for clip, m in means.items()})
    return clip_set


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    return [read_set(args.corpus, name) for name in wanted_sets(args, SETS)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="the folder of track1, track2, track3")
    sys.exit(run_parser(parser, read))
