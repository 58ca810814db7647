#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories without labels from a folder of speech."""

import argparse
import csv
import os
import random
import re
import sys
from typing import Dict, List, NamedTuple

from espnet2_distilmos.fileio.audio import AUDIO_SUFFIXES
from espnet2_distilmos.fileio.datadir import DataError, write_metric_scp, write_scp


class Utterance(NamedTuple):
    utt_id: str
    path: str
    speaker: str


def one_word(text: str) -> str:
    """Return the text as an id of Kaldi's files, which has no blanks."""
    return re.sub(r"[^\w.\-]+", "_", text.strip())


def read_manifest(path: str) -> Dict[str, str]:
    """Return the speaker by path, relative to the manifest's folder.

    Raises:
        DataError: It has no columns ``wav`` and ``speaker``.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"wav", "speaker"} <= set(rows[0]):
        raise DataError(
            f"{path} has the columns {', '.join(rows[0]) if rows else 'of no row'}, "
            "expected wav and speaker among them; correct or remove it (then a "
            "speaker is a folder)."
        )
    return {os.path.normpath(row["wav"]): row["speaker"] for row in rows}


def find_speech(speech_dir: str) -> List[Utterance]:
    """Find all audio files; a speaker is what manifest.csv says, or else a folder.

    Raises:
        DataError: There is none, two would have one id, or the manifest names a file
            that is not there.
    """
    if not os.path.isdir(speech_dir):
        raise DataError(
            f"{speech_dir} is not a directory, expected one with speech; correct "
            "--speech_dir."
        )
    manifest_path = os.path.join(speech_dir, "manifest.csv")
    if os.path.exists(manifest_path):
        speakers = read_manifest(manifest_path)
        lost = [p for p in speakers if not os.path.exists(f"{speech_dir}/{p}")]
        if lost:
            raise DataError(
                f"{manifest_path} names {len(lost)} files that are not there, the "
                f"first is {lost[0]}, expected all; complete the folder."
            )
    else:
        speakers = {}
        for folder, _, names in os.walk(speech_dir, followlinks=True):
            for name in names:
                if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES:
                    path = os.path.relpath(os.path.join(folder, name), speech_dir)
                    parent = os.path.dirname(path)
                    speakers[path] = parent.replace(os.sep, "_") or "speaker"
    found: Dict[str, Utterance] = {}
    for path, speaker in sorted(speakers.items()):
        speaker = one_word(speaker)
        stem = one_word(os.path.splitext(os.path.basename(path))[0])
        # Kaldi wants an id to begin with its speaker.
        utt_id = stem if stem.startswith(speaker) else f"{speaker}_{stem}"
        if utt_id in found:
            raise DataError(
                f"{speech_dir}/{path} and {found[utt_id].path} would both be "
                f"{utt_id}, expected one name a speaker; rename one."
            )
        found[utt_id] = Utterance(utt_id, os.path.join(speech_dir, path), speaker)
    if not found:
        raise DataError(
            f"{speech_dir} has no audio files, expected some; correct --speech_dir."
        )
    return list(found.values())


def hold_out(speakers: List[str], share: float, seed: int) -> List[str]:
    """Draw the speakers of the validation set: at least one, and not all.

    Raises:
        DataError: There are fewer than two speakers.
    """
    if len(speakers) < 2:
        raise DataError(
            f"found the only speaker {', '.join(speakers)}, expected two or more, one "
            "of them to validate with; give a folder a speaker, or a manifest.csv."
        )
    count = min(max(round(share * len(speakers)), 1), len(speakers) - 1)
    return sorted(random.Random(seed).sample(sorted(speakers), count))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--speech_dir",
        required=True,
        help="any folder; its manifest.csv (columns wav, speaker) or its sub-folders "
        "say who speaks",
    )
    parser.add_argument("--out", default="data", help="where train and dev are written")
    parser.add_argument(
        "--valid_share",
        type=float,
        default=0.05,
        help="share of the speakers that is held out, for validation and probes",
    )
    parser.add_argument(
        "--exclude_speakers",
        nargs="*",
        default=[],
        help="speakers of any test set: left out",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the speakers held out")
    args = parser.parse_args()
    try:
        utterances = find_speech(os.path.abspath(args.speech_dir))
        excluded = set(map(one_word, args.exclude_speakers))
        unknown = excluded - {u.speaker for u in utterances}
        if unknown:
            raise DataError(
                f"--exclude_speakers has {', '.join(sorted(unknown))}, expected "
                f"speakers of {args.speech_dir}; correct the names."
            )
        utterances = [u for u in utterances if u.speaker not in excluded]
        held_out = hold_out(
            sorted({u.speaker for u in utterances}), args.valid_share, args.seed
        )
        for name, of_valid in (("train", False), ("dev", True)):
            chosen = [u for u in utterances if (u.speaker in held_out) == of_valid]
            folder = os.path.join(args.out, name)
            spk2utt: Dict[str, List[str]] = {}
            for u in sorted(chosen):
                spk2utt.setdefault(u.speaker, []).append(u.utt_id)
            write_scp(f"{folder}/utt2spk", {u.utt_id: u.speaker for u in chosen})
            write_scp(f"{folder}/spk2utt", {k: " ".join(v) for k, v in spk2utt.items()})
            write_metric_scp(f"{folder}/metric.scp", {u.utt_id: None for u in chosen})
            # last: later stages go by it
            write_scp(f"{folder}/wav.scp", {u.utt_id: u.path for u in chosen})
            print(
                f"{folder}: {len(chosen)} utterances of {len(spk2utt)} speakers",
                file=sys.stderr,
            )
    except (DataError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
