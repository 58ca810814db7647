#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the last layer of distilled upstreams knows, and how distortion changes it.

Linear probes, fitted in closed form to clean speech of the training speakers:

- recovered: share of the variance of the teacher's clean states that a linear map from
  the student's states recovers on held-out speakers;
- tokens: share of their frames whose k-means token of the teacher it finds;
- speakers: share of held-out utterances of the training speakers whose speaker it
  finds, by mean and standard deviation over frames.

Each of them where the student hears the clean speech, `seen` distortions (those of
cross-distortion mapping) and `unseen` ones, of kinds that no training has. On listening
tests, SRCC of ridge regression on mean and standard deviation, groups of clips left
out. A name that is given several directories, of several seeds, has the mean of them.
"""

import argparse
import json
import logging
import os
import random
import sys
import threading
import zlib
from typing import Any, Dict, List, Optional, Sequence, Tuple

import joblib
import numpy as np
import torch

from espnet2_distilmos.cli import call, start_logging
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    read_metric_scp,
    read_scp,
)
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.checkpoint import load_model, open_trained_model
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.tokens import Codebooks, fit_codebooks
from espnet2_distilmos.train.views import NoisyView

WHAT = ("recovered", "tokens", "speakers")
VIEWS = ("clean", "seen", "unseen")
UNSEEN = ("mnru_strong", "clip_strong", "gsm", "mp3", "griffin_lim", "loss_zero")
SETTINGS = (
    "train",
    "dev",
    "teacher",
    "teacher_layer",
    "seconds",
    "num_clusters",
    "seed",
)
SETTINGS += ("train_utterances", "dev_utterances")
PENALTIES = np.logspace(-1, 5, 13)


def open_frontend(path: str, layers: Optional[int] = None) -> AbsLayerFrontend:
    """The upstream of a trained model, or a checkpoint of transformers."""
    if os.path.exists(os.path.join(path, "config.json")) or not os.path.exists(path):
        return build_frontend("hf", {"upstream": path, "num_layers": layers}).eval()
    with open_trained_model(path) as files:
        return load_model(*files)[0].frontend.eval()


class Clips:
    """Utterances of a data directory, as each view has them.

    Args:
        folder: with wav.scp and utt2spk.
        most: utterances, drawn by seed whatever the order of the file.
        seconds: of each, from its beginning.
    """

    def __init__(self, folder: str, most: int, seconds: float, seed: int):
        paths = read_scp(os.path.join(folder, "wav.scp"))
        ids = sorted(paths)
        random.Random(seed).shuffle(ids)
        self.ids = ids[:most]
        speakers = read_scp(os.path.join(folder, "utt2spk"))
        self.speakers = [speakers[i] for i in self.ids]
        samples = int(seconds * 16000)
        self.audio = {"clean": [read_audio(paths[i])[:samples] for i in self.ids]}
        for name, options in (
            ("seen", {"scheme": "double"}),
            ("unseen", {"scheme": "systems", "systems": list(UNSEEN)}),
        ):
            view = NoisyView(**options)
            self.audio[name] = [
                view(i, x, np.random.default_rng([seed, zlib.crc32(i.encode())])).audio
                for i, x in zip(self.ids, self.audio["clean"])
            ]

    @torch.inference_mode()
    def states(
        self, frontend: AbsLayerFrontend, view: str, layer: int = -1
    ) -> List[np.ndarray]:
        """States (T, D) of a layer of each utterance."""
        found = []
        for audio in self.audio[view]:
            speech = torch.from_numpy(np.ascontiguousarray(audio, np.float32))[None]
            hidden, _ = frontend(speech, torch.tensor([speech.size(1)]))
            found.append(hidden[layer][0].numpy())
        return found


class Linear:
    """Ridge regression on standardised features, in closed form.

    Args:
        x: (N, D).
        y: (N, E).
        penalty: a frame's, so that it is multiplied by N.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, penalty: float = 1e-3):
        self.mean, self.scale = x.mean(0), x.std(0) + 1e-6
        x = (x - self.mean) / self.scale
        self.offset = y.mean(0)
        gram = x.T @ x + penalty * len(x) * np.eye(x.shape[1])
        self.weight = np.linalg.solve(gram, x.T @ (y - self.offset))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.mean) / self.scale @ self.weight + self.offset


def pooled(states: List[np.ndarray]) -> np.ndarray:
    """Mean and standard deviation over frames: (N, 2 D)."""
    return np.stack([np.concatenate([x.mean(0), x.std(0)]) for x in states])


