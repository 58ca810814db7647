#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""One table from many results.json: models as rows, test sets as columns."""

import argparse
import importlib.util
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

from espnet2_distilmos.bin.compare import common_utterances
from espnet2_distilmos.bin.mos_scoring import (
    FORMAT_VERSION,
    cell,
    environment,
    load_pairs,
    markdown,
    number,
    score,
    with_interval,
)
from espnet2_distilmos.bin.score import Scored, run
from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.evaluation.formats import clusters_of, join, read_scores
from espnet2_distilmos.evaluation.metrics import ALL_METRICS
from espnet2_distilmos.evaluation.paired import compare_models
from espnet2_distilmos.evaluation.seeds import (
    compare_methods,
    compare_values,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA = 0.05
# Better and worse than the baseline.
_MARKS = {True: "▲", False: "▼"}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos results",
        description="Put the results.json of many experiments into one Markdown "
        "table, ready for an ESPnet README: models as rows, test sets as columns, "
        "intervals, the commands, and, with --baseline, a mark where a model differs "
        "from it (paired test on the same clips, Holm's correction). With --seeds or "
        "--list, methods as rows: mean, SD, intervals and tests over their runs.",
    )
    parser.add_argument("results", metavar="RESULTS.JSON", nargs="*")
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="score the runs of this file and put them into the table: lines `METHOD "
        "SEED TEST_SET DATA_DIR METRIC.SCP`, or `METHOD SEED EXP` for an experiment "
        "after stage 9; SEED is - for a method of one run; # begins a comment",
    )
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
        "its runs with an interval over runs and clips; --baseline is then a method, "
        "compared run by run where the seeds are the same",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples of the clips, with --seeds or --list (1000)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the resampling (0)"
    )
    parser.add_argument(
        "--score_range",
        type=float,
        nargs=2,
        default=(1.0, 5.0),
        metavar=("LOW", "UP"),
        help="scale of the predictions of --list; a DATA_DIR whose score_range is "
        "another gets correlations and no error (1 5)",
    )
    parser.add_argument(
        "--note", action="append", default=[], help="a sentence above the tables"
    )
    parser.add_argument("--output", metavar="FILE", help="write the page here too")
    parser.add_argument(
        "--output_dir",
        metavar="DIR",
        help="write RESULTS.md, results.json and a figure of each metric here",
    )
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


def read_list(
    path: str, score_range: Sequence[float]
) -> Tuple[Dict[str, Any], List[str]]:
    """Score the runs of a list.

    Args:
        path: File with lines ``METHOD SEED TEST_SET REF_DIR PRED``: the names of the
            method, its run (``-`` for a method of one run) and the test set, the data
            directory with the labels, the predicted metric.scp; or ``METHOD SEED EXP``
            with the directory of an experiment that was scored, whose results.json is
            taken. ``#`` begins a comment.
        score_range: Scale of the predictions.

    Returns:
        A document as of results.json, whose rows also have ``method`` and ``run``, and
        a sentence for each line that was left out.

    Raises:
        DataError: The file cannot be read, a line has neither three nor five fields,
            or nothing is left.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.partition("#")[0].split() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a list of runs, one a line: "
            "method, seed, test set, data directory, metric.scp."
        ) from error
    rows: Dict[Tuple[str, str, str], Dict[str, Any]] = {}
    problems: List[str] = []
    for number_of_line, fields in enumerate(lines, 1):
        if not fields:
            continue
        where = f"{path}, line {number_of_line}"
        if len(fields) not in (3, 5):
            raise DataError(
                f"{where} has {len(fields)} fields, expected five: method, seed, test "
                "set, data directory, metric.scp; or three: method, seed, directory of "
                "an experiment; correct the line."
            )
        method, seed = fields[:2]
        try:
            found = (
                _scored_before(fields[2])
                if len(fields) == 3
                else [_score_line(*fields[2:], problems, where, score_range)]
            )
        except DataError as error:
            problems.append(f"{where}: left out: {error}")
            continue
        for row in found:
            key = (method, seed, row["test_set"])
            if key in rows:
                problems.append(
                    f"{where} names the run {seed} of {method} on {row['test_set']} "
                    "again, expected it once; the first was kept."
                )
                continue
            model = method if seed == "-" else f"{method}_seed{seed}"
            rows[key] = {**row, "model": model, "method": method, "run": seed}
    if not rows:
        raise DataError(" ".join([f"{path} has no run that can be scored.", *problems]))
    document = {"results": list(rows.values()), "notes": []}
    return document, problems


def _score_line(
    test_set: str,
    reference: str,
    prediction: str,
    problems: List[str],
    where: str,
    score_range: Sequence[float],
) -> Dict[str, Any]:
    """Score one file for ``read_list``."""
    pairs = load_pairs(reference, prediction)
    problems += [f"{where}: {sentence}" for sentence in pairs["problems"]]
    files = {"reference": reference, "prediction": prediction}
    return {"test_set": test_set, **score(pairs, 0, 0, score_range), "files": files}


def _scored_before(directory: str) -> List[Dict[str, Any]]:
    """Take an experiment's own rows from its results.json for ``read_list``."""
    path = os.path.join(directory, "results.json")
    model = os.path.basename(os.path.normpath(directory))
    found = [row for row in read_results(path)["results"] if row["model"] == model]
    if not found:
        raise DataError(
            f"{path} has no results of the model {model}, expected those that stage 9 "
            "writes into an experiment's directory; run stage 9 again."
        )
    return found


