#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Label speech with teachers' scores: the command `distilmos pseudo_label`."""

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from espnet2_distilmos.cli import progress, run, split_name
from espnet2_distilmos.data.audio import AudioError, read_audio
from espnet2_distilmos.data.datadir import (
    DataError,
    read_metric_scp,
    read_score_range,
    read_scp,
    write_scp,
)
from espnet2_distilmos.data.journal import Journal
from espnet2_distilmos.evaluation.formats import read_scores, write_scores
from espnet2_distilmos.evaluation.join import Score, match, shown
from espnet2_distilmos.evaluation.metrics import lcc, srcc
from espnet2_distilmos.evaluation.router import (
    Router,
    check_labelled,
    cross_predict,
    fit_router,
    fittable,
    read_router,
    write_router,
)
from espnet2_distilmos.teachers import (
    PACKAGES,
    SAMPLE_RATE,
    Teacher,
    is_table,
    load_teacher,
    teach,
)

# What else a data directory says of its utterances.
TABLES = ("utt2sys", "utt2spk", "utt2src", "utt2domain")
CHOICES = ("mean", "router")
# More labels beyond --score_range mean that it is another scale than the scores'.
CLIPPED_SHARE = 0.05
# Scores of a set's clips: by utterance by key.
Scores = Dict[str, Dict[str, float]]


class Set(NamedTuple):
    """A data directory, and what the teachers say of it.

    Attributes:
        name: of the directory.
        folder: the directory.
        paths: audio by utterance.
        scores: what there is of them.
        faults: sentences by utterance.
    """

    name: str
    folder: str
    paths: Dict[str, str]
    scores: Scores
    faults: Dict[str, List[str]]


