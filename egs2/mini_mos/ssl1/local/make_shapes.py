#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write the utterances to train on, in a drawn order, with what a crop leaves of them.

Batches are made of neighbours of like length: in the order of the ids they would hold
one speaker each, and by their whole lengths mostly what the crop throws away.
"""

import argparse
import random
import sys

from espnet2_distilmos.fileio.datadir import DataError, read_scp, write_scp


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--utt2num_samples", required=True)
    parser.add_argument("--output", required=True, help="shape file of mos_train")
    parser.add_argument("--fs", type=int, default=16000)
    parser.add_argument("--min_seconds", type=float, default=1.0)
    parser.add_argument("--max_seconds", type=float, default=20.0)
    parser.add_argument("--crop_seconds", type=float, help="as the training crops")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        lengths = {u: int(n) for u, n in read_scp(args.utt2num_samples).items()}
        low, high = args.min_seconds * args.fs, args.max_seconds * args.fs
        kept = sorted(u for u, n in lengths.items() if low <= n <= high)
        if not kept:
            raise DataError(
                f"{args.utt2num_samples} has no utterance of {args.min_seconds} to "
                f"{args.max_seconds} s, expected some; change --min_wav_duration or "
                "--max_wav_duration."
            )
        random.Random(args.seed).shuffle(kept)
        crop = round(args.crop_seconds * args.fs) if args.crop_seconds else high
        shapes = {u: min(lengths[u], int(crop)) for u in kept}
        write_scp(args.output, shapes, sort=False)
    except (DataError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    hours = sum(lengths[u] for u in kept) / args.fs / 3600
    print(
        f"{args.output}: {len(kept)} of {len(lengths)} utterances, {hours:.2f} h",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
