# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score and compare models; results.json, comparison.json and their Markdown pages."""

import collections
import csv
import dataclasses
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import os
import platform
import re
import subprocess
import time
import urllib.parse
from typing import Any, Dict, Hashable, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos import FORMAT_VERSION, __version__
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    path_of_id,
    read_score_range,
    read_text,
)
from espnet2_distilmos.evaluation.bootstrap import (
    UNDEFINED_RESAMPLES,
    Resampler,
    bootstrap_intervals,
)
from espnet2_distilmos.evaluation.formats import read_scores
from espnet2_distilmos.evaluation.join import (
    ScoreFile,
    clusters_of,
    count,
    join,
    systems_of,
)
from espnet2_distilmos.evaluation.metrics import (
    ALL_METRICS,
    METRICS,
    UNMAPPED_ERRORS,
    differ_in_scale,
    evaluate,
)
from espnet2_distilmos.evaluation.paired import (
    ALPHA,
    POWER,
    compare_models,
    smallest_detectable,
)
from espnet2_distilmos.evaluation.seeds import (
    combine_sets,
    compare_methods,
    compare_values,
    resample_runs,
)
from espnet2_distilmos.evaluation.systems import (
    SystemRow,
    reliability,
    significant_pair_accuracy,
    system_table,
)

Row = Dict[str, Any]
# Rows of results.json by method and run.
Methods = Dict[str, Dict[str, Row]]
# Test sets by the name of a column: the mean over these, minus that over those.
Columns = Dict[str, List[List[str]]]

CONFIDENCE = 0.95
DASH = "–"
DETECTABLE = (
    f"(z_{1 - ALPHA / 2:g} + z_{POWER:g}) SE = {smallest_detectable(1):.2f} SE, with "
    "SE the standard error of the difference that the test estimated; of Williams' "
    "test with the quantiles of t in the place of z"
)
METRIC_KEYS = [
    f"{level}_mos_{name}" for level in ("utt", "sys") for name in ALL_METRICS
]

# Labels and predictions


@dataclasses.dataclass
class Scored:
    """Predictions of one model beside the labels of one test set.

    Attributes:
        model, test_set: Names in the tables.
        reference, prediction: Where labels and predictions were read.
        ids, pred, true: Utterances that have both, predictions and labels (n,).
        systems, clusters: Of each utterance (n,), None where it has no system; or None.
        votes: Listeners' votes of each utterance (n,), lists of pairs of the listener,
            or a number where there is no name, and the score.
        num_unlabelled: Utterances of the reference without a label.
        two_scales: Why predictions and labels have no difference, or None, see
            ``two_scales``.
        problems: A sentence for everything that was wrong.
    """

    model: str
    test_set: str
    reference: str
    prediction: str
    ids: List[str]
    pred: np.ndarray
    true: np.ndarray
    systems: Optional[List[Optional[str]]]
    clusters: Optional[List[Hashable]]
    votes: List[List[Tuple[Hashable, float]]]
    num_unlabelled: int
    two_scales: Optional[str]
    problems: List[str]

    @property
    def no_error(self) -> Optional[str]:
        """Why there is no error of the predictions as they are, or None."""
        return self.two_scales and (
            f"{self.two_scales}, expected one scale; the correlations and the errors "
            "after a mapping hold"
        )


def read_scored(
    model: str,
    test_set: str,
    reference: str,
    prediction: str,
    systems: Optional[str] = None,
    cluster: Optional[str] = None,
    metric: Optional[str] = None,
    reference_metric: Optional[str] = None,
    format: Optional[str] = None,
    score_range: Optional[Sequence[float]] = None,
    labels: Optional[ScoreFile] = None,
) -> Scored:
    """Read labels and predictions and join them by utterance.

    Args:
        model, test_set: Names in the tables.
        reference: Labels, a file or a data directory. Of a directory also utt2sys,
            votes.scp, utt2src and score_range are read, where it has them.
        prediction: Predictions, a file or a directory.
        systems, cluster: As of ``systems_of`` and ``clusters_of``; None takes
            what the files say.
        metric, reference_metric, format: As of ``read_scores``; ``metric``
            holds for both files unless ``reference_metric`` is given.
        score_range: Scale of the predictions; None is that of the labels.
        labels: What ``reference`` has, where it was read already.

    Raises:
        DataError: A file cannot be read or no utterance has both.
    """
    if labels is None:
        labels = read_scores(reference, format, reference_metric or metric)
    scores = read_scores(prediction, format, metric)
    joined = join(labels, scores)
    ids, found = joined.ids, joined.systems
    problems = [*labels.problems, *scores.problems, *joined.problems]
    if systems is not None:
        found, sentences = systems_of(ids, systems)
        problems += sentences
    without = [utt_id for utt_id, system in zip(ids, found) if system is None]
    if systems is None and 0 < len(without) < len(ids):
        problems.append(
            f"{reference} has no system for {count(without)}, expected one for "
            "each; they count at utterance level only, complete utt2sys."
        )
    utt2src = os.path.join(reference, "utt2src")
    if cluster is None and os.path.exists(utt2src):
        cluster = utt2src
    clusters: Optional[List[Hashable]] = None
    if cluster is not None:
        clusters, sentences = clusters_of(ids, cluster)
        problems += sentences
    label_range = read_score_range(reference)
    data = joined.prediction, joined.reference
    return Scored(
        *(model, test_set, reference, prediction),
        *(ids, *data),
        systems=found if len(without) < len(ids) else None,
        clusters=clusters,
        votes=[
            [(vote.listener or k, vote.score) for k, vote in enumerate(label.votes)]
            for label, _ in joined.pairs
        ],
        num_unlabelled=len(joined.unlabelled),
        two_scales=two_scales(*data, label_range, score_range),
        problems=problems,
    )


def two_scales(
    pred: np.ndarray,
    true: np.ndarray,
    label_range: Optional[Sequence[float]],
    score_range: Optional[Sequence[float]],
) -> Optional[str]:
    """Say how the scales differ, by the ranges if both are known or else by the values.

    See ``differ_in_scale`` for the values.
    """
    found = "the labels are on the scale {:g} to {:g}, the predictions on {:g} to {:g}"
    if label_range is not None and score_range is not None:
        ranges = tuple(label_range), tuple(score_range)
        differ = ranges[0] != ranges[1]
    else:
        ranges = label_range or (true.min(), true.max()), (pred.min(), pred.max())
        differ = differ_in_scale(pred, true, label_range)
        found = "the labels go from {:g} to {:g}, the predictions from {:g} to {:g}"
    return found.format(*ranges[0], *ranges[1]) if differ else None


