#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Fit k-means codebooks of all chosen layers in one pass over a seeded sample."""

import argparse
import hashlib
import logging
import os
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.cli import (
    add_upstream_arguments,
    get_device,
    print_failures,
    progress,
    run,
)
from espnet2_distilmos.data.audio import AudioError, read_header
from espnet2_distilmos.data.batches import AudioBatches, read_num_samples
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    read_scp,
    write_scp,
)
from espnet2_distilmos.data.frames import npy_path, prepare_tokens


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Fit k-means codebooks to the hidden states of an upstream: one "
        "forward pass over a seeded sample of the training set for all layers at once. "
        "The features of the sample (layers x max_frames x dimension x 2 bytes) are "
        "held in memory, on the GPU if there is one, and nothing is dumped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_upstream_arguments(parser)
    parser.add_argument("--wav_scp", help="wav.scp of the training set")
    parser.add_argument("--output", required=True, help="file of codebooks (.npz)")
    parser.add_argument(
        "--num_clusters", type=int, default=200, help="clusters of each codebook"
    )
    parser.add_argument(
        "--layers",
        default="all",
        help="`all` transformer layers (1 to L), or a list such as 1,3,5; 0 is what "
        "enters the first layer, and all that `frontend: mfcc` has",
    )
    parser.add_argument(
        "--max_frames", type=int, default=100000, help="frames to fit to"
    )
    parser.add_argument(
        "--tokens_dir",
        help="write the tokens of the training set there, as dump_tokens does, if all "
        "of it fits into --max_frames: the network runs once. They are of states "
        "rounded to fp16",
    )
    parser.add_argument("--nj", type=int, default=1, help="layers fitted at once")
    parser.add_argument("--seed", type=int, default=0, help="of sample and clustering")
    parser.add_argument(
        "--import_km",
        nargs="+",
        metavar="LAYER=PATH",
        help="instead of fitting, import ESPnet's joblib models (km_*.mdl), one a "
        "layer; reading them runs code that they contain, so import only your own",
    )
    return parser


def parse_layers(text: str, num_layers: int) -> Tuple[int, ...]:
    """Parse ``all`` or ``1,3,5`` into sorted layer numbers.

    Raises:
        DataError: Not a list of different layers between 0 and ``num_layers``.
    """
    if text == "all":
        # A frontend without layers, such as mfcc, has its input alone.
        return tuple(range(1, num_layers + 1)) or (0,)
    parts = text.split(",")
    layers = {int(part) for part in parts if part.isdecimal()}
    if len(layers) != len(parts) or max(layers) > num_layers:
        raise DataError(
            f"the layers are {text!r}, expected `all` or different numbers from 0 to "
            f"{num_layers} such as 1,3; correct --layers."
        )
    return tuple(sorted(layers))


