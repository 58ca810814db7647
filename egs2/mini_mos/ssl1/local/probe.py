#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the layers of upstreams know, before any of them is fine-tuned.

Four probes a layer. `context`: accuracy of a linear classifier of the MFCC tokens of
masked frames, fitted to training speakers, on held-out speakers: what the upstream
infers from the frames around. `mutual information` (nats) of k-means tokens of a layer
with those of MFCC, on held-out speakers. `SRCC`: ridge regression from the mean over
frames to human ratings, each talker held out in turn, and zero-shot on another
listening test.
"""

import argparse
import json
import os
import random
import sys
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import torch

from espnet2_distilmos.cli import call, start_logging
from espnet2_distilmos.data.batches import AudioBatches
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    read_metric_scp,
    read_scp,
)
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.span_mask import SpanMask
from espnet2_distilmos.mos.tokens import Codebooks, fit_codebooks

ALPHAS = np.logspace(-1, 5, 13)


class Frames(NamedTuple):
    """States of all layers (L + 1, M, D), MFCC tokens (M,), masked frames (M,)."""

    states: np.ndarray
    tokens: np.ndarray
    masked: np.ndarray


def with_tokens(wav_scp: str, tokens_scp: str) -> Dict[str, np.ndarray]:
    """Return the MFCC tokens (T,) of each utterance of a set."""
    paths = read_scp(tokens_scp)
    return {u: np.load(paths[u])[:, 0] for u in read_scp(wav_scp) if u in paths}


def draw(wav_scp: str, most: int, seed: int) -> List[str]:
    """Draw utterances, the same whatever the order of the file."""
    ids = sorted(read_scp(wav_scp))
    random.Random(seed).shuffle(ids)
    return ids[:most]


def silence_spans(
    speech: torch.Tensor, mask: torch.Tensor, frontend: AbsLayerFrontend
) -> torch.Tensor:
    """Put silence where the masked frames are, for networks without mask embedding."""
    shift = frontend.frame_shift
    start = max(0, round(frontend.frame_centre - shift / 2))
    hidden = torch.repeat_interleave(mask, shift, dim=1)
    hidden = torch.nn.functional.pad(hidden, (start, 0))[:, : speech.size(1)]
    hidden = torch.nn.functional.pad(hidden, (0, speech.size(1) - hidden.size(1)))
    return speech.masked_fill(hidden, 0.0)


@torch.inference_mode()
def collect_frames(
    frontend: AbsLayerFrontend,
    wav_scp: str,
    ids: List[str],
    tokens: Dict[str, np.ndarray],
    mask: Optional[SpanMask],
) -> Frames:
    """Run the upstream over utterances, masked or not.

    Utterances beyond ten seconds or under one are left out: their share of the sample
    is one of memory, or has no context to infer from.
    """
    network = getattr(frontend, "model", None)  # MFCC have none
    can_mask = getattr(network, "masked_spec_embed", None) is not None
    batches = AudioBatches(
        wav_scp,
        40,
        minimum_samples=frontend.minimum_samples,
        utt_ids=[i for i in ids if i in tokens],
        maximum_samples=160000,
    )
    states, labels, masked = [], [], []
    for batch in batches:
        speech = torch.from_numpy(batch.speech)
        lengths = torch.from_numpy(batch.speech_lengths)
        counts = [frontend.num_frames(n) for n in lengths.tolist()]
        hidden_frames = None
        if mask is not None:
            hidden_frames = mask(counts, batch.utt_ids, 0)
            if not can_mask:
                speech = silence_spans(speech, hidden_frames, frontend)
        hidden, _ = frontend(speech, lengths, hidden_frames if can_mask else None)
        for i, utt_id in enumerate(batch.utt_ids):
            n = min(counts[i], len(tokens[utt_id]))
            states.append(torch.stack([h[i, :n] for h in hidden]).half().numpy())
            labels.append(tokens[utt_id][:n])
            none = np.zeros(n, dtype=bool)
            masked.append(
                none if hidden_frames is None else hidden_frames[i, :n].numpy()
            )
    return Frames(
        np.concatenate(states, 1), np.concatenate(labels), np.concatenate(masked)
    )


def classifier_accuracy(
    x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray, classes: int
) -> float:
    """Fit multinomial logistic regression by AdamW; return its accuracy elsewhere."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, test_x = [torch.from_numpy((a - mean) / std).float() for a in (x, test_x)]
    y = torch.from_numpy(y).long()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        linear = torch.nn.Linear(x.size(1), classes)
        optimizer = torch.optim.AdamW(linear.parameters(), 3e-3, weight_decay=1e-2)
        size = 512
        batches = -(-len(x) // size)
        epochs = max(15, -(-1500 // batches))
        steps = epochs * batches
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(size):
                loss = torch.nn.functional.cross_entropy(linear(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                scheduler.step()
    with torch.inference_mode():
        return float((linear(test_x).argmax(1).numpy() == test_y).mean())


def tokens_like(
    train: np.ndarray, test: np.ndarray, num_clusters: int, seed: int
) -> np.ndarray:
    """Tokens of k-means, fitted to ``train`` (M, D), of ``test`` (N, D)."""
    centroids, _ = fit_codebooks(
        np.ascontiguousarray(train[None], np.float32), num_clusters, seed
    )
    book = Codebooks(centroids, (0,), "probe", 320, 16000, "")
    states = torch.from_numpy(test[None].astype(np.float32))
    return book.assign([states], torch.tensor([len(test)]))[0, :, 0].numpy()


class Ratings(NamedTuple):
    """Mean-pooled states (clips, L + 1, D), ratings (clips,), talkers (clips,)."""

    pooled: np.ndarray
    mos: np.ndarray
    talkers: np.ndarray


@torch.inference_mode()
def pool(frontend: AbsLayerFrontend, data_dir: str) -> Ratings:
    """Average every layer over the frames of each rated clip of a data directory."""
    scores = read_metric_scp(os.path.join(data_dir, "metric.scp"))
    talkers = read_scp(os.path.join(data_dir, "utt2spk"))
    batches = AudioBatches(os.path.join(data_dir, "wav.scp"), 40)
    rows: Dict[str, np.ndarray] = {}
    for batch in batches:
        hidden, lengths = frontend(
            torch.from_numpy(batch.speech), torch.from_numpy(batch.speech_lengths)
        )
        for i, (utt_id, n) in enumerate(zip(batch.utt_ids, lengths.tolist())):
            rows[utt_id] = torch.stack([h[i, :n].mean(0) for h in hidden]).numpy()
    ids = sorted(i for i in rows if scores.get(i) is not None)
    return Ratings(
        np.stack([rows[i] for i in ids]),
        np.array([scores[i] for i in ids]),
        np.array([talkers[i] for i in ids]),
    )


def fit_ridge(x: np.ndarray, y: np.ndarray, groups: np.ndarray):
    """Ridge regression on standardised features; alpha by leaving groups out."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import LeaveOneGroupOut
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = list(LeaveOneGroupOut().split(x, y, groups))
    model = RidgeCV(ALPHAS, cv=folds, scoring="neg_mean_squared_error")
    return make_pipeline(StandardScaler(), model).fit(x, y)


def ridge_srcc(
    rated: Ratings, other: Optional[Ratings], layer: int
) -> Tuple[float, Optional[float]]:
    """SRCC of held-out talkers' predictions, and of all clips of another test."""
    from scipy.stats import spearmanr

    x, y, talkers = rated.pooled[:, layer], rated.mos, rated.talkers
    predicted = np.zeros_like(y)
    for talker in np.unique(talkers):
        out = talkers == talker
        model = fit_ridge(x[~out], y[~out], talkers[~out])
        predicted[out] = model.predict(x[out])
    held_out = float(spearmanr(predicted, y)[0])
    if other is None:
        return held_out, None
    model = fit_ridge(x, y, talkers)
    zero_shot = spearmanr(model.predict(other.pooled[:, layer]), other.mos)[0]
    return held_out, float(zero_shot)


def probe(frontend: AbsLayerFrontend, args: argparse.Namespace) -> List[Dict[str, Any]]:
    """Run all probes; one dictionary a layer, from 0 on."""
    from sklearn.metrics import mutual_info_score

    data = {}
    mask = SpanMask()
    for name, most in (("train", args.train_utterances), ("dev", args.dev_utterances)):
        wav_scp = getattr(args, f"{name}_wav_scp")
        tokens = with_tokens(wav_scp, args.mfcc_tokens)
        ids = draw(wav_scp, most, args.seed)
        for view, spans in (("masked", mask), ("clean", None)):
            data[name, view] = collect_frames(frontend, wav_scp, ids, tokens, spans)
    classes = int(max(data["train", "clean"].tokens.max(), 1)) + 1
    rated = pool(frontend, args.ratings_dir) if args.ratings_dir else None
    other = pool(frontend, args.zero_shot_dir) if args.zero_shot_dir else None
    rows = []
    for layer in range(frontend.num_layers + 1):
        row: Dict[str, Any] = {"layer": layer}
        sides = []
        for name in ("train", "dev"):
            frames = data[name, "masked"]
            chosen = frames.masked
            states = frames.states[layer][chosen].astype(np.float32)
            sides += [states, frames.tokens[chosen]]
        row["context"] = classifier_accuracy(*sides, classes)
        frequent = np.bincount(sides[1]).argmax()
        row["majority"] = float((sides[3] == frequent).mean())
        train, dev = data["train", "clean"], data["dev", "clean"]
        found = tokens_like(
            train.states[layer], dev.states[layer], args.num_clusters, args.seed
        )
        row["mutual_information"] = float(mutual_info_score(found, dev.tokens))
        if rated is not None:
            held_out, zero_shot = ridge_srcc(rated, other, layer)
            row["held_out_srcc"] = held_out
            if zero_shot is not None:
                row["zero_shot_srcc"] = zero_shot
        rows.append(row)
    return rows


COLUMNS = {
    "context": "masked frames: accuracy",
    "mutual_information": "mutual information, nats",
    "held_out_srcc": "held-out talkers: SRCC",
    "zero_shot_srcc": "zero-shot: SRCC",
}


def table(results: Dict[str, List[Dict[str, Any]]]) -> str:
    """Format the results as a Markdown table."""
    first = next(iter(results.values()))[0]
    columns = [name for name in COLUMNS if name in first]
    lines = [
        "| upstream | layer | " + " | ".join(COLUMNS[c] for c in columns) + " |",
        "|---|---:|" + "---:|" * len(columns),
    ]
    for name, rows in results.items():
        for row in rows:
            values = " | ".join(f"{row[c]:.3f}" for c in columns)
            lines.append(f"| {name} | {row['layer']} | {values} |")
    lines.append("")
    lines.append(
        f"The most frequent token has {first['majority']:.3f} of the masked frames."
    )
    return "\n".join(lines) + "\n"


def draw_figure(results: Dict[str, List[Dict[str, Any]]], path: str) -> None:
    """Plot every probe over the layers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    first = next(iter(results.values()))[0]
    columns = [name for name in COLUMNS if name in first]
    figure, axes = pyplot.subplots(1, len(columns), figsize=(3.2 * len(columns), 2.8))
    for axis, column in zip(np.atleast_1d(axes), columns):
        for name, rows in results.items():
            layers = [row["layer"] for row in rows]
            axis.plot(layers, [row[column] for row in rows], marker="o", label=name)
        if column == "context":
            axis.axhline(first["majority"], color="grey", linestyle=":")
        axis.set_title(COLUMNS[column], fontsize=9)
        axis.set_xlabel("layer", fontsize=8)
        axis.set_xticks(range(max(len(rows) for rows in results.values())))
        axis.tick_params(labelsize=8)
    np.atleast_1d(axes)[0].legend(fontsize=7)
    figure.tight_layout()
    with atomic_write(path, "wb") as file:
        figure.savefig(file, dpi=90, format="png")
    pyplot.close(figure)


def upstreams_of(
    args: argparse.Namespace,
) -> Iterator[Tuple[str, AbsLayerFrontend]]:
    """Yield the name and frontend of each; one with random weights comes first."""
    named = {}
    for spec in args.upstreams:
        name, _, path = spec.partition("=")
        if not path:
            raise DataError(
                f"found the upstream {spec!r}, expected NAME=DIRECTORY of a checkpoint."
            )
        named[name] = {"upstream": path}
    like = build_frontend("hf", list(named.values())[args.random_like])
    conf = like.resolved_conf()
    random_conf = {
        "upstream_config": conf["upstream_config"],
        "normalize_waveform": conf["normalize_waveform"],
    }
    yield "random weights", build_frontend("hf", random_conf)
    # What needs no training at all, on the same frames.
    grid = {"receptive_field": like.minimum_samples}
    grid["normalize_waveform"] = conf["normalize_waveform"]
    yield "MFCC", build_frontend("mfcc", grid)
    for name, conf in named.items():
        yield name, build_frontend("hf", conf)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("upstreams", nargs="+", metavar="NAME=DIRECTORY")
    parser.add_argument("--train_wav_scp", required=True)
    parser.add_argument("--dev_wav_scp", required=True, help="of held-out speakers")
    parser.add_argument("--mfcc_tokens", required=True, help="tokens.scp of both sets")
    parser.add_argument(
        "--ratings_dir", help="data directory of a listening test, utt2spk its talkers"
    )
    parser.add_argument("--zero_shot_dir", help="data directory of another one")
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--train_utterances", type=int, default=400)
    parser.add_argument("--dev_utterances", type=int, default=200)
    parser.add_argument("--num_clusters", type=int, default=100)
    parser.add_argument(
        "--random_like", type=int, default=0, help="whose network gets random weights"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start_logging()
    return call(lambda: probe_all(args))


def probe_all(args: argparse.Namespace) -> int:
    """Write table, figure and numbers of all upstreams; return the exit code."""
    results: Dict[str, List[Dict[str, Any]]] = {}
    for name, frontend in upstreams_of(args):
        results[name] = probe(frontend.eval(), args)
        print(table({name: results[name]}), flush=True)
    path = os.path.join(args.output_dir, "probes")
    with atomic_write(f"{path}.json") as file:
        file.write(json.dumps(results, indent=1) + "\n")
    with atomic_write(f"{path}.md") as file:
        file.write(table(results))
    draw_figure(results, f"{path}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
