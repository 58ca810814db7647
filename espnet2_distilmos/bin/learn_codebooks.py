#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Fit k-means codebooks of all chosen layers in one pass over a seeded sample."""

import argparse
import hashlib
import logging
import os
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

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
        description="Fit k-means codebooks to the hidden states of an upstream, or of "
        "several: one forward pass of each over a seeded sample of the training set "
        "for all layers at once. "
        "The features of the sample (layers x max_frames x dimension x 2 bytes) are "
        "held in memory, on the GPU if there is one, and nothing is dumped.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_upstream_arguments(parser)
    parser.add_argument("--wav_scp", help="wav.scp of the training set")
    parser.add_argument("--output", required=True, help="file of codebooks (.npz)")
    parser.add_argument(
        "--aggregate",
        choices=("heads", "average", "concat"),
        default="heads",
        help="of several --upstreams: `heads`, codebooks and tokens of each, side by "
        "side; or one codebook a layer, of the `average` or the `concat`enation of "
        "their states of that layer, each standardised over its dimensions. Layers "
        "are paired by their order",
    )
    parser.add_argument(
        "--num_clusters",
        type=int,
        nargs="+",
        default=[200],
        help="clusters of each codebook: for all upstreams, or for each",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        default=["all"],
        help="`all` transformer layers (1 to L), or a list such as 1,3,5, for all "
        "upstreams or for each, which average and concat pair by their order; 0 is "
        "what enters the first layer, and all that `frontend: mfcc` has",
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
    """Parse ``all`` or ``1,3,5`` into layer numbers, in their order there.

    Raises:
        DataError: Not a list of different layers between 0 and ``num_layers``.
    """
    if text == "all":
        # A frontend without layers, such as mfcc, has its input alone.
        return tuple(range(1, num_layers + 1)) or (0,)
    parts = text.split(",")
    layers = tuple(int(part) for part in parts if part.isdecimal())
    if len(set(layers)) != len(parts) or max(layers) > num_layers:
        raise DataError(
            f"the layers are {text!r}, expected `all` or different numbers from 0 to "
            f"{num_layers} such as 1,3; correct --layers."
        )
    return layers


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


def token_rows(codebooks, features, frames: Dict[str, int]) -> Dict[str, np.ndarray]:
    """Tokens (T, L) int16 of each utterance of a sample.

    Args:
        codebooks: Fitted to the features.
        features: (L, M, D), all frames of all utterances.
        frames: Frames of each utterance, in their order.
    """
    import torch

    columns = []
    for i, layer in enumerate(features):
        columns.append(torch.cat([codebooks.nearest(i, x) for x in layer.split(4096)]))
    tokens = torch.stack(columns, dim=1).cpu().numpy().astype(np.int16)
    ends = np.cumsum(list(frames.values()))[:-1]
    return dict(zip(frames, np.split(tokens, ends)))


def write_tokens(
    folder: str, tokenizer, streams: Sequence[Dict[str, np.ndarray]]
) -> None:
    """Write the tokens of a sample that is the whole training set.

    Args:
        folder: As the output directory of dump_tokens.
        tokenizer: Of the upstreams and the codebooks.
        streams: As ``token_rows`` gives them of each.

    Raises:
        DataError: Nothing can be written.
    """
    prepare_tokens(folder, tokenizer.info, overwrite=True)
    ids = sorted(streams[0])
    paths = {i: npy_path(os.path.join(folder, "data"), i) for i in ids}
    for utt_id in ids:
        with atomic_write(paths[utt_id], "wb") as file:
            np.save(file, tokenizer.joined([rows[utt_id] for rows in streams]))
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


def is_done(path: str, expected: Sequence[Dict[str, Any]]) -> bool:
    """Say whether ``path`` already holds what would be made.

    Args:
        path: File of codebooks.
        expected: Settings and ``upstream``, its fingerprint, of each stream.

    Raises:
        ValueError: It holds something else.
    """
    from espnet2_distilmos.mos.tokens import load_codebooks

    if not os.path.exists(path):
        return False
    found = [
        {**codebooks.settings, "upstream": codebooks.upstream_fingerprint}
        for codebooks in load_codebooks(path)
    ]
    different = [
        f"{key} ({old.get(key)}, now {new.get(key)})"
        for old, new in zip(found, expected)
        for key in {**new, **old}
        if old.get(key) != new.get(key)
    ]
    if len(found) != len(expected):
        different.append(f"the number of streams ({len(found)}, now {len(expected)})")
    if different:
        raise DataError(
            f"{path} was made otherwise, it differs in {', '.join(different)}, "
            "expected the same or no file; choose another --output, or give "
            "--overwrite and dump the tokens again."
        )
    return True


class Stream(NamedTuple):
    """What codebooks are made of.

    Attributes:
        source: An upstream, or several as one.
        fingerprint: Of the source.
        name: Of the stream.
        layers: Each gets a codebook.
        settings: How the codebooks are made.
    """

    source: Any
    fingerprint: str
    name: str
    layers: Tuple[int, ...]
    settings: Dict[str, Any]


def plan_streams(args: argparse.Namespace, frontends: Sequence, grid) -> List[Stream]:
    """Say what is fitted to what.

    Raises:
        ValueError: The upstreams, layers and clusters do not go together.
    """
    from espnet2_distilmos.mos.token_upstreams import JointUpstream, stream_names

    names = stream_names(frontends)
    if args.import_km:
        if len(frontends) > 1:
            raise DataError(
                f"found --import_km for the upstreams {', '.join(names)}, expected "
                "one; fit the codebooks of several."
            )
        settings = {"import_km": list(args.import_km)}
        source = frontends[0]
        return [Stream(source, source.fingerprint(), names[0], (), settings)]
    ids = "\n".join(sorted(read_scp(args.wav_scp)))
    settings = {
        "max_frames": args.max_frames,
        "seed": args.seed,
        # of the ids: the files may move
        "data": hashlib.blake2b(ids.encode(), digest_size=8).hexdigest(),
    }
    texts = one_each("--layers", args.layers, len(frontends))
    layers = [parse_layers(text, f.num_layers) for text, f in zip(texts, frontends)]
    if args.aggregate == "heads":
        layers = [tuple(sorted(some)) for some in layers]
    elif len({len(some) for some in layers}) == 1:
        # Pairs, by the first upstream's layers.
        layers = list(zip(*sorted(zip(*layers))))
    sources = list(frontends)
    stated: List[Any] = [list(some) for some in layers]
    if args.aggregate != "heads":
        joint = JointUpstream(frontends, grid, args.aggregate, layers)
        sources, names, stated = [joint], [joint.name], [stated]
        settings["aggregate"] = args.aggregate
    clusters = one_each("--num_clusters", args.num_clusters, len(sources))
    streams = []
    for source, name, own, some, count in zip(sources, names, layers, stated, clusters):
        made = {**settings, "layers": some, "num_clusters": count}
        streams.append(Stream(source, source.fingerprint(), name, own, made))
    return streams


def one_each(option: str, values: Sequence[Any], count: int) -> List[Any]:
    """Values of ``count`` streams, of which one may serve for all.

    Raises:
        DataError: There are others than one or ``count``.
    """
    if len(values) not in (1, count):
        raise DataError(
            f"found {len(values)} values of {option} for {count} stream(s) of tokens, "
            "expected one for all, or one for each in their order."
        )
    return list(values) * (count if len(values) == 1 else 1)


def fit_stream(args: argparse.Namespace, stream: Stream, device):
    """Fit the codebooks of a stream.

    Returns:
        Codebooks; tokens as ``token_rows`` gives them, None where the sample is not
        the whole set or something failed; and an error message for each unusable file.

    Raises:
        DataError: There are too few frames.
    """
    import torch

    from espnet2_distilmos.mos.tokens import fit_codebooks

    source, layers = stream.source, stream.layers
    frames, failures = choose_sample(args.wav_scp, source, args.max_frames, args.seed)
    batches = AudioBatches(
        args.wav_scp,
        args.batch_seconds,
        fs=source.sample_rate,
        minimum_samples=source.minimum_samples,
        utt_ids=list(frames),
    )
    for dtype in (torch.float16, torch.float32):
        features, filled = collect_features(
            batches, source, layers, frames, args.max_frames, device, dtype
        )
        if torch.isfinite(features).all():
            break
        logging.info(f"Some states are beyond {dtype}")
    failures.update(batches.sorted_failures())
    is_whole = bool(filled.all())
    if not is_whole:
        features = features[:, filled.to(device)]
    num_clusters = stream.settings["num_clusters"]
    logging.info(f"Fit {num_clusters} clusters to each of {len(layers)} layers")
    try:
        fitted = fit_codebooks(features, num_clusters, args.seed, args.nj)
    except ValueError as error:
        # There may be so few frames because the files are bad.
        print_failures(failures)
        raise DataError(f"{args.wav_scp}: {error}") from error
    num_frames = features.shape[1]
    codebooks = make_codebooks(stream, layers, *fitted, num_frames, args.seed)
    for layer, value in zip(layers, codebooks.inertia):
        logging.info(f"Layer {layer}: mean squared distance {value / num_frames:.4g}")
    rows = None
    # Anything that failed is left to dump_tokens, which says so.
    is_whole = is_whole and not failures and num_frames == sum(frames.values())
    if args.tokens_dir and is_whole:
        rows = token_rows(codebooks, features, frames)
    return codebooks, rows, failures


def make_codebooks(
    stream: Stream,
    layers: Sequence[int],
    centroids: np.ndarray,
    inertia: Sequence[float] = (),
    num_frames: int = 0,
    seed: int = 0,
):
    """Codebooks of a stream, with all that is to be known of it."""
    from espnet2_distilmos.mos.tokens import Codebooks

    return Codebooks(
        centroids=centroids,
        layers=layers,
        stream=stream.name,
        frame_shift=stream.source.frame_shift,
        sample_rate=stream.source.sample_rate,
        upstream_fingerprint=stream.fingerprint,
        seed=seed,
        num_frames=num_frames,
        inertia=tuple(inertia),
        settings=stream.settings,
    )


def learn(args: argparse.Namespace) -> Dict[str, str]:
    """Make the codebooks; returns an error message for each unusable utterance.

    Raises:
        ValueError, OSError: Nothing could be made.
    """
    from espnet2_distilmos.mos.token_upstreams import Tokenizer, load_upstreams
    from espnet2_distilmos.mos.tokens import save_codebooks

    if args.wav_scp is None and not args.import_km:
        raise DataError(
            "neither --wav_scp nor --import_km is given, expected one of them; "
            "give the wav.scp of the training set."
        )
    device = get_device(args.ngpu)
    upstreams = load_upstreams(args.upstreams, args.config, args.train_args, device)
    streams = plan_streams(args, *upstreams)
    for stream in streams:
        logging.info(f"Upstream {stream.name}, fingerprint {stream.fingerprint}")
    expected = [{**s.settings, "upstream": s.fingerprint} for s in streams]
    if not args.overwrite and is_done(args.output, expected):
        logging.info(f"{args.output} is up to date, nothing to do")
        return {}

    failures: Dict[str, str] = {}
    made, rows = [], []
    for stream in streams:
        if args.import_km:
            found = import_km(args.import_km, stream.source)
            made.append(make_codebooks(stream, *found, seed=args.seed))
            continue
        codebooks, tokens, failed = fit_stream(args, stream, device)
        failures.update(failed)
        made.append(codebooks)
        rows.append(tokens)
    with atomic_write(args.output, "wb") as file:
        save_codebooks(file, made)
    if args.tokens_dir and not args.import_km:
        if None in rows:
            logging.info("The tokens of the training set are left to dump_tokens")
        else:
            write_tokens(args.tokens_dir, Tokenizer(*upstreams, made), rows)
    prints = [codebooks.fingerprint() for codebooks in made]
    logging.info(f"{args.output}: fingerprint {', '.join(prints)}")
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