def common_utterances(models: Sequence[Scored]) -> Tuple[List[Scored], List[str]]:
    """Reduce models of one test set to the utterances that all of them scored.

    Returns:
        The models, all with systems and clusters of the first, and all problems.

    Raises:
        DataError: There is no such utterance.
    """
    common = set.intersection(*(set(model.ids) for model in models))
    ids = [utt_id for utt_id in models[0].ids if utt_id in common]
    if not ids:
        raise DataError(
            f"no utterance was scored by all of {', '.join(m.model for m in models)}, "
            "expected predictions of the same utterances; correct the files."
        )
    problems = [sentence for model in models for sentence in model.problems]
    reduced: List[Scored] = []
    for model in models:
        left_out = len(model.ids) - len(ids)
        if left_out:
            problems.append(
                f"{model.prediction}: {left_out} utterances that another model did not "
                f"score were left out, the comparison is on {len(ids)}."
            )
        place = {utt_id: i for i, utt_id in enumerate(model.ids)}
        keep = [place[utt_id] for utt_id in ids]
        changes = {"ids": ids, "pred": model.pred[keep], "true": model.true[keep]}
        for name in ("systems", "clusters", "votes"):
            values = getattr(model, name)
            changes[name] = None if values is None else [values[i] for i in keep]
        if reduced:
            changes.update(systems=reduced[0].systems, clusters=reduced[0].clusters)
        reduced.append(dataclasses.replace(model, **changes))
    return reduced, list(dict.fromkeys(problems))


# Scores and comparisons


def score(
    scored: Scored,
    num_resamples: int = 1000,
    seed: int = 0,
    resample: str = "clusters",
    metrics: Sequence[str] = tuple(ALL_METRICS),
) -> Row:
    """Compute the metrics and intervals of one model on one test set.

    Args:
        scored: Labels and predictions.
        num_resamples, seed, resample, metrics: As of ``bootstrap_intervals``; 0
            resamples for no intervals.

    Returns:
        A row of results.json, without NaN: what ``evaluate`` returns, ``intervals``
        (pairs or None by metric), ``undefined_intervals`` (why a metric that has a
        value has none), ``resampled`` (what is drawn), ``num_clusters`` (of these), and
        ``significant_pairs`` (of systems whose votes or labels differ).
    """
    data = (scored.pred, scored.true, scored.systems)
    row = {"model": scored.model, "test_set": scored.test_set}
    row.update(evaluate(*data, metrics, scored.no_error))
    row["resampled"] = "utterances" if scored.clusters is None else "sources (utt2src)"
    row["num_clusters"] = len(set(scored.clusters or scored.ids))
    if resample == "systems":
        row.update(resampled="systems", num_clusters=row["num_systems"])
    elif resample == "within_systems":
        row["resampled"] += " within systems"
    row["num_unlabelled"] = scored.num_unlabelled
    row["significant_pairs"] = _significant_pairs(scored)
    row["intervals"], row["undefined_intervals"] = {}, {}
    if num_resamples > 0:
        options = (scored.clusters, num_resamples, CONFIDENCE, seed, resample)
        intervals = bootstrap_intervals(*data, *options, metrics)
        row["intervals"] = {k: i and list(i) for k, i in intervals.items()}
        too_few = Resampler(len(scored.ids), *data[2:], *options[:1], resample).too_few
        row["undefined_intervals"] = {
            key: too_few or UNDEFINED_RESAMPLES
            for key, interval in intervals.items()
            if interval is None and row[key] is not None
        }
    if scored.two_scales:
        for level, name in itertools.product(("utt", "sys"), UNMAPPED_ERRORS):
            row["intervals"].pop(f"{level}_mos_{name}", None)
    # So that a comparison finds what was scored.
    row["files"] = {"reference": scored.reference, "prediction": scored.prediction}
    return row


def _significant_pairs(scored: Scored) -> Row:
    """Order of the pairs of systems that differ by votes, or else by labels."""
    has_votes = any(scored.votes)
    ratings, scores = collections.defaultdict(list), collections.defaultdict(list)
    for i, system in enumerate(scored.systems or []):
        if system is not None:
            scores[system].append(scored.pred[i])
            votes = [vote for _, vote in scored.votes[i]]
            ratings[system] += votes if has_votes else [scored.true[i]]
    means = {system: float(np.mean(values)) for system, values in scores.items()}
    accuracy, num_significant, num_tested = significant_pair_accuracy(means, ratings)
    return {
        "accuracy": accuracy.value,
        "reason": accuracy.reason,
        "num_significant": num_significant,
        "num_tested": num_tested,
        "ratings": "votes" if has_votes else "labels of clips",
    }


def score_models(
    models: Sequence[Scored],
    num_resamples: int = 1000,
    seed: int = 0,
    resample: str = "clusters",
    notes: Sequence[str] = (),
    problems: Sequence[str] = (),
    command: Optional[str] = None,
) -> Row:
    """Score many models and test sets as ``score`` does.

    Args:
        models, num_resamples, seed, resample: As of ``score``.
        notes: Sentences that stand above the table.
        problems: Sentences on what was wrong; those of the models are added.
        command: The command that made the results.

    Returns:
        The contents of results.json.
    """
    options = {"num_resamples": num_resamples, "seed": seed}
    found = [*problems, *(p for model in models for p in model.problems)]
    return {
        "format_version": FORMAT_VERSION,
        "bootstrap": {**options, "confidence": CONFIDENCE},
        "notes": list(notes),
        "results": [score(m, resample=resample, **options) for m in models],
        "problems": list(dict.fromkeys(found)),
        "environment": environment(command),
    }


def compare(
    models: Sequence[Scored],
    num_resamples: Optional[int] = None,
    seed: int = 0,
    resample: str = "clusters",
    command: Optional[str] = None,
    **options: Any,
) -> Row:
    """Compare models of one test set on the utterances that all of them scored.

    Args:
        models: With different names.
        num_resamples, seed, resample, options: As of ``paired.compare_models``.
        command: The command that made the comparison.

    Returns:
        The contents of comparison.json: ``comparisons`` as ``compare_models`` returns
        them, and ``results`` as ``score`` does.
    """
    models, problems = common_utterances(models)
    drawing = (num_resamples or 1000, seed, resample, tuple(METRICS))
    options.update(num_resamples=num_resamples, seed=seed, resample=resample)
    return {
        "format_version": FORMAT_VERSION,
        "num_utts": len(models[0].ids),
        "models": {model.model: model.prediction for model in models},
        "reference": models[0].reference,
        "resample": resample,
        "seed": seed,
        "detectable": {"alpha": ALPHA, "power": POWER, "formula": DETECTABLE},
        "comparisons": _compare(models, **options),
        "results": [score(model, *drawing) for model in models],
        "problems": problems,
        "environment": environment(command),
    }


def _compare(models: Sequence[Scored], **options: Any) -> List[Row]:
    """``compare_models`` of what ``common_utterances`` returned."""
    first = models[0]
    predictions = {model.model: model.pred for model in models}
    shared = (first.true, first.systems, first.clusters)
    options["two_scales"] = {model.model: model.no_error for model in models}
    return compare_models(predictions, *shared, confidence=CONFIDENCE, **options)


def _git(directory: str, *arguments: str) -> Optional[str]:
    command = ["git", "-C", directory, *arguments]
    options = {"capture_output": True, "text": True, "timeout": 20, "check": True}
    try:
        return subprocess.run(command, **options).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> Optional[str]:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment(command: Optional[str] = None) -> Dict[str, Optional[str]]:
    """Collect what the pages state about the run; unknown values are None."""
    checkout = os.path.dirname(os.path.abspath(__file__))
    # An installed copy may lie inside another project's checkout, untracked.
    if not _git(checkout, "ls-files", "--error-unmatch", "report.py"):
        checkout = "."
    return {
        "date": time.strftime("%a %b %d %H:%M:%S %Z %Y"),
        "python": platform.python_version(),
        "espnet": _version("espnet"),
        "torch": _version("torch"),
        "espnet2_distilmos": __version__,
        "git_hash": _git(checkout, "rev-parse", "HEAD"),
        "git_commit_date": _git(checkout, "log", "-1", "--format=%cd"),
        "command": command,
    }


