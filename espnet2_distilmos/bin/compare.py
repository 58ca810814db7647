#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Compare models on the same utterances: differences, intervals, paired tests."""

import argparse
import sys
from typing import List, Optional, Sequence

from espnet2_distilmos.cli import (
    add_bootstrap_arguments,
    add_score_arguments,
    read_models,
    run_command,
)
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation import report


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos compare",
        description="Compare models on the utterances that all of them scored: the "
        "difference of each metric with its paired bootstrap interval and p-value, "
        "Williams' test of correlations (not where clusters hold several clips, which "
        "are not independent), and Holm's correction over all comparisons of a metric. "
        "With --output also comparison.json, COMPARISON.md and a figure.",
    )
    add_score_arguments(parser)
    text = "1000, or 200 a comparison where it is more; below 100 for no interval"
    add_bootstrap_arguments(parser, None, text)
    parser.add_argument("--output", metavar="DIR", help="write the results here too")
    parser.add_argument(
        "--metrics",
        default="srcc,lcc,mse",
        metavar="LIST",
        help=f"which of {','.join(report.ALL_METRICS)} (srcc,lcc,mse)",
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="compare the others with this model only, not all with all",
    )
    return parser


def compare(args: argparse.Namespace) -> List[str]:
    """Compare the models, print the table, write the files; return the problems."""
    if args.bootstrap is not None and args.bootstrap < 1:
        raise DataError(
            f"--bootstrap is {args.bootstrap}, expected the number of resamples of a "
            "paired test, such as 1000."
        )
    document = report.compare(
        read_models(args),
        metrics=tuple(args.metrics.split(",")),
        baseline=args.baseline,
        num_resamples=args.bootstrap,
        seed=args.seed,
        resample=args.resample,
        command=args.command,
    )
    print("\n".join(report.comparison_lines(document["comparisons"])))
    if args.output is not None:
        path = report.write_comparison(args.output, document)
        print(f"The comparison is in {path}", flush=True)
    return document["problems"]


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run_command(get_parser(), compare, cmd)


if __name__ == "__main__":
    sys.exit(main())
