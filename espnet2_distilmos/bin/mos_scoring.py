#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score predicted against true MOS: results.json, RESULTS.md and scatter plots."""

import argparse
import csv
import datetime
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import subprocess
import sys
import urllib.parse
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
)

import numpy as np

import espnet2_distilmos
from espnet2_distilmos.cli import start_logging
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    read_metric_scp,
    read_score_range,
    read_scp,
)
from espnet2_distilmos.evaluation.bootstrap import bootstrap_intervals
from espnet2_distilmos.evaluation.formats import read_scores
from espnet2_distilmos.evaluation.metrics import ALL_METRICS, evaluate
from espnet2_distilmos.evaluation.systems import (
    SystemRow,
    significant_pair_accuracy,
    system_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT_VERSION = 1
CONFIDENCE = 0.95
_METRICS = ("mse", "lcc", "srcc", "ktau")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Score predicted MOS against listeners' MOS: mean squared error, "
        "linear, Spearman and Kendall correlation of utterances and of systems, with "
        "bootstrap intervals. Writes results.json, RESULTS.md and scatter plots.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--score",
        nargs=4,
        action="append",
        required=True,
        metavar=("MODEL", "TEST_SET", "REF_DIR", "PRED"),
        help="a row of the table: the names of model and test set, the data directory "
        "with metric.scp (and utt2sys, utt2src), the predicted metric.scp; repeatable",
    )
    parser.add_argument("--output_dir", required=True, help="where the results go")
    parser.add_argument(
        "--note",
        action="append",
        default=[],
        help="a sentence that stands above the table; repeatable",
    )
    parser.add_argument(
        "--score_range",
        type=float,
        nargs=2,
        default=(1.0, 5.0),
        metavar=("LOW", "UP"),
        help="scale of the predictions; a REF_DIR with a file score_range of another "
        "scale, such as `0 100`, gets correlations and no error",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        help="resamples for the 95 %% intervals, 0 for none",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the resampling")
    parser.add_argument(
        "--command", help="the command that made the results, for RESULTS.md"
    )
    return parser


class Row(NamedTuple):
    """One model on one test set.

    Attributes:
        model, test_set: Names in the table.
        pairs: As ``load_pairs`` returns them.
        reference, prediction: Where they were read.
    """

    model: str
    test_set: str
    pairs: Dict[str, Any]
    reference: str
    prediction: str


def _count(ids: Sequence[str]) -> str:
    plural = "utterance" if len(ids) == 1 else "utterances"
    return f"{len(ids)} {plural} (the first is {ids[0]})"


def load_pairs(ref_dir: str, pred_path: str) -> Dict[str, Any]:
    """Align predictions with labels by utterance id.

    Args:
        ref_dir: Data directory with metric.scp, and optionally utt2sys and utt2src.
        pred_path: Predicted metric.scp.

    Returns:
        ``pred``, ``true``, ``systems`` (or None), ``clusters`` (or None), ``votes``
        (lists, or None), lists in the order of the reference; ``problems``, a sentence
        each; ``num_unlabelled``; ``score_range`` (or None).

    Raises:
        DataError: A file cannot be read or nothing is left to score.
    """
    ref_path = os.path.join(ref_dir, "metric.scp")
    labels = read_metric_scp(ref_path)
    predictions = {
        utt_id: score
        for utt_id, score in read_metric_scp(pred_path).items()
        if score is not None
    }
    labelled = [utt_id for utt_id, label in labels.items() if label is not None]
    scored = [utt_id for utt_id in labelled if utt_id in predictions]
    problems = []
    missing = [utt_id for utt_id in labelled if utt_id not in predictions]
    if missing:
        problems.append(
            f"{pred_path} has no prediction for {_count(missing)} of {ref_path}, "
            f"the other {len(scored)} were scored; run stage 8 (inference) again."
        )
    unknown = [utt_id for utt_id in predictions if utt_id not in labels]
    if unknown:
        problems.append(
            f"{pred_path} has predictions for {_count(unknown)} that {ref_path} does "
            "not know, they were left out; check that both are of the same test set."
        )
    if not scored:
        raise DataError(
            " ".join(problems)
            or f"{ref_path} has no labelled utterance, expected at least one; "
            "correct the labels."
        )

    def attribute(name: str) -> Optional[List[Optional[str]]]:
        path = os.path.join(ref_dir, name)
        if not os.path.exists(path):
            return None
        values = read_scp(path)
        without = [utt_id for utt_id in scored if utt_id not in values]
        if without:
            what = {"utt2sys": "system", "utt2src": "source"}[name]
            effect = {
                "utt2sys": "they count at utterance level only",
                "utt2src": "each is resampled on its own",
            }[name]
            problems.append(
                f"{path} has no {what} for {_count(without)} of {ref_path}, "
                f"{effect}; complete {name}."
            )
        return [values.get(utt_id) for utt_id in scored]

    systems = attribute("utt2sys")
    clusters: Optional[List[Any]] = attribute("utt2src")
    if clusters is not None:
        # a tuple cannot equal the name of a source
        clusters = [c if c is not None else (u,) for c, u in zip(clusters, scored)]
    return {
        "pred": [predictions[utt_id] for utt_id in scored],
        "true": [labels[utt_id] for utt_id in scored],
        "systems": systems,
        "clusters": clusters,
        "votes": _votes(ref_dir, scored, problems),
        "problems": problems,
        "num_unlabelled": len(labels) - len(labelled),
        "score_range": read_score_range(ref_dir),
    }


def _votes(
    ref_dir: str, utt_ids: Sequence[str], problems: List[str]
) -> Optional[List[List[float]]]:
    if not os.path.exists(os.path.join(ref_dir, "votes.scp")):
        return None
    file = read_scores(ref_dir)
    problems.extend(p for p in file.problems if "votes.scp" in p)
    votes = {record.id: [v.score for v in record.votes] for record in file.records}
    return [votes.get(utt_id, []) for utt_id in utt_ids]


def order_of_systems(pairs: Dict[str, Any]) -> Dict[str, Any]:
    """Say how many pairs of systems that listeners tell apart a model orders right.

    A pair counts where Welch's t test, with Holm's correction, tells its ratings
    apart: listeners' votes, or the clips' labels where there are none.

    Returns:
        JSON-ready: ``accuracy`` (or None with ``reason``), ``num_significant`` of
        ``num_tested`` pairs, and ``ratings``, which those were.
    """
    votes = pairs["votes"]
    has_votes = votes is not None and any(votes)
    ratings: Dict[str, List[float]] = {}
    scores: Dict[str, List[float]] = {}
    systems = pairs["systems"] or [None] * len(pairs["pred"])
    for i, system in enumerate(systems):
        if system is not None:
            scores.setdefault(system, []).append(pairs["pred"][i])
            found = votes[i] if has_votes else [pairs["true"][i]]
            ratings.setdefault(system, []).extend(found)
    means = {system: float(np.mean(values)) for system, values in scores.items()}
    accuracy, num_significant, num_tested = significant_pair_accuracy(means, ratings)
    return {
        "accuracy": accuracy.value,
        "reason": accuracy.reason,
        "num_significant": num_significant,
        "num_tested": num_tested,
        "ratings": "votes" if has_votes else "labels of clips",
    }


def same_scale(pairs: Dict[str, Any], score_range: Sequence[float]) -> bool:
    """Say whether the labels are on the scale of the predictions, ``score_range``."""
    return pairs["score_range"] in (None, tuple(score_range))


def score(
    pairs: Dict[str, Any],
    num_resamples: int,
    seed: int,
    score_range: Sequence[float] = (1.0, 5.0),
    resample: str = "clusters",
) -> Dict[str, Any]:
    """Compute the metrics and intervals of one model on one test set.

    Args:
        pairs: As ``load_pairs`` returns them.
        num_resamples: Bootstrap resamples, 0 for no intervals.
        seed: Seed of the resampling.
        score_range: Scale of the predictions. Where the labels have another, the
            errors are undefined: nobody said how one scale maps to the other.
        resample: What is drawn, one of ``bootstrap.RESAMPLES``.

    Returns:
        JSON-ready dict without NaN: the keys of ``evaluate`` for all its metrics,
        ``intervals`` (pairs or None by key), ``resampled`` (what the bootstrap draws)
        and ``num_clusters``, how many of them there are.

    Raises:
        DataError: ``resample`` needs systems and there are none.
    """
    pred, true, systems = pairs["pred"], pairs["true"], pairs["systems"]
    result = evaluate(pred, true, systems, tuple(ALL_METRICS))
    clusters = pairs["clusters"]
    if resample != "clusters" and systems is None:
        raise DataError(
            f"--resample {resample} needs systems and no utterance has one; name them "
            "with --systems, or leave --resample out."
        )
    if resample == "systems":
        result["resampled"] = "systems"
        result["num_clusters"] = result["num_systems"]
    else:
        result["resampled"] = "utterances" if clusters is None else "sources (utt2src)"
        result["num_clusters"] = len(pred) if clusters is None else len(set(clusters))
        if resample == "within_systems":
            result["resampled"] += " within systems"
    result["num_unlabelled"] = pairs["num_unlabelled"]
    result["significant_pairs"] = order_of_systems(pairs)
    result["intervals"] = {}
    if num_resamples > 0:
        intervals = bootstrap_intervals(
            pred,
            true,
            systems,
            clusters,
            num_resamples,
            CONFIDENCE,
            seed,
            resample,
            tuple(ALL_METRICS),
        )
        result["intervals"] = {
            key: None if interval is None else list(interval)
            for key, interval in intervals.items()
        }
    if not same_scale(pairs, score_range):
        reason = "the labels are on the scale {:g} to {:g}, the predictions on {:g} to "
        reason = (reason + "{:g}").format(*pairs["score_range"], *score_range)
        for key in ("utt_mos_mse", "sys_mos_mse"):
            result[key] = None
            result["undefined"][key] = reason
            result["intervals"].pop(key, None)
    return result


def _git(directory: str, *arguments: str) -> Optional[str]:
    try:
        done = subprocess.run(
            ["git", "-C", directory, *arguments],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _checkout() -> str:
    """Return the directory whose git commit describes this code."""
    package = os.path.dirname(os.path.abspath(espnet2_distilmos.__file__))
    # An installed copy may lie inside another project's checkout, untracked.
    tracked = _git(package, "ls-files", "--error-unmatch", "__init__.py")
    return package if tracked else "."


def _version(package: str) -> Optional[str]:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment(command: Optional[str]) -> Dict[str, Optional[str]]:
    """Collect what RESULTS.md states about the run; unknown values are None."""
    checkout = _checkout()
    return {
        "date": datetime.datetime.now()
        .astimezone()
        .strftime("%a %b %d %H:%M:%S %Z %Y"),
        "python": platform.python_version(),
        "espnet": _version("espnet"),
        "torch": _version("torch"),
        "espnet2_distilmos": espnet2_distilmos.__version__,
        "git_hash": _git(checkout, "rev-parse", "HEAD"),
        "git_commit_date": _git(checkout, "log", "-1", "--format=%cd"),
        "command": command,
    }


def number(value: Optional[float]) -> str:
    """Format a metric; an undefined one is a dash."""
    return "–" if value is None else f"{value:.3f}"


def cell(text: str) -> str:
    """Format text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def with_interval(result: Dict[str, Any], key: str) -> str:
    """Format a metric with its interval, where it has one."""
    interval = result["intervals"].get(key)
    if not interval:
        return number(result[key])
    return f"{number(result[key])} [{number(interval[0])}, {number(interval[1])}]"


def table(results: Sequence[Dict[str, Any]]) -> List[str]:
    """Format the results as lines of a Markdown table, one row each."""
    head = ["test set", "model"]
    for level, count in (("utt", "utts"), ("sys", "systems")):
        head += [count, f"{level} MSE", f"{level} LCC"]
        head += [f"{level} SRCC [95 %]", f"{level} KTAU"]
    rows = []
    for result in results:
        row = [cell(result["test_set"]), cell(result["model"])]
        for level, count in (("utt", "num_utts"), ("sys", "num_systems")):
            row.append(str(result[count]))
            for metric in _METRICS:
                key = f"{level}_mos_{metric}"
                text = number(result[key])
                row.append(with_interval(result, key) if metric == "srcc" else text)
        rows.append(row)
    return markdown(head, rows, num_names=2)


def further_table(results: Sequence[Dict[str, Any]]) -> List[str]:
    """Format errors after a mapping and pairwise accuracy as lines of Markdown."""
    names = {
        "rmse_first_order": "RMSE linear",
        "rmse_third_order": "RMSE cubic",
        "pair_accuracy": "pairs right",
    }
    head = ["test set", "model"]
    head += [f"{level} {name}" for level in ("utt", "sys") for name in names.values()]
    head.append("of pairs told apart")
    rows = []
    for result in results:
        row = [cell(result["test_set"]), cell(result["model"])]
        for level in ("utt", "sys"):
            row += [with_interval(result, f"{level}_mos_{name}") for name in names]
        order = result["significant_pairs"]
        counts = f"({order['num_significant']} of {order['num_tested']})"
        row.append(f"{number(order['accuracy'])} {counts}")
        rows.append(row)
    return markdown(head, rows, num_names=2)


def markdown(
    head: Sequence[str], rows: Sequence[Sequence[str]], num_names: int
) -> List[str]:
    """Format a table, the first columns to the left and the numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            text.ljust(width) if i < num_names else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths))
        ]
        return "| " + " | ".join(cells) + " |"

    rule = [
        "-" * width if i < num_names else "-" * (width - 1) + ":"
        for i, width in enumerate(widths)
    ]
    return [line(head), "| " + " | ".join(rule) + " |"] + [line(row) for row in rows]