# Files


def read_results(path: str) -> Row:
    """Read a results.json, this version's or an earlier one's.

    Files that were scored and are not found from here are looked for in the recipe's
    directory, one or two above that of the results.

    Raises:
        DataError: It is none.
    """
    try:
        document = json.loads(read_text(path))
        if document["format_version"] != FORMAT_VERSION:
            raise ValueError(f"its format version is {document['format_version']}")
        if not isinstance(document["results"], list):
            raise ValueError("its results are no list")
        for row in document["results"]:
            if row.get("files"):
                row["files"] = _find_files(row["files"], os.path.dirname(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a results.json of format "
            f"version {FORMAT_VERSION}; run stage 9 again."
        ) from error
    return document


def _missing_files(files: Row) -> List[str]:
    """The labels and predictions, of one set or of folds, that do not exist."""
    paths = np.ravel([*files.values()]).tolist()
    return [path for path in dict.fromkeys(paths) if not os.path.exists(path)]


def _find_files(files: Row, directory: str) -> Row:
    """Return the files as found from here, else from above the results' directory."""
    for root in ("", os.path.join(directory, ".."), os.path.join(directory, "../..")):
        found = {
            key: [os.path.join(root, path) for path in np.ravel(paths).tolist()]
            for key, paths in files.items()
        }
        if not _missing_files(found):
            return {
                k: v if isinstance(files[k], list) else v[0] for k, v in found.items()
            }
    return files


def _write(
    output_dir: str, name: str, document: Row, page: str, figures: Iterable[Tuple]
) -> str:
    """Write NAME.json, NAME.md in capitals and the figures; return the page's path."""
    # Refuses NaN, which is no JSON.
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(os.path.join(output_dir, f"{name}.json")) as file:
        file.write(text + "\n")
    if importlib.util.find_spec("matplotlib") is None:
        logging.info("matplotlib is not installed: no figures")
    else:
        from espnet2_distilmos.evaluation.plots import write_figure

        for key, figure in figures:
            write_figure(os.path.join(output_dir, "images", f"{key}.png"), figure)
    path = os.path.join(output_dir, f"{name.upper()}.md")
    with atomic_write(path) as file:
        file.write(page)
    return path


def write_results(output_dir: str, document: Row, models: Sequence[Scored]) -> str:
    """Write what ``score_models`` returned of the models, with tables and figures.

    Returns:
        The path of RESULTS.md.
    """
    for model in models:
        table = systems_of_model(model)
        if table:
            path = os.path.join(output_dir, _file_name("systems", model) + ".csv")
            _write_systems(path, table)
    page = results_page(document)
    return _write(output_dir, "results", document, page, _figures(models))


def _file_name(kind: str, scored: Scored) -> str:
    """A name that is safe whatever the model and the set are called."""
    text = f"{kind}_{scored.model}_{scored.test_set}"
    name = urllib.parse.quote(text, safe=" ")
    return name if len(name) < 200 else path_of_id("", text, "")


def _figures(models: Sequence[Scored]):
    """Yield the name and the figure of every plot of RESULTS.md."""
    from espnet2_distilmos.evaluation import plots

    for model in models:
        data = model.pred, model.true
        title = f"{model.model} on {model.test_set}"
        scatter = plots.scatter_figure(
            *data, model.systems, title, same_scale=not model.two_scales
        )
        yield _file_name("scatter", model), scatter
        # Of two scales there is neither a difference nor a common axis.
        if not model.two_scales:
            yield _file_name("residuals", model), plots.residual_figure(*data, title)
            if model.systems is not None:
                table = {model.model: systems_of_model(model)}
                figure = plots.system_figure(table, model.test_set)
                yield _file_name("systems", model), figure


def systems_of_model(scored: Scored) -> List[SystemRow]:
    """Means, intervals and ranks of the systems; none without systems."""
    systems = scored.systems or [None] * len(scored.ids)
    return system_table(scored.pred, scored.true, systems, scored.clusters, CONFIDENCE)


def _write_systems(path: str, rows: Sequence[SystemRow]) -> None:
    """Write a table of systems; an interval that is undefined is empty."""
    head = ["system", "clips"]
    for name in ("label", "prediction"):
        head += [name, f"{name}_low", f"{name}_high"]
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*head, "label_rank", "prediction_rank", "rank_difference"])
        for row in rows:
            cells: List[Any] = []
            for mean in (row.label, row.pred):
                cells += [mean.mean, *(mean.interval or ("", ""))]
            cells = [f"{c:.6g}" if isinstance(c, float) else c for c in cells]
            ranks = (row.label_rank, row.pred_rank, row.rank_difference)
            cells += [f"{rank:g}" for rank in ranks]
            writer.writerow([row.system, row.num_clips, *cells])


# Markdown


def markdown(
    head: Sequence[str], rows: Sequence[Sequence[str]], num_names: int = 1
) -> List[str]:
    r"""Format a table: the first columns to the left, the numbers to the right.

    >>> print("\n".join(markdown(["model", "MSE"], [["a|b", "0.312"]])))
    | model |   MSE |
    | ----- | ----: |
    | a\|b  | 0.312 |
    """
    # pandas' to_markdown escapes no |, parses numbers again and needs tabulate.
    table = [
        [" ".join(c.split()).replace("|", r"\|") for c in r] for r in (head, *rows)
    ]
    widths = [max(map(len, column)) for column in zip(*table)]
    rule = ["-" * width for width in widths]
    rule[num_names:] = [dashes[1:] + ":" for dashes in rule[num_names:]]
    lines = []
    for row in (table[0], rule, *table[1:]):
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        cells[num_names:] = [c.rjust(w) for c, w in zip(row, widths)][num_names:]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def format_value(
    value: Optional[float],
    interval: Optional[Sequence[float]] = None,
    sign: str = "",
    note: str = "",
) -> str:
    """Format a metric, a note and its interval; an undefined one is a dash.

    >>> format_value(0.25, (0.2, 0.3)), format_value(0.25, sign="+")
    ('0.250 [0.200, 0.300]', '+0.250')
    """
    if value is None:
        return DASH
    text = f"{value:{sign}.3f}{note}"
    if interval:
        text += f" [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"
    return text


def format_p(value: Optional[float]) -> str:
    """Format a p-value; none is a dash."""
    return "< .001" if value is not None and value < 0.001 else format_value(value)


def _list(sentences: Iterable[str], title: str = "") -> List[str]:
    """Format sentences as a list under a title; nothing where there are none."""
    lines = [f"- {' '.join(sentence.split())}" for sentence in sentences]
    return ["", title, "", *lines] if title and lines else lines


