#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Accuracy against size: one table and one figure of the runs of local/run_sizes.sh.

Lines of the list are METHOD SEED FOLD EXP, as scripts/mos_ablation.sh writes them into
its runs.txt; METHOD is FAMILY_SIZE. A row is the mean over the seeds. The size is that
of the first run's model: in EXP/pruned if it is there, else EXP/latest.pth.
"""

import argparse
import dataclasses
import json
import os
import sys
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    read_score_range,
    read_text,
)
from espnet2_distilmos.evaluation import plots, report
from espnet2_distilmos.evaluation.metrics import srcc

SCALE = (1.0, 5.0)
METRICS = ("srcc", "slope", "sd_ratio")


@dataclasses.dataclass
class Size:
    """What a model costs.

    Attributes:
        parameters: Of what scores need.
        gmacs: 10^9 multiply-accumulates for a second of audio.
        speed: Seconds of audio that a CPU second scores, one thread, measured.
    """

    parameters: int
    gmacs: float
    speed: float


def read_runs(path: str) -> Dict[str, Dict[str, Dict[str, str]]]:
    """Return EXP by fold, method and seed.

    Raises:
        DataError: The list cannot be read.
    """
    runs: Dict[str, Dict[str, Dict[str, str]]] = {}
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); train a run.") from error
    for line in lines:
        fields = line.split()
        if len(fields) != 4:
            raise DataError(
                f"{path} has the line '{line}', expected METHOD SEED FOLD EXP as "
                "scripts/mos_ablation.sh writes it."
            )
        method, seed, fold, exp = fields
        runs.setdefault(fold, {}).setdefault(method, {})[seed] = exp
    return runs


def agreement(pred: np.ndarray, true: np.ndarray) -> Dict[str, Optional[float]]:
    """SRCC, and how much of the labels' spread predictions have.

    Args:
        pred, true: Predictions and labels (n,) on one scale.

    Returns:
        ``srcc``, ``slope`` (of predictions over labels, least squares) and
        ``sd_ratio``; None where one is undefined.
    """
    spread = float(np.std(true))
    if not spread > 0:
        return dict.fromkeys(METRICS)
    covariance = float(np.mean((pred - pred.mean()) * (true - true.mean())))
    return {
        "srcc": srcc(pred, true).value,
        "slope": covariance / spread**2,
        "sd_ratio": float(np.std(pred)) / spread,
    }


def read_agreement(exp: str) -> Dict[str, Dict[str, Optional[float]]]:
    """:func:`agreement` of a run by test set, labels mapped to 1 to 5.

    Raises:
        DataError: Results, labels or predictions cannot be read.
    """
    found = {}
    for row in report.read_results(f"{exp}/results.json")["results"]:
        reference = row["files"]["reference"]
        scored = report.read_scored(
            *("", row["test_set"], reference, row["files"]["prediction"]),
            format="metric-scp",
            metric="mos",
            score_range=SCALE,
        )
        low, high = read_score_range(reference) or SCALE
        true = SCALE[0] + (scored.true - low) * (SCALE[1] - SCALE[0]) / (high - low)
        found[row["test_set"]] = agreement(scored.pred, true)
    return found


def mean_agreement(
    exps: Sequence[str],
) -> Dict[str, Dict[str, Tuple[Optional[float], Optional[float]]]]:
    """Mean over runs, and SD if there are several, by test set and metric."""
    runs = [read_agreement(exp) for exp in exps]
    found: Dict[str, Dict[str, Tuple[Optional[float], Optional[float]]]] = {}
    for test_set in runs[0]:
        found[test_set] = {}
        for metric in METRICS:
            values = [run.get(test_set, {}).get(metric) for run in runs]
            known = [value for value in values if value is not None]
            found[test_set][metric] = (
                float(np.mean(known)) if known else None,
                float(np.std(known, ddof=1)) if len(known) > 1 else None,
            )
    return found


def measure(exps: Dict[str, str], seconds: float, rounds: int) -> Dict[str, Size]:
    """Sizes by method; methods without a model of ours are left out.

    Raises:
        DataError, ValueError: A model cannot be read.
    """
    from espnet2_distilmos.mos.checkpoint import load_model, open_trained_model
    from espnet2_distilmos.mos.pruning import (
        cpu_seconds,
        macs_per_second,
        num_parameters,
    )

    models = {}
    for method, exp in exps.items():
        for path in (f"{exp}/pruned", f"{exp}/latest.pth"):
            if os.path.exists(path):
                with open_trained_model(path) as files:
                    models[method] = load_model(*files)[0]
                break
    times = cpu_seconds(list(models.values()), seconds, rounds)
    sizes = {}
    for (method, model), time in zip(models.items(), times):
        macs = sum(macs_per_second(model.frontend, model.head, seconds).values())
        sizes[method] = Size(num_parameters(model), macs / 1e9, 1 / time)
    return sizes


def number(value: Optional[float], sd: Optional[float] = None) -> str:
    """Three decimals, with the SD of the runs; a dash for None."""
    if value is None:
        return report.DASH
    return f"{value:.3f}" + ("" if sd is None else f" ± {sd:.3f}")


def tables(fold: str, found: Dict[str, Dict], sizes: Dict[str, Size]) -> List[str]:
    """The two tables of a fold: SRCC, and the scores' spread."""
    sets = list(dict.fromkeys(name for of in found.values() for name in of))
    costs = ["parameters, M", "GMACs a second", "seconds of audio a CPU second"]
    rows, spreads = [], []
    for method, of_sets in found.items():
        size = sizes.get(method)
        cells = [report.DASH] * 3
        if size is not None:
            cells = [f"{size.parameters / 1e6:.2f}", f"{size.gmacs:.3f}"]
            cells.append(f"{size.speed:.0f}")
        of = [of_sets.get(name, {}) for name in sets]
        nothing = (None, None)
        rows.append([method, *cells, *(number(*s.get("srcc", nothing)) for s in of)])
        spreads.append([method])
        for one in of:
            slope, ratio = (one.get(m, nothing)[0] for m in ("slope", "sd_ratio"))
            spreads[-1].append(f"{number(slope)}, {number(ratio)}")
    return [
        f"## {fold}",
        "",
        "Utterance SRCC, mean ± SD of the seeds:",
        "",
        *report.markdown(["method", *costs, *sets], rows),
        "",
        "Slope of scores over labels, and SD of scores by that of labels:",
        "",
        *report.markdown(["method", *sets], spreads),
        "",
    ]


