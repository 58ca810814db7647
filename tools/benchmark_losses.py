#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""CPU time of a training step under several configurations, on random audio."""

import argparse
import sys
import time
from typing import Any, List, Mapping, Optional, Tuple

import numpy as np
import torch
import yaml

from espnet2_distilmos.mos.build import build_frontend, build_model
from espnet2_distilmos.train.views import NoisyView, kinds_of


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time training steps (forward, backward, AdamW; the noisy view, if "
        "there is one) of training configurations, in turns, in one thread. Weights, "
        "audio and tokens are random: other speakers are left out of the noisy view.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("configs", nargs="+", help="train*.yaml; the first is the base")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--steps", type=int, default=5, help="the median counts")
    return parser


class Training:
    """A model, its optimizer, and what a step of it is."""

    def __init__(self, config: Mapping[str, Any], clusters: int):
        # Also of a pretrained upstream the network alone matters.
        frontend = build_frontend(config["frontend"], config["frontend_conf"])
        config = {**config, "frontend_conf": frontend.resolved_conf()}
        layers = frontend.num_layers
        columns = [
            {"stream": "any", "layer": layer, "K": clusters}
            for layer in range(1, layers + 1)
        ]
        tokens = {"format_version": 1, "columns": columns}
        options = config.get("noisy_view") or {}
        for name in ("domain_adversarial", "distortion"):
            if name in config["losses"]:
                config["losses"][name]["classes"] = kinds_of(**options)
        torch.manual_seed(0)
        self.columns, self.clusters = layers, clusters
        self.model = build_model({**config, "token_info": tokens}, False).train()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        for loss in self.model.losses.values():
            loss.follow(self.optimizer, self.model.frontend)
        options = config.get("noisy_view")
        self.view: Optional[NoisyView] = None
        if options is not None:
            self.view = NoisyView(**{**options, "speech_prob": 0.0})

    def step(self, batch_size: int, seconds: float, seed: int) -> Tuple[float, float]:
        """CPU seconds of one step, and of the noisy view alone."""
        generator = np.random.default_rng(seed)
        samples = int(16000 * seconds)
        speech = generator.normal(0, 0.1, (batch_size, samples)).astype(np.float32)
        frames = self.model.frontend.num_frames(samples)
        shape = (batch_size, frames, self.columns)
        batch = {
            "speech": torch.from_numpy(speech),
            "speech_lengths": torch.full((batch_size,), samples),
            "mos": torch.from_numpy(generator.uniform(1, 5, batch_size)).float(),
            "tokens": torch.from_numpy(generator.integers(self.clusters, size=shape)),
            "utt_id": [str(i) for i in range(batch_size)],
        }
        start = time.process_time()
        if self.view is not None:
            views = [
                self.view(str(i), wave, generator) for i, wave in enumerate(speech)
            ]
            batch["noisy"] = torch.from_numpy(np.stack([x.audio for x in views]))
            done = zip(*(self.view.labels(x) for x in views))
            batch["distortion"], batch["snr"] = (
                torch.from_numpy(np.stack(each)) for each in done
            )
            if self.view.teacher == "same":
                batch["heard"] = batch["noisy"]
            elif self.view.teacher == "own":
                views = [self.view("", wave, generator) for wave in speech]
                batch["heard"] = torch.from_numpy(np.stack([x.audio for x in views]))
        view = time.process_time() - start
        self.model(**batch)["loss"].backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.process_time() - start, view


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    torch.set_num_threads(1)
    trainings = []
    for path in args.configs:
        with open(path, encoding="utf-8") as file:
            trainings.append(Training(yaml.safe_load(file), args.clusters))
    rounds = []
    for seed in range(args.steps + 1):
        # In turns, so that a change of the machine's pace meets all alike.
        rounds.append([t.step(args.batch_size, args.seconds, seed) for t in trainings])
    # (configurations, 2); the first step warms up
    medians = np.median(rounds[1:], axis=0)
    print("| configuration | s a step | of it noisy view | ratio |")
    print("|---|---:|---:|---:|")
    for path, (step, view) in zip(args.configs, medians):
        print(f"| {path} | {step:.3f} | {view:.3f} | {step / medians[0, 0]:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
