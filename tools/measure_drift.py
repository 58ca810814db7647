#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""How far training moved an upstream: what its layers forgot of the pretrained one.

Two figures for every trained model and layer, on the frames of any audio:

- recovered: the share of the pretrained states' variance that a linear map predicts
  from the trained ones (R^2, mean over dimensions; the map is fitted on one half of the
  clips and measured on the other). The rest cannot be read off linearly any more.
- CKA: linear centred kernel alignment (Kornblith et al., "Similarity of neural network
  representations revisited", ICML 2019), which large dimensions rule.

Layer 0 is what enters the first layer. A frozen upstream has 1 everywhere.
A model that started from a trained one is compared with the pretrained upstream too.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

RIDGE = 1.0  # against dimensions that hardly vary; features are standardised


class Drift(NamedTuple):
    """Of one layer; both are 1 where nothing changed, up to a linear map."""

    recovered: float
    cka: float


def recovered_variance(
    tuned: Sequence[np.ndarray], pretrained: Sequence[np.ndarray]
) -> float:
    """Predict the second half's pretrained states from the trained ones.

    Args:
        tuned, pretrained: states of both halves of the clips, each (frames, D).

    Returns:
        R^2, mean over the dimensions of ``pretrained`` that vary; at most 1.
    """
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = make_pipeline(StandardScaler(), Ridge(RIDGE))
    scaler = StandardScaler().fit(pretrained[0])
    regression.fit(tuned[0], scaler.transform(pretrained[0]))
    true = scaler.transform(pretrained[1])
    residual = np.mean((true - regression.predict(tuned[1])) ** 2, axis=0)
    variance = true.var(axis=0)
    varies = variance > 0
    return float(np.mean(1 - residual[varies] / variance[varies]))


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Compare two sets of states of the same frames, (frames, D) and (frames, E).

    Returns:
        From 0 to 1; it does not depend on rotation, offset and scale.
    """
    first = first - first.mean(axis=0)
    second = second - second.mean(axis=0)
    cross = np.linalg.norm(first.T @ second) ** 2
    own = np.linalg.norm(first.T @ first) * np.linalg.norm(second.T @ second)
    return float(cross / own)


def compare(
    tuned: Sequence[List[np.ndarray]], pretrained: Sequence[List[np.ndarray]]
) -> List[Drift]:
    """Compare layer by layer.

    Args:
        tuned, pretrained: states by clip and layer, each (frames, D).
    """
    drifts = []
    for layer in range(len(pretrained[0])):
        sides = []
        for states in (tuned, pretrained):
            of_clips = [clip[layer].astype(np.float64) for clip in states]
            # Neighbours in the list are alike, so every second clip is a fair half.
            sides.append([np.concatenate(of_clips[half::2]) for half in (0, 1)])
        cka = linear_cka(*(np.concatenate(side) for side in sides))
        drifts.append(Drift(recovered_variance(*sides), cka))
    return drifts


def hidden_states(frontend, clips: Sequence[np.ndarray]) -> List[List[np.ndarray]]:
    """Return the states by clip and layer, each (frames, D), one clip at a time."""
    import torch

    found = []
    for clip in clips:
        speech = torch.from_numpy(clip)[None]
        with torch.no_grad():
            states, _ = frontend(speech, torch.tensor([speech.size(1)]))
        found.append([state[0].numpy() for state in states])
    return found


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wav_scp", help="audio to compare on, two clips at least")
    parser.add_argument("models", nargs="+", help="as for `distilmos predict`")
    parser.add_argument("--clips", type=int, default=50, help="most clips (50)")
    parser.add_argument("--csv", help="also write the table here, a row a layer")
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    from espnet2_distilmos.cli import run

    return run(lambda: measure(args), "models were left out")


def measure(args: argparse.Namespace) -> Dict[str, str]:
    """Compare the models and print the table.

    Returns:
        A sentence for each model that cannot be loaded.

    Raises:
        OSError, ValueError: the audio or its list cannot be read, or the table written.
    """
    from espnet2_distilmos.cli import progress
    from espnet2_distilmos.data.audio import read_audio
    from espnet2_distilmos.data.datadir import atomic_write, read_scp
    from espnet2_distilmos.mos.build import build_frontend
    from espnet2_distilmos.mos.checkpoint import load_model, open_trained_model

    paths = read_scp(args.wav_scp)
    step = max(1, len(paths) // args.clips)
    ids = list(paths)[::step][: args.clips]
    if len(ids) < 2:
        raise ValueError(
            f"{args.wav_scp} and --clips {args.clips} give {len(ids)} clips, expected "
            "two at least: one half of them fits, the other is measured."
        )
    clips: List[np.ndarray] = []
    of_pretrained: Dict[str, List[List[np.ndarray]]] = {}
    rows: Dict[str, List[Drift]] = {}
    failures: Dict[str, str] = {}
    for path in progress(args.models, "measure_drift", unit="model"):
        try:
            with open_trained_model(path) as (train_config, model_file):
                model, config = load_model(train_config, model_file)
            # The same network before the training.
            frontend = build_frontend(config["frontend"], config["frontend_conf"])
        except (OSError, ValueError) as error:
            failures[path] = " ".join(str(error).split())
            continue
        frontend.eval()
        if not clips:
            clips = [read_audio(paths[i], frontend.sample_rate, i) for i in ids]
        key = frontend.fingerprint()
        if key not in of_pretrained:
            of_pretrained[key] = hidden_states(frontend, clips)
        rows[path] = compare(hidden_states(model.frontend, clips), of_pretrained[key])

    layers = max(map(len, rows.values()), default=0)
    titles = [f"layer {layer}" for layer in range(layers)]
    print(f"Recovered / CKA, {len(clips)} clips of {args.wav_scp}\n")
    print(f"| model | {' | '.join(titles)} |")
    print(f"|---{'|---:' * layers}|")
    for path, drifts in rows.items():
        cells = [f"{drift.recovered:.3f} / {drift.cka:.3f}" for drift in drifts]
        print(f"| {path} | {' | '.join(cells)} |")
    if args.csv:
        with atomic_write(args.csv) as file:
            writer = csv.writer(file)
            writer.writerow(["model", "layer", *Drift._fields])
            for path, drifts in rows.items():
                writer.writerows([path, n, *drift] for n, drift in enumerate(drifts))
    return failures


if __name__ == "__main__":
    sys.exit(main())
