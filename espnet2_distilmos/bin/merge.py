#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Join the tables of `distilmos predict --shard`: the command `distilmos merge`."""

import argparse
import os
import sys
from typing import Dict, List, Optional

from espnet2_distilmos.cli import call
from espnet2_distilmos.data.datadir import DataError, write_scp
from espnet2_distilmos.evaluation.formats import encode_name
from espnet2_distilmos.evaluation.predictions import (
    check_output,
    merge,
    report,
    write,
)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Join the tables of all shards of `distilmos predict --shard` to "
        "the one that a single process writes: every file once, in its order. Refused "
        "are tables of which a shard is missing or there twice, and of different "
        "files or scorers.",
        epilog="Exit code: 0, or 1 when some file has no score (its row says why) or "
        "nothing was written.",
    )
    parser.add_argument(
        "tables",
        nargs="+",
        metavar="TABLE",
        help="such as scores.*of16.csv, in any order",
    )
    parser.add_argument(
        "--output", required=True, help="scores.csv, scores.jsonl or scores.scp"
    )
    return parser


def merge_tables(args: argparse.Namespace) -> int:
    """Merge and write, and report as `predict` does.

    Raises:
        DataError: They cannot be merged or written.
    """
    check_output(args.output)
    if os.path.realpath(args.output) in map(os.path.realpath, args.tables):
        raise DataError(
            f"--output is {args.output}, which is one of the tables, expected another "
            "file: it could not be merged again."
        )
    records = merge(args.tables)
    write(args.output, records)
    folders: Dict[str, Dict[str, str]] = {}
    for record in records:
        if frames := record.extra.get("frames"):
            name = encode_name(record.id, "metric-scp")
            folders.setdefault(os.path.dirname(frames), {})[name] = frames
    for folder, paths in folders.items():
        write_scp(os.path.join(folder, "frames.scp"), paths, sort=False)
    has_systems = any(record.system for record in records)
    return report(records, has_systems, args.output, sys.stdout)


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return call(lambda: merge_tables(args))


if __name__ == "__main__":
    sys.exit(main())
