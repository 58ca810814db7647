#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Add short pieces of some clips to a labelled set, with the labels of the whole clips.

A predictor that never heard a clip of half a second takes its shortness for a fault.
One clip in ``--every`` gives a piece of 0.3 to 3 s; which clips, where and how long is
drawn by the clip's id. Audio is written to OUTPUT/data, the set to OUTPUT.
"""

import argparse
import hashlib
import os
import sys
from typing import Dict

import numpy as np
import soundfile

from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import atomic_write, read_scp, write_scp

SECONDS = (0.3, 3.0)
RATE = 16000


def generator(utt_id: str) -> np.random.Generator:
    """A generator of random numbers of the clip's own."""
    digest = hashlib.sha256(utt_id.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def add_crops(source: str, output: str, every: int) -> int:
    """Write the set with pieces; return the number of pieces.

    Raises:
        DataError, AudioError, OSError: something cannot be read or written.
    """
    os.makedirs(f"{output}/data", exist_ok=True)
    names = ("wav.scp", "metric.scp", "utt2src", "utt2sys")
    files: Dict[str, Dict[str, str]] = {
        name: read_scp(f"{source}/{name}")
        for name in names
        if os.path.exists(f"{source}/{name}")
    }
    pieces = []
    for utt_id, path in list(files["wav.scp"].items()):
        random = generator(utt_id)
        if random.integers(every):
            continue
        speech = read_audio(path, RATE)
        low, high = np.log(SECONDS)
        length = min(len(speech), int(RATE * np.exp(random.uniform(low, high))))
        start = random.integers(len(speech) - length + 1)
        piece = f"{utt_id}_crop"
        target = f"{output}/data/{piece}.flac"
        with atomic_write(target, "wb") as file:
            cut = speech[start : start + length]
            soundfile.write(file, cut, RATE, format="FLAC", subtype="PCM_16")
        pieces.append(piece)
        for name, lines in files.items():
            if utt_id in lines:
                lines[piece] = target if name == "wav.scp" else lines[utt_id]
    for name, lines in files.items():
        write_scp(f"{output}/{name}", lines)
    return len(pieces)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", metavar="DATA_DIR")
    parser.add_argument("output", metavar="OUTPUT")
    parser.add_argument("--every", type=int, default=6)
    args = parser.parse_args()
    count = add_crops(args.source, args.output, args.every)
    print(f"{args.output}: {count} pieces added")
    return 0


if __name__ == "__main__":
    sys.exit(main())