class Source(NamedTuple):
    """A teacher as it was named: a package, a model of ours or a table of scores."""

    name: str
    path: str  # "" of a package
    is_table: bool


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Label a data directory with the scores of teachers: each is a key "
        "of metric.scp, and one of them, their mean or a router's mix of them is the "
        "label mos. Of labelled sets the correlations of each choice are printed.",
        epilog="Finished scores are kept in OUTPUT/teachers: a killed run goes on, and "
        "another --target costs nothing. OUTPUT/scores.csv has all clips and why one "
        "has no score. Exit code: 0, or 1 when a clip has none.",
    )
    parser.add_argument("data_dir", metavar="DATA_DIR", help="has wav.scp")
    parser.add_argument(
        "--teachers",
        required=True,
        help="list of distillmos, dnsmos, plcmos (packages), [NAME=]MODEL (directory, "
        ".zip or hub tag of a model of ours) and [NAME=]TABLE (any file of scores that "
        "`distilmos convert` reads)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="data directory")
    parser.add_argument(
        "--target",
        default="mean",
        metavar="KEY|mean|router",
        help="the label mos: the score of one key, the mean of the teachers' overall "
        "scores (a clip that one of them has not scored gets none: a mean of fewer is "
        "on another scale), or a mix of all keys whose weights depend on the scores "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--labelled",
        default="",
        metavar="DIRS",
        help="list of data directories with human labels: the router is fitted to "
        "them, and every choice is compared with them; [NAME=]DIR",
    )
    parser.add_argument(
        "--router",
        metavar="router.json",
        help="take this router instead of fitting one (it is in an OUTPUT)",
    )
    parser.add_argument(
        "--balance",
        type=int,
        metavar="BINS",
        help="keep equally many clips of each of BINS ranges of the label",
    )
    parser.add_argument(
        "--score_range",
        type=float,
        nargs=2,
        default=(1.0, 5.0),
        metavar=("LOW", "UP"),
        help="labels beyond are brought to its ends, at most 5 %% of them (default: "
        "1 5)",
    )
    parser.add_argument(
        "--nj", type=int, default=1, help="processes (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="of models of ours")
    return parser


# Scores of the teachers


def parse_sources(text: str) -> List[Source]:
    """Take the list of teachers apart.

    Raises:
        DataError: there is none, or two of one name.
    """
    sources: List[Source] = []
    for word in text.split():
        source = Source(word, "", False)
        if word not in PACKAGES:
            name, path = split_name(word)
            source = Source(name, path, is_table(path))
        if source.name in (*(one.name for one in sources), "mos", *CHOICES):
            raise DataError(
                f"--teachers names {source.name} a second time, or a teacher like the "
                "label or a choice of it, expected another name for each; write "
                "NAME=PATH."
            )
        sources.append(source)
    if not sources:
        raise DataError("--teachers is empty, expected one such as distillmos.")
    return sources


def read_set(text: str) -> Set:
    """Read the audio of a data directory, ``[NAME=]DIR``."""
    name, folder = split_name(text)
    return Set(name, folder, read_scp(os.path.join(folder, "wav.scp")), {}, {})


def read_labelled_sets(text: str) -> List[Set]:
    """Read the audio of the labelled sets.

    Raises:
        DataError: two have one name or are the same, one cannot be read, or its labels
            are too few to compare with.
    """
    sets: List[Set] = []
    for word in text.split():
        data = read_set(word)
        for one in sets:
            places = (os.path.realpath(of.folder) for of in (one, data))
            if one.name == data.name or len(set(places)) == 1:
                raise DataError(
                    f"--labelled names {one.name} ({one.folder}) a second time with "
                    f"{word}, expected another set and name for each; write NAME=DIR."
                )
        sets.append(data)
    for data in sets:  # what is wrong with them is not said after hours
        truth = read_labels(data)
        labels = [truth[i] for i in data.paths if truth.get(i) is not None]
        check_labelled(data.name, labels, "a label")
    return sets


@functools.lru_cache(maxsize=None)
def get_teacher(source: Source, device: str) -> Teacher:
    """Load a teacher, once a process."""
    return load_teacher(source.name, source.path, device)


class Task(NamedTuple):
    """A clip, and the teachers that have not scored it."""

    utt_id: str
    path: str
    stamp: str
    sources: Sequence[Source]
    device: str


def do_task(task: Task) -> List[Dict[str, Any]]:
    """Score a clip: a row each teacher, with ``error`` instead of ``scores`` if any."""
    row = {"id": task.utt_id, "audio": task.stamp}
    try:
        audio = read_audio(task.path, SAMPLE_RATE, task.utt_id)
    except AudioError as error:
        return [{**row, "error": str(error)}]
    rows = []
    for source in task.sources:
        teacher = get_teacher(source, task.device)
        one = {**row, "teacher": source.name, "fingerprint": teacher.fingerprint}
        try:
            one["scores"] = teach(teacher, audio, f"utterance {task.utt_id}")
        except DataError as error:
            one["error"] = str(error)
        rows.append(one)
    return rows


def _one_thread() -> None:
    # Many short clips: a process each is faster than threads.
    import torch

    torch.set_num_threads(1)


def do_tasks(tasks: Sequence[Task], nj: int) -> Iterator[List[Dict[str, Any]]]:
    """Do the tasks in their order, in ``nj`` processes."""
    if nj == 1:
        yield from map(do_task, tasks)
        return
    # Spawned: threads of torch and onnxruntime do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(nj, context, _one_thread) as pool:
        yield from pool.map(do_task, tasks, chunksize=4)


def stamp_of(path: str) -> str:
    """What tells that a file is still the one that was scored."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return ""
    return f"{status.st_size}-{status.st_mtime_ns}"


def score_set(
    data: Set, sources: Sequence[Source], output: str, nj: int, device: str
) -> None:
    """Let the teachers that hear audio score a set; what is known is not scored anew.

    Args:
        data: gets scores and faults.
        sources: packages and models.
        output: has the journals of the sets.
    """
    fingerprints = {s: get_teacher(s, device).fingerprint for s in sources}
    folder = hashlib.sha256(os.path.abspath(data.folder).encode()).hexdigest()[:8]
    path = os.path.join(output, "teachers", f"{data.name}-{folder}.jsonl")
    journal = Journal(path, {"kind": "teachers' scores"}, resume=True)
    try:
        known = {
            (row["id"], row["audio"], row["teacher"], row["fingerprint"]): row["scores"]
            for row in journal.rows
        }
        tasks = []
        for utt_id, wav in data.paths.items():
            stamp = stamp_of(wav)
            missing = []
            for source in sources:
                key = (utt_id, stamp, source.name, fingerprints[source])
                if stamp and key in known:
                    data.scores.setdefault(utt_id, {}).update(known[key])
                else:
                    missing.append(source)
            if missing:
                tasks.append(Task(utt_id, wav, stamp, missing, device))
        done = do_tasks(tasks, nj) if tasks else ()
        if tasks:
            done = progress(done, f"score {data.name}", len(tasks), "clip")
        for rows in done:
            for row in rows:
                if "error" in row:
                    data.faults.setdefault(row["id"], []).append(row["error"])
                else:
                    journal.add(row)
                    data.scores.setdefault(row["id"], {}).update(row["scores"])
    finally:
        journal.close()


def read_table(data: Set, source: Source) -> None:
    """Take the scores of a file; ``data`` gets what it has of its utterances."""
    file = read_scores(source.path)
    records = file.records
    # What is wrong with a score, by the id as its sentence shows it.
    found = (re.search(" utterance (.*) has the score ", p) for p in file.problems)
    faults = {one[1]: one.string for one in found if one}
    pairs, _ = match(
        list(data.paths.items()), [(record.id, record.path) for record in records]
    )
    for index, (utt_id, _) in enumerate(data.paths.items()):
        record = records[pairs[index]] if index in pairs else None
        if record is not None and record.score is not None:
            scores = data.scores.setdefault(utt_id, {})
            scores[source.name] = round(float(record.score), 4)
        else:
            reason = f"utterance {utt_id}: {source.path} has no score for it."
            if record is not None:
                reason = faults.get(shown(record.id), reason)
            data.faults.setdefault(utt_id, []).append(reason)


def add_scores(
    data: Set, sources: Sequence[Source], main: Sequence[str], args: argparse.Namespace
) -> None:
    """Fill the scores and faults of a set; say how many a teacher has not scored.

    Args:
        main: the overall score of each source.
    """
    audible = [source for source in sources if not source.is_table]
    if audible:
        score_set(data, audible, args.output, args.nj, args.device)
    for source in sources:
        if source.is_table:
            read_table(data, source)
    for source, key in zip(sources, main):
        count = sum(key not in data.scores.get(i, {}) for i in data.paths)
        if count:
            print(
                f"{source.name}: no score for {count} of {len(data.paths)} clips of "
                f"{data.folder}",
                file=sys.stderr,
            )


# Choices of the label


def as_matrix(scores: Iterable[Dict[str, float]], keys: Sequence[str]) -> np.ndarray:
    """(clips, keys) float64, NaN of what is not there."""
    rows = [[one.get(key, np.nan) for key in keys] for one in scores]
    return np.array(rows, dtype=np.float64).reshape(-1, len(keys))


def mean_of(matrix: np.ndarray, keys: Sequence[str], main: Sequence[str]) -> np.ndarray:
    """Mean of the overall scores ``main``, (clips,); NaN where one is missing.

    Teachers have scales of their own: a mean of fewer is not comparable with others.
    """
    return matrix[:, [keys.index(key) for key in main]].mean(axis=1)


def read_labels(data: Set) -> Dict[str, Optional[float]]:
    """Human labels of a set by utterance, on the scale that it has."""
    path = os.path.join(data.folder, "metric.scp")
    return read_metric_scp(path, score_range=read_score_range(data.folder))


class Labelled(NamedTuple):
    """The labelled clips that have a teacher's score: n of them, of all sets."""

    matrix: np.ndarray  # (n, keys)
    labels: np.ndarray  # (n,)
    sets: List[str]
    groups: List[str]


def read_labelled(sets: Sequence[Set], keys: Sequence[str]) -> Labelled:
    """Join the labels of the sets with the teachers' scores."""
    rows, labels, names, groups = [], [], [], []
    for data in sets:
        truth = read_labels(data)
        path = os.path.join(data.folder, "utt2src")
        source_of = read_scp(path) if os.path.exists(path) else {}
        for utt_id in data.paths:
            if truth.get(utt_id) is not None and data.scores.get(utt_id):
                rows.append(data.scores[utt_id])
                labels.append(truth[utt_id])
                names.append(data.name)
                groups.append(source_of.get(utt_id, utt_id))
    return Labelled(as_matrix(rows, keys), np.array(labels), names, groups)


def comparison(
    labelled: Labelled, keys: Sequence[str], main: Sequence[str]
) -> List[str]:
    """A table of the correlations of every choice with the labels, by set: lines."""
    given = (labelled.matrix, labelled.labels, labelled.sets, labelled.groups, keys)
    columns = {key: labelled.matrix[:, i] for i, key in enumerate(keys)}
    columns["mean"] = mean_of(labelled.matrix, list(keys), main)
    columns["router, other clips"] = cross_predict(*given)
    names = list(dict.fromkeys(labelled.sets))
    if len(names) > 1:
        columns["router, other sets"] = cross_predict(*given, leave_sets=True)
    width = max(map(len, columns))
    head = "".join(f"  {f'{name} SRCC / LCC (clips)':>28}" for name in names)
    lines = [f"{'label':{width}}{head}"]
    for choice, values in columns.items():
        cells = []
        for name in names:
            own = [i for i, one in enumerate(labelled.sets) if one == name]
            own = [i for i in own if np.isfinite(values[i])]
            found = [
                metric([values[i] for i in own], [labelled.labels[i] for i in own])
                for metric in (srcc, lcc)
            ]
            texts = ["-" if m.value is None else f"{m.value:.3f}" for m in found]
            cells.append(f"{' / '.join(texts)} ({len(own)})")
        lines.append(f"{choice:{width}}" + "".join(f"  {cell:>28}" for cell in cells))
    return lines


def choose_balanced(labels: Dict[str, float], bins: int) -> List[str]:
    """Choose equally many clips of each range of the label.

    The ranges are equally wide between the 2.5 % and the 97.5 % quantile; what is
    beyond belongs to the first and the last. Each gives as many as the smallest has,
    by the hash of the id.

    Returns:
        Ids in their order.

    Raises:
        DataError: a range has no clip.
    """
    values = np.array(list(labels.values()))
    low, high = np.quantile(values, (0.025, 0.975))
    places = np.zeros(len(values), dtype=int)
    if high > low:
        places = np.clip((values - low) / (high - low) * bins, 0, bins - 1).astype(int)
    counts = np.bincount(places, minlength=bins)
    edges = np.linspace(low, high, bins + 1)
    ranges = (
        f"{bins} ranges between {', '.join(f'{edge:.2f}' for edge in edges)}, which "
        f"have {', '.join(map(str, counts))}"
    )
    if not counts.min():
        raise DataError(
            f"--balance {bins} makes {ranges} clips, expected some in each; give fewer "
            "ranges, or leave --balance out."
        )
    print(f"balance: {counts.min()} clips of each of {ranges}", file=sys.stderr)
    chosen = set()
    ids = np.array(list(labels), dtype=object)
    for place in range(bins):
        own = ids[places == place]
        own = sorted(own, key=lambda i: hashlib.sha256(i.encode()).digest())
        chosen.update(own[: counts.min()])
    return [utt_id for utt_id in labels if utt_id in chosen]


# The command


def write_labels(
    data: Set, labels: Dict[str, float], kept: Sequence[str], output: str
) -> None:
    """Write the data directory of the clips in ``kept``; wav.scp last."""
    lines = {}
    for utt_id in kept:
        entry = dict(data.scores[utt_id])
        if utt_id in labels:
            entry = {"mos": labels[utt_id], **entry}
        lines[utt_id] = json.dumps(entry)
    tables = {"metric.scp": lines}
    for name in TABLES:
        path = os.path.join(data.folder, name)
        values = read_scp(path) if os.path.exists(path) else {}
        tables[name] = {i: values[i] for i in kept if i in values}
    tables["wav.scp"] = {utt_id: data.paths[utt_id] for utt_id in kept}
    for name, table in tables.items():
        path = os.path.join(output, name)
        if table:
            write_scp(path, table)
        elif os.path.exists(path):
            os.remove(path)  # of an earlier run


def write_table(
    data: Set, labels: Dict[str, float], keys: Sequence[str], output: str
) -> None:
    """Write all clips with their scores, and why one has none."""
    records = []
    for utt_id, path in data.paths.items():
        record = Score(utt_id, labels.get(utt_id), path=path)
        scores = data.scores.get(utt_id, {})
        record.extra = {key: scores[key] for key in keys if key in scores}
        record.error = " ".join(data.faults.get(utt_id, []))
        records.append(record)
    write_scores(os.path.join(output, "scores.csv"), records, "distilmos-csv")


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that cannot work, before anything is loaded.

    Raises:
        DataError: one sentence.
    """
    given = [args.data_dir, *(split_name(one)[1] for one in args.labelled.split())]
    same = os.path.realpath(args.output) in map(os.path.realpath, given)
    labels, table = (
        os.path.join(args.output, name) for name in ("metric.scp", "scores.csv")
    )
    wrong = ""
    if same:
        wrong = f"--output is {args.output}, the data itself, expected another place"
    elif os.path.exists(labels) and not os.path.exists(table):
        wrong = (
            f"{labels} is there and was not written by this command, expected a new "
            "directory as --output, as its labels would be lost"
        )
    elif os.path.exists(args.output) and not os.path.isdir(args.output):
        wrong = f"--output is {args.output}, a file, expected a directory or a new name"
    elif args.nj < 1 or (args.nj > 1 and args.device != "cpu"):
        wrong = f"--nj is {args.nj}, expected 1, or more on the CPU"
    elif args.balance is not None and args.balance < 2:
        wrong = f"--balance is {args.balance}, expected at least two ranges"
    elif not args.score_range[0] < args.score_range[1]:
        wrong = "--score_range is empty, expected the lower end first"
    elif args.target == "router" and not (args.labelled or args.router):
        wrong = "--target router needs --labelled sets to fit it to, or a --router"
    elif args.labelled and args.router:
        wrong = "both --labelled and --router are given, expected one of them"
    if wrong:
        raise DataError(f"{wrong}.")


def find_target(
    args: argparse.Namespace,
    matrix: np.ndarray,
    keys: List[str],
    main: Sequence[str],
    router: Optional[Router],
) -> np.ndarray:
    """The label of each clip, (clips,); NaN where there is none."""
    if args.target == "mean":
        return mean_of(matrix, keys, main)
    if args.target == "router":
        missing = set(router.keys) - set(keys)
        if missing:
            raise DataError(
                f"the router mixes {', '.join(router.keys)}, expected a teacher of "
                f"each, found none of {', '.join(sorted(missing))}; add them."
            )
        return router(matrix[:, [keys.index(key) for key in router.keys]])
    return matrix[:, keys.index(args.target)]


def bring_to_range(target: np.ndarray, score_range: Sequence[float]) -> np.ndarray:
    """Bring labels (clips,) to the ends of the range; NaN stays.

    Raises:
        DataError: more than 5 % are beyond it.
    """
    low, up = score_range
    known = target[np.isfinite(target)].round(4)
    count = int(((known < low) | (known > up)).sum())
    if count > CLIPPED_SHARE * len(known):
        raise DataError(
            f"{count} of {len(known)} labels are beyond --score_range {low:g} {up:g}, "
            f"found {known.min():g} to {known.max():g}, expected at most "
            f"{CLIPPED_SHARE:.0%} beyond; give the scale of the scores as "
            "--score_range, or choose another --target."
        )
    if count:
        print(
            f"{count} of {len(known)} labels were beyond --score_range {low:g} {up:g} "
            "and are its ends now",
            file=sys.stderr,
        )
    return np.clip(target, low, up)


def pseudo_label(args: argparse.Namespace) -> Dict[str, str]:
    """Do what the options say.

    Returns:
        A sentence by the utterance without a label.

    Raises:
        DataError: an option is impossible, a teacher is not there, no clip could be
            labelled, or a file cannot be read or written.
    """
    check_options(args)
    sources = parse_sources(args.teachers)
    keys: List[str] = []
    main: List[str] = []
    for source in sources:
        of_one = [source.name]
        if not source.is_table:
            of_one = list(get_teacher(source, args.device).keys)
        keys += of_one
        main.append(of_one[0])
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise DataError(
            f"--teachers give the score {twice[0]} twice, expected another name for "
            "each; write NAME=PATH."
        )
    if args.target not in (*keys, *CHOICES):
        raise DataError(
            f"--target is {args.target}, expected one of {', '.join(keys + [*CHOICES])}"
        )
    data = read_set(args.data_dir)
    labelled_sets = read_labelled_sets(args.labelled)
    # First the labelled sets: their table is there long before the labels.
    for one in labelled_sets:
        add_scores(one, sources, main, args)
    router = None
    if labelled_sets:
        router = compare_and_fit(labelled_sets, keys, main, args)
    elif args.router:
        router = read_router(args.router)
    add_scores(data, sources, main, args)

    ids = list(data.paths)
    matrix = as_matrix((data.scores.get(i, {}) for i in ids), keys)
    target = find_target(args, matrix, keys, main, router)
    target = bring_to_range(target, args.score_range)
    labels = {
        utt_id: round(float(value), 4)
        for utt_id, value in zip(ids, target)
        if np.isfinite(value)
    }
    kept = [utt_id for utt_id in ids if data.scores.get(utt_id)]
    if args.balance is not None and labels:
        kept = choose_balanced(labels, args.balance)
    # Nothing of an earlier run is touched before this.
    write_table(data, labels, keys, args.output)
    if not labels:
        raise DataError(
            f"{args.data_dir}: no clip has a label, see {args.output}/scores.csv."
        )
    write_labels(data, labels, kept, args.output)
    print(
        f"{args.output}: {len(kept)} of {len(ids)} clips, label {args.target}, "
        f"{len(labels)} with one",
        file=sys.stderr,
    )
    return {
        utt_id: " ".join(data.faults.get(utt_id, [f"utterance {utt_id}: no score."]))
        for utt_id in ids
        if utt_id not in labels
    }


def compare_and_fit(
    sets: Sequence[Set],
    keys: Sequence[str],
    main: Sequence[str],
    args: argparse.Namespace,
) -> Optional[Router]:
    """Print how well every choice does, fit the router and keep it.

    Returns:
        The router; None where no key has scores to fit it to.

    Raises:
        DataError: a set has too few clips, or the label is to be a router's and a key
            has no two different scores of the labelled clips.
    """
    labelled = read_labelled(sets, keys)
    for data in sets:
        own = [
            v for v, name in zip(labelled.labels, labelled.sets) if name == data.name
        ]
        check_labelled(data.name, own, "a label and a teacher's score")
    print(*comparison(labelled, keys, main), sep="\n")
    sys.stdout.flush()
    rows, columns = fittable(labelled.matrix)
    left_out = [key for k, key in enumerate(keys) if k not in columns]
    if left_out:
        problem = (
            f"a router cannot be fitted with {', '.join(left_out)}, expected two "
            "different scores at least of the clips of the labelled "
            f"{', '.join(data.folder for data in sets)}"
        )
        if args.target == "router":
            raise DataError(f"{problem}; score these clips or leave the teacher out.")
        done = "it is left out" if len(columns) else "there is no router"
        print(f"{problem}; {done}", file=sys.stderr)
        if not len(columns):
            return None
    matrix = labelled.matrix[np.ix_(rows, columns)]
    names, groups = ([of[i] for i in rows] for of in (labelled.sets, labelled.groups))
    if len(set(zip(names, groups))) == 1:
        print(
            "router: all labelled clips have one source (utt2src), so that there is no "
            "cross-validation: the penalty is the greatest, and nothing says how well "
            "the router does on other clips"
        )
    keys = [keys[k] for k in columns]
    router = fit_router(matrix, labelled.labels[rows], names, groups, keys)
    weights = router.weights(matrix)
    mean = ", ".join(f"{k} {w:.2f}" for k, w in zip(keys, weights.mean(axis=0)))
    print(f"router: penalty {router.penalty:g}, mean weights {mean}")
    write_router(os.path.join(args.output, "router.json"), router)
    return router


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(lambda: pseudo_label(args), "clips have no label.")


if __name__ == "__main__":
    sys.exit(main())
