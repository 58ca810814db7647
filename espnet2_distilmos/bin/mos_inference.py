#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Predict the MOS of every utterance of a wav.scp."""

import argparse
import contextlib
import json
import logging
import math
import os
import sys
import time
from typing import Dict, List, Optional

import numpy as np
from espnet2.utils.config_argparse import ArgumentParser
from espnet2.utils.types import str2bool

from espnet2_distilmos.cli import (
    add_corpus_argument,
    get_device,
    npy_path,
    progress,
    run,
)
from espnet2_distilmos.data.batches import AudioBatches
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    write_metric_scp,
    write_scp,
)
from espnet2_distilmos.predictor import MOSPredictor

FORMAT_VERSION = 1
_REQUIRED = ("train_config", "model_file", "wav_scp", "output_dir")


def get_parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        description="Predict MOS. Writes OUTPUT_DIR/metric.scp and, unless switched "
        "off, the scores of the frames in frames.scp, frames/*.npy and frames.json. "
        "--config names a YAML file with any of the options.",
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
    add_corpus_argument(parser)
    return parser


def frame_path(output_dir: str, utt_id: str) -> str:
    """Return the file of an utterance's frame scores; any id makes a safe name."""
    return npy_path(os.path.join(output_dir, "frames"), utt_id)


def predict(args: argparse.Namespace) -> Dict[str, str]:
    """Score all utterances and write the files.

    Returns:
        Sentences of the utterances that have no score.

    Raises:
        DataError, ValueError, OSError: Nothing could be scored or written.
    """
    device = get_device(args.ngpu)
    try:
        predictor = MOSPredictor(
            args.train_config, args.model_file, device, corpus=args.corpus
        )
    except OSError as error:
        # torch's own message need not say which file it was reading
        raise DataError(
            f"{args.train_config} with {args.model_file} cannot be loaded ({error}), "
            "expected the config.yaml and a model file of one experiment; train again "
            "(stage 7) or correct --train_config and --model_file."
        ) from error
    batches = AudioBatches(
        args.wav_scp,
        float(args.batch_seconds),
        fs=predictor.sample_rate,
        minimum_samples=predictor.model.frontend.minimum_samples,
    )
    scores: Dict[str, float] = {}
    failures: Dict[str, str] = {}
    num_samples = 0
    start = time.perf_counter()
    for batch in progress(batches, "scores"):
        num_samples += int(batch.speech_lengths.sum())
        results = predictor.score_batch(batch.speech, batch.speech_lengths)
        for utt_id, result in zip(batch.utt_ids, results):
            if not math.isfinite(result.score):
                failures[utt_id] = (
                    f"utterance {utt_id}: {batches.wav_scp[utt_id]} got the score "
                    f"{result.score}, expected a finite number; the model "
                    f"{args.model_file} is broken, train it again or choose another "
                    "epoch's."
                )
                continue
            scores[utt_id] = result.score
            if args.write_frames:
                with atomic_write(frame_path(args.output_dir, utt_id), "wb") as file:
                    np.save(file, result.frames)
    seconds = num_samples / predictor.sample_rate
    elapsed = time.perf_counter() - start
    logging.info(f"{seconds:.1f} s of audio in {elapsed:.1f} s")

    failures.update(batches.failures)
    failures = {i: failures[i] for i in batches.wav_scp if i in failures}
    scores = {i: scores[i] for i in batches.wav_scp if i in scores}
    if args.write_frames:
        paths = {utt_id: frame_path(args.output_dir, utt_id) for utt_id in scores}
        info = {
            "format_version": FORMAT_VERSION,
            "frame_shift": predictor.frame_shift,
            "sample_rate": predictor.sample_rate,
        }
        with atomic_write(os.path.join(args.output_dir, "frames.json")) as file:
            file.write(json.dumps(info) + "\n")
        write_scp(os.path.join(args.output_dir, "frames.scp"), paths, sort=False)
    # Last, so that a metric.scp says that everything else is there.
    metric_scp = os.path.join(args.output_dir, "metric.scp")
    write_metric_scp(metric_scp, scores, decimals=6, sort=False)
    logging.info(f"{metric_scp}: {len(scores)} utterances")
    return failures


def predict_and_record(args: argparse.Namespace) -> Dict[str, str]:
    """Predict, and keep the sentences of what failed in OUTPUT_DIR/errors.txt.

    Returns:
        As :func:`predict`.

    Raises:
        DataError, ValueError, OSError: Nothing could be scored or written.
    """
    failures = predict(args)
    path = os.path.join(args.output_dir, "errors.txt")
    if failures:
        with atomic_write(path) as file:
            file.writelines(sentence + "\n" for sentence in failures.values())
    else:
        with contextlib.suppress(OSError):
            os.remove(path)
    return failures


def main(cmd: Optional[List[str]] = None) -> int:
    parser = get_parser()
    args = parser.parse_args(cmd)
    missing = [f"--{name}" for name in _REQUIRED if getattr(args, name) is None]
    if missing:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return run(
        lambda: predict_and_record(args),
        f"utterances have no score, see {os.path.join(args.output_dir, 'errors.txt')}",
    )


if __name__ == "__main__":
    sys.exit(main())