def report(document: Dict[str, Any]) -> str:
    """Format the whole of results.json as RESULTS.md."""
    env = document["environment"]
    results = document["results"]
    lines = [
        "<!-- Generated by espnet2_distilmos.bin.mos_scoring -->",
        "# RESULTS",
        "## Environments",
        f"- date: `{env['date']}`",
        f"- python version: `{env['python']}`",
        f"- espnet version: `espnet {env['espnet'] or 'unknown'}`",
        f"- pytorch version: `pytorch {env['torch'] or 'unknown'}`",
        f"- espnet2_distilmos version: `{env['espnet2_distilmos']}`",
        f"- Git hash: `{env['git_hash'] or 'unknown'}`",
    ]
    if env["git_commit_date"]:
        lines.append(f"  - Commit date: `{env['git_commit_date']}`")
    if env["command"]:
        lines.append(f"- command: `{env['command']}`")
    lines += ["", "## MOS prediction", ""]
    notes = list(document["notes"])
    bootstrap = document["bootstrap"]
    if bootstrap["num_resamples"] > 0:
        drawn: Dict[str, List[str]] = {}
        for result in results:
            text = f"{result['num_clusters']} {result['resampled']}"
            if result["test_set"] not in drawn.setdefault(text, []):
                drawn[text].append(result["test_set"])
        sets = "; ".join(f"{text} of {', '.join(s)}" for text, s in drawn.items())
        notes.append(
            f"[95 %]: bootstrap interval from {bootstrap['num_resamples']} resamples "
            f"of the {sets}."
        )
    lines += [f"- {' '.join(note.split())}" for note in notes] + [""]
    lines += table(results)
    lines += ["", "After a mapping to the labels' scale (ITU-T P.1401), and pairs:", ""]
    lines += further_table(results)
    lines += [
        "",
        "Told apart: by Welch's t test of listeners' votes, or of the clips' labels "
        "where there are none, with Holm's correction over the pairs of systems.",
    ]
    remarks = []
    for result in results:
        reasons: Dict[str, List[str]] = {}
        for key, reason in result["undefined"].items():
            reasons.setdefault(reason, []).append(key)
        name = f"{result['test_set']}, {result['model']}"
        remarks += [f"- {name}: {', '.join(k)}: {r}." for r, k in reasons.items()]
    if remarks:
        lines += ["", "Undefined (–):", ""] + remarks
    if document["problems"]:
        lines += ["", "Problems:", ""] + [f"- {p}" for p in document["problems"]]
    return "\n".join(lines) + "\n"


