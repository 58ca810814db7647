#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Compare methods over folds and seeds: tables, tests and a plot.

There are two sources of chance: clips (of few talkers or sources, which are what the
bootstrap draws) and training runs (seeds; on an out-of-domain set also folds, since the
model of each fold scores every clip). A method that has no seeds, such as ridge
regression, has one run, or one a fold.
"""

import argparse
import json
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.evaluation.metrics import evaluate
from espnet2_distilmos.evaluation.paired import holm
from espnet2_distilmos.evaluation.report import format_value, markdown, read_scored
from espnet2_distilmos.evaluation.seeds import (
    compare_methods,
    seed_difference,
    summarise_seeds,
)

METRICS = ("srcc", "lcc")
TEST = ("difference", "interval", "p_value", "p_holm")


class Scores(NamedTuple):
    """One method's predictions of one set.

    Attributes:
        runs: Predictions by run, each (n,), in the order of the labels.
        true, systems, clusters: Of each clip (n,), as ``read_scored`` has them.
    """

    runs: Dict[Tuple, List[float]]
    true: List[float]
    systems: Optional[List[Optional[str]]]
    clusters: Optional[List[Any]]

    def values(self, key: str) -> List[Optional[float]]:
        """A metric of every run."""
        found = []
        for pred in self.runs.values():
            found.append(evaluate(pred, self.true, self.systems, METRICS)[key])
        return found


def read_runs(paths: Dict[Tuple, str], reference: str) -> Scores:
    """Read the predictions of all runs of a method on one set.

    Args:
        paths: metric.scp by run.
        reference: Data directory with the labels.

    Raises:
        DataError: A run lacks a labelled clip.
    """
    runs, scored = {}, None
    for run, path in paths.items():
        scored = read_scored("/".join(map(str, run)), "", reference, path)
        if scored.problems:
            raise DataError(scored.problems[0])
        runs[run] = scored.pred
    return Scores(runs, scored.true, scored.systems, scored.clusters)


def of_runs(values: Sequence[Optional[float]]) -> str:
    """Mean and SD over runs."""
    summary = summarise_seeds(values)
    text = format_value(summary.mean)
    return text if summary.sd is None else f"{text} ± {format_value(summary.sd)}"


def differences(
    methods: Dict[str, Scores], num_resamples: int = 1000
) -> Dict[str, Dict[str, Any]]:
    """Compare every method's utterance SRCC with the first's, over runs and clips.

    Args:
        methods: Predictions of one set.
        num_resamples: Number of resamples of the clusters.

    Returns:
        ``difference`` (method minus first), ``interval``, ``p_value`` and ``p_holm`` by
        method, as ``seeds.compare_methods`` finds them.
    """
    first = next(iter(methods))
    _, compared = compare_methods(
        {
            name: {"/".join(map(str, run)): pred for run, pred in scores.runs.items()}
            for name, scores in methods.items()
        },
        methods[first].true,
        methods[first].systems,
        methods[first].clusters,
        metrics=("srcc",),
        baseline=first,
        num_resamples=num_resamples,
    )
    return {
        row["method"]: {k: row[k] for k in TEST}
        for row in compared
        if row["metric"] == "utt_mos_srcc"
    }


def talker_tests(
    within: Dict[str, Dict[str, List[Optional[float]]]],
) -> Dict[str, Dict[str, Any]]:
    """Compare every method with the first over talkers by the paired t test.

    Args:
        within: For each method and fold the correlation that the model of each seed
            has on its own test clips.

    Returns:
        As ``differences``; the correlations are averaged over seeds, then over the
        folds of a talker, so that the test is about talkers.
    """

    def by_talker(folds: Dict[str, List[Optional[float]]]) -> List[Optional[float]]:
        found: Dict[str, List[float]] = {}
        for fold, values in folds.items():
            if any(value is None for value in values):
                return [None]
            found.setdefault(fold.split("_")[0], []).append(float(np.mean(values)))
        return [float(np.mean(values)) for values in found.values()]

    base, *others = within
    first = by_talker(within[base])
    found = {
        name: seed_difference(by_talker(within[name]), first, paired=True)
        for name in others
    }
    corrected = holm([result.p_value for result in found.values()])
    return {
        name: {
            "difference": result.difference,
            "interval": result.interval and list(result.interval),
            "p_value": result.p_value,
            "p_holm": p,
        }
        for (name, result), p in zip(found.items(), corrected)
    }


def against(test: Optional[Dict[str, Any]]) -> str:
    """Format a difference with its interval and p-value."""
    if test is None:
        return "–"
    text = f"{test['difference']:+.3f}"
    if test["interval"] is not None:
        low, high = test["interval"]
        text += f" [{low:+.3f}, {high:+.3f}], p = {test['p_holm']:.3f}"
    return text


def pooled_folder(args: argparse.Namespace, method: str) -> str:
    """Where score_folds.py wrote the joined predictions of a method."""
    if args.pooled:
        return f"{args.pooled}/{method}/pooled"
    return f"{args.expdir}/{method}_{args.leave}/pooled"


def in_domain(
    args: argparse.Namespace, seeds: Dict[str, List[int]]
) -> Tuple[List[str], Dict[str, Any]]:
    """Lines and values of p835."""
    pooled, within = {}, {}
    for method in args.methods:
        exp = f"{args.expdir}/{method}_{args.leave}"
        folder = pooled_folder(args, method)
        paths = {(s,): f"{folder}/seed{s}/p835/metric.scp" for s in seeds[method]}
        pooled[method] = read_runs(paths, f"{folder}/reference")
        within[method] = {}
        for fold in args.folds:
            runs = {
                (s,): f"{exp}/seed{s}/{fold}/inference/test_{fold}/metric.scp"
                for s in seeds[method]
            }
            scores = read_runs(runs, f"{args.data}/test_{fold}")
            within[method][fold] = scores.values("utt_mos_srcc")
    tests = differences(pooled, args.bootstrap)
    by_talker = talker_tests(within)
    rows, values = [], {}
    for method, scores in pooled.items():
        mean = [float(np.mean(v)) for v in within[method].values()]
        values[method] = {
            "utt_mos_srcc": scores.values("utt_mos_srcc"),
            "utt_mos_lcc": scores.values("utt_mos_lcc"),
            "utt_mos_srcc_by_fold": within[method],
            "pooled_test": tests.get(method),
            "talker_test": by_talker.get(method),
        }
        rows.append(
            [
                method,
                of_runs(scores.values("utt_mos_srcc")),
                of_runs(scores.values("utt_mos_lcc")),
                against(tests.get(method)),
                f"{np.mean(mean):.3f} ({min(mean):.3f} to {max(mean):.3f})",
                against(by_talker.get(method)),
            ]
        )
    first = args.methods[0]
    titles = ["method", "utt SRCC, pooled", "utt LCC, pooled"]
    titles += [f"minus {first}: over talkers and seeds"]
    titles += ["utt SRCC within a test set: mean (range)"]
    titles += [f"minus {first}: paired t over talkers"]
    return markdown(titles, rows, num_names=1), values


def out_of_domain(
    args: argparse.Namespace, seeds: Dict[str, List[int]], name: str
) -> Tuple[List[str], Dict[str, Any]]:
    """Lines and values of a set that every fold's model scored."""
    single, together = {}, {}
    for method in args.methods:
        exp = f"{args.expdir}/{method}_{args.leave}"
        single[method] = read_runs(
            {
                (s, fold): f"{exp}/seed{s}/{fold}/inference/{name}/metric.scp"
                for s in seeds[method]
                for fold in args.folds
            },
            f"{args.data}/{name}",
        )
        together[method] = read_runs(
            {
                (s,): f"{pooled_folder(args, method)}/seed{s}/{name}/metric.scp"
                for s in seeds[method]
            },
            f"{args.data}/{name}",
        )
    tests = differences(single, args.bootstrap)
    rows, values = [], {}
    for method, scores in single.items():
        keys = [f"{lvl}_mos_{m}" for lvl in ("utt", "sys") for m in METRICS]
        found = {key: scores.values(key) for key in keys}
        mean = together[method].values("utt_mos_srcc")
        values[method] = {
            **found,
            "utt_mos_srcc_of_mean": mean,
            "test": tests.get(method),
        }
        rows.append(
            [
                method,
                *(of_runs(found[key]) for key in keys[:2]),
                against(tests.get(method)),
                *(of_runs(found[key]) for key in keys[2:]),
                of_runs(mean),
            ]
        )
    first = args.methods[0]
    titles = ["method", "utt SRCC", "utt LCC"]
    titles += [f"minus {first}: over sources and models"]
    titles += ["sys SRCC", "sys LCC", "utt SRCC of the folds' mean scores"]
    return markdown(titles, rows, num_names=1), values


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--expdir", default="exp", help="has <method>_<leave>/")
    parser.add_argument("--leave", default="talkers")
    parser.add_argument(
        "--pooled",
        help="has <method>/pooled/, as score_folds.py --out wrote it; by default it is "
        "in the experiments",
    )
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument(
        "--unseeded",
        nargs="*",
        default=["ridge", "distill-mos"],
        help="methods with no seeds: they have seed0 alone",
    )
    parser.add_argument("--folds", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--data", default="data")
    parser.add_argument("--ood_sets", nargs="*", default=[])
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument("--out", required=True, help="directory of the comparison")
    args = parser.parse_args(argv)
    seeds = {m: [0] if m in args.unseeded else args.seeds for m in args.methods}
    try:
        lines, values = in_domain(args, seeds)
        document = {"p835": values}
        page = ["# p835, " + args.leave + " left out", "", *lines, ""]
        for name in args.ood_sets:
            lines, values = out_of_domain(args, seeds, name)
            document[name] = values
            page += [f"# {name}, zero-shot: single models", "", *lines, ""]
        page += [
            f"± is the SD over the runs ({len(args.seeds)} seeds; out of domain each "
            f"times {len(args.folds)} folds). In brackets 95 % intervals, p after "
            "Holm's correction over the methods.",
            "",
        ]
        with atomic_write(f"{args.out}/comparison.json") as file:
            json.dump(document, file, indent=1)
        with atomic_write(f"{args.out}/COMPARISON.md") as file:
            file.write("\n".join(page))
    except (DataError, OSError, ValueError) as error:
        print(f"compare_folds: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print("\n".join(page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
