#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Compare models on the same utterances: differences, intervals, paired tests."""

import argparse
import importlib.util
import json
import os
import sys
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from espnet2_distilmos.bin.mos_scoring import cell, environment, markdown, number
from espnet2_distilmos.bin.score import (
    Scored,
    add_input_arguments,
    pairs_of,
    read_scored,
    run,
    split_name,
)
from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.evaluation.bootstrap import bootstrap_intervals
from espnet2_distilmos.evaluation.metrics import ALL_METRICS, evaluate
from espnet2_distilmos.evaluation.paired import compare_models

FORMAT_VERSION = 1
CONFIDENCE = 0.95


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos compare",
        description="Compare models on the utterances that all of them scored: the "
        "difference of each metric with its paired bootstrap interval and p-value, "
        "Williams' test of dependent correlations (without --cluster), and Holm's "
        "correction over all comparisons of a metric. With --output also "
        "comparison.json, COMPARISON.md and a figure.",
    )
    add_input_arguments(parser)
    parser.add_argument(
        "--metrics",
        default="srcc,lcc,mse",
        metavar="LIST",
        help=f"which of {','.join(ALL_METRICS)} (srcc,lcc,mse)",
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="compare the others with this model only, not all with all",
    )
    return parser


def common_utterances(models: Sequence[Scored]) -> Dict[str, Any]:
    """Reduce the models to the utterances that all of them scored.

    Returns:
        ``ids`` (n), ``true`` (n,), ``predictions`` (n,) by model, ``systems`` and
        ``clusters`` (n) or None, and ``problems``.

    Raises:
        DataError: There is no such utterance.
    """
    first = models[0]
    common = set(first.joined.ids)
    for model in models[1:]:
        common &= set(model.joined.ids)
    ids = [utt_id for utt_id in first.joined.ids if utt_id in common]
    problems = [sentence for model in models for sentence in model.problems]
    if not ids:
        raise DataError(
            "no utterance was scored by all of "
            f"{', '.join(model.name for model in models)}, expected predictions of the "
            "same utterances; correct the files."
        )
    for model in models:
        left_out = len(model.joined.ids) - len(ids)
        if left_out:
            problems.append(
                f"{model.path}: {left_out} utterances that another model did not "
                f"score were left out, the comparison is on {len(ids)}."
            )

    def pick(model: Scored, values: Sequence[Any]) -> List[Any]:
        by_id = dict(zip(model.joined.ids, values))
        return [by_id[utt_id] for utt_id in ids]

    pairs = pairs_of(first)
    systems, clusters = pairs["systems"], pairs["clusters"]
    return {
        "ids": ids,
        "true": np.asarray(pick(first, pairs["true"])),
        "predictions": {
            m.name: np.asarray(pick(m, m.joined.prediction.tolist())) for m in models
        },
        "systems": None if systems is None else pick(first, systems),
        "clusters": None if clusters is None else pick(first, clusters),
        "problems": list(dict.fromkeys(problems)),
    }


def _p(value: Optional[float]) -> str:
    if value is None:
        return "–"
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _signed(value: Optional[float]) -> str:
    return "–" if value is None else f"{value:+.3f}"


def comparison_table(rows: Sequence[Dict[str, Any]]) -> List[str]:
    """Format what ``compare_models`` returned as lines of a Markdown table."""
    head = ["metric", "model a", "model b", "a", "b", "a - b [95 %]"]
    head += ["p bootstrap", "Holm", "p williams", "Holm", "better"]
    lines = []
    for row in rows:
        difference = _signed(row["difference"])
        if row["interval"]:
            difference += " [{}, {}]".format(*map(_signed, row["interval"]))
        significant = row["p_bootstrap_holm"] is not None
        significant = significant and row["p_bootstrap_holm"] < 1 - CONFIDENCE
        lines.append(
            [
                f"{row['level']} {row['metric'].upper()}",
                cell(row["model_a"]),
                cell(row["model_b"]),
                number(row["value_a"]),
                number(row["value_b"]),
                difference,
                _p(row["p_bootstrap"]),
                _p(row["p_bootstrap_holm"]),
                _p(row["p_correlation"]),
                _p(row["p_correlation_holm"]),
                cell(row["better"]) if significant else "not told apart",
            ]
        )
    return markdown(head, lines, num_names=3)


