#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Predict the MOS of every utterance of a wav.scp."""

import argparse
import contextlib
import logging
import os
import sys
import time
from typing import Dict, List, Optional

from espnet2.utils.config_argparse import ArgumentParser
from espnet2.utils.types import str2bool

from espnet2_distilmos.cli import (
    add_condition_arguments,
    add_knn_arguments,
    get_device,
    policy_options,
    progress,
    run,
)
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    read_scp,
    write_metric_scp,
)
from espnet2_distilmos.data.frames import write_frame_index, write_frames

_REQUIRED = ("train_config", "model_file", "wav_scp", "output_dir")


def get_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        description="Predict MOS. Writes OUTPUT_DIR/metric.scp and, unless switched "
        "off, the scores of the frames in frames.scp, frames/*.npy and frames.json; "
        "errors.txt has a sentence for each utterance without a score. --config names "
        "a YAML file with any of the options.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    # Not `required`, so that they may stand in the file of --config.
    parser.add_argument("--train_config", help="config.yaml of the experiment")
    parser.add_argument("--model_file", help="weights of the model (.pth)")
    parser.add_argument("--wav_scp", help="wav.scp of the set")
    parser.add_argument("--output_dir", help="where the scores go")
    parser.add_argument(
        "--batch_seconds", type=float, default=60, help="padded seconds of a batch"
    )
    parser.add_argument("--ngpu", type=int, default=0, help="0: CPU, 1: one GPU")
    parser.add_argument(
        "--write_frames", type=str2bool, default=True, help="write frame scores too"
    )
    add_condition_arguments(parser)
    add_knn_arguments(parser)
    return parser


def predict(args: argparse.Namespace) -> Dict[str, str]:
    """Score all utterances and write the files.

    Returns:
        Sentences of the utterances that have no score.

    Raises:
        DataError, ValueError, OSError: Nothing could be scored or written.
    """
    # It takes seconds, and --help does not need it.
    from espnet2_distilmos.predictor import MOSPredictor

    wav_scp = read_scp(args.wav_scp)
    try:
        predictor = MOSPredictor(
            args.train_config,
            args.model_file,
            get_device(args.ngpu),
            batch_seconds=args.batch_seconds,
            **policy_options(args),
        )
    except OSError as error:
        # torch's own message need not say which file it was reading
        raise DataError(
            f"{args.train_config} with {args.model_file} cannot be loaded ({error}), "
            "expected the config.yaml and a model file of one experiment; train again "
            "(stage 7) or correct --train_config and --model_file."
        ) from error
    scores: Dict[str, float] = {}
    frames: Dict[str, str] = {}
    failures: Dict[str, str] = {}
    seconds = 0.0
    start = time.perf_counter()
    found = predictor.predict_files(wav_scp.values(), utt_ids=wav_scp)
    for one, utt_id in zip(progress(found, "scores", len(wav_scp), "file"), wav_scp):
        if one.result is None:
            failures[utt_id] = one.error
            continue
        scores[utt_id] = one.result.score
        seconds += one.result.seconds
        if args.write_frames:
            folder = os.path.join(args.output_dir, "frames")
            frames[utt_id] = write_frames(folder, utt_id, one.result.frames)
    logging.info(f"{seconds:.1f} s of audio in {time.perf_counter() - start:.1f} s")

    errors = os.path.join(args.output_dir, "errors.txt")
    if failures:
        with atomic_write(errors) as file:
            file.writelines(sentence + "\n" for sentence in failures.values())
    else:
        with contextlib.suppress(OSError):
            os.remove(errors)
    if args.write_frames:
        write_frame_index(args.output_dir, frames, predictor)
    # Last, so that a metric.scp says that everything else is there.
    metric_scp = os.path.join(args.output_dir, "metric.scp")
    write_metric_scp(metric_scp, scores, decimals=6, sort=False)
    logging.info(f"{metric_scp}: {len(scores)} utterances")
    return failures


def main(cmd: Optional[List[str]] = None) -> int:
    parser = get_parser()
    args = parser.parse_args(cmd)
    missing = [f"--{name}" for name in _REQUIRED if getattr(args, name) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return run(
        lambda: predict(args),
        f"utterances have no score, see {os.path.join(args.output_dir, 'errors.txt')}",
    )


if __name__ == "__main__":
    sys.exit(main())