def environment_lines(environment: Dict[str, Optional[str]]) -> List[str]:
    """Format ``environment`` as a list."""
    env = {name: value or "unknown" for name, value in environment.items()}
    lines = [
        f"- date: `{env['date']}`",
        f"- python version: `{env['python']}`",
        f"- espnet version: `espnet {env['espnet']}`",
        f"- pytorch version: `pytorch {env['torch']}`",
        f"- espnet2_distilmos version: `{env['espnet2_distilmos']}`",
        f"- Git hash: `{env['git_hash']}`",
    ]
    if environment["git_commit_date"]:
        lines.append(f"  - Commit date: `{env['git_commit_date']}`")
    if environment["command"]:
        lines.append(f"- command: `{env['command']}`")
    return lines


def results_table(results: Sequence[Row]) -> List[str]:
    """Format errors and correlations of the rows of results.json."""
    levels = {"utt": ("utts", "num_utts"), "sys": ("systems", "num_systems")}
    head = ["test set", "model"]
    for level, (name, _) in levels.items():
        head += [name, f"{level} MSE", f"{level} LCC"]
        head += [f"{level} SRCC [95 %]", f"{level} KTAU"]
    rows = []
    for result in results:
        cells = [result["test_set"], result["model"]]
        for level, (_, counted) in levels.items():
            cells.append(str(result[counted]))
            for metric in ("mse", "lcc", "srcc", "ktau"):
                key = f"{level}_mos_{metric}"
                interval = result["intervals"].get(key) if metric == "srcc" else None
                cells.append(format_value(result[key], interval))
        rows.append(cells)
    return markdown(head, rows, num_names=2)


def _further_table(results: Sequence[Row]) -> List[str]:
    """Format errors after a mapping, and pairs."""
    names = {
        "rmse_first_order": "RMSE linear",
        "rmse_third_order": "RMSE cubic",
        "pair_accuracy": "pair accuracy",
    }
    head = ["test set", "model"]
    head += [f"{level} {name}" for level in ("utt", "sys") for name in names.values()]
    keys = [f"{level}_mos_{name}" for level in ("utt", "sys") for name in names]
    rows = []
    for result in results:
        cells = [format_value(result[k], result["intervals"].get(k)) for k in keys]
        pairs = result["significant_pairs"]
        counts = f"({pairs['num_significant']} of {pairs['num_tested']})"
        cells.append(f"{format_value(pairs['accuracy'])} {counts}")
        rows.append([result["test_set"], result["model"], *cells])
    return markdown([*head, "of significant pairs"], rows, num_names=2)


def results_lines(results: Sequence[Row]) -> List[str]:
    """Format rows of results.json for the screen: errors and correlations.

    With the errors after a mapping where there are no others, and what is undefined.
    """
    lines = results_table(results)
    if any(row["utt_mos_mse"] is None for row in results):
        lines += ["", *_further_table(results)]
    return lines + undefined_lines(results)


def results_page(document: Row) -> str:
    """Format the whole of results.json as RESULTS.md."""
    results = document["results"]
    notes = list(document["notes"])
    num_resamples = document["bootstrap"]["num_resamples"]
    drawn = [
        f"{r['num_clusters']} {r['resampled']} of {r['test_set']}"
        for r in results
        if any(r["intervals"].values())
    ]
    if drawn:
        notes.append(
            f"[95 %]: bootstrap interval from {num_resamples} resamples of the "
            f"{'; '.join(dict.fromkeys(drawn))}."
        )
    lines = [
        "<!-- Generated by espnet2_distilmos.bin.mos_scoring -->",
        "# RESULTS",
        "## Environments",
        *environment_lines(document["environment"]),
        *("", "## MOS prediction", ""),
        *_list(notes),
        "",
        *results_table(results),
        *("", "After a mapping to the labels' scale (ITU-T P.1401), and pairs:", ""),
        *_further_table(results),
        "",
        "Significant pairs: the systems differ by Welch's t test of listeners' votes, "
        "or of the clips' labels where there are none, with Holm's correction over the "
        "pairs.",
        *undefined_lines(results),
        *_list(document["problems"], "Problems:"),
    ]
    return "\n".join(lines) + "\n"


def undefined_lines(results: Sequence[Row]) -> List[str]:
    """Format why metrics and intervals of rows of results.json are undefined."""
    remarks = []
    for row in results:
        reasons: Dict[Tuple[str, str], List[str]] = {}
        # Results of version 0.1 have no reasons for intervals.
        for what in ("undefined", "undefined_intervals"):
            for key, reason in row.get(what, {}).items():
                reasons.setdefault((what, reason), []).append(key)
        name = f"{row['test_set']}, {row['model']}"
        for (what, reason), keys in reasons.items():
            of = "no interval of " if what == "undefined_intervals" else ""
            remarks.append(f"{name}: {of}{', '.join(keys)}: {reason}.")
    return _list(remarks, f"Undefined ({DASH}):")


def comparison_table(rows: Sequence[Row]) -> List[str]:
    """Format what ``compare_models`` returned."""
    head = ["metric", "model a", "model b", "a", "b", "a - b [95 %]"]
    for test in ("bootstrap", "williams"):
        head += [f"p {test}", "Holm", "detectable"]
    head.append("better")
    lines = []
    for row in rows:
        cells = [f"{row['level']} {row['metric'].upper()}"]
        cells += [row["model_a"], row["model_b"]]
        cells += [format_value(row["value_a"]), format_value(row["value_b"])]
        cells.append(format_value(row["difference"], row["interval"], "+"))
        for test in ("p_bootstrap", "p_correlation"):
            cells += [format_p(row[test]), format_p(row[f"{test}_holm"])]
            cells.append(format_value(row[test.replace("p_", "detectable_")]))
        p_value = row["p_bootstrap_holm"]
        verdict = "n.t." if p_value is None else "n.s."
        lines.append(
            [*cells, row["better"] if _is_significant(p_value, row) else verdict]
        )
    return markdown(head, lines, num_names=3)


def _is_significant(p_value: Optional[float], row: Row) -> bool:
    return p_value is not None and p_value < ALPHA and row["better"] is not None


def comparison_lines(rows: Sequence[Row]) -> List[str]:
    """Format what ``compare_models`` returned, with what the table needs to be read."""
    missing: Dict[str, List[str]] = {}
    for row in rows:
        reasons = [row["reason"]]
        reasons += [row["reason_correlation"]] * (row["metric"] in ("lcc", "srcc"))
        for reason in filter(None, reasons):
            missing.setdefault(reason, []).append(f"{row['level']} {row['metric']}")
    sentences = [f"{', '.join(dict.fromkeys(k))}: {r}." for r, k in missing.items()]
    tests = ("detectable_bootstrap", "detectable_correlation")
    definition = (
        f"detectable: the smallest true difference that the test finds at {ALPHA}, "
        f"two-sided, with a probability of {POWER:.0%}, before Holm's correction: "
        f"{DETECTABLE}."
    )
    marks = (
        f"better: by the bootstrap after Holm's correction, p < {ALPHA}; n.s.: not "
        "significant; n.t.: not tested."
    )
    has_value = any(row[test] is not None for row in rows for test in tests)
    return [
        *comparison_table(rows),
        "",
        marks,
        *([definition] if has_value else []),
        *_list(sentences, f"Not computed ({DASH}):"),
    ]


