#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Folds of the listening tests of conf/sets.txt.

    no_SET      trains on all other sets, tests SET
    only_SET    trains on SET alone, tests it and all other sets
    all         trains on all sets and tests them

The sources of a set (its sentences, songs or talkers) are divided once: a quarter is
its test part; of the rest a tenth is for validation. What a fold does not test may
train, the test part of the other sets of no_SET too.

Labels of different tests are on different scales and of different listeners. For
training they are mapped in each set by their ranks to normal scores, mean 3, SD 0.8,
clipped to 1 to 5; the map is that of the clips that train, and goes linearly between
them for validation and votes. With --labels linear the ends of each scale are mapped to
1 and 5 instead, which is the same to losses that rank. Test sets keep their labels.
"""

import argparse
import functools
import json
import os
import re
import sys
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import scipy.stats

from espnet2_distilmos.bin.combine_data import DataSet, combine, rescale
from espnet2_distilmos.data.corpus import divide
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    read_metric_scp,
    read_score_range,
    read_scp,
    read_text,
    write_scp,
)

SETS = "conf/sets.txt"
SHARES = {"test": 0.25, "dev": 0.075}  # of the clips
SCALE = (1.0, 5.0)
MEAN, SD = 3.0, 0.8
FILES = ("utt2sys", "utt2spk", "utt2src", "votes.scp", "wav.scp")


class Fold(NamedTuple):
    """What a fold trains on and tests.

    Attributes:
        name: Of the fold.
        train: Names of its training sets.
        parts: Which parts of these train.
        test: Data directories that it tests, in data/.
    """

    name: str
    train: List[str]
    parts: Sequence[str]
    test: List[str]

    def directories(self, part: str) -> List[str]:
        """Data directories of the training sets for train or dev.

        All folds that leave a set out share them, and so do the others.
        """
        of = "open" if "test" in self.parts else "closed"
        return [f"{part}_{of}_{name}" for name in self.train]

    def without_parts(self, sets: Dict[str, str]) -> "Fold":
        """The same without test parts of sets that it tests whole."""
        whole = {f"test_{name}" for name, of in sets.items() if of in self.test}
        return self._replace(test=[name for name in self.test if name not in whole])

    def options(self) -> List[str]:
        """Options of mos.sh, names and values."""
        names = self.directories("train")
        options = ["--train_set", names[0]]
        if len(names) > 1:
            options = ["--train_sets", " ".join(f"{name}:1" for name in names)]
        options += ["--valid_set", f"dev_{self.name}"]
        return [*options, "--test_sets", " ".join(self.test)]


def read_sets(path: str = SETS) -> Dict[str, str]:
    """Return CORPUS/SET by name.

    Raises:
        DataError: A line is not as it should be, or there are less than two.
    """
    try:
        lines = [line.partition("#")[0].split() for line in read_text(path).split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    sets: Dict[str, str] = {}
    for words in filter(None, lines):
        known = len(words) == 2 and words[1].count("/") == 1
        if not known or not re.fullmatch("[A-Za-z0-9_]+", words[0]) or words[0] in sets:
            raise DataError(
                f"{path} has the line '{' '.join(words)}', expected a name of letters, "
                "digits and _ that no other line has, and a set of another recipe, "
                "such as `bvrnn bvrnn/test`."
            )
        sets[words[0]] = words[1]
    if len(sets) < 2:
        raise DataError(f"{path} has {len(sets)} sets, expected at least two.")
    return sets


def read_fold(name: str, sets: Dict[str, str]) -> Fold:
    """Return the fold of this name.

    Raises:
        DataError: There is none.
    """
    kind, _, one = name.partition("_")
    others = [other for other in sets if other != one]
    if name == "all":
        tests = [f"test_{each}" for each in sets]
        return Fold(name, list(sets), ["train"], tests)
    if kind == "no" and one in sets:
        return Fold(name, others, ["train", "test"], [sets[one], f"test_{one}"])
    if kind == "only" and one in sets:
        tests = [f"test_{one}", *(sets[other] for other in others)]
        tests += [f"test_{other}" for other in others]
        return Fold(name, [one], ["train"], tests)
    raise DataError(
        f"the fold is '{name}', expected all, or no_SET or only_SET with one of "
        f"{', '.join(sets)} of {SETS}."
    )


def read_table(folder: str, file: str) -> Dict[str, str]:
    """Lines of a file of a data directory; none where it is not there."""
    path = os.path.join(folder, file)
    return read_scp(path) if os.path.exists(path) else {}


def parts_of(folder: str) -> Dict[str, List[str]]:
    """Divide the clips of a set by source: {train, dev or test: clips}."""
    clips = read_scp(f"{folder}/wav.scp")
    sources = read_table(folder, "utt2src")
    parts = divide({clip: sources.get(clip, clip) for clip in clips}, SHARES)
    return {p: [c for c in clips if parts[c] == p] for p in ("train", "dev", "test")}


def normal_scores(labels: Sequence[float]) -> Callable[[float], float]:
    """Map labels by their ranks to normal scores on ``SCALE``.

    The label of rank r of n (equal ones share the mean rank) is mapped to the quantile
    (r - 0.5) / n of the normal distribution; between two of them linearly.
    """
    ranks = scipy.stats.rankdata(labels)
    scores = scipy.stats.norm.ppf((ranks - 0.5) / len(labels), MEAN, SD)
    known, first = np.unique(labels, return_index=True)
    scores = np.clip(scores[first], *SCALE)
    return lambda label: float(np.interp(label, known, scores))


def write_part(
    out: Path,
    folder: str,
    clips: Sequence[str],
    mapped: Optional[Callable[[float], float]] = None,
    corpus: str = "",
    further: Optional[Dict[str, Dict[str, Optional[float]]]] = None,
) -> None:
    """Write the data directory of some clips of a set.

    Args:
        out, folder: What is written, and the set.
        clips: Utterance ids.
        mapped: From a label of the set to one of training; None keeps labels and scale.
        corpus: For utt2domain, if any.
        further: Scores of other predictors by key of metric.scp and clip.
    """
    tables = {file: read_table(folder, file) for file in FILES}
    if corpus:
        tables["utt2domain"] = {clip: corpus for clip in clips}
    entries: Dict[str, Dict[str, float]] = {clip: {} for clip in clips}
    for clip, label in read_metric_scp(f"{folder}/metric.scp").items():
        if clip in entries and label is not None:
            entries[clip]["mos"] = mapped(label) if mapped else label
    for key, scores in (further or {}).items():
        for clip in clips:
            if scores.get(clip) is not None:
                entries[clip][key] = scores[clip]
    tables["metric.scp"] = {clip: json.dumps(e) for clip, e in entries.items()}
    if mapped:
        for clip, text in tables["votes.scp"].items():
            votes = [(who, mapped(vote)) for who, vote in json.loads(text)]
            tables["votes.scp"][clip] = json.dumps(votes, ensure_ascii=False)
    scale = Path(folder, "score_range")
    (out / "score_range").unlink(missing_ok=True)
    if scale.exists() and not mapped:
        with atomic_write(str(out / "score_range")) as file:
            file.write(scale.read_text())
    for file, table in sorted(tables.items(), key=lambda item: item[0] == "wav.scp"):
        some = {clip: table[clip] for clip in clips if clip in table}
        (out / file).unlink(missing_ok=True)
        if some:
            write_scp(str(out / file), some)


def further_scores(data: Path, of: str) -> Dict[str, Dict[str, Optional[float]]]:
    """Scores of a set in data/scores/KEY/CORPUS/SET, by key."""
    files = sorted(data.glob(f"scores/*/{of}/metric.scp"))
    depth = len(data.parts) + 1
    return {path.parts[depth]: read_metric_scp(str(path)) for path in files}


def write_fold(fold: Fold, sets: Dict[str, str], data: Path, labels: str) -> None:
    """Write the data directories that a fold needs beside those of the sets.

    Args:
        fold, sets: What is written, and CORPUS/SET by name.
        data: Directory of the data directories.
        labels: Of training: ranks, or linear, each scale mapped end to end.

    Raises:
        DataError: A file cannot be read or written, or a set has no clip in a part.
    """
    for name, of in sets.items():
        folder = f"{data}/{of}"
        parts = parts_of(folder)
        empty = [part for part, clips in parts.items() if not clips]
        if empty:
            raise DataError(
                f"{folder} has too few sources for a part of {' and '.join(empty)}, "
                f"expected at least three; take it out of {SETS}."
            )
        if f"test_{name}" in fold.test:
            write_part(data / f"test_{name}", folder, parts["test"])
        if name not in fold.train:
            continue
        clips = [clip for part in fold.parts for clip in parts[part]]
        given = read_metric_scp(f"{folder}/metric.scp")
        mapped = normal_scores([given[c] for c in clips if given.get(c) is not None])
        if labels == "linear":
            own = read_score_range(folder) or SCALE
            mapped = functools.partial(rescale, old=own, new=SCALE)
        options = (mapped, name, further_scores(data, of))
        place = fold.train.index(name)
        for part, some in (("train", clips), ("dev", parts["dev"])):
            directory = fold.directories(part)[place]
            write_part(data / directory, folder, some, *options)
            print(f"{data}/{directory}: {len(some)} clips", file=sys.stderr)
    parts = [DataSet(n, f"{data}/{n}", SCALE) for n in fold.directories("dev")]
    combine(parts, f"{data}/dev_{fold.name}", SCALE)


def columns(
    folds: Sequence[str], sets: Dict[str, str], test_parts: bool = True
) -> List[str]:
    """Columns of the table of these folds, see ``distilmos results --columns``.

    Every set left out, their mean, and, on the test parts, the means of models that
    had the set in training, of those that had not, and the gap between them. Without
    ``test_parts`` only folds of a single set have columns, and no gap.
    """
    left = [name for name in sets if f"no_{name}" in folds]
    alone = [name for name in sets if f"only_{name}" in folds]
    lines = [f"{name} | {sets[name]}@no_{name}" for name in left]
    if len(left) > 1:
        lines.append("mean | " + " ".join(f"{sets[n]}@no_{n}" for n in left))
    if left and "all" in folds:
        inside = " ".join(f"test_{name}@all" for name in left)
        outside = " ".join(f"test_{name}@no_{name}" for name in left)
        lines += [f"all, in domain | {inside}", f"left out, same clips | {outside}"]
        lines.append(f"gap | {inside} | {outside}")
    if alone:
        inside = " ".join(f"test_{name}@only_{name}" for name in alone)
        pairs = [(one, other) for one in alone for other in sets if one != other]
        outside = " ".join(f"test_{other}@only_{one}" for one, other in pairs)
        whole = " ".join(f"{sets[other]}@only_{one}" for one, other in pairs)
        lines += [f"alone, other sets | {whole}", f"alone, in domain | {inside}"]
    if alone and test_parts:
        lines.append(f"alone, gap | {inside} | {outside}")
    return lines


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.error = lambda text: sys.exit(f"folds.py: {text}; see README.md.")
    parser.add_argument("fold", nargs="+")
    parser.add_argument("--write", type=Path, help="write the data directories here")
    parser.add_argument("--labels", choices=("ranks", "linear"), default="ranks")
    text = "test the test parts of sets that are tested whole, too"
    parser.add_argument("--test_parts", choices=("true", "false"), help=text)
    parser.add_argument("--columns", action="store_true", help="columns of the table")
    args = parser.parse_args(argv)
    try:
        sets = read_sets()
        folds = [read_fold(name, sets) for name in args.fold]
        if args.test_parts == "false":
            folds = [fold.without_parts(sets) for fold in folds]
        for fold in folds:
            if args.write:
                write_fold(fold, sets, args.write, args.labels)
        if args.columns:
            test_parts = args.test_parts != "false"
            print("\n".join(columns(args.fold, sets, test_parts)))
        elif not args.write:
            print("\n".join(folds[0].options()))
    except DataError as error:
        print(f"folds.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
