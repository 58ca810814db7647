#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""One table from many results.json: models as rows, test sets as columns."""

import argparse
import json
import os
import re
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from espnet2_distilmos.bin.compare import common_utterances
from espnet2_distilmos.bin.mos_scoring import (
    FORMAT_VERSION,
    cell,
    markdown,
    number,
    with_interval,
)
from espnet2_distilmos.bin.score import Scored, run
from espnet2_distilmos.fileio.datadir import DataError, atomic_write
from espnet2_distilmos.fileio.score_formats import read_scores
from espnet2_distilmos.fileio.scores import clusters_of, join
from espnet2_distilmos.mos.evaluation.metrics import ALL_METRICS
from espnet2_distilmos.mos.evaluation.paired import compare_models
from espnet2_distilmos.mos.evaluation.seeds import seed_difference, summarise_seeds

ALPHA = 0.05
# Better and worse than the baseline.
_MARKS = {True: "▲", False: "▼"}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos results",
        description="Put the results.json of many experiments into one Markdown "
        "table, ready for an ESPnet README: models as rows, test sets as columns, "
        "intervals, the commands, and, with --baseline, a mark where a model differs "
        "from it (paired bootstrap on the same clips, Holm's correction).",
    )
    parser.add_argument("results", metavar="RESULTS.JSON", nargs="+")
    parser.add_argument(
        "--metrics",
        default="utt_mos_srcc,sys_mos_srcc",
        metavar="LIST",
        help="a table for each; utt_mos_ or sys_mos_ and one of "
        f"{','.join(ALL_METRICS)} (utt_mos_srcc,sys_mos_srcc)",
    )
    parser.add_argument(
        "--baseline",
        metavar="MODEL",
        help="compare the other models with this one; the files that were scored must "
        "still be there",
    )
    parser.add_argument(
        "--seeds",
        metavar="REGEX",
        help="the part of a model's name that tells its seed, such as '_seed[0-9]+$': "
        "models that differ in it alone are one method, shown as the mean and SD of "
        "its runs; --baseline is then a method, compared over the runs (t interval, "
        "paired where the seeds are the same)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the resampling (0)"
    )
    parser.add_argument("--output", metavar="FILE", help="write the page here too")
    return parser