def write_comparison(output_dir: str, document: Row) -> str:
    """Write comparison.json, COMPARISON.md and figures; return the page's path."""
    page = [
        "# Comparison",
        "",
        *environment_lines(document["environment"]),
        f"- {document['num_utts']} utterances that every model scored; resampled: "
        f"{document['resample']}",
        "- p-values are two-sided; Holm's correction is over all comparisons of a "
        f"metric at one level; n.s.: not significant at {ALPHA}; n.t.: not tested",
        "",
        *comparison_lines(document["comparisons"]),
        "",
    ]
    figures = _metric_figures(document["results"], ("utt_mos_srcc", "sys_mos_srcc"))
    return _write(output_dir, "comparison", document, "\n".join(page), figures)


def _metric_figures(rows: Sequence[Row], metrics: Iterable[str]):
    """Yield each metric that has a value and its figure, models by test sets."""
    from espnet2_distilmos.evaluation.plots import comparison_figure

    for metric in metrics:
        if any(row.get(metric) is not None for row in rows):
            yield metric, comparison_figure(rows, metric)


# Many models or methods on many test sets


def read_list(
    path: str,
    score_range: Sequence[float],
    command: Optional[str] = None,
    join_folds: bool = True,
) -> Tuple[Row, List[str]]:
    """Score the runs of a list, or take the scores of experiments.

    Args:
        path: File with lines ``METHOD SEED TEST_SET REF_DIR PRED``, or ``METHOD SEED
            EXP`` for an experiment that has a results.json, or ``METHOD SEED FOLD EXP``
            where it is one fold of several, see ``fold_rows``. SEED is ``-`` for a
            method of one run; ``#`` begins a comment.
        score_range: Scale of the predictions.
        command: The command that made the results.
        join_folds: Put the folds together; else the sets are ``SET@FOLD``.

    Returns:
        Contents as of results.json, whose rows also have ``method`` and ``run``, and a
        sentence for everything that was wrong; a bad line is left out.

    Raises:
        DataError: The file cannot be read or has no run that can be scored.
    """
    try:
        text = read_text(path)
        lines = [line.partition("#")[0].split() for line in text.split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a list of runs, one a line: "
            "method, seed, test set, data directory, metric.scp."
        ) from error
    results: List[Row] = []
    problems: List[str] = []
    folds: Dict[Tuple[str, str], Dict[str, List[Row]]] = {}
    for number, fields in enumerate(lines, 1):
        try:
            rows, sentences = _rows_of_line(fields, score_range)
        except DataError as error:
            rows, sentences = [], [f"left out: {error}"]
        problems += [f"{path}, line {number}: {sentence}" for sentence in sentences]
        if rows and len(fields) == 4 and not join_folds:
            for row in rows:
                row = {**row, "test_set": f"{row['test_set']}@{fields[2]}"}
                results.append(_named(row, *fields[:2]))
        elif rows and len(fields) == 4:
            folds.setdefault(tuple(fields[:2]), {})[fields[2]] = rows
        elif rows:
            results += [_named(row, *fields[:2]) for row in rows]
    rows, sentences = fold_rows(folds, score_range)
    results += rows
    problems += [f"{path}: {sentence}" for sentence in sentences]
    if not results:
        raise DataError(" ".join([f"{path} has no run that can be scored.", *problems]))
    notes = FOLD_NOTES if folds else []
    document = {"results": results, "notes": notes}
    document["environment"] = environment(command)
    return document, problems


def _named(row: Row, method: str, run: str) -> Row:
    model = method if run == "-" else f"{method}_seed{run}"
    return {**row, "model": model, "method": method, "run": run}


def _rows_of_line(
    fields: Sequence[str], score_range: Sequence[float]
) -> Tuple[List[Row], List[str]]:
    """Rows and problems of a line of ``read_list``."""
    if not fields:
        return [], []
    if len(fields) == 5:
        options = {"format": "metric-scp", "metric": "mos", "score_range": score_range}
        scored = read_scored(fields[0], *fields[2:], **options)
        return [score(scored, 0)], scored.problems
    if len(fields) not in (3, 4):
        raise DataError(
            f"found {len(fields)} fields, expected five: method, seed, test set, data "
            "directory, metric.scp; or three: method, seed, directory of an "
            "experiment; or four, a fold before the directory."
        )
    path = os.path.join(fields[-1], "results.json")
    model = os.path.basename(os.path.normpath(fields[-1]))
    rows = [row for row in read_results(path)["results"] if row["model"] == model]
    if not rows:
        raise DataError(
            f"{path} has no results of the model {model}, expected those that stage 9 "
            "writes into an experiment's directory; run stage 9 again."
        )
    return rows, []


# Folds of a cross-validation

FOLD_NOTES = [
    "A set SET_FOLD is what a fold holds out. `SET, pooled`: the predictions of all "
    "folds together, each clip by the one model that was not trained on it; a system's "
    "mean is over several models, and is held out only where the folds divide systems. "
    "`SET, within folds`: correlations within a fold's own set, averaged over seeds "
    "and the folds of a group (a fold's name up to _); SD, interval and paired t test "
    "are over the groups.",
    "A set that all folds share: single models by its name, runs being seeds and "
    "folds; and `mean of folds`, the mean of the folds' predictions.",
]


def pool_folds(folds: Sequence[Scored]) -> Scored:
    """Join the held-out predictions of all folds, sorted by utterance.

    Raises:
        DataError: An utterance is in two folds.
    """
    ids = [utt_id for fold in folds for utt_id in fold.ids]
    twice = [utt_id for utt_id, n in collections.Counter(ids).items() if n > 1]
    if twice:
        raise DataError(
            f"{folds[0].test_set}: {count(twice)} predicted by two folds, "
            "expected one; leave the experiments of other folds out."
        )
    order = sorted(range(len(ids)), key=lambda i: ids[i].encode("utf-8"))
    changes: Row = {"ids": [ids[i] for i in order]}
    for name in ("pred", "true"):
        changes[name] = np.concatenate([getattr(f, name) for f in folds])[order]
    for name in ("systems", "clusters", "votes"):
        parts = [getattr(fold, name) for fold in folds]
        joined = None if None in parts else [value for part in parts for value in part]
        changes[name] = joined and [joined[i] for i in order]
    changes["num_unlabelled"] = sum(fold.num_unlabelled for fold in folds)
    changes["two_scales"] = next(filter(None, (f.two_scales for f in folds)), None)
    changes["problems"] = [p for fold in folds for p in fold.problems]
    return dataclasses.replace(folds[0], **changes)


def average_folds(folds: Sequence[Scored]) -> Scored:
    """Average the predictions of all folds' models of one test set."""
    reduced, problems = common_utterances(folds)
    mean = np.mean([fold.pred for fold in reduced], axis=0)
    return dataclasses.replace(reduced[0], pred=mean, problems=problems)