def compare(args: argparse.Namespace) -> int:
    """Compare the models, print the table and write the files.

    Returns:
        0, or 1 where anything was missing or unusable.

    Raises:
        DataError: The models cannot be compared, or the output not be written.
    """
    metrics = tuple(args.metrics.split(","))
    if args.bootstrap < 1:
        raise DataError(
            f"--bootstrap is {args.bootstrap}, expected the number of resamples of a "
            "paired test, such as 1000."
        )
    models = read_scored(args)
    data = common_utterances(models)
    shared = (data["true"], data["systems"], data["clusters"], metrics)
    # The least p-value that Holm's correction can still call significant needs more
    # resamples with more models; 1000 is where nobody said anything.
    num_resamples = None if args.bootstrap == 1000 else args.bootstrap
    try:
        rows = compare_models(
            data["predictions"],
            *shared,
            baseline=args.baseline,
            num_resamples=num_resamples,
            confidence=CONFIDENCE,
            seed=args.seed,
            resample=args.resample,
        )
    except ValueError as error:
        raise DataError(f"the models cannot be compared: {error}") from error
    test_set = split_name(args.reference)[0]
    lines = comparison_table(rows)
    for problem in data["problems"]:
        print(problem, file=sys.stderr)
    print("\n".join(lines))
    if args.output is not None:
        document = {
            "format_version": FORMAT_VERSION,
            "num_utts": len(data["ids"]),
            "models": {model.name: model.path for model in models},
            "reference": args.reference,
            "resample": args.resample,
            "seed": args.seed,
            "comparisons": rows,
            "results": _results(data, test_set, args),
            "problems": data["problems"],
            "environment": environment(args.command),
        }
        write(args.output, document, lines)
    return 1 if data["problems"] else 0


def _results(
    data: Dict[str, Any], test_set: str, args: argparse.Namespace
) -> List[Dict[str, Any]]:
    results = []
    for name, pred in data["predictions"].items():
        shared = (pred, data["true"], data["systems"])
        result = {"model": name, "test_set": test_set, **evaluate(*shared)}
        intervals = bootstrap_intervals(
            *shared,
            data["clusters"],
            args.bootstrap,
            CONFIDENCE,
            args.seed,
            args.resample,
        )
        result["intervals"] = {
            key: None if value is None else list(value)
            for key, value in intervals.items()
        }
        results.append(result)
    return results


def write(output_dir: str, document: Dict[str, Any], lines: Sequence[str]) -> None:
    """Write comparison.json, COMPARISON.md and, with matplotlib, the figures.

    Raises:
        DataError: The directory cannot be written.
    """
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(os.path.join(output_dir, "comparison.json")) as file:
        file.write(text + "\n")
    reasons = sorted(
        {
            f"- {row['level']} {row['metric']}: {row[key]}."
            for row in document["comparisons"]
            for key in ("reason", "reason_correlation")
            if row[key] and row[key] != "for correlations only"
        }
    )
    page = [
        "# Comparison",
        "",
        f"- command: `{document['environment']['command']}`",
        f"- {document['num_utts']} utterances that every model scored; resampled: "
        f"{document['resample']}",
        "- p-values are two-sided; Holm's correction is over all comparisons of a "
        "metric at one level",
        "",
        *lines,
        *(["", "Not computed (–):", "", *reasons] if reasons else []),
        "",
    ]
    path = os.path.join(output_dir, "COMPARISON.md")
    with atomic_write(path) as file:
        file.write("\n".join(page))
    if importlib.util.find_spec("matplotlib") is not None:
        from espnet2_distilmos.evaluation.plots import comparison_figure

        for key in ("utt_mos_srcc", "sys_mos_srcc"):
            if all(result.get(key) is None for result in document["results"]):
                continue
            figure = comparison_figure(document["results"], key)
            name = os.path.join(output_dir, "images", f"{key}.png")
            with atomic_write(name, "wb") as file:
                figure.savefig(file, format="png", dpi=150)
    print(f"The comparison is in {path}", flush=True)


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run(compare, get_parser(), cmd)


if __name__ == "__main__":
    sys.exit(main())