def read_results(path: str) -> Dict[str, Any]:
    """Read a results.json.

    Raises:
        DataError: It is none.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a results.json of stage 9; run "
            "stage 9 again."
        ) from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != FORMAT_VERSION or not isinstance(document.get("results"), list):
        raise DataError(
            f"{path}: found format version {version}, expected {FORMAT_VERSION}; run "
            "stage 9 again."
        )
    return document


def collect(documents: Dict[str, Dict[str, Any]]) -> Tuple[List[Dict], List[str]]:
    """Gather the rows of all documents, each model and test set once.

    Args:
        documents: contents of results.json by path.

    Returns:
        The rows in their order, and a sentence for each that another contradicts.
    """
    rows: Dict[Tuple[str, str], Dict[str, Any]] = {}
    problems = []
    for path, document in documents.items():
        for row in document["results"]:
            key = (row["model"], row["test_set"])
            other = rows.setdefault(key, row)
            names = [f"{level}_mos_srcc" for level in ("utt", "sys")]
            if any(other.get(name) != row.get(name) for name in names):
                problems.append(
                    f"{path} has {row['model']} on {row['test_set']} with other values "
                    "than a file before it, expected each model once; the first was "
                    "kept: leave one file out or name the models differently."
                )
    return list(rows.values()), problems


def verdicts(
    rows: Sequence[Dict[str, Any]], metrics: Sequence[str], baseline: str, seed: int
) -> Tuple[Dict[Tuple[str, str, str], str], List[str]]:
    """Compare every model with the baseline on each test set.

    Args:
        rows: As ``collect`` returns them, with the ``files`` that were scored.
        metrics: Such as ``utt_mos_srcc``.
        baseline: Name of a model.
        seed: Of the bootstrap.

    Returns:
        The mark of (model, test set, metric) where Holm's p-value is below ``ALPHA``,
        and a sentence for each comparison that could not be made.
    """
    marks: Dict[Tuple[str, str, str], str] = {}
    problems: List[str] = []
    for test_set in dict.fromkeys(row["test_set"] for row in rows):
        of_set = [row for row in rows if row["test_set"] == test_set]
        if len(of_set) < 2:
            continue
        if baseline not in [row["model"] for row in of_set]:
            problems.append(f"{test_set}: {baseline} was not scored on it; no marks.")
            continue
        try:
            models = [_read(row) for row in of_set]
            data = common_utterances(models)
        except DataError as error:
            problems.append(f"{test_set}: no marks: {error}")
            continue
        problems += [f"{test_set}: {sentence}" for sentence in data["problems"]]
        compared = compare_models(
            data["predictions"],
            data["true"],
            data["systems"],
            data["clusters"],
            tuple(dict.fromkeys(metric.split("_", 2)[2] for metric in metrics)),
            baseline=baseline,
            seed=seed,
        )
        for row in compared:
            key = f"{row['level']}_mos_{row['metric']}"
            p = row["p_bootstrap_holm"]
            if p is not None and p < ALPHA and row["better"] is not None:
                mark = _MARKS[row["better"] == row["model_a"]]
                marks[row["model_a"], test_set, key] = mark
    return marks, problems


def _read(row: Dict[str, Any]) -> Scored:
    files = row.get("files")
    if not files:
        raise DataError(
            f"{row['model']} does not say which files were scored; run stage 9 again."
        )
    reference = read_scores(files["reference"])
    joined = join(reference, read_scores(files["prediction"]))
    clusters: Optional[List[Any]] = None
    utt2src = os.path.join(files["reference"], "utt2src")
    if os.path.isfile(utt2src):
        found, _ = clusters_of(joined.ids, utt2src)
        clusters = [c if c is not None else (i,) for c, i in zip(found, joined.ids)]
    return Scored(row["model"], files["prediction"], joined, clusters, [])


def methods_of(
    rows: Sequence[Dict[str, Any]], seeds: str
) -> Dict[str, Dict[str, Dict[str, Dict[str, Any]]]]:
    """Group rows by method, test set and seed.

    Args:
        rows: As ``collect`` returns them.
        seeds: Regular expression of the part of a model's name that tells its seed.

    Raises:
        DataError: It is no regular expression.
    """
    try:
        pattern = re.compile(seeds)
    except re.error as error:
        raise DataError(
            f"--seeds {seeds} is no regular expression ({error}), expected one such as "
            "'_seed[0-9]+$'."
        ) from error
    methods: Dict[str, Dict[str, Dict[str, Dict[str, Any]]]] = {}
    for row in rows:
        found = pattern.search(row["model"])
        # A model without a seed in its name is the only run of its method.
        run_name = found.group() if found else ""
        method = pattern.sub("", row["model"], count=1) or row["model"]
        methods.setdefault(method, {}).setdefault(row["test_set"], {})[run_name] = row
    return methods


def seeds_cell(
    runs: Mapping[str, Dict[str, Any]],
    baseline_runs: Optional[Mapping[str, Dict[str, Any]]],
    metric: str,
) -> str:
    """Format mean and SD of a method's runs, and the difference to the baseline's.

    Args:
        runs: Rows by seed.
        baseline_runs: Those of the baseline; None for no difference.
        metric: Such as ``utt_mos_srcc``.
    """
    summary = summarise_seeds([row.get(metric) for row in runs.values()])
    text = number(summary.mean)
    if summary.sd is not None:
        text += f" ± {number(summary.sd)}"
    text += f" ({summary.num_seeds})"
    if baseline_runs is None:
        return text
    paired = set(runs) == set(baseline_runs)
    names = list(runs)
    difference = seed_difference(
        [runs[name].get(metric) for name in names],
        [
            row.get(metric)
            for row in (
                [baseline_runs[name] for name in names]
                if paired
                else baseline_runs.values()
            )
        ],
        paired=paired,
    )
    if difference.interval is None:
        return text
    low, high = difference.interval
    kind = "" if paired else ", unpaired"
    return f"{text}, {difference.difference:+.3f} [{low:+.3f}, {high:+.3f}{kind}]"


def seeds_tables(
    rows: Sequence[Dict[str, Any]],
    metrics: Sequence[str],
    seeds: str,
    baseline: Optional[str],
) -> List[str]:
    """Make the tables of methods over seeds.

    Args:
        rows, seeds: As of ``methods_of``.
        metrics: A table for each.
        baseline: Method that the others are compared with.

    Raises:
        DataError: The baseline is no method.
    """
    methods = methods_of(rows, seeds)
    if baseline is not None and baseline not in methods:
        raise DataError(
            f"--baseline is {baseline}, expected one of the methods "
            f"{', '.join(methods)}."
        )
    sets = list(dict.fromkeys(row["test_set"] for row in rows))
    lines = []
    for metric in metrics:
        lines += [f"## {_title(metric)}: mean ± SD (runs)", ""]
        table = []
        for method, by_set in methods.items():
            cells = [cell(method)]
            for test_set in sets:
                of_baseline = None
                if baseline is not None and method != baseline:
                    of_baseline = methods[baseline].get(test_set)
                runs = by_set.get(test_set)
                text = seeds_cell(runs, of_baseline, metric) if runs else number(None)
                cells.append(text)
            table.append(cells)
        lines += markdown(["method", *map(cell, sets)], table, num_names=1) + [""]
    if baseline is not None:
        lines += [
            f"Behind the comma: difference to {baseline} with its 95 % t interval over "
            "the runs, paired by seed where both methods have the same seeds. It says "
            "how much training varies; `distilmos compare` says how much clips do.",
            "",
        ]
    return lines


def models_tables(
    rows: Sequence[Dict[str, Any]],
    metrics: Sequence[str],
    baseline: Optional[str],
    seed: int,
) -> Tuple[List[str], List[str]]:
    """Make the tables of single models; see ``overview``.

    Returns:
        Lines of Markdown, and sentences on what could not be compared.

    Raises:
        DataError: The baseline is no model.
    """
    problems: List[str] = []
    models = list(dict.fromkeys(row["model"] for row in rows))
    sets = list(dict.fromkeys(row["test_set"] for row in rows))
    marks: Dict[Tuple[str, str, str], str] = {}
    if baseline is not None:
        if baseline not in models:
            raise DataError(
                f"--baseline is {baseline}, expected one of {', '.join(models)}."
            )
        marks, sentences = verdicts(rows, metrics, baseline, seed)
        problems += sentences
    by_name = {(row["model"], row["test_set"]): row for row in rows}
    lines: List[str] = []
    for metric in metrics:
        lines += [f"## {_title(metric)} [95 %]", ""]
        table = []
        for model in models:
            cells = [cell(model)]
            for test_set in sets:
                row = by_name.get((model, test_set))
                if row is None or row.get(metric) is None:
                    cells.append(number(None))
                    continue
                mark = marks.get((model, test_set, metric), "")
                cells.append(with_interval(row, metric) + (f" {mark}" if mark else ""))
            table.append(cells)
        lines += markdown(["model", *map(cell, sets)], table, num_names=1) + [""]
    if baseline is not None:
        lines += [
            f"▲ better and ▼ worse than {baseline} on the same clips: paired "
            f"bootstrap, two-sided, Holm's correction over the models, p < {ALPHA}. "
            "No mark: not told apart.",
            "",
        ]
    return lines, problems


def _title(metric: str) -> str:
    level, name = metric.split("_mos_")
    title = {"utt": "Utterances", "sys": "Systems"}[level]
    return f"{title}: {name.replace('_', ' ').upper()}"


def overview(
    documents: Dict[str, Dict[str, Any]],
    metrics: Sequence[str] = ("utt_mos_srcc", "sys_mos_srcc"),
    baseline: Optional[str] = None,
    seed: int = 0,
    seeds: Optional[str] = None,
) -> Tuple[str, List[str]]:
    """Make the page.

    Args:
        documents: Contents of results.json by path.
        metrics: A table for each.
        baseline: Model that the others are compared with; None for no marks.
        seed: Of the bootstrap behind the marks.
        seeds: See ``seeds_tables``; None takes every model for itself.

    Returns:
        The page in Markdown, and sentences on what was wrong.

    Raises:
        DataError: A metric or the baseline is unknown.
    """
    known = [f"{level}_mos_{name}" for level in ("utt", "sys") for name in ALL_METRICS]
    for metric in metrics:
        if metric not in known:
            raise DataError(
                f"--metrics has {metric}, expected some of {', '.join(known)}."
            )
    rows, problems = collect(documents)
    lines = ["<!-- Generated by distilmos results -->", "# RESULTS", ""]
    if seeds is not None:
        lines += seeds_tables(rows, metrics, seeds, baseline)
    else:
        tables, sentences = models_tables(rows, metrics, baseline, seed)
        lines += tables
        problems += sentences
    lines += ["## How", ""]
    for path, document in documents.items():
        env = document["environment"]
        names = dict.fromkeys(row["model"] for row in document["results"])
        lines.append(
            f"- {', '.join(names)}: espnet {env['espnet'] or 'unknown'}, torch "
            f"{env['torch'] or 'unknown'}, espnet2_distilmos "
            f"{env['espnet2_distilmos']} at `{(env['git_hash'] or 'unknown')[:12]}`, "
            f"{env['date']}" + (f", `{env['command']}`" if env["command"] else "")
        )
        lines += [f"  - {' '.join(n.split())}" for n in document["notes"]]
    return "\n".join(lines) + "\n", problems


def results(args: argparse.Namespace) -> int:
    """Print the page and write it.

    Returns:
        0, or 1 where anything was missing or contradictory.

    Raises:
        DataError: A file cannot be read or written, or a name is unknown.
    """
    documents = {path: read_results(path) for path in dict.fromkeys(args.results)}
    metrics = args.metrics.split(",")
    page, problems = overview(documents, metrics, args.baseline, args.seed, args.seeds)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(page, end="")
    if args.output is not None:
        with atomic_write(args.output) as file:
            file.write(page)
    return 1 if problems else 0


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run(results, get_parser(), cmd)


if __name__ == "__main__":
    sys.exit(main())