def frames_of(
    student: List[np.ndarray], teacher: List[np.ndarray], offset: int
) -> Tuple[np.ndarray, np.ndarray]:
    """Frames of both that are nearest in time, one after the other."""
    pairs = []
    for own, other in zip(student, teacher):
        own, other = own[max(0, -offset) :], other[max(0, offset) :]
        count = min(len(own), len(other))
        pairs.append((own[:count], other[:count]))
    own, other = (np.concatenate(each).astype(np.float64) for each in zip(*pairs))
    return own, other


class Teaching:
    """What the teacher's clean states are, and its tokens."""

    def __init__(self, args: argparse.Namespace, train: Clips, dev: Clips):
        self.frontend = open_frontend(args.teacher)
        self.train = train.states(self.frontend, "clean", args.teacher_layer)
        self.dev = dev.states(self.frontend, "clean", args.teacher_layer)
        all_of = np.concatenate(self.train).astype(np.float32)
        centroids, _ = fit_codebooks(all_of[None], args.num_clusters, args.seed)
        self.book = Codebooks(centroids, (0,), "probe", 320, 16000, "")

    def tokens(self, states: np.ndarray) -> np.ndarray:
        """Tokens (M,) of frames (M, D)."""
        x = torch.from_numpy(states[None].astype(np.float32))
        return self.book.assign([x], torch.tensor([len(states)]))[0, :, 0].numpy()


def probe(
    student: AbsLayerFrontend, train: Clips, dev: Clips, teaching: Teaching
) -> Dict[str, float]:
    """All linear probes of a student, by name and view."""
    later = student.frame_centre - teaching.frontend.frame_centre
    offset = round(later / student.frame_shift)
    clean = train.states(student, "clean")
    x, y = frames_of(clean, teaching.train, offset)
    recover = Linear(x, y)
    tokens = teaching.tokens(y)
    classify = Linear(x, np.eye(len(teaching.book.centroids[0]))[tokens])
    names = sorted(set(train.speakers))
    speakers = np.array([names.index(name) for name in train.speakers])
    fitted = np.arange(len(speakers)) % 4 > 0
    identify = Linear(pooled(clean)[fitted], np.eye(len(names))[speakers[fitted]], 0.1)
    known = ~fitted & np.isin(speakers, speakers[fitted])
    row: Dict[str, float] = {}
    for view in VIEWS:
        x, y = frames_of(dev.states(student, view), teaching.dev, offset)
        rest = np.square(recover(x) - y).sum() / np.square(y - recover.offset).sum()
        row[f"recovered_{view}"] = float(1 - rest)
        right = classify(x).argmax(1) == teaching.tokens(y)
        row[f"tokens_{view}"] = float(right.mean())
        found = identify(pooled(train.states(student, view))[known]).argmax(1)
        row[f"speakers_{view}"] = float((found == speakers[known]).mean())
    return row


@torch.inference_mode()
def rated_srcc(student: AbsLayerFrontend, folder: str, groups_of: str) -> float:
    """SRCC of a listening test's clips, whose groups are left out in turn."""
    from scipy.stats import spearmanr
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = read_metric_scp(os.path.join(folder, "metric.scp"))
    paths = read_scp(os.path.join(folder, "wav.scp"))
    table = read_scp(os.path.join(folder, groups_of))
    ids = sorted(i for i in paths if labels.get(i) is not None)
    states = []
    for i in ids:
        speech = torch.from_numpy(read_audio(paths[i]))[None]
        states.append(student(speech, torch.tensor([speech.size(1)]))[0][-1][0].numpy())
    x, y = pooled(states), np.array([labels[i] for i in ids])
    groups = np.array([table[i] for i in ids])
    predicted = np.zeros_like(y)
    folds = GroupKFold(min(6, len(set(groups))))
    for train, test in folds.split(x, y, groups):
        model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
        predicted[test] = model.fit(x[train], y[train]).predict(x[test])
    return float(spearmanr(predicted, y)[0])


def rated_folder(rated: str) -> Tuple[str, str]:
    """Data directory and file of a listening test, given as NAME=DIRECTORY:FILE.

    Raises:
        DataError: It is given in another way.
    """
    name, _, where = rated.partition("=")
    folder, _, file = where.rpartition(":")
    if not (name and folder and file):
        raise DataError(
            f"found the ratings {rated!r}, expected NAME=DIRECTORY:FILE with the file "
            "whose groups are left out, such as p835=data/p835:utt2spk."
        )
    return folder, file


def find_students(args: argparse.Namespace) -> List[Tuple[str, str, Optional[int]]]:
    """Name, path and number of layers of everything that is probed."""
    found: List[Tuple[str, str, Optional[int]]] = []
    if args.baseline_layers:
        few = args.baseline_layers
        found = [("teacher", args.teacher, None)]
        found.append((f"its first {few} layers", args.teacher, few))
    for given in args.students:
        name, _, path = given.partition("=")
        if not path:
            raise DataError(f"found the student {given!r}, expected NAME=DIRECTORY.")
        found.append((name, path, None))
    return found


