#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""Label the degraded clips of mini_mos with ITU-T P.862.2 MOS-LQO.

It needs ``pip install pesq``. The recipe does not run this: it reads the result,
``corpus/labels.tsv``. Run it after a change to the clean speech or the package's
``distortion``; with ``--check`` it only compares the carried labels with fresh ones.

    local/compute_labels.py --corpus corpus --nj 2
    local/compute_labels.py --corpus corpus --check --audio_dir downloads/mini_mos
"""

import argparse
import random
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile as sf
from corpus import DATA_DIRS, SAMPLE_RATE, Clip, read_clean, read_labels, write_labels

from espnet2_distilmos.distortion.systems import (
    IN_DOMAIN,
    OUT_OF_DOMAIN,
    SEED,
    render,
)

SYSTEMS_OF = {
    "train": IN_DOMAIN,
    "dev": IN_DOMAIN,
    "test": IN_DOMAIN,
    "ood": OUT_OF_DOMAIN,
}
CLIPS_PER_SYSTEM = {"train": 19, "dev": 8, "test": 15, "ood": 28}
TOLERANCE = 0.05  # between libraries and machines, on the MOS scale


def clean_clips(corpus, dataset):
    """Return the clean clips of a set as (source, voice, sentence), well mixed.

    Any stretch as long as the number of sentences holds each sentence about once.
    """
    by_sentence = {}
    for path in sorted((Path(corpus) / "clean" / dataset).glob("*.opus")):
        voice, _, sentence = path.stem.rpartition("_")
        source = path.relative_to(corpus).as_posix()
        by_sentence.setdefault(sentence, []).append((source, voice, sentence))
    dice = random.Random(SEED)
    for readings in by_sentence.values():
        dice.shuffle(readings)
    sentences = sorted(by_sentence)
    dice.shuffle(sentences)
    rounds = max(map(len, by_sentence.values()))
    return [
        by_sentence[sentence][turn]
        for turn in range(rounds)
        for sentence in sentences
        if turn < len(by_sentence[sentence])
    ]


def candidates(corpus, dataset):
    """Yield (system, clips): the clips to label first, then the ones in reserve.

    System after system takes the next clips of one endless row, so that each clip
    serves as many systems as any other.
    """
    clean = clean_clips(corpus, dataset)
    begin = 0
    for system in SYSTEMS_OF[dataset]:
        row = [clean[(begin + index) % len(clean)] for index in range(len(clean))]
        yield system, [
            Clip(dataset, f"{v}_{s}_{system}", system, v, s, source, float("nan"))
            for source, v, s in row
        ]
        begin += CLIPS_PER_SYSTEM[dataset]


def label(clip, corpus, audio_dir=None):
    """Return the clip with its MOS-LQO, or with NaN where P.862.2 gives none.

    Args:
        clip: A ``Clip``.
        corpus: Folder of the corpus.
        audio_dir: Folder of rendered audio to read; ``None`` renders afresh.
    """
    from pesq import PesqError, pesq

    clean = read_clean(corpus, clip.source)
    if audio_dir is None:
        degraded = render(clean, clip.system, clip.utterance)
    else:
        path = Path(audio_dir) / DATA_DIRS[clip.dataset] / f"{clip.utterance}.flac"
        degraded, _ = sf.read(path, dtype="int16")
    reference = np.rint(clean * 32767).astype(np.int16)
    try:
        mos_lqo = float(pesq(SAMPLE_RATE, reference, degraded, "wb"))
    except PesqError as error:
        print(f"{clip.utterance}: {error}", file=sys.stderr)
        mos_lqo = float("nan")
    return clip._replace(mos_lqo=round(mos_lqo, 3))


def compute(corpus, pool):
    """Return the labelled clips of all sets; a clip that fails is replaced."""
    labelled = []
    for dataset in SYSTEMS_OF:
        wanted = CLIPS_PER_SYSTEM[dataset]
        rows = list(candidates(corpus, dataset))
        first = [clip for _, row in rows for clip in row[:wanted]]
        done = list(pool.map(partial(label, corpus=corpus), first, chunksize=16))
        for _, row in rows:
            good = [done.pop(0) for _ in range(wanted)]
            good = [clip for clip in good if np.isfinite(clip.mos_lqo)]
            for spare in row[wanted:]:
                if len(good) == wanted:
                    break
                clip = label(spare, corpus)
                good += [clip] if np.isfinite(clip.mos_lqo) else []
            labelled += good
        print(f"{dataset}: {wanted * len(rows)} clips", file=sys.stderr)
    return labelled


def report(clips):
    """Print the mean label and its standard deviation for each set and system."""
    for dataset, systems in SYSTEMS_OF.items():
        values = np.array([c.mos_lqo for c in clips if c.dataset == dataset])
        counts = np.histogram(values, np.arange(1.0, 5.01, 0.5))[0]
        print(f"\n{dataset}: {len(values)} clips, mean {values.mean():.2f}")
        print("  clips per half point from 1.0:", *counts)
        for system in systems:
            values = np.array(
                [c.mos_lqo for c in clips if (c.dataset, c.system) == (dataset, system)]
            )
            print(f"  {system:16s} {values.mean():.2f} +- {values.std():.2f}")


def main(argv=None):
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--nj", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--audio_dir", type=Path, help="with --check: rendered audio")
    args = parser.parse_args(argv)

    with ProcessPoolExecutor(args.nj) as pool:
        if not args.check:
            clips = compute(args.corpus, pool)
            write_labels(args.corpus, clips)
            report(clips)
            return 0
        carried = read_labels(args.corpus)
        again = partial(label, corpus=args.corpus, audio_dir=args.audio_dir)
        fresh = list(pool.map(again, carried, chunksize=16))
    differences = np.array([a.mos_lqo - b.mos_lqo for a, b in zip(fresh, carried)])
    worst = int(np.argmax(np.nan_to_num(np.abs(differences), nan=np.inf)))
    report(carried)
    print(
        f"\n{len(carried)} labels, largest difference {abs(differences[worst]):.4f} "
        f"({carried[worst].utterance}), allowed {TOLERANCE}"
    )
    return int(not np.all(np.abs(differences) <= TOLERANCE))


if __name__ == "__main__":
    sys.exit(main())