def write(output: str, runs: Dict[str, Dict], args: argparse.Namespace) -> None:
    """Write RESULTS.md, results.json and RESULTS.png.

    Raises:
        DataError, OSError, ValueError: Something cannot be read or written.
    """
    first: Dict[str, str] = {}
    for methods in runs.values():
        for method, exps in methods.items():
            first.setdefault(method, next(iter(exps.values())))
    sizes = measure(first, args.seconds, args.rounds)
    environment = report.environment()
    lines = ["# Accuracy against size", "", *(f"- {note}" for note in args.note)]
    lines += [
        f"- Costs of utterances of {args.seconds:g} s; a CPU second is of one thread.",
        "- Labels on another scale are mapped linearly to 1 to 5. Intervals and tests "
        f"are in {os.path.dirname(args.list)}/RESULTS.md.",
        *(f"- {k}: {v}" for k, v in environment.items() if v and k != "command"),
        "",
    ]
    document: Dict[str, Dict] = {}
    points = []
    for fold, methods in runs.items():
        found = {m: mean_agreement(list(exps.values())) for m, exps in methods.items()}
        lines += tables(fold, found, sizes)
        document[fold] = {}
        for method, of_sets in found.items():
            size = sizes.get(method)
            document[fold][method] = {
                "size": size and dataclasses.asdict(size),
                "seeds": list(methods[method]),
                "test_sets": {
                    name: {metric: value for metric, (value, _) in of.items()}
                    for name, of in of_sets.items()
                },
            }
            points += [
                {
                    "panel": f"{fold}: {name}",
                    "family": method.rpartition("_")[0] or method,
                    "parameters": size.parameters,
                    "value": of["srcc"][0],
                }
                for name, of in of_sets.items()
                if size is not None and of["srcc"][0] is not None
            ]
    os.makedirs(output, exist_ok=True)
    with atomic_write(f"{output}/results.json") as file:
        json.dump(document, file, indent=2, allow_nan=False)
        file.write("\n")
    plots.write_figure(f"{output}/RESULTS.png", plots.size_figure(points))
    with atomic_write(f"{output}/RESULTS.md") as file:
        file.write("\n".join(lines))
    print("\n".join(lines))


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("list", metavar="RUNS.TXT")
    parser.add_argument("--output", required=True, metavar="DIR")
    parser.add_argument("--seconds", type=float, default=10.0, help="of an utterance")
    parser.add_argument("--rounds", type=int, default=5, help="the fastest counts")
    parser.add_argument("--note", action="append", default=[], help="above the tables")
    args = parser.parse_args(argv)
    try:
        write(args.output, read_runs(args.list), args)
    except (DataError, OSError, ValueError) as error:
        print(f"sizes.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
