#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories without labels from folders of speech."""

import argparse
import os
import random
import re
import sys
from typing import Dict, Iterator, List, NamedTuple, Tuple

from espnet2_distilmos.cli import call
from espnet2_distilmos.data.corpus import read_table
from espnet2_distilmos.data.datadir import DataError, write_metric_scp, write_scp
from espnet2_distilmos.data.names import AUDIO_SUFFIXES

# Who speaks, by the path inside a corpus that local/data.sh knows by name; what follows
# the match is the utterance. Files that do not match are no speech.
CORPORA = {
    "speechocean762": r"(?:^|/)(SPEAKER\d+)/",
    "librispeech": r"(?:^|/)(\d+)/(?=\d+/[^/]+$)",
    "ljspeech": r"(?:^|/)(LJ)(?=\d+-)",
    # The recordings of silence are left out.
    "asterisk": r"sounds/(\w+)/(?!silence/)",
}


class Utterance(NamedTuple):
    """An audio file without a label: its id, path and speaker (ids of Kaldi)."""

    utt_id: str
    path: str
    speaker: str


def one_word(text: str) -> str:
    """Return the text as an id of Kaldi's files, which has no blanks."""
    return re.sub(r"[^\w.\-]+", "_", text.strip())


def find_speech(speech_dir: str) -> List[Utterance]:
    """Find all audio files; a speaker is what manifest.csv says, or else a folder.

    Raises:
        DataError: There is none, two would have one id, or the manifest lacks columns
            or names a file that is not there.
    """
    manifest = os.path.join(speech_dir, "manifest.csv")
    if os.path.exists(manifest):
        faults: List[str] = []
        rows = read_table(manifest, ("wav", "speaker"), faults)
        if faults or not rows:
            raise DataError(
                f"{(faults or [f'{manifest} has no rows, expected some.'])[0]} Without "
                "this file a speaker is a folder."
            )
        speaker_of = {os.path.normpath(row["wav"]): row["speaker"] for _, row in rows}
        lost = [p for p in speaker_of if not os.path.exists(f"{speech_dir}/{p}")]
        if lost:
            raise DataError(
                f"{manifest} names {len(lost)} files that are not there, the first is "
                f"{lost[0]}, expected all; complete the folder."
            )
    else:
        speaker_of = {
            path: os.path.dirname(path).replace(os.sep, "_") or "speaker"
            for path in audio_files(speech_dir)
        }
    names = {path: (who, os.path.basename(path)) for path, who in speaker_of.items()}
    return make_utterances(speech_dir, names)


def find_corpus(name: str, folder: str) -> List[Utterance]:
    """Find the utterances of a corpus of :data:`CORPORA`.

    Raises:
        DataError: the name is none of them, or the folder is not that corpus.
    """
    if name not in CORPORA:
        raise DataError(
            f"--corpora has {name}, expected some of {', '.join(CORPORA)}; another "
            "folder is --speech_dir."
        )
    speakers: Dict[str, Tuple[str, str]] = {}
    for path in audio_files(folder):
        match = re.search(CORPORA[name], path)
        if match:
            speakers[path] = f"{name}-{match[1]}", path[match.end() :]
    return make_utterances(folder, speakers)


def audio_files(root: str) -> Iterator[str]:
    """Yield the paths of all audio files, relative to ``root``."""
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES:
                yield os.path.relpath(os.path.join(folder, name), root)


def make_utterances(
    speech_dir: str, speakers: Dict[str, Tuple[str, str]]
) -> List[Utterance]:
    """Give ids to the files of a folder.

    Args:
        speech_dir: the folder.
        speakers: who speaks what, by path inside it.

    Raises:
        DataError: There is none, or two would have one id.
    """
    found: Dict[str, Utterance] = {}
    for path, (speaker, name) in sorted(speakers.items()):
        speaker = one_word(speaker)
        stem = one_word(os.path.splitext(name)[0].replace(os.sep, "_"))
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
            f"{speech_dir} has no audio, expected a directory with some; correct "
            "--speech_dir or remove the folder and run stage 1 again."
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
        "--corpora",
        nargs="*",
        default=[],
        metavar="NAME=DIR",
        help=f"corpora that local/data.sh downloaded: {', '.join(CORPORA)}",
    )
    parser.add_argument(
        "--speech_dir",
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
    return call(lambda: prepare(args))


def prepare(args: argparse.Namespace) -> int:
    """Write the data directories; return the exit code."""
    utterances = []
    for corpus in args.corpora:
        name, _, folder = corpus.partition("=")
        utterances += find_corpus(name, os.path.abspath(folder))
    if args.speech_dir:
        utterances += find_speech(os.path.abspath(args.speech_dir))
    if not utterances:
        raise DataError(
            "found neither --speech_dir nor --corpora, expected one of them: any "
            f"folder of speech, or some of {', '.join(CORPORA)}."
        )
    twice = len(utterances) - len({u.utt_id for u in utterances})
    if twice:
        raise DataError(
            f"found {twice} utterance ids in several folders, expected each once; "
            "rename the speakers."
        )
    excluded = set(map(one_word, args.exclude_speakers))
    unknown = excluded - {u.speaker for u in utterances}
    if unknown:
        raise DataError(
            f"--exclude_speakers has {', '.join(sorted(unknown))}, expected "
            "speakers of the speech; correct the names."
        )
    utterances = [u for u in utterances if u.speaker not in excluded]
    speakers = sorted({u.speaker for u in utterances})
    held_out = hold_out(speakers, args.valid_share, args.seed)
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
