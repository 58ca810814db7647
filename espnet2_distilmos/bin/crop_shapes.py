#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Choose the utterances of a training on unlabelled audio, and say their lengths."""

import argparse
import random
import sys
from typing import Dict, List, Optional

import yaml

from espnet2_distilmos.cli import run
from espnet2_distilmos.data.datadir import DataError, read_scp, write_scp


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write the shape file of mos_train for utterances of any length "
        "of which pieces are trained on: in a drawn order, with what a crop leaves of "
        "them. Batches are made of neighbours of like length; in the order of the ids "
        "they would hold one speaker each, and by the whole lengths mostly what the "
        "crop throws away.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--utt2num_samples", required=True)
    parser.add_argument("--output", required=True, help="shape file of mos_train")
    parser.add_argument("--fs", type=int, default=16000)
    parser.add_argument("--min_seconds", type=float, default=1.0)
    parser.add_argument("--max_seconds", type=float, default=20.0)
    parser.add_argument("--crop_seconds", type=float, help="as the training crops")
    parser.add_argument(
        "--config", help="training configuration: its crop_seconds, if none is given"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser


def crop_of(path: str) -> Optional[float]:
    """``crop_seconds`` of a training configuration, None if it has none."""
    with open(path, encoding="utf-8") as file:
        config = yaml.safe_load(file)
    if not isinstance(config, dict):
        raise DataError(f"{path} holds no mapping, expected a training configuration.")
    crop = config.get("crop_seconds")
    return crop if crop is None else float(crop)


def write_shapes(args: argparse.Namespace) -> Dict[str, str]:
    """Write the shape file.

    Returns:
        No failures; utterances outside the limits are left out and counted.

    Raises:
        DataError: a file cannot be used, or no utterance is left.
    """
    crop = args.crop_seconds
    if crop is None and args.config:
        crop = crop_of(args.config)
    lengths = {u: int(n) for u, n in read_scp(args.utt2num_samples).items()}
    low, high = args.min_seconds * args.fs, args.max_seconds * args.fs
    kept = sorted(u for u, n in lengths.items() if low <= n <= high)
    if not kept:
        raise DataError(
            f"{args.utt2num_samples} has no utterance of {args.min_seconds} to "
            f"{args.max_seconds} s, expected some; change the shortest and longest "
            "duration."
        )
    random.Random(args.seed).shuffle(kept)
    most = round(crop * args.fs) if crop else int(high)
    shapes = {u: min(lengths[u], most) for u in kept}
    write_scp(args.output, shapes, sort=False)
    hours = sum(lengths[u] for u in kept) / args.fs / 3600
    print(
        f"{args.output}: {len(kept)} of {len(lengths)} utterances, {hours:.2f} h",
        file=sys.stderr,
    )
    return {}


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(lambda: write_shapes(args), "")


if __name__ == "__main__":
    sys.exit(main())