def fold_rows(
    runs: Dict[Tuple[str, str], Dict[str, List[Row]]], score_range: Sequence[float]
) -> Tuple[List[Row], List[str]]:
    """Rows of an overview from the folds of each method and seed.

    Args:
        runs: Rows of results.json by method and seed, then by fold. A test set whose
            name ends in ``_FOLD`` is held out by that fold alone.
        score_range: Scale of the predictions.

    Returns:
        Rows of the sets that ``FOLD_NOTES`` explains, and a sentence for each run that
        was left out, for want of a fold or because an utterance is in two.
    """
    folds = list(dict.fromkeys(fold for of_run in runs.values() for fold in of_run))
    results: List[Row] = []
    problems: List[str] = []
    held_out: Dict[Tuple[str, str], List[List[Row]]] = {}
    for (method, run), of_run in runs.items():
        sets: Dict[str, List[Row]] = {}
        for fold in folds:
            for row in of_run.get(fold, []):
                name = row["test_set"].removesuffix(f"_{fold}")
                sets.setdefault(name, []).append(row)
        for name, rows in sets.items():
            if len(rows) < len(folds):
                problems.append(
                    f"{method}, seed {run} has {name} of {len(rows)} folds, expected "
                    f"the {len(folds)} {' '.join(folds)}; it was left out."
                )
                continue
            title, how = f"{name}, pooled", "pooled"
            if rows[0]["test_set"] == name:
                title, how = f"{name}, mean of folds", "averaged"
            files = {
                key: [row["files"][key] for row in rows] for key in rows[0]["files"]
            }
            joined = {"model": method, "test_set": title, "files": files, "folds": how}
            try:
                scored = _read_files(joined, score_range)
            except DataError as error:
                problems.append(f"{method}, seed {run}, left out: {error}")
                continue
            results.append(_named({**score(scored, 0), **joined}, method, run))
            if how == "averaged":
                single = zip(folds, rows)
                results += [
                    _named(row, method, f"{run}/{fold}") for fold, row in single
                ]
            else:
                held_out.setdefault((method, name), []).append(rows)
    for (method, name), of_seeds in held_out.items():
        groups: Dict[str, List[Sequence[Row]]] = {}
        for fold, seeds in zip(folds, zip(*of_seeds)):
            groups.setdefault(fold.split("_")[0], []).append(seeds)
        for group, rows_of_group in groups.items():
            row = {key: _mean_of_folds(rows_of_group, key) for key in METRIC_KEYS}
            row.update(test_set=f"{name}, within folds", over_groups=True)
            results.append({**_named(row, method, group), "model": f"{method}_{group}"})
    return results, problems


def _mean_of_folds(folds: Sequence[Sequence[Row]], key: str) -> Optional[float]:
    """Mean over folds of the mean over seeds; None where one has no value."""
    values = [[row.get(key) for row in seeds] for seeds in folds]
    if any(None in seeds for seeds in values):
        return None
    return float(np.mean([np.mean(seeds) for seeds in values]))


def _read_files(row: Row, score_range: Optional[Sequence[float]] = None) -> Scored:
    """Labels and predictions of a row of results.json, joined where it is of folds."""
    if not row.get("files"):
        raise DataError(
            f"{row['model']} does not say which files were scored; run stage 9 again."
        )
    missing = _missing_files(row["files"])
    if missing:
        raise DataError(
            f"the results of {row['model']} name {', '.join(missing[:3])}, not found "
            "from here, expected the labels and predictions that were scored; run it "
            "in the recipe's directory, to which the paths are relative."
        )
    names = row["model"], row["test_set"]
    reference, prediction = row["files"]["reference"], row["files"]["prediction"]
    if "folds" not in row:
        return read_scored(*names, reference, prediction, score_range=score_range)
    scored = [
        read_scored(*names, *pair, score_range=score_range)
        for pair in zip(reference, prediction)
    ]
    return {"pooled": pool_folds, "averaged": average_folds}[row["folds"]](scored)


def overview(
    documents: Dict[str, Row],
    metrics: Sequence[str] = ("utt_mos_srcc", "sys_mos_srcc"),
    baseline: Optional[str] = None,
    seeds: Optional[str] = None,
    num_resamples: int = 1000,
    seed: int = 0,
    notes: Sequence[str] = (),
    problems: Sequence[str] = (),
    command: Optional[str] = None,
    columns: Optional[Columns] = None,
) -> Tuple[str, Row]:
    """Put many results.json together: models or methods by test sets.

    Args:
        documents: Contents of results.json by path.
        metrics: Such as ``utt_mos_srcc``; a table for each.
        baseline: Model or method that the others are compared with; None for none.
        seeds: Regular expression of the part of a model's name that tells its run:
            models that differ in it alone are one method. None takes every model for
            itself.
        num_resamples, seed: Of the bootstrap; the number with ``seeds``.
        notes: Sentences that stand above the tables.
        problems: Sentences on what was wrong before.
        command: The command that makes the page.
        columns: The columns of the tables, see ``read_columns``; needs ``seeds``. None
            takes a column for each test set.

    Returns:
        The page, and the contents of its results.json, where ``methods`` and
        ``comparisons`` are as of ``seeds.compare_methods``, with ``test_set``. Where
        the files that were scored cannot be read they are over the runs alone, or
        without ``seeds`` not tested, which a sentence says.

    Raises:
        DataError: A metric or the baseline is unknown, or ``seeds`` is no expression;
            with ``columns`` also where files that were scored cannot be read.
    """
    for metric in metrics:
        if metric not in METRIC_KEYS:
            raise DataError(
                f"--metrics has {metric}, expected some of {', '.join(METRIC_KEYS)}."
            )
    problems = list(problems)
    rows: Dict[Tuple[str, str], Row] = {}
    sets: Dict[str, Methods] = {}
    for path, document in documents.items():
        for row in document["results"]:
            first = rows.setdefault((row["model"], row["test_set"]), row)
            srcc = ("utt_mos_srcc", "sys_mos_srcc")
            if any(first.get(key) != row.get(key) for key in srcc):
                problems.append(
                    f"{path} has {row['model']} on {row['test_set']} once more with "
                    "other values, expected each model once; the first was kept: leave "
                    "one out or name the models differently."
                )
            method, run = _method_and_run(row, seeds)
            sets.setdefault(row["test_set"], {}).setdefault(method, {})[run] = first
    names = dict.fromkeys(method for methods in sets.values() for method in methods)
    if baseline is not None and baseline not in names:
        raise DataError(
            f"--baseline is {baseline}, expected one of {', '.join(names)}."
        )
    content = {"format_version": FORMAT_VERSION, "notes": list(notes)}
    content.update(results=list(rows.values()), methods=[], comparisons=[], remarks=[])
    drawing = {"num_resamples": num_resamples, "seed": seed}
    if columns is not None:
        found = _compare_columns(sets, columns, metrics, baseline, drawing)
        content.update({key: found[key] for key in ("methods", "comparisons")})
        problems += found["problems"]
        content["remarks"] = found["remarks"]
        sets = {}
    for test_set, methods in sets.items():
        base = baseline if baseline in methods else None
        if base != baseline:
            problems.append(f"{test_set}: {baseline} was not scored on it.")
        found = _compare_methods(methods, metrics, base, seeds, drawing)
        for key in ("methods", "comparisons"):
            content[key] += [{"test_set": test_set, **row} for row in found[key]]
        problems += [f"{test_set}: {sentence}" for sentence in found["problems"]]
        content["remarks"] += [f"{test_set}: {text}" for text in found["remarks"]]
    content.update(problems=problems, environment=environment(command))
    page = _overview_page(content, documents, metrics, baseline, seeds is not None)
    return page, content


