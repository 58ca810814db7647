#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Download the URGENT 2024 human ratings from the hub as audio files and metadata.csv.

It needs ``pip install "datasets<4"``. Audio that is there already is kept, so that a
broken download goes on.
"""

import argparse
import csv
import os
import sys

import soundfile

from espnet2_distilmos.data.datadir import DataError, atomic_write

DATASET = "urgent-challenge/urgent2024_mos"
COLUMNS = (
    "wav_path",
    "system_id",
    "sample_id",
    "sampling_rate",
    "score",
    "raw_ratings",
)


def write_clip(folder, clip):
    """Write the audio of a clip, unless it is there; return its row of metadata.csv."""
    name = os.path.join("wavs", f"{clip['id']}.wav")
    path = os.path.join(folder, name)
    rate = clip["audio"]["sampling_rate"]
    if not os.path.exists(path):
        with atomic_write(path, "wb") as file:
            soundfile.write(file, clip["audio"]["array"], rate, format="WAV")
    system = clip["id"].partition("-")[0]
    return (name, system, clip["id"], rate, clip["mos"], list(clip["raw_ratings"]))


def main(cmd=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", required=True)
    args = parser.parse_args(cmd)
    try:
        from datasets import load_dataset

        clips = load_dataset(DATASET, split="test")
        rows = [write_clip(args.output_dir, clip) for clip in clips]
        path = os.path.join(args.output_dir, "metadata.csv")
        with atomic_write(path) as file:  # last: it is what says that all is there
            csv.writer(file).writerows([COLUMNS, *rows])
    except ImportError:
        print(
            f"{sys.argv[0]} needs the package datasets to read {DATASET}, and did not "
            'find it; install it with pip install "datasets<4".',
            file=sys.stderr,
        )
        return 1
    except (DataError, OSError, ValueError, KeyError) as error:
        print(
            f"{DATASET} could not be downloaded ({error}), expected its 6900 clips; "
            "run this again, it goes on where it stopped.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