def choose_sample(
    wav_scp: str, frontend, max_frames: int, seed: int
) -> Tuple[Dict[str, int], Dict[str, str]]:
    """Draw utterances in a seeded order until they have enough frames.

    The order is that of a permutation of the sorted ids; only the files drawn are
    opened.

    Returns:
        Frames by utterance id in the order drawn, and an error message for each
        unusable file.
    """
    paths = read_scp(wav_scp)
    known = read_num_samples(wav_scp)
    frames: Dict[str, int] = {}
    failures: Dict[str, str] = {}
    total = 0
    for utt_id in np.random.default_rng(seed).permutation(sorted(paths)).tolist():
        if total >= max_frames:
            break
        num_samples = known.get(utt_id)
        if num_samples is None:
            try:
                samples, rate, _ = read_header(paths[utt_id], utt_id)
            except AudioError as error:
                failures[utt_id] = str(error)
                continue
            num_samples = -(-samples * frontend.sample_rate // rate)
        frames[utt_id] = frontend.num_frames(num_samples)
        total += frames[utt_id]
    return frames, failures


def collect_features(
    batches: AudioBatches,
    frontend,
    layers: Sequence[int],
    frames: Dict[str, int],
    max_frames: int,
    device,
    dtype,
):
    """Run the frontend over the sample and keep the states of the chosen layers.

    Returns:
        Features (L, M, D) of at most ``max_frames`` frames M, in the order of
        ``frames`` whatever the batches; and which of these frames were filled, (M,)
        bool: some utterance may have failed, or been shorter than its header said.
    """
    import torch

    total = min(sum(frames.values()), max_frames)
    shape = (len(layers), total, frontend.output_size())
    size = np.prod(shape) * dtype.itemsize / 1e6
    logging.info(
        f"Sample: {len(frames)} utterances, {total} frames of {len(layers)} layers, "
        f"{size:.0f} MB in memory"
    )
    features = torch.zeros(shape, dtype=dtype, device=device)
    filled = torch.zeros(total, dtype=torch.bool)
    starts = dict(zip(frames, np.cumsum([0] + list(frames.values())).tolist()))
    for batch in progress(batches, "upstream"):
        speech = torch.from_numpy(batch.speech).to(device)
        with torch.inference_mode():
            hidden_states, lengths = frontend(
                speech, torch.from_numpy(batch.speech_lengths).to(device)
            )
        for b, (utt_id, count) in enumerate(zip(batch.utt_ids, lengths.tolist())):
            start = starts[utt_id]
            count = min(count, frames[utt_id], max(total - start, 0))
            rows = slice(start, start + count)
            for i, layer in enumerate(layers):
                features[i, rows] = hidden_states[layer][b, :count]
            filled[rows] = True
    return features, filled


def write_tokens(
    folder: str,
    codebooks,
    frontend,
    features,
    frames: Dict[str, int],
) -> None:
    """Write the tokens of a sample that is the whole training set.

    Args:
        folder: As the output directory of dump_tokens.
        codebooks: Fitted to the features.
        frontend: It gave them.
        features: (L, M, D), all frames of all utterances.
        frames: Frames of each utterance, in their order.

    Raises:
        DataError: Nothing can be written.
    """
    import torch

    prepare_tokens(folder, codebooks.token_info(frontend), overwrite=True)
    columns = []
    for i, layer in enumerate(features):
        columns.append(torch.cat([codebooks.nearest(i, x) for x in layer.split(4096)]))
    tokens = torch.stack(columns, dim=1).cpu().numpy().astype(np.int16)
    ends = np.cumsum(list(frames.values()))[:-1]
    paths = {i: npy_path(os.path.join(folder, "data"), i) for i in sorted(frames)}
    for utt_id, rows in zip(frames, np.split(tokens, ends)):
        with atomic_write(paths[utt_id], "wb") as file:
            np.save(file, rows)
    # Last, and newer than the codebooks: dump_tokens.sh takes it for done.
    write_scp(os.path.join(folder, "tokens.scp"), paths)
    logging.info(f"{folder}/tokens.scp: {len(paths)} utterances")


def import_km(specs: Sequence[str], frontend) -> Tuple[Tuple[int, ...], np.ndarray]:
    """Read ESPnet's joblib k-means models of an upstream.

    Returns:
        Sorted layers (L,) and centroids (L, K, D).

    Raises:
        DataError: A model cannot be read or does not fit.
    """
    logging.warning(
        "--import_km reads pickles: loading one runs whatever code it contains. "
        "Import only files that you made yourself or whose maker you trust."
    )
    # Imported on use: nothing else here can unpickle.
    import joblib

    dim, num_layers = frontend.output_size(), frontend.num_layers
    found: Dict[int, np.ndarray] = {}
    for spec in specs:
        text, _, path = spec.partition("=")
        try:
            (layer,) = parse_layers(text, num_layers)
            if layer in found:
                raise ValueError(f"layer {layer} again")
            centroids = np.asarray(joblib.load(path).cluster_centers_, np.float32)
            expected = (len(next(iter(found.values()), centroids)), dim)
            if centroids.shape != expected:
                raise ValueError(f"centroids of shape {centroids.shape}")
        except Exception as error:  # Unpickling can raise anything.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError(
                f"--import_km {spec} cannot be imported ({reason}), expected "
                f"LAYER=PATH with each layer from 0 to {num_layers} once and joblib "
                "files of scikit-learn k-means models, all with as many centroids of "
                f"dimension {dim}; import models of this upstream."
            ) from error
        found[layer] = centroids
    layers = tuple(sorted(found))
    return layers, np.stack([found[layer] for layer in layers])