def methods_of(
    rows: Sequence[Dict[str, Any]], seeds: str
) -> Dict[str, Dict[str, Dict[str, Dict[str, Any]]]]:
    """Group rows by method, test set and seed.

    Args:
        rows: As ``collect`` returns them.
        seeds: Regular expression of the part of a model's name that tells its seed,
            for rows that do not say their ``method`` and ``run``.

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
        if "method" in row:
            method, run_name = row["method"], row["run"]
        else:
            found = pattern.search(row["model"])
            # A model without a seed in its name is the only run of its method.
            run_name = found.group() if found else ""
            method = pattern.sub("", row["model"], count=1) or row["model"]
        methods.setdefault(method, {}).setdefault(row["test_set"], {})[run_name] = row
    return methods


def compare_runs(
    rows: Sequence[Dict[str, Any]],
    metrics: Sequence[str],
    seeds: str,
    baseline: Optional[str],
    num_resamples: int,
    seed: int,
) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]], List[str], List[str]]:
    """Summarise methods over their runs on every test set, and compare them.

    Args:
        rows, seeds: As of ``methods_of``.
        metrics: Such as ``utt_mos_srcc``.
        baseline: Method that the others are compared with; None for no comparison.
        num_resamples, seed: Of the bootstrap over the items.

    Returns:
        Summaries and comparisons as ``seeds.compare_methods`` returns them, each with
        its ``test_set``; sentences on what is wrong, and remarks. Where the files that
        were scored are not known, the intervals are over the runs alone, and a remark
        says so.

    Raises:
        DataError: The baseline is no method.
    """
    methods = methods_of(rows, seeds)
    if baseline is not None and baseline not in methods:
        raise DataError(
            f"--baseline is {baseline}, expected one of the methods "
            f"{', '.join(methods)}."
        )
    summaries: List[Dict[str, Any]] = []
    comparisons: List[Dict[str, Any]] = []
    problems: List[str] = []
    remarks: List[str] = []
    for test_set in dict.fromkeys(row["test_set"] for row in rows):
        by_method = {
            m: sets[test_set] for m, sets in methods.items() if test_set in sets
        }
        of_baseline = baseline if baseline in by_method else None
        if baseline is not None and of_baseline is None:
            problems.append(f"{test_set}: {baseline} was not scored on it.")
        try:
            found = _compare_files(
                *(by_method, metrics, of_baseline, num_resamples, seed)
            )
        except DataError as error:
            values = {
                method: {
                    name: {metric: row.get(metric) for metric in metrics}
                    for name, row in runs.items()
                }
                for method, runs in by_method.items()
            }
            found = *compare_values(values, of_baseline), []
            remarks.append(
                f"{test_set}: intervals and tests are over the runs alone, not over "
                f"other items: {error}"
            )
        for into, new in zip((summaries, comparisons), found):
            into += [{"test_set": test_set, **row} for row in new]
        problems += [f"{test_set}: {sentence}" for sentence in found[2]]
    return summaries, comparisons, problems, remarks


def _compare_files(
    by_method: Mapping[str, Mapping[str, Dict[str, Any]]],
    metrics: Sequence[str],
    baseline: Optional[str],
    num_resamples: int,
    seed: int,
) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]], List[str]]:
    """Compare methods by the files that were scored."""
    keys = [(method, name) for method, runs in by_method.items() for name in runs]
    # A pair is no name of a model, so that it tells methods and runs apart.
    models = [_read(by_method[m][n])._replace(name=(m, n)) for m, n in keys]
    data = common_utterances(models)
    predictions: Dict[str, Dict[str, Any]] = {}
    for method, name in keys:
        predictions.setdefault(method, {})[name] = data["predictions"][method, name]
    summaries, comparisons = compare_methods(
        predictions,
        *(data["true"], data["systems"], data["clusters"]),
        tuple(dict.fromkeys(metric.split("_", 2)[2] for metric in metrics)),
        baseline=baseline,
        num_resamples=num_resamples,
        seed=seed,
    )

    def defined(row: Dict[str, Any]) -> bool:
        # An error between two scales has no value, whatever the files give.
        runs = by_method[row["method"]].values()
        return row["metric"] in metrics and None not in [
            of_run.get(row["metric"]) for of_run in runs
        ]

    chosen = [
        [row for row in part if defined(row)] for part in (summaries, comparisons)
    ]
    return chosen[0], chosen[1], data["problems"]


def _interval(interval: Optional[Sequence[float]], form: str) -> str:
    return " [{}, {}]".format(*(format(v, form) for v in interval)) if interval else ""


def methods_tables(
    summaries: Sequence[Dict[str, Any]],
    comparisons: Sequence[Dict[str, Any]],
    metrics: Sequence[str],
    baseline: Optional[str],
) -> List[str]:
    """Format what ``compare_runs`` returned, for each metric methods by test sets."""
    methods = list(dict.fromkeys(row["method"] for row in summaries))
    sets = list(dict.fromkeys(row["test_set"] for row in summaries))
    cells: Dict[Tuple[str, str, str], str] = {}
    differences: Dict[Tuple[str, str, str], str] = {}
    marks: Dict[Tuple[str, str, str], str] = {}
    for row in comparisons:
        key = (row["metric"], row["method"], row["test_set"])
        if row["difference"] is None:
            continue
        text = f"{row['difference']:+.3f}"
        text += _interval(row["interval"], "+.3f")
        p = row["p_holm"]
        if p is not None:
            text += ", p < .001" if p < 0.001 else f", p = {p:.3f}"
            if p < ALPHA and row["better"] is not None:
                marks[key] = f" {_MARKS[row['better'] == row['method']]}"
        differences[key] = text + ("" if row["paired"] else ", unpaired")
    for row in summaries:
        key = (row["metric"], row["method"], row["test_set"])
        if row["mean"] is None:
            continue
        text = number(row["mean"])
        if row["sd"] is not None:
            text += f" ± {number(row['sd'])}"
        text += f" ({row['num_runs']})" + _interval(row["interval"], ".3f")
        cells[key] = text + marks.get(key, "")

    def table(texts: Dict[Tuple[str, str, str], str], names: Sequence[str]):
        rows = [
            [cell(m), *(texts.get((metric, m, s), number(None)) for s in sets)]
            for m in names
        ]
        return markdown(["method", *map(cell, sets)], rows, num_names=1) + [""]

    lines: List[str] = []
    for metric in metrics:
        lines += [f"## {_title(metric)}: mean ± SD (runs) [95 %]", ""]
        lines += table(cells, methods)
        if baseline is not None:
            lines += [f"Minus {baseline} [95 %], p after Holm's correction:", ""]
            lines += table(differences, [m for m in methods if m != baseline])
    lines += [
        "SD: of the runs, which differ in their seed. [95 %]: where the mean of other "
        "runs on other items may lie, a t interval with the variance of the runs and, "
        "by bootstrap, of the items (sources of `utt2src` where it is there); of a "
        "single run, the items alone.",
        "",
    ]
    if baseline is not None:
        lines += [
            f"▲ better and ▼ worse than {baseline}: two-sided test of the difference, "
            "run by run where both methods have the same seeds, over runs and items, "
            f"Holm's correction over the methods of a column, p < {ALPHA}. No mark: "
            "not told apart.",
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
    num_resamples: int = 1000,
    notes: Sequence[str] = (),
) -> Tuple[str, Dict[str, Any]]:
    """Make the page.

    Args:
        documents: Contents of results.json by path.
        metrics: A table for each.
        baseline: Model that the others are compared with; None for no marks.
        seed: Of the bootstrap behind the marks.
        seeds: See ``methods_of``; None takes every model for itself.
        num_resamples: Of the bootstrap over the items, with ``seeds``.
        notes: Sentences that stand above the tables.

    Returns:
        The page in Markdown, and what it says as JSON-ready dict: ``results`` (a row a
        model and test set), ``methods`` and ``comparisons`` (see ``compare_runs``; both
        empty without ``seeds``), ``notes``, and ``problems``, a sentence each.

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
    lines += [f"- {' '.join(note.split())}" for note in notes] + [""] * bool(notes)
    summaries: List[Dict[str, Any]] = []
    comparisons: List[Dict[str, Any]] = []
    if seeds is not None:
        summaries, comparisons, sentences, remarks = compare_runs(
            *(rows, metrics, seeds, baseline, num_resamples, seed)
        )
        lines += methods_tables(summaries, comparisons, metrics, baseline)
        lines += [f"- {remark}" for remark in remarks] + [""] * bool(remarks)
    else:
        tables, sentences = models_tables(rows, metrics, baseline, seed)
        lines += tables
    problems += sentences
    lines += ["## How", ""]
    for document in documents.values():
        env = document["environment"]
        names = dict.fromkeys(
            row.get("method", row["model"]) for row in document["results"]
        )
        lines.append(
            f"- {', '.join(names)}: espnet {env['espnet'] or 'unknown'}, torch "
            f"{env['torch'] or 'unknown'}, espnet2_distilmos "
            f"{env['espnet2_distilmos']} at `{(env['git_hash'] or 'unknown')[:12]}`, "
            f"{env['date']}" + (f", `{env['command']}`" if env["command"] else "")
        )
        lines += [f"  - {' '.join(n.split())}" for n in document["notes"]]
    content = {
        "notes": list(notes),
        "results": rows,
        "methods": summaries,
        "comparisons": comparisons,
        "problems": problems,
    }
    return "\n".join(lines) + "\n", content