class Probes:
    """What is known of each student, by its fingerprint, kept in OUTPUT.json.

    Args:
        output: without .json; what it has of the same settings is not computed again.
        settings: options that change what a probe finds.
    """

    def __init__(self, output: str, settings: Dict[str, Any]):
        self.output = output
        self.settings = settings
        self.rows: Dict[str, Dict[str, float]] = {}
        self.students: Dict[str, Dict[str, str]] = {}
        self._lock = threading.Lock()
        if os.path.exists(f"{output}.json"):
            with open(f"{output}.json") as file:
                before = json.load(file)
            if before.get("settings") == settings:
                self.rows = before["rows"]

    def add(self, name: str, path: str, fingerprint: str, row: Dict[str, float]):
        """Keep a student's row."""
        with self._lock:
            self.rows[fingerprint] = row
            self.students.setdefault(name, {})[path] = fingerprint
            names = ("settings", "students", "rows")
            data = {key: getattr(self, key) for key in names}
            with atomic_write(f"{self.output}.json") as file:
                file.write(json.dumps(data, indent=1) + "\n")

    def table(self, names: Sequence[str], columns: Sequence[str]) -> str:
        """A line of each name, the mean over its directories."""
        # Of ratings, NAME alone.
        heads = (column.partition("=")[0].replace("_", " ") for column in columns)
        lines = ["| student | " + " | ".join(heads) + " |"]
        lines.append("|---|" + "---:|" * len(columns))
        apart = []
        for name in names:
            rows = [self.rows[f] for f in self.students[name].values()]
            values = np.array([[row[column] for column in columns] for row in rows])
            means = " | ".join(f"{x:.3f}" for x in values.mean(0))
            lines.append(f"| {name} | {means} |")
            if len(values) > 1:
                apart.append(values.var(0, ddof=1))
        if apart:
            spread = " | ".join(f"{x:.3f}" for x in np.sqrt(np.mean(apart, axis=0)))
            lines.append(f"| *SD between seeds* | {spread} |")
        return "\n".join(lines) + "\n"


def probe_all(args: argparse.Namespace) -> int:
    """Write the table and the numbers; return the exit code."""
    students = find_students(args)
    settings = {key: getattr(args, key) for key in SETTINGS}
    probes = Probes(args.output, settings)
    rated = {f"srcc_{given}": rated_folder(given) for given in args.ratings}
    columns = [f"{what}_{view}" for what in WHAT for view in VIEWS]
    train = Clips(args.train, args.train_utterances, args.seconds, args.seed)
    dev = Clips(args.dev, args.dev_utterances, args.seconds, args.seed)
    teaching = Teaching(args, train, dev)

    def look_at(name: str, path: str, layers: Optional[int]) -> None:
        student = open_frontend(path, layers)
        fingerprint = student.fingerprint()
        row = dict(probes.rows.get(fingerprint, {}))
        if not set(columns) <= set(row):
            row.update(probe(student, train, dev, teaching))
        for key, (folder, groups_of) in rated.items():
            if key not in row:
                row[key] = rated_srcc(student, folder, groups_of)
        probes.add(name, path, fingerprint, row)
        logging.info(f"{name}: {path} is probed")

    # Threads, as the clips of all views are large.
    run = joblib.Parallel(n_jobs=args.nj, prefer="threads")
    run(joblib.delayed(look_at)(*student) for student in students)
    names = list(dict.fromkeys(name for name, *_ in students))
    table = probes.table(names, [*columns, *rated])
    with atomic_write(f"{args.output}.md") as file:
        file.write(table)
    print(table, end="")
    return 0


def main(cmd: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("students", nargs="+", metavar="NAME=DIRECTORY", help="model or checkpoint")
    add("--nj", type=int, default=1, help="students at a time")
    add("--baseline_layers", type=int, help="lines of the teacher and its first layers")
    add("--train", required=True, help="data directory of the training speakers")
    add("--dev", required=True, help="data directory of other speakers")
    add("--teacher", required=True, help="upstream: directory or hub id")
    add("--teacher_layer", type=int, default=-1, help="hidden state; -1 is the last")
    add("--output", required=True, help="without .md and .json")
    add(
        "--ratings",
        nargs="*",
        default=[],
        metavar="NAME=DIR:FILE",
        help="listening tests",
    )
    add("--train_utterances", type=int, default=400)
    add("--dev_utterances", type=int, default=100)
    add("--seconds", type=float, default=4.0, help="of each utterance")
    add("--num_clusters", type=int, default=100)
    add("--seed", type=int, default=0)
    args = parser.parse_args(cmd)
    start_logging()
    return call(lambda: probe_all(args))


if __name__ == "__main__":
    sys.exit(main())
