#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write the k-means token of every frame and layer, one forward pass for all."""

import argparse
import glob
import json
import logging
import os
import sys
from typing import Any, Dict, List, Optional

import numpy as np
import torch

from espnet2_distilmos.cli import (
    get_device,
    progress,
    run,
)
from espnet2_distilmos.data.batches import AudioBatches
from espnet2_distilmos.data.datadir import DataError, atomic_write, write_scp
from espnet2_distilmos.data.frames import npy_path
from espnet2_distilmos.mos.build import TOKEN_FORMAT_VERSION
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.tokens import Codebooks
from espnet2_distilmos.train.init_model import initial_frontend


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Assign every frame of every layer to its nearest centroid. Writes "
        "OUTPUT_DIR/tokens.scp, tokens.json and data/*.npy, (frames, layers) int16. A "
        "killed run continues where it stopped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="training configuration (YAML)")
    parser.add_argument(
        "--train_args",
        default="",
        help="options of mos_train that override the configuration; only "
        "--frontend, --frontend_conf and --init_model matter",
    )
    parser.add_argument(
        "--codebooks", required=True, help="file that learn_codebooks wrote"
    )
    parser.add_argument("--wav_scp", required=True, help="wav.scp of the set")
    parser.add_argument("--output_dir", required=True, help="where the tokens go")
    parser.add_argument(
        "--batch_seconds", type=float, default=60, help="padded seconds of a batch"
    )
    parser.add_argument("--ngpu", type=int, default=0, help="0: CPU, 1: one GPU")
    parser.add_argument(
        "--overwrite", action="store_true", help="write every file again"
    )
    return parser


def token_path(output_dir: str, utt_id: str) -> str:
    """Return the file of an utterance; any id makes a safe name."""
    return npy_path(os.path.join(output_dir, "data"), utt_id)


def is_whole(path: str, audio: str, frames: int, num_columns: int) -> bool:
    """Say whether ``path`` holds the tokens of ``audio``: right shape, not older."""
    try:
        if os.path.getmtime(path) < os.path.getmtime(audio):
            return False
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return tokens.dtype == np.int16 and tokens.shape == (frames, num_columns)


def prepare(output_dir: str, info: Dict[str, Any], overwrite: bool) -> bool:
    """Write tokens.json before any token, so that all tokens beside it are of its kind.

    Args:
        output_dir: Directory of the tokens.
        info: Contents of tokens.json.
        overwrite: Remove the tokens that are there.

    Returns:
        Whether tokens that are there can be kept.

    Raises:
        DataError: The directory has tokens of another kind or cannot be written.
    """
    path = os.path.join(output_dir, "tokens.json")
    found = None
    if os.path.exists(path) and not overwrite:
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read ({' '.join(str(error).split())}), expected "
                "what dump_tokens wrote; use another directory or --overwrite."
            ) from error
        if found != info:
            raise DataError(
                f"{output_dir} has tokens of another codebook or upstream (codebook "
                f"{_codebook_of(found)}), expected codebook "
                f"{info['codebook_fingerprint']}; use another directory or --overwrite."
            )
    if found is None:
        pattern = os.path.join(glob.escape(output_dir), "data", "*.npy")
        for stale in glob.glob(pattern):
            os.remove(stale)
    with atomic_write(path) as file:
        file.write(json.dumps(info, indent=2) + "\n")
    return found is not None


def _codebook_of(info: Any) -> Any:
    return info.get("codebook_fingerprint") if isinstance(info, dict) else None


def check_fit(path: str, codebooks: Codebooks, frontend: AbsLayerFrontend) -> None:
    """Refuse codebooks that were learned with another upstream.

    Raises:
        DataError: The fingerprints differ.
    """
    upstream = frontend.fingerprint()
    if codebooks.upstream_fingerprint != upstream:
        raise DataError(
            f"{path} was learned with another upstream ({codebooks.stream}, "
            f"fingerprint {codebooks.upstream_fingerprint}), expected "
            f"{frontend.name}, fingerprint {upstream}; rerun stage 5 from the "
            "codebooks on (learn_codebooks --overwrite, then dump_tokens)."
        )


def dump(args: argparse.Namespace) -> Dict[str, str]:
    """Write the tokens.

    Returns:
        Sentences of the utterances that have none.

    Raises:
        DataError, CodebookError, ValueError, OSError: Nothing could be written.
    """
    device = get_device(args.ngpu)
    codebooks = Codebooks.load(args.codebooks)
    frontend = initial_frontend(args.config, args.train_args).to(device).eval()
    check_fit(args.codebooks, codebooks, frontend)
    info = {
        "format_version": TOKEN_FORMAT_VERSION,
        "columns": codebooks.columns(),
        "frame_shift": codebooks.frame_shift,
        "minimum_samples": frontend.minimum_samples,
        "frame_offset": 0,
        "sample_rate": codebooks.sample_rate,
        "codebook_fingerprint": codebooks.fingerprint(),
        "upstream_fingerprint": codebooks.upstream_fingerprint,
    }
    if frontend.frame_centre != (frontend.minimum_samples - 1) / 2:
        # Networks that pad their input.
        info["frame_centre"] = frontend.frame_centre
    batches = AudioBatches(
        args.wav_scp,
        args.batch_seconds,
        fs=frontend.sample_rate,
        minimum_samples=frontend.minimum_samples,
    )
    done = set()
    if prepare(args.output_dir, info, args.overwrite):
        for utt_id, num_samples in batches.num_samples.items():
            path = token_path(args.output_dir, utt_id)
            frames = frontend.num_frames(num_samples)
            audio = batches.wav_scp[utt_id]
            if is_whole(path, audio, frames, len(codebooks.layers)):
                done.add(utt_id)
        batches.drop(done)
        logging.info(f"{len(done)} utterances are done already")

    with torch.inference_mode():
        for batch in progress(batches, "tokens"):
            hidden_states, lengths = frontend(
                torch.from_numpy(batch.speech).to(device),
                torch.from_numpy(batch.speech_lengths).to(device),
            )
            tokens = codebooks.assign(hidden_states, lengths).cpu().numpy()
            for utt_id, row, length in zip(batch.utt_ids, tokens, lengths.tolist()):
                with atomic_write(token_path(args.output_dir, utt_id), "wb") as file:
                    np.save(file, row[:length].astype(np.int16))
                done.add(utt_id)

    paths = {i: token_path(args.output_dir, i) for i in batches.wav_scp if i in done}
    scp = os.path.join(args.output_dir, "tokens.scp")
    write_scp(scp, paths)
    logging.info(f"{scp}: {len(paths)} utterances, {len(codebooks.layers)} columns")
    return batches.sorted_failures()


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(
        lambda: dump(args),
        f"utterances have no tokens; those of the others are in {args.output_dir}.",
    )


if __name__ == "__main__":
    sys.exit(main())
