#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score files of predictions against labels, whatever their formats."""

import argparse
import sys
from typing import List, Optional, Sequence

from espnet2_distilmos.cli import (
    add_bootstrap_arguments,
    add_score_arguments,
    read_models,
    run_command,
)
from espnet2_distilmos.evaluation import report


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos score",
        description="Score predicted MOS against listeners' MOS: error, linear and "
        "rank correlation of utterances and of systems with bootstrap intervals. "
        "Reads labels and predictions in any format of `distilmos convert`, writes "
        "results.json, RESULTS.md and scatter plots.",
    )
    add_score_arguments(parser)
    add_bootstrap_arguments(parser, 1000, "1000; 0 for none")
    parser.add_argument("--output", metavar="DIR", help="write the results here too")
    parser.add_argument(
        "--test-set",
        metavar="NAME",
        help="name of the test set in the table; that of REFERENCE by default",
    )
    parser.add_argument(
        "--note", action="append", default=[], help="a sentence above the table"
    )
    return parser


def score(args: argparse.Namespace) -> List[str]:
    """Score every file, print the table, write the files; return the problems."""
    models = read_models(args, args.test_set)
    document = report.score_models(
        models,
        num_resamples=args.bootstrap,
        seed=args.seed,
        resample=args.resample,
        notes=args.note,
        command=args.command,
    )
    print("\n".join(report.results_lines(document["results"])))
    if args.output is not None:
        path = report.write_results(args.output, document, models)
        print(f"The results are in {path}", flush=True)
    return document["problems"]


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run_command(get_parser(), score, cmd)


if __name__ == "__main__":
    sys.exit(main())