def systems_figure(
    tables: Mapping[str, Sequence[SystemRow]], title: str = ""
) -> "Figure":
    """Draw the mean of each system with its interval, by listeners and models.

    Args:
        tables: As ``system_table`` returns them, by model.
        title: Title of the figure.
    """
    from espnet2_distilmos.evaluation.plots import system_figure

    rows = {
        model: {row.system: row for row in table} for model, table in tables.items()
    }
    names = list(dict.fromkeys(s for by_name in rows.values() for s in by_name))
    series = {"listeners": {}}
    for by_name in rows.values():
        for name, row in by_name.items():
            series["listeners"].setdefault(name, row.label)
    for model, by_name in rows.items():
        series[model] = {name: row.pred for name, row in by_name.items()}
    means, intervals = {}, {}
    for label, values in series.items():
        found = [values.get(name) for name in names]
        means[label] = [np.nan if value is None else value.mean for value in found]
        intervals[label] = [value and value.interval for value in found]
    return system_figure(names, means, intervals, title)


def write_systems(path: str, rows: Sequence[SystemRow]) -> None:
    """Write a table of systems as CSV; an interval that is undefined is empty."""
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        head = ["system", "clips", "label", "label_low", "label_high"]
        head += ["prediction", "prediction_low", "prediction_high"]
        writer.writerow([*head, "label_rank", "prediction_rank", "rank_difference"])
        for row in rows:
            cells: List[Any] = [row.system, row.num_clips]
            for mean in (row.label, row.pred):
                cells += [mean.mean, *(mean.interval or ("", ""))]
            cells = [f"{c:.6g}" if isinstance(c, float) else c for c in cells]
            ranks = (row.label_rank, row.pred_rank, row.rank_difference)
            writer.writerow([*cells, *(f"{rank:g}" for rank in ranks)])


