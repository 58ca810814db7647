#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score the predictions of all folds together.

Every clip of p835 has one prediction a seed, from the model that heard neither its
talker nor, with ``--leave conditions``, its condition. On an out-of-domain set every
fold's model predicts every clip: the table has the mean of their scores (an ensemble),
the notes above it have the mean of their single correlations (what one model reaches).
"""

import argparse
import json
import os
import statistics
import sys
from typing import Dict, List, Optional, Sequence

from espnet2_distilmos.data.datadir import (
    DataError,
    read_metric_scp,
    read_scp,
    write_metric_scp,
    write_scp,
)
from espnet2_distilmos.evaluation import report
from espnet2_distilmos.evaluation.metrics import srcc

LEVELS = ("utt", "sys")


def pool(fold_scores: Sequence[Dict[str, float]]) -> Dict[str, float]:
    """Join scores of different clips; a clip of two folds would not be held out."""
    pooled: Dict[str, float] = {}
    for scores in fold_scores:
        twice = pooled.keys() & scores.keys()
        if twice:
            raise DataError(
                f"{len(twice)} clips (the first is {min(twice)}) were predicted by two "
                "folds, expected one; remove the experiments of other folds."
            )
        pooled.update(scores)
    return pooled


def average(fold_scores: Sequence[Dict[str, float]]) -> Dict[str, float]:
    """Average the models' scores of every clip that all of them scored."""
    shared = set(fold_scores[0]).intersection(*fold_scores)
    return {
        utt_id: statistics.fmean(scores[utt_id] for scores in fold_scores)
        for utt_id in sorted(shared)
    }


def condition_means(data: str, fold: str) -> Dict[str, float]:
    """Predict the mean training label of a test clip's condition.

    Returns:
        Scores by clip, only of conditions that the fold's training set has.
    """
    labels = read_metric_scp(f"{data}/train_{fold}/metric.scp")
    by_system: Dict[str, List[float]] = {}
    for utt_id, system in read_scp(f"{data}/train_{fold}/utt2sys").items():
        by_system.setdefault(system, []).append(labels[utt_id])
    return {
        utt_id: statistics.fmean(by_system[system])
        for utt_id, system in read_scp(f"{data}/test_{fold}/utt2sys").items()
        if system in by_system
    }


def summary(values: Sequence[float]) -> str:
    """Mean, sample standard deviation, range and number of some values."""
    if not values:
        return "undefined"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return (
        f"{statistics.fmean(values):.3f} (SD {deviation:.3f}, {min(values):.3f} to "
        f"{max(values):.3f}, over {len(values)})"
    )


def spread(
    exp: str,
    seeds: Sequence[int],
    folds: Sequence[str],
    test_set: str,
    levels: Sequence[str] = LEVELS,
) -> str:
    """Describe the single models' correlations on a set, from their results.json.

    ``test_set`` may hold ``{fold}``.
    """
    values: Dict[str, List[float]] = {
        f"{level}_mos_{metric}": [] for level in levels for metric in ("srcc", "lcc")
    }
    for seed in seeds:
        for fold in folds:
            path = f"{exp}/seed{seed}/{fold}/results.json"
            with open(path, encoding="utf-8") as file:
                results = json.load(file)["results"]
            name = test_set.format(fold=fold)
            model = next(
                (r for r in results if (r["model"], r["test_set"]) == (fold, name)),
                None,
            )
            if model is None:
                raise DataError(
                    f"{path} has no results of {name}, expected them; run stages 8 "
                    "and 9 again (--stage 8)."
                )
            for metric in values:
                if model[metric] is not None:
                    values[metric].append(model[metric])
    parts = []
    for metric, found in values.items():
        if found:
            level, name = metric.split("_mos_")
            parts.append(f"{level} {name.upper()} {summary(found)}")
    return ", ".join(parts)


def scores_of(exp: str, seed: int, fold: str, test_set: str) -> Dict[str, float]:
    """Read what the model of a seed and fold predicted, by clip."""
    path = f"{exp}/seed{seed}/{fold}/inference/{test_set}/metric.scp"
    return {u: s for u, s in read_metric_scp(path).items() if s is not None}


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp", required=True, help="has seed<N>/<fold>/")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--folds", nargs="+", required=True)
    parser.add_argument("--data", default="data", help="the data directories")
    parser.add_argument("--ood_sets", nargs="*", default=[])
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--out", help="where the scores go; --exp by default")
    args = parser.parse_args(argv)
    out = args.out or args.exp

    rows: List[List[str]] = []

    def add(model: str, test_set: str, scores: Dict[str, float], ref: str = "") -> None:
        path = os.path.join(out, "pooled", model, test_set, "metric.scp")
        write_metric_scp(path, scores, decimals=6)
        rows.append([model, test_set, ref or f"{args.data}/{test_set}", path])

    notes = []
    try:
        # The labels of the clips that the folds test, which need not be all.
        labels = read_metric_scp(f"{args.data}/p835/metric.scp")
        tested = set().union(
            *(read_scp(f"{args.data}/test_{f}/metric.scp") for f in args.folds)
        )
        reference = os.path.join(out, "pooled", "reference")
        write_metric_scp(
            f"{reference}/metric.scp", {u: m for u, m in labels.items() if u in tested}
        )
        for name in ("utt2sys", "utt2src"):
            values = read_scp(f"{args.data}/p835/{name}")
            write_scp(
                f"{reference}/{name}", {u: v for u, v in values.items() if u in tested}
            )
        for seed in args.seeds:
            held_out = [scores_of(args.exp, seed, f, f"test_{f}") for f in args.folds]
            add(f"seed{seed}", "p835", pool(held_out), reference)
        named = [condition_means(args.data, fold) for fold in args.folds]
        known = pool(named)
        if known:
            # Averaged over all folds it is the mean of all labels, the tested ones too:
            # at system level there is nothing to score.
            ref = os.path.join(out, "pooled", "condition_mean", "reference")
            for name in ("metric.scp", "utt2src"):
                write_scp(f"{ref}/{name}", read_scp(f"{reference}/{name}"))
            add("condition_mean", "p835", known, ref)
            values = [
                srcc(list(scores.values()), [labels[u] for u in scores]).value
                for scores in named
            ]
            single = summary([value for value in values if value is not None])
            notes += [
                "condition_mean predicts the mean label that a clip's condition has in "
                "the training set: what naming the condition alone is worth. On each "
                f"test set alone: utt SRCC {single}.",
                "The system level of p835 is not held out: the models of the other "
                "folds were trained on a talker's labels, and every condition is in "
                "every training set.",
            ]
        text = spread(args.exp, args.seeds, args.folds, "test_{fold}", ("utt",))
        notes.append(f"p835, each model on its own test set alone: {text}.")
        for name in args.ood_sets:
            for seed in args.seeds:
                scores = [scores_of(args.exp, seed, f, name) for f in args.folds]
                add(f"seed{seed}", name, average(scores))
            text = spread(args.exp, args.seeds, args.folds, name)
            notes.append(
                f"{name}: the table scores the mean of the {len(args.folds)} models' "
                f"scores. Each model alone: {text}."
            )
        models = [report.read_scored(*row, score_range=(1, 5)) for row in rows]
        document = report.score_models(models, args.bootstrap, notes=notes)
        report.write_results(out, document, models)
    except (DataError, OSError) as error:
        print(f"score_folds: {error}", file=sys.stderr)
        return 1
    print("\n".join(report.results_table(document["results"])))
    for problem in document["problems"]:
        print(problem, file=sys.stderr)
    return 1 if document["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
