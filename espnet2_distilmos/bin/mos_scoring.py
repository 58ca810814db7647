#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score predicted against true MOS: results.json, RESULTS.md and scatter plots."""

import argparse
import sys
from typing import Dict, List, Optional, Sequence, Tuple

from espnet2_distilmos.cli import run_command
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation import report


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


def score(args: argparse.Namespace) -> List[str]:
    """Score every row, print the table and write the files; return the problems."""
    models: Dict[Tuple[str, str], report.Scored] = {}
    problems = []
    options = {"format": "metric-scp", "metric": "mos"}
    for row in args.score:
        name = tuple(row[:2])
        try:
            if name in models:
                raise DataError(
                    f"--score names the model {row[0]} on {row[1]} twice, expected "
                    "every row once; the second was left out."
                )
            models[name] = report.read_scored(
                *row, score_range=args.score_range, **options
            )
        except DataError as error:
            problems.append(str(error))
    scored = list(models.values())
    document = report.score_models(
        scored,
        num_resamples=args.bootstrap,
        seed=args.seed,
        notes=args.note,
        problems=problems,
        command=args.command,
    )
    path = report.write_results(args.output_dir, document, scored)
    print("\n".join(report.results_lines(document["results"])))
    print(f"The results are in {path}", flush=True)
    return document["problems"]


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run_command(get_parser(), score, cmd)


if __name__ == "__main__":
    sys.exit(main())