def _method_and_run(row: Row, seeds: Optional[str]) -> Tuple[str, str]:
    """A model without a seed in its name is the only run of its method."""
    if seeds is None:
        return row["model"], ""
    if "method" in row:
        return row["method"], row["run"]
    try:
        found = re.search(seeds, row["model"])
    except re.error as error:
        raise DataError(
            f"--seeds {seeds} is no regular expression ({error}), expected one such as "
            "'_seed[0-9]+$'."
        ) from error
    run = found.group() if found else ""
    return row["model"].replace(run, "", 1) or row["model"], run


def _read_again(methods: Methods) -> Tuple[List[Scored], List[str]]:
    """``common_utterances`` of the files that were scored, by method and run."""
    models = []
    for row in (row for runs in methods.values() for row in runs.values()):
        # What is wrong with a file was said when it was scored.
        models.append(dataclasses.replace(_read_files(row), problems=[]))
    return common_utterances(models)


def _compare_methods(
    methods: Methods,
    metrics: Sequence[str],
    baseline: Optional[str],
    seeds: Optional[str],
    drawing: Dict[str, int],
) -> Dict[str, List]:
    """``methods``, ``comparisons``, ``problems`` and ``remarks`` of one test set.

    With ``seeds`` over runs and items, else by the paired bootstrap of two models.
    """
    values = {
        method: {run: {m: row.get(m) for m in metrics} for run, row in runs.items()}
        for method, runs in methods.items()
    }
    summaries, comparisons = compare_values(values, baseline)
    found = {"methods": summaries, "comparisons": comparisons}
    found.update(problems=[], remarks=[])
    if seeds is None:
        for row in summaries:
            stored, key = methods[row["method"]][""], row["metric"]
            row["interval"] = (stored.get("intervals") or {}).get(key)
            reasons = {
                **(stored.get("undefined") or {}),
                **(stored.get("undefined_intervals") or {}),
            }
            row["reason"] = reasons.get(key)
        if not comparisons:
            return found
    if any("over_groups" in row for runs in methods.values() for row in runs.values()):
        return found
    try:
        models, found["problems"] = _read_again(methods)
    except DataError as error:
        text = "intervals and tests are over the runs alone, not over other items"
        if seeds is None:
            text = "the models were not tested against the baseline"
            for row in comparisons:
                row["reason"] = "the files that were scored could not be read"
        found["problems" if seeds is None else "remarks"].append(f"{text}: {error}")
        return found
    names = tuple(dict.fromkeys(metric.split("_mos_")[1] for metric in metrics))
    if seeds is None:
        options = {"metrics": names, "baseline": baseline, "seed": drawing["seed"]}
        compared = _compare(models, **options)
        tests = {(f"{r['level']}_mos_{r['metric']}", r["model_a"]): r for r in compared}
        for row in comparisons:
            test = tests.get((row["metric"], row["method"]))
            if test and row["difference"] is not None:
                keys = ("difference", "interval", "better", "reason")
                row.update({key: test[key] for key in keys})
                row.update(p_value=test["p_bootstrap"], p_holm=test["p_bootstrap_holm"])
        return found
    scored = iter(models)
    parts = compare_methods(
        {m: {run: next(scored).pred for run in runs} for m, runs in methods.items()},
        *(models[0].true, models[0].systems, models[0].clusters, names),
        baseline=baseline,
        **drawing,
    )
    for key, rows in zip(("methods", "comparisons"), parts):
        # An error between two scales has no value, whatever the files give.
        found[key] = [
            row
            for row in rows
            if row["metric"] in metrics
            and None not in [v[row["metric"]] for v in values[row["method"]].values()]
        ]
    return found