def is_done(path: str, expected: Dict[str, Any]) -> bool:
    """Say whether ``path`` already holds what would be made.

    Raises:
        ValueError: It holds something else.
    """
    from espnet2_distilmos.mos.tokens import Codebooks

    if not os.path.exists(path):
        return False
    codebooks = Codebooks.load(path)
    found = {**codebooks.settings, "upstream": codebooks.upstream_fingerprint}
    different = [
        f"{key} ({found.get(key)}, now {expected.get(key)})"
        for key in {**expected, **found}
        if found.get(key) != expected.get(key)
    ]
    if different:
        raise DataError(
            f"{path} was made otherwise, it differs in {', '.join(different)}, "
            "expected the same or no file; choose another --output, or give "
            "--overwrite and dump the tokens again."
        )
    return True


def learn(args: argparse.Namespace) -> Dict[str, str]:
    """Make the codebooks; returns an error message for each unusable utterance.

    Raises:
        ValueError, OSError: Nothing could be made.
    """
    import torch

    from espnet2_distilmos.mos.checkpoint import initial_frontend
    from espnet2_distilmos.mos.tokens import Codebooks, fit_codebooks

    if args.wav_scp is None and not args.import_km:
        raise DataError(
            "neither --wav_scp nor --import_km is given, expected one of them; "
            "give the wav.scp of the training set."
        )
    device = get_device(args.ngpu)
    frontend = initial_frontend(args.config, args.train_args).to(device).eval()
    upstream = frontend.fingerprint()
    logging.info(f"Upstream {frontend.name}, fingerprint {upstream}")
    if args.import_km:
        settings: Dict[str, Any] = {"import_km": list(args.import_km)}
    else:
        layers = parse_layers(args.layers, frontend.num_layers)
        ids = "\n".join(sorted(read_scp(args.wav_scp)))
        settings = {
            "num_clusters": args.num_clusters,
            "layers": list(layers),
            "max_frames": args.max_frames,
            "seed": args.seed,
            # of the ids: the files may move
            "data": hashlib.blake2b(ids.encode(), digest_size=8).hexdigest(),
        }
    if not args.overwrite and is_done(args.output, {**settings, "upstream": upstream}):
        logging.info(f"{args.output} is up to date, nothing to do")
        return {}

    failures: Dict[str, str] = {}
    inertia: Sequence[float] = ()
    num_frames = 0
    if args.import_km:
        layers, centroids = import_km(args.import_km, frontend)
    else:
        frames, failures = choose_sample(
            args.wav_scp, frontend, args.max_frames, args.seed
        )
        batches = AudioBatches(
            args.wav_scp,
            args.batch_seconds,
            fs=frontend.sample_rate,
            minimum_samples=frontend.minimum_samples,
            utt_ids=list(frames),
        )
        for dtype in (torch.float16, torch.float32):
            features, filled = collect_features(
                batches, frontend, layers, frames, args.max_frames, device, dtype
            )
            if torch.isfinite(features).all():
                break
            logging.info(f"Some states are beyond {dtype}")
        failures.update(batches.sorted_failures())
        is_whole = bool(filled.all())
        if not is_whole:
            features = features[:, filled.to(device)]
        num_frames = features.shape[1]
        logging.info(
            f"Fit {args.num_clusters} clusters to each of {len(layers)} layers"
        )
        try:
            centroids, inertia = fit_codebooks(
                features, args.num_clusters, args.seed, args.nj
            )
        except ValueError as error:
            # There may be so few frames because the files are bad.
            print_failures(failures)
            raise DataError(f"{args.wav_scp}: {error}") from error
    codebooks = Codebooks(
        centroids=centroids,
        layers=layers,
        stream=frontend.name,
        frame_shift=frontend.frame_shift,
        sample_rate=frontend.sample_rate,
        upstream_fingerprint=upstream,
        seed=args.seed,
        num_frames=num_frames,
        inertia=tuple(inertia),
        settings=settings,
    )
    with atomic_write(args.output, "wb") as file:
        codebooks.save(file)
    if args.tokens_dir and not args.import_km:
        # Anything that failed is left to dump_tokens, which says so.
        if is_whole and not failures and num_frames == sum(frames.values()):
            write_tokens(args.tokens_dir, codebooks, frontend, features, frames)
        else:
            logging.info("The tokens of the training set are left to dump_tokens")
    for layer, value in zip(layers, inertia):
        logging.info(f"Layer {layer}: mean squared distance {value / num_frames:.4g}")
    logging.info(f"{args.output}: fingerprint {codebooks.fingerprint()}")
    return failures


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(
        lambda: learn(args),
        f"utterances of the sample could not be used; {args.output} was made from the "
        "others.",
    )


if __name__ == "__main__":
    sys.exit(main())
