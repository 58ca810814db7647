#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""One table from many results.json: models as rows, test sets as columns."""

import argparse
import sys
from typing import List, Optional, Sequence

from espnet2_distilmos.cli import run_command
from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.evaluation import report


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos results",
        description="Put the results.json of many experiments into one Markdown "
        "table, ready for an ESPnet README: models as rows, test sets as columns, "
        "intervals, the commands, and, with --baseline, differences from it and a mark "
        "where they are significant (paired test on the same clips, Holm's "
        "correction). With --seeds or --list, methods as rows: mean, SD, intervals and "
        "tests over their runs.",
    )
    parser.add_argument("results", metavar="RESULTS.JSON", nargs="*")
    parser.add_argument(
        "--list",
        metavar="FILE",
        help="score the runs of this file and put them into the table: lines `METHOD "
        "SEED TEST_SET DATA_DIR METRIC.SCP`, or `METHOD SEED EXP` for an experiment "
        "after stage 9, `METHOD SEED FOLD EXP` for a fold of a cross-validation; SEED "
        "is - for a method of one run; # begins a comment",
    )
    parser.add_argument(
        "--metrics",
        default="utt_mos_srcc,sys_mos_srcc",
        metavar="LIST",
        help="a table for each; utt_mos_ or sys_mos_ and one of "
        f"{','.join(report.ALL_METRICS)} (utt_mos_srcc,sys_mos_srcc)",
    )
    parser.add_argument(
        "--baseline",
        metavar="MODEL",
        help="compare the other models with this one; the files that were scored must "
        "still be there",
    )
    parser.add_argument(
        "--columns",
        metavar="FILE",
        help="with --seeds or --list: columns of the tables instead of the test sets, "
        "lines `NAME | SET ... | SET ...`, the mean over sets, minus the mean over "
        "others if there is a third field; SET@FOLD is a set by the model of a fold",
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


def results(args: argparse.Namespace) -> List[str]:
    """Print the page and write it; return the problems."""
    documents = {path: report.read_results(path) for path in args.results}
    problems: List[str] = []
    seeds = args.seeds
    if args.list is not None:
        documents[args.list], problems = report.read_list(
            args.list, args.score_range, args.command, args.columns is None
        )
        seeds = seeds or "_seed[0-9]+$"
    if not documents:
        raise DataError(
            "nothing to put into a table: expected a results.json or --list FILE."
        )
    columns = None
    if args.columns is not None:
        if seeds is None:
            raise DataError(
                "--columns needs the runs of methods; give --seeds or --list."
            )
        columns = report.read_columns(args.columns)
    page, content = report.overview(
        documents,
        args.metrics.split(","),
        args.baseline,
        seeds,
        num_resamples=args.bootstrap,
        seed=args.seed,
        notes=args.note,
        problems=problems,
        command=args.command,
        columns=columns,
    )
    # run_command prints the problems
    print(page.split("\nProblems:\n")[0].rstrip("\n"))
    if args.output is not None:
        with atomic_write(args.output) as file:
            file.write(page)
    if args.output_dir is not None:
        report.write_overview(args.output_dir, page, content)
    return content["problems"]


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run_command(get_parser(), results, cmd)


if __name__ == "__main__":
    sys.exit(main())