def read_columns(path: str) -> Columns:
    """Read the columns of a table from lines ``NAME | SETS | SETS``.

    A column is the mean of a metric over the sets that the second field names, minus
    that over those of the third, which may be absent.

    Raises:
        DataError: The file cannot be read, or a line is another.
    """
    try:
        lines = [line.partition("#")[0] for line in read_text(path).split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    columns: Columns = {}
    for number, line in enumerate(lines, 1):
        name, *parts = [part.strip() for part in line.split("|")]
        if not name and not parts:
            continue
        sets = [part.split() for part in parts]
        if not name or name in columns or len(sets) not in (1, 2) or [] in sets:
            raise DataError(
                f"{path}, line {number}: found {line.strip()!r}, expected a name that "
                "no other line has and the test sets whose mean it is, such as `gap | "
                "a b | c d`."
            )
        columns[name] = sets
    if not columns:
        raise DataError(f"{path} has no column, expected a line such as `gap | a | b`.")
    return columns


def _compare_columns(
    sets: Dict[str, Methods],
    columns: Columns,
    metrics: Sequence[str],
    baseline: Optional[str],
    drawing: Dict[str, int],
) -> Dict[str, List]:
    """``methods``, ``comparisons``, ``problems`` and ``remarks`` of the columns.

    The clips of each set are resampled by themselves, those of a set that stands under
    two names together; the variances of several sets add up.
    """
    names = tuple(dict.fromkeys(metric.split("_mos_")[1] for metric in metrics))
    found: Dict[str, List] = {
        key: [] for key in ("methods", "comparisons", "problems", "remarks")
    }
    values: Dict[str, Dict] = {}
    items: Dict[str, Tuple[str, ...]] = {}
    units: Dict[Tuple[str, ...], int] = {}
    for column, parts in columns.items():
        missing = [name for part in parts for name in part if name not in sets]
        if missing:
            found["problems"].append(
                f"the column {column} was left out: no method was scored on "
                f"{', '.join(missing)}."
            )
            continue
        for name in (name for part in parts for name in part):
            if name in values:
                continue
            models, sentences = _read_again(sets[name])
            found["problems"] += [f"{name}: {sentence}" for sentence in sentences]
            first = models[0]
            items[name] = tuple(first.ids)
            number = list({**units, items[name]: 0}).index(items[name])
            resampler = Resampler(
                *(len(first.ids), first.systems, first.clusters, "clusters"),
                *(drawing["num_resamples"], drawing["seed"] + number),
            )
            units[items[name]] = resampler.num_units
            scored = iter(models)
            pred = {
                method: {run: next(scored).pred for run in runs}
                for method, runs in sets[name].items()
            }
            values[name] = resample_runs(pred, first.true, resampler, names)
            for method, runs in values[name].items():
                for run, of_run in runs.items():
                    row = sets[name][method][run]
                    # An error between two scales has no value.
                    runs[run] = {
                        key: samples if row.get(key) is not None else samples * np.nan
                        for key, samples in of_run.items()
                        if key in metrics
                    }
            if parts == [[name]]:
                found["remarks"] += _ceilings(column, first)
        compared = _compare_column(column, parts, values, items, units, baseline)
        for key, rows in compared.items():
            found[key] += rows
    return found


def _compare_column(
    column: str,
    parts: Sequence[Sequence[str]],
    values: Dict[str, Dict],
    items: Dict[str, Tuple[str, ...]],
    units: Dict[Tuple[str, ...], int],
    baseline: Optional[str],
) -> Dict[str, List]:
    """``methods``, ``comparisons`` and ``problems`` of one column."""
    problems = []
    sets = [name for part in parts for name in part]
    weights = [s / len(part) for s, part in zip((1, -1), parts) for _ in part]
    own = list(dict.fromkeys(items[name] for name in sets))
    places = [own.index(items[name]) for name in sets]
    combined: Dict[str, Dict[str, Dict[str, np.ndarray]]] = {}
    for method in dict.fromkeys(m for name in sets for m in values[name]):
        runs = [values[name].get(method, {}) for name in sets]
        for run in dict.fromkeys(r for of_set in runs for r in of_set):
            if not all(run in of_set for of_set in runs):
                problems.append(
                    f"{column}: {method}, seed {run} was left out, as it was not "
                    "scored on every set of this column."
                )
                continue
            combined.setdefault(method, {})[run] = {
                key: combine_sets([r[run][key] for r in runs], weights, places)
                for key in runs[0][run]
                if all(key in of_set[run] for of_set in runs)
            }
    base = baseline if baseline in combined else None
    if base != baseline:
        problems.append(f"{column}: {baseline} was not scored on it.")
    if not combined:
        return {"problems": problems}
    of_items = [units[item] for item in own]
    summaries, comparisons = compare_values(combined, base, CONFIDENCE, of_items)
    return {
        "methods": [{"test_set": column, **row} for row in summaries],
        "comparisons": [{"test_set": column, **row} for row in comparisons],
        "problems": problems,
    }


def _ceilings(name: str, scored: Scored) -> List[str]:
    """Say how reliable the labels of a set are, where it has votes."""
    if not any(scored.votes):
        return [f"{name}: no votes, the reliability of its labels is not known."]
    texts = []
    for level, groups in (("clips", None), ("systems", scored.systems)):
        if level == "systems" and (groups is None or None in groups):
            continue
        found = reliability(scored.votes, groups)
        if found.value is None:
            texts.append(f"of {level} unknown ({found.reason})")
        else:
            ceiling = found.value**0.5
            texts.append(f"of {level} {found.value:.3f}, ceiling {ceiling:.3f}")
    return [f"{name}: reliability of the labels {'; '.join(texts)}."]


def _overview_page(
    content: Row,
    documents: Dict[str, Row],
    metrics: Sequence[str],
    baseline: Optional[str],
    of_runs: bool,
) -> str:
    """Format the contents that ``overview`` returns; ``of_runs``: with ``seeds``."""
    lines = ["<!-- Generated by distilmos results -->", "# RESULTS", ""]
    lines += [*_list(content["notes"]), ""] if content["notes"] else []
    for metric in metrics:
        lines += _metric_tables(content, metric, baseline, of_runs)
    if of_runs:
        lines += [
            "SD: of the runs, which differ in their seed. [95 %]: for the mean of "
            "other runs on other items, a t interval with the variance of the runs "
            "and, by bootstrap, of the items (sources of `utt2src` where it is there); "
            "of a single run, the items alone.",
            "",
        ]
    if baseline is not None:
        test = "paired bootstrap on the same clips"
        if of_runs:
            test = "test over runs and items, run by run where the seeds are the same"
        lines += [
            f"▲ better and ▼ worse than {baseline}: two-sided {test}, Holm's "
            f"correction over a column, p < {ALPHA}. No mark: not significant. "
            "n.t.: not tested.",
            "",
        ]
    if any(row.get("detectable") is not None for row in content["comparisons"]):
        lines += [
            "detectable: the smallest true difference that the test finds at "
            f"{ALPHA}, two-sided, with a probability of {POWER:.0%}, before Holm's "
            "correction: the quantiles of t at both, added, times the standard error.",
            "",
        ]
    lines += [*_list(content["remarks"]), ""] if content["remarks"] else []
    lines += ["## How", ""]
    for document in documents.values():
        env = {k: v or "unknown" for k, v in document["environment"].items()}
        names = [row.get("method", row["model"]) for row in document["results"]]
        how = (
            f"- {', '.join(dict.fromkeys(names))}: espnet {env['espnet']}, torch "
            f"{env['torch']}, espnet2_distilmos {env['espnet2_distilmos']} at "
            f"`{env['git_hash'][:12]}`, {env['date']}"
        )
        command = document["environment"]["command"]
        lines.append(how + (f", `{command}`" if command else ""))
        lines += [f"  {note}" for note in _list(document["notes"])]
    lines += _list(content["problems"], "Problems:")
    return "\n".join(lines) + "\n"


def _metric_tables(
    content: Row, metric: str, baseline: Optional[str], of_runs: bool
) -> List[str]:
    """Methods by test sets: values, and their differences from the baseline."""
    cells: Dict[Tuple[str, str], str] = {}
    without: Dict[str, List[str]] = {}
    for row in content["methods"]:
        if row["metric"] == metric:
            note = f" ± {row['sd']:.3f}" if row["sd"] is not None else ""
            note += f" ({row['num_runs']})" if of_runs else ""
            text = format_value(row["mean"], row["interval"], note=note)
            cells[row["method"], row["test_set"]] = text
            if row["interval"] is None and row["reason"]:
                without.setdefault(row["reason"], []).append(
                    f"{row['method']} on {row['test_set']}"
                )
    differences: Dict[Tuple[str, str], str] = {}
    untested: Dict[str, List[str]] = {}
    for row in content["comparisons"]:
        if row["metric"] == metric and row["difference"] is not None:
            key = row["method"], row["test_set"]
            text = format_value(row["difference"], row["interval"], "+")
            if row["p_holm"] is not None:
                text += f", p = {format_p(row['p_holm'])}".replace("= <", "<")
            else:
                text += ", n.t."
                cells[key] += " n.t."
                untested.setdefault(row["reason"], []).append(" on ".join(key))
            if row.get("detectable") is not None:
                text += f", detectable {row['detectable']:.3f}"
            differences[key] = text + ("" if row["paired"] else ", unpaired")
            if _is_significant(row["p_holm"], row):
                cells[key] += " ▲" if row["better"] == row["method"] else " ▼"
    sets = list(dict.fromkeys(row["test_set"] for row in content["methods"]))
    methods = list(dict.fromkeys(row["method"] for row in content["methods"]))
    others = [method for method in methods if method != baseline]

    def table(names: Sequence[str], texts: Dict[Tuple[str, str], str]) -> List[str]:
        rows = [[name, *(texts.get((name, s), DASH) for s in sets)] for name in names]
        return [*markdown(["method" if of_runs else "model", *sets], rows), ""]

    level, name = metric.split("_mos_")
    title = {"utt": "Utterances", "sys": "Systems"}[level]
    title += f": {name.replace('_', ' ').upper()}"
    title += ": mean ± SD (runs) [95 %]" if of_runs else " [95 %]"
    lines = [f"## {title}", "", *table(methods, cells)]
    reasons = [f"No interval: {', '.join(k)}: {r}." for r, k in without.items()]
    lines += [*_list(reasons), ""] if reasons else []
    if baseline is not None:
        lines += [f"Minus {baseline} [95 %], p after Holm's correction:", ""]
        lines += table(others, differences)
        reasons = [f"n.t.: {', '.join(keys)}: {r}." for r, keys in untested.items()]
        lines += [*_list(reasons), ""] if reasons else []
    return lines


def write_overview(output_dir: str, page: str, content: Row) -> str:
    """Write RESULTS.md, results.json and a figure of each metric."""
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
    metrics = dict.fromkeys(row["metric"] for row in content["methods"])
    return _write(output_dir, "results", content, page, _metric_figures(rows, metrics))
