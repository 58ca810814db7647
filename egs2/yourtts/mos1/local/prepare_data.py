#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of YourTTS' listening tests of naturalness, and of folds.

The owner's layout, two branches of github.com/Edresson/YourTTS, or an extract of it::

    metrics/MOS/PT/naturalness-MOS.csv    branch main: audio_path, score,
    metrics/MOS/EN/naturalness-MOS.csv    evaluator_id, one row a vote
    gh-pages/audios_demo/GT/...           branch gh-pages; audio_path from here on

    ratings.csv    utt,wav,system,source,mos
    votes.csv      utt,listener,score
    flac/...       what the column wav names

The Portuguese clips are the set test, the English ones test_en, which no extract has.
A fold sys0 to sys2, sysA or sysB holds six systems out, spk0 to spk4 four voices.
"""

import argparse
import os
import re
import sys
from typing import Dict, List, Optional, Sequence, Tuple

from espnet2_distilmos.data.corpus import (
    Clip,
    ClipSet,
    divide,
    fold_sets,
    read_table,
    run_parser,
    wanted_sets,
)
from espnet2_distilmos.data.datadir import DataError

COLUMNS = ("audio_path", "score", "evaluator_id")
# By set: the owner's folder, clips and votes.
TESTS = {"test": ("PT", 530, 6604), "test_en": ("EN", 1119, 22380)}
AUDIO = ("gh-pages/audios_demo", "audios_demo")
MLS = "Portuguese_MLS_SECS"
# All by their names, so that every third is of all kinds.
SYSTEMS = sorted(
    [
        *(f"Exp.{n}/{m}/{MLS}" for n in "23" for m in ("model", "model+SCL")),
        f"Exp.4/model+SCL/{MLS}",
        *(f"Exp.5/After-FT-1-min/{sex}" for sex in "FM"),
        "Exp.5/Zero-shot-from-exp3",
        *(
            f"Exp.6/{way}/{a}-{b}"
            for way in ("PT-PT", "PT-EN")
            for a in "FM"
            for b in "FM"
        ),
        "GT/MLS-PT",
        "GT/Speaker_Adaptation",
    ]
)
VOICES = sorted(
    "11995 12249 12287 12710 13069 3050 4367 5677 7925 9351 PT-F PT-M p225 p245 p261 "
    "p294 p302 p326 p335 p347".split()
)
SYSTEM_FOLDS = {
    **{f"sys{k}": SYSTEMS[k::3] for k in range(3)},
    "sysA": [
        "GT/MLS-PT",
        f"Exp.4/model+SCL/{MLS}",
        "Exp.5/After-FT-1-min/M",
        "Exp.5/After-FT-1-min/F",
        "Exp.6/PT-EN/F-M",
        "Exp.6/PT-PT/M-F",
    ],
    "sysB": [
        "GT/Speaker_Adaptation",
        f"Exp.2/model/{MLS}",
        f"Exp.3/model/{MLS}",
        f"Exp.3/model+SCL/{MLS}",
        "Exp.6/PT-PT/M-M",
        "Exp.6/PT-EN/M-F",
    ],
}
VOICE_FOLDS = {f"spk{k}": VOICES[k::5] for k in range(5)}
DEV_SHARE = 0.1  # of the clips that are not left out


def system_and_source(audio_path: str) -> Tuple[str, str]:
    """Return system and source, from the path that the owner gives a clip.

    The source is the file's name, of a recording with its speaker's folder before it.
    """
    *folders, name = audio_path.split("/")
    stem = os.path.splitext(name)[0]
    folders = [folder for folder in folders if folder != "generated"]
    if folders[:1] == ["GT"]:
        return "/".join(folders[:2]), "_".join([*folders[2:3], stem])
    if folders[:1] == ["Exp.5"]:  # Exp.5/Portuguese/After-FT-1-min/F-1.5
        return "/".join([folders[0], *folders[2:3], *(f[0] for f in folders[3:])]), stem
    return "/".join(folders), stem


def voices_of(source: str) -> Tuple[str, str]:
    """Return the voice that is heard and, if it was converted, the one that spoke."""
    converted = re.match(r"([^_]+)_to_([^_]+)_sample_", source)
    if converted:
        return converted[2], converted[1]
    adapted = re.search(r"([A-Z]{2}-[FM])\.wav", source)
    return (adapted[1] if adapted else source.partition("_")[0]), ""


def audio_of(audio_path: str) -> str:
    """Return where the owner put a clip.

    Exp.4's rated clips are in a folder of their own; five in the folder that the votes
    name have the names of rated ones, and are others.
    """
    return audio_path.replace("Exp.4/model+SCL/", "Exp.4/model+SCL_MOS/")


def known(clip_set: ClipSet, where: str, utt_id: str, system: str, source: str) -> bool:
    """Return whether system and voice are of the Portuguese test, or add a fault."""
    voice, _ = voices_of(source)
    if system in SYSTEMS and voice in VOICES:
        return True
    clip_set.faults.append(
        f"{where}: the clip {utt_id} is of system {system!r} and voice {voice!r}, "
        "expected those of the published test; correct the row."
    )
    return False


def read_votes(root: str, name: str) -> ClipSet:
    """Read one of the owner's tests.

    Raises:
        DataError: The votes cannot be read, or there is no folder of audio.
    """
    language, clips, votes = TESTS[name]
    path = os.path.join(root, "metrics", "MOS", language, "naturalness-MOS.csv")
    folders = [os.path.join(root, folder) for folder in AUDIO]
    audio = next((folder for folder in folders if os.path.isdir(folder)), None)
    if audio is None:
        raise DataError(
            f"{root} has no {AUDIO[0]}, expected the branch gh-pages of "
            "github.com/Edresson/YourTTS in its folder gh-pages; get it as README.md "
            "says."
        )
    clip_set = ClipSet(name, clips, group=None, published_votes=votes)
    refused = set()
    for where, row in read_table(path, COLUMNS, clip_set.faults):
        stem = os.path.splitext(row["audio_path"])[0]
        utt_id = stem.replace(".", "").replace("+", "p").replace("/", "_")
        utt_id = f"ytts{language.lower()}_{utt_id}"
        system, source = system_and_source(row["audio_path"])
        if language == "PT" and utt_id not in clip_set:
            if utt_id in refused or not known(clip_set, where, utt_id, system, source):
                refused.add(utt_id)
                continue
        clip_set.add(
            where,
            utt_id,
            os.path.join(audio, audio_of(row["audio_path"])),
            system,
            row["score"],
            f"evaluator{row['evaluator_id']}",
            speaker=voices_of(source)[0],
            source=source,
            domain="yourtts" if language == "PT" else "yourtts_en",
        )
    return clip_set


def read_extract(root: str) -> ClipSet:
    """Read an extract of the Portuguese test."""
    _, clips, votes = TESTS["test"]
    clip_set = ClipSet("test", clips, group=None, published_votes=votes)

    def words(where: str, row: Dict[str, str]) -> Optional[Dict[str, str]]:
        source = row["source"]
        if not known(clip_set, where, row["utt"], row["system"], source):
            return None
        voice, _ = voices_of(source)
        return dict(speaker=voice, source=source, domain="yourtts")

    clip_set.add_extract(root, words, further=("source",))
    return clip_set


# Folds


def parts(
    clips: Sequence[Clip], systems: Sequence[str] = (), voices: Sequence[str] = ()
) -> Dict[str, str]:
    """Return the part of each clip where systems or voices are left out.

    A clip of a voice that is left out, converted to another voice, is in no part. A
    tenth of what remains is the validation set, sources whole.
    """
    tested, rest = [], {}
    for clip in clips:
        heard, spoke = voices_of(clip.source)
        if clip.system in systems or heard in voices:
            tested.append(clip.utt_id)
        elif spoke not in voices:
            rest[clip.utt_id] = clip.source
    return {**dict.fromkeys(tested, "test"), **divide(rest, {"dev": DEV_SHARE})}


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it.

    Raises:
        DataError: The folder has neither layout.
    """
    if os.path.exists(os.path.join(args.corpus, "ratings.csv")):
        sets = [read_extract(args.corpus)]
    elif os.path.isdir(os.path.join(args.corpus, "metrics", "MOS")):
        sets = [read_votes(args.corpus, name) for name in TESTS]
    else:
        raise DataError(
            f"{args.corpus} has neither metrics/MOS nor ratings.csv, expected a "
            "checkout of github.com/Edresson/YourTTS; correct YOURTTS in db.sh."
        )
    clips = sets[0].clips()
    folds = {fold: parts(clips, systems=s) for fold, s in SYSTEM_FOLDS.items()}
    folds.update({fold: parts(clips, voices=v) for fold, v in VOICE_FOLDS.items()})
    sets += fold_sets(sets[0], folds)
    wanted = wanted_sets(args, [clip_set.name for clip_set in sets])
    return [clip_set for clip_set in sets if clip_set.name in wanted]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="checkout of the repository, or an extract")
    sys.exit(run_parser(parser, read))
