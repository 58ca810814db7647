#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Keep a part of the validation set back for the calibration (stage 4)."""

import argparse
import sys
from typing import List, Optional

from espnet2_distilmos.cli import call
from espnet2_distilmos.data.datadir import atomic_write, read_scp


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Split a validation set into a part that chooses the checkpoint "
        "and one that calibrates its intervals. The part of an utterance depends on "
        "its id alone, or on its source where there is a utt2src."
    )
    parser.add_argument("--ids", required=True, help="file with an id a line, first")
    parser.add_argument("--utt2src", help="clips of one source stay together")
    parser.add_argument(
        "--share", type=float, required=True, help="expected share that calibrates"
    )
    parser.add_argument("--output", required=True, help="list of the calibrating ids")
    return parser


def split(args: argparse.Namespace) -> int:
    """Write the list; an utterance without a source stands for itself."""
    from espnet2_distilmos.evaluation.trust import split_dev

    ids = list(read_scp(args.ids, need_value=False))
    sources = read_scp(args.utt2src) if args.utt2src else {}
    clusters = [sources.get(utt_id, utt_id) for utt_id in ids]
    try:
        _, calibrating = split_dev(ids, clusters, args.share)
    except ValueError as error:
        raise ValueError(f"{args.ids}: {error}") from error
    with atomic_write(args.output) as file:
        file.writelines(f"{utt_id}\n" for utt_id in calibrating)
    return 0


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return call(lambda: split(args))


if __name__ == "__main__":
    sys.exit(main())