def _write_plots(
    directory: str,
    result: Dict[str, Any],
    pairs: Dict[str, Any],
    systems_table: Sequence[SystemRow],
    same: bool,
) -> None:
    from espnet2_distilmos.evaluation.plots import residual_figure, scatter_figure

    model, test_set = result["model"], result["test_set"]
    title = f"{model} on {test_set}"
    pred, true, systems = pairs["pred"], pairs["true"], pairs["systems"]
    figures = {"scatter": scatter_figure(pred, true, systems, title, same_scale=same)}
    # Of two scales there is neither a difference nor a common axis.
    if same:
        figures["residuals"] = residual_figure(pred, true, title)
        if systems_table:
            figures["systems"] = systems_figure({model: systems_table}, test_set)
    for kind, figure in figures.items():
        name = _file_name(kind, result) + ".png"
        with atomic_write(os.path.join(directory, "images", name), "wb") as file:
            figure.savefig(file, format="png", dpi=150)


def _file_name(kind: str, result: Dict[str, Any]) -> str:
    """A name that is safe whatever the model and the set are called."""
    text = f"{kind}_{result['model']}_{result['test_set']}"
    return urllib.parse.quote(text, safe=" ")


def write_results(
    rows: Sequence[Row],
    problems: Sequence[str],
    output_dir: Optional[str],
    num_resamples: int,
    seed: int,
    score_range: Sequence[float] = (1.0, 5.0),
    notes: Sequence[str] = (),
    command: Optional[str] = None,
    resample: str = "clusters",
) -> Dict[str, Any]:
    """Score models on test sets; write results.json, RESULTS.md, tables of systems
    and figures.

    Args:
        rows: What is scored.
        problems: Sentences on what was wrong before; those of the rows are added.
        output_dir: Where the files go; None writes none.
        num_resamples: Bootstrap resamples, 0 for no intervals.
        seed: Seed of the resampling.
        score_range: Scale of the predictions.
        notes: Sentences that stand above the table.
        command: The command that made the results.
        resample: What the bootstrap draws, one of ``bootstrap.RESAMPLES``.

    Returns:
        The contents of results.json.

    Raises:
        DataError: The output directory cannot be written.
    """
    document: Dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "bootstrap": {
            "num_resamples": num_resamples,
            "confidence": CONFIDENCE,
            "seed": seed,
        },
        "notes": list(notes),
        "results": [],
        "problems": list(problems),
        "environment": environment(command),
    }
    can_plot = importlib.util.find_spec("matplotlib") is not None
    if not can_plot:
        logging.info("matplotlib is not installed: no figures")
    for row in rows:
        document["problems"].extend(row.pairs["problems"])
        result = {"model": row.model, "test_set": row.test_set}
        result.update(score(row.pairs, num_resamples, seed, score_range, resample))
        # So that a comparison finds what was scored.
        result["files"] = {"reference": row.reference, "prediction": row.prediction}
        document["results"].append(result)
        if output_dir is None:
            continue
        pairs = row.pairs
        systems = pairs["systems"] or [None] * len(pairs["pred"])
        systems_table = system_table(
            pairs["pred"], pairs["true"], systems, pairs["clusters"], CONFIDENCE
        )
        if systems_table:
            name = _file_name("systems", result) + ".csv"
            write_systems(os.path.join(output_dir, name), systems_table)
        if can_plot:
            same = same_scale(pairs, score_range)
            _write_plots(output_dir, result, pairs, systems_table, same)

    for problem in document["problems"]:
        print(problem, file=sys.stderr)
    print("\n".join(table(document["results"])))
    if output_dir is None:
        return document
    # refuses NaN, which is no JSON
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(os.path.join(output_dir, "results.json")) as file:
        file.write(text + "\n")
    results_md = os.path.join(output_dir, "RESULTS.md")
    with atomic_write(results_md) as file:
        file.write(report(document))
    print(f"The results are in {results_md}", flush=True)
    return document


def score_all(args: argparse.Namespace) -> int:
    """Score every row, write the files and print the table.

    Returns:
        0, or 1 where anything was missing or unusable.

    Raises:
        DataError: The output directory cannot be written.
    """
    rows: Dict[Any, Row] = {}
    problems = []
    for model, test_set, ref_dir, pred_path in args.score:
        if (model, test_set) in rows:
            problems.append(
                f"--score names the model {model} on {test_set} twice, expected every "
                "row once; the second was left out."
            )
            continue
        try:
            pairs = load_pairs(ref_dir, pred_path)
        except DataError as error:
            problems.append(str(error))
            continue
        rows[model, test_set] = Row(model, test_set, pairs, ref_dir, pred_path)
    document = write_results(
        list(rows.values()),
        problems,
        args.output_dir,
        args.bootstrap,
        args.seed,
        args.score_range,
        args.note,
        args.command,
    )
    return 1 if document["problems"] else 0


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    start_logging()
    try:
        return score_all(args)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
