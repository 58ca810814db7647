#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write the k-means token of every frame and layer, one forward pass for all."""

import argparse
import logging
import os
import sys
from typing import Dict, List, Optional

import numpy as np

from espnet2_distilmos.cli import add_upstream_arguments, get_device, progress, run
from espnet2_distilmos.data.batches import AudioBatches
from espnet2_distilmos.data.datadir import DataError, atomic_write, write_scp
from espnet2_distilmos.data.frames import npy_path, prepare_tokens


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Assign every frame of every layer to its nearest centroid. Writes "
        "OUTPUT_DIR/tokens.scp, tokens.json and data/*.npy, (frames, layers) int16, "
        "the layers of several upstreams side by side. A killed run continues where it "
        "stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_upstream_arguments(parser)
    parser.add_argument(
        "--codebooks", required=True, help="file that learn_codebooks wrote"
    )
    parser.add_argument("--wav_scp", required=True, help="wav.scp of the set")
    parser.add_argument("--output_dir", required=True, help="where the tokens go")
    return parser


def is_whole(path: str, audio: str, frames: int, num_columns: int) -> bool:
    """Say whether ``path`` holds the tokens of ``audio``: right shape, not older."""
    try:
        if os.path.getmtime(path) < os.path.getmtime(audio):
            return False
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return tokens.dtype == np.int16 and tokens.shape == (frames, num_columns)


def dump(args: argparse.Namespace) -> Dict[str, str]:
    """Write the tokens; returns an error message for each utterance that has none.

    Raises:
        ValueError, OSError: Nothing could be written.
    """
    import torch

    from espnet2_distilmos.mos.token_upstreams import Tokenizer, load_upstreams
    from espnet2_distilmos.mos.tokens import load_codebooks

    device = get_device(args.ngpu)
    streams = load_codebooks(args.codebooks)
    upstreams = load_upstreams(args.upstreams, args.config, args.train_args, device)
    try:
        tokenizer = Tokenizer(*upstreams, streams)
    except ValueError as error:
        raise DataError(f"{args.codebooks}: {error}") from error
    num_columns = len(tokenizer.info["columns"])
    batches = AudioBatches(
        args.wav_scp,
        args.batch_seconds,
        fs=tokenizer.sample_rate,
        minimum_samples=tokenizer.minimum_samples,
    )
    folder = os.path.join(args.output_dir, "data")
    paths = {utt_id: npy_path(folder, utt_id) for utt_id in batches.wav_scp}
    done = set()
    if prepare_tokens(args.output_dir, tokenizer.info, args.overwrite):
        for utt_id, num_samples in batches.num_samples.items():
            shape = tokenizer.num_frames(num_samples), num_columns
            if is_whole(paths[utt_id], batches.wav_scp[utt_id], *shape):
                done.add(utt_id)
        batches.drop(done)
        logging.info(f"{len(done)} utterances are done already")

    for batch in progress(batches, "tokens"):
        tokens, lengths = tokenizer(
            torch.from_numpy(batch.speech).to(device),
            torch.from_numpy(batch.speech_lengths).to(device),
        )
        tokens = tokens.cpu().numpy()
        for utt_id, row, length in zip(batch.utt_ids, tokens, lengths.tolist()):
            with atomic_write(paths[utt_id], "wb") as file:
                np.save(file, row[:length].astype(np.int16))
            done.add(utt_id)

    scp = os.path.join(args.output_dir, "tokens.scp")
    write_scp(scp, {i: path for i, path in paths.items() if i in done})
    logging.info(f"{scp}: {len(done)} utterances, {num_columns} columns")
    return batches.sorted_failures()


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(
        lambda: dump(args),
        f"utterances have no tokens; those of the others are in {args.output_dir}.",
    )


if __name__ == "__main__":
    sys.exit(main())
