# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""The layout of the mini_mos corpus: clean speech, and labels for what becomes of it.

``clean/<set>/<voice>_<sentence>.opus`` and ``labels.tsv``, one row a degraded clip.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile as sf

from espnet2_distilmos.data.datadir import DataError, atomic_write

SAMPLE_RATE = 16000
DATA_DIRS = {"train": "train", "dev": "dev", "test": "test", "ood": "test_ood"}


class Clip(NamedTuple):
    """A row of ``labels.tsv``: one clean clip put through one system."""

    dataset: str  # a key of DATA_DIRS
    utterance: str  # <voice>_<sentence>_<system>
    system: str
    voice: str
    sentence: str
    source: str  # path of the clean clip inside the corpus
    mos_lqo: float  # simulated MOS, ITU-T P.862.2, 1.02 to 4.64


COLUMNS = ("set", *Clip._fields[1:])


def read_labels(corpus):
    """Return the rows of ``labels.tsv`` as a list of ``Clip``.

    Raises:
        DataError: A row is not what ``Clip`` says.
    """
    path = Path(corpus) / "labels.tsv"
    clips = []
    with open(path, encoding="utf-8", newline="") as f:
        rows = csv.reader(f, delimiter="\t")
        header = tuple(next(rows, ()))
        if header != COLUMNS:
            raise DataError(f"{path}: columns are {header}, expected {COLUMNS}")
        for row in rows:
            try:
                clips.append(Clip(*row[:-1], float(row[-1])))
            except (TypeError, ValueError):
                raise DataError(
                    f"{path}, line {rows.line_num}: expected {len(COLUMNS)} columns, "
                    f"the last a number, found {row}"
                ) from None
    return clips


def write_labels(corpus, clips):
    """Write ``labels.tsv`` whole, or leave the old one."""
    with atomic_write(Path(corpus) / "labels.tsv") as f:
        rows = csv.writer(f, delimiter="\t", lineterminator="\n")
        rows.writerow(COLUMNS)
        for clip in sorted(clips, key=lambda clip: (clip.dataset, clip.utterance)):
            rows.writerow([*clip[:-1], f"{clip.mos_lqo:.3f}"])


def read_clean(corpus, source):
    """Return a clean clip as float64 (samples,) at 16 kHz.

    It is rounded to 16 bits first, as the reference of P.862.2 is.

    Raises:
        DataError: The file is not 16 kHz mono.
    """
    path = Path(corpus) / source
    expected = f"{SAMPLE_RATE} Hz, 1 channels"
    try:
        with sf.SoundFile(path) as file:
            found = f"{file.samplerate} Hz, {file.channels} channels"
            audio = file.read(dtype="float64")
    except sf.LibsndfileError as error:
        found = str(error)
    if found != expected:
        raise DataError(
            f"{path}: found {found}, expected {expected}; the corpus is damaged, check "
            "it out again."
        )
    return np.rint(np.clip(audio, -1, 1) * 32767) / 32767
