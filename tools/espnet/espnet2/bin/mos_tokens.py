#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Codebooks of an upstream's layers, and the tokens of every frame."""

import argparse
import json
import logging
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import soundfile
import torch
from espnet2.mos import FORMAT_VERSION
from espnet2.mos.checkpoint import initial_frontend
from espnet2.mos.datadir import DataError, atomic_write, read_scp, write_scp
from espnet2.mos.tokens import Codebooks, fit_codebooks


def get_parser() -> argparse.ArgumentParser:
    """Parser of the command."""
    parser = argparse.ArgumentParser(
        description="Fit k-means codebooks to the hidden states of an upstream, all "
        "layers in one pass over a seeded sample; or, with --output_dir, assign every "
        "frame to its nearest centroids: tokens.scp, tokens.json and data/*.npy",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="Of mos_train")
    parser.add_argument("--train_args", default="", help="Options that override it")
    parser.add_argument("--wav_scp", required=True, help="16 kHz, mono")
    parser.add_argument("--codebooks", required=True, help="File of the codebooks")
    parser.add_argument("--output_dir", help="Write tokens there")
    parser.add_argument("--ngpu", type=int, default=0, help="0 is the CPU")
    group = parser.add_argument_group("Fitting")
    group.add_argument("--num_clusters", type=int, default=200, help="A codebook")
    group.add_argument("--max_frames", type=int, default=100000, help="To fit to")
    group.add_argument("--nj", type=int, default=1, help="Layers at once")
    group.add_argument("--seed", type=int, default=0, help="Of sample and clusters")
    return parser


def read_speech(path: str, utt_id: str, sample_rate: int) -> torch.Tensor:
    """Read (1, N) samples in [-1, 1].

    Raises:
        DataError: The file has another rate or several channels.
    """
    speech, rate = soundfile.read(path, dtype="float32")
    if rate != sample_rate or speech.ndim != 1:
        raise DataError(
            f"{path}: utterance {utt_id} has {rate} Hz and the shape {speech.shape}, "
            f"expected {sample_rate} Hz and one channel: rerun stage 2"
        )
    return torch.from_numpy(speech)[None]


def run_upstream(
    frontend, paths: Dict[str, str], device: str
) -> Iterator[Tuple[str, List[torch.Tensor], torch.Tensor]]:
    """Yield id, hidden states, L + 1 tensors (1, T, D), and (1,) frames."""
    for utt_id, path in paths.items():
        speech = read_speech(path, utt_id, frontend.sample_rate).to(device)
        with torch.no_grad():
            states, lengths = frontend(speech, torch.tensor([speech.size(1)]))
        yield utt_id, states, lengths


def fit(args: argparse.Namespace, frontend, device: str) -> None:
    """Write the codebooks of all layers."""
    paths = read_scp(args.wav_scp)
    layers = tuple(range(1, frontend.num_layers + 1)) or (0,)
    order = np.random.default_rng(args.seed).permutation(sorted(paths)).tolist()
    features: List[np.ndarray] = []
    frames = 0
    for _, states, _ in run_upstream(frontend, {i: paths[i] for i in order}, device):
        features.append(torch.cat([states[layer] for layer in layers]).cpu().numpy())
        frames += features[-1].shape[1]
        if frames >= args.max_frames:
            break
    sample = np.concatenate(features, axis=1)[:, : args.max_frames]
    sample = np.ascontiguousarray(sample, dtype=np.float32)
    centroids, inertia = fit_codebooks(sample, args.num_clusters, args.seed, args.nj)
    codebooks = Codebooks(
        centroids=centroids,
        layers=layers,
        stream=frontend.name,
        frame_shift=frontend.frame_shift,
        sample_rate=frontend.sample_rate,
        upstream_fingerprint=frontend.fingerprint(),
        seed=args.seed,
        num_frames=sample.shape[1],
        inertia=tuple(inertia),
    )
    with atomic_write(args.codebooks, "wb") as file:
        codebooks.save(file)


def dump(args: argparse.Namespace, frontend, device: str) -> None:
    """Write the tokens of all utterances, (frames, layers) int16.

    Raises:
        DataError: The codebooks are of another upstream.
    """
    codebooks = Codebooks.load(args.codebooks)
    if codebooks.upstream_fingerprint != frontend.fingerprint():
        raise DataError(
            f"{args.codebooks} is of another upstream ({codebooks.stream}), expected "
            f"{frontend.name} as configured: fit the codebooks again (stage 5)"
        )
    info = {
        "format_version": FORMAT_VERSION,
        "columns": codebooks.columns(),
        "frame_shift": codebooks.frame_shift,
        "minimum_samples": frontend.minimum_samples,
        "frame_centre": frontend.frame_centre,
        "sample_rate": codebooks.sample_rate,
        "codebook_fingerprint": codebooks.fingerprint(),
        "upstream_fingerprint": codebooks.upstream_fingerprint,
    }
    folder = Path(args.output_dir)
    tokens = {}
    paths = read_scp(args.wav_scp)
    for utt_id, states, lengths in run_upstream(frontend, paths, device):
        rows = codebooks.assign(states, lengths)[0, : lengths[0]]
        tokens[utt_id] = str(folder / "data" / f"{utt_id}.npy")
        with atomic_write(tokens[utt_id], "wb") as file:
            np.save(file, rows.cpu().numpy().astype(np.int16))
    with atomic_write(str(folder / "tokens.json")) as file:
        json.dump(info, file, indent=2)
    write_scp(str(folder / "tokens.scp"), tokens)


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Fit codebooks or dump tokens."""
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO)
    device = "cuda" if args.ngpu > 0 else "cpu"
    frontend = initial_frontend(args.config, args.train_args).to(device).eval()
    if args.output_dir is None:
        fit(args, frontend, device)
    else:
        dump(args, frontend, device)


if __name__ == "__main__":
    main()