def figures(content: Mapping[str, Any], metrics: Sequence[str]) -> Dict[str, "Figure"]:
    """Draw each metric over methods and test sets, from what ``overview`` returns.

    Returns:
        A figure by the name of the metric; none where it has no value.
    """
    from espnet2_distilmos.evaluation.plots import comparison_figure

    rows = content["results"]
    if content["methods"]:
        rows = [
            {
                "model": row["method"],
                "test_set": row["test_set"],
                row["metric"]: row["mean"],
                "intervals": {row["metric"]: row["interval"]},
                "runs": {row["metric"]: list(row["runs"].values())},
            }
            for row in content["methods"]
        ]
    return {
        metric: comparison_figure(rows, metric)
        for metric in metrics
        if any(row.get(metric) is not None for row in rows)
    }


def write(
    output_dir: str, page: str, content: Dict[str, Any], metrics: Sequence[str]
) -> None:
    """Write RESULTS.md, results.json and, with matplotlib, a figure of each metric.

    Raises:
        DataError: The directory cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(os.path.join(output_dir, "results.json")) as file:
        file.write(text + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        for name, figure in figures(content, metrics).items():
            path = os.path.join(output_dir, "images", f"{name}.png")
            with atomic_write(path, "wb") as file:
                figure.savefig(file, format="png", dpi=150)
    with atomic_write(os.path.join(output_dir, "RESULTS.md")) as file:
        file.write(page)


def results(args: argparse.Namespace) -> int:
    """Print the page and write it.

    Returns:
        0, or 1 where anything was missing or contradictory.

    Raises:
        DataError: A file cannot be read or written, or a name is unknown.
    """
    if not args.results and args.list is None:
        raise DataError(
            "nothing to put into a table: expected a results.json or --list FILE."
        )
    documents = {path: read_results(path) for path in dict.fromkeys(args.results)}
    metrics = args.metrics.split(",")
    seeds = args.seeds
    problems: List[str] = []
    here = environment(args.command)
    if args.list is not None:
        document, problems = read_list(args.list, args.score_range)
        documents[args.list] = {**document, "environment": here}
        seeds = "_seed[0-9]+$" if seeds is None else seeds
    page, content = overview(
        documents, metrics, args.baseline, args.seed, seeds, args.bootstrap, args.note
    )
    content["problems"] = problems + content["problems"]
    for problem in content["problems"]:
        print(problem, file=sys.stderr)
    print(page, end="")
    if args.output is not None:
        with atomic_write(args.output) as file:
            file.write(page)
    if args.output_dir is not None:
        content = {"format_version": FORMAT_VERSION, **content, "environment": here}
        write(args.output_dir, page, content, metrics)
    return 1 if content["problems"] else 0


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run(results, get_parser(), cmd)


if __name__ == "__main__":
    sys.exit(main())
