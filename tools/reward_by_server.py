#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""Train a toy generator by scores of `distilmos serve`, without gradients.

The generator has a policy of two numbers, gain in dB and a spectral tilt, drawn from a
Gaussian whose mean it learns (REINFORCE, Williams, 1992; advantages within the group of
one step, as GRPO takes them). Its reward is the predicted MOS, which another process
gives, maybe on another machine: trainer and predictor share no GPU, no memory and no
Python. A clip that is not scored ends nothing: its advantage is 0.

Example:

    % distilmos serve --model exp/mos_train_distilmos_raw &
    % python tools/reward_by_server.py clip.wav --url http://127.0.0.1:8476
"""

import argparse
import math
import sys
from typing import List, Optional

import numpy as np
import soundfile

from espnet2_distilmos import RemoteMOSPredictor


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a policy of gain and tilt by scores of distilmos serve.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("clip", help="speech, one channel")
    parser.add_argument("--url", default="http://127.0.0.1:8476")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--group", type=int, default=16, help="candidates of a step")
    parser.add_argument("--lr", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def generate(wave: np.ndarray, action: np.ndarray) -> np.ndarray:
    """Apply a gain in units of 6 dB, and a tilt."""
    gain, tilt = action
    tilted = wave - math.tanh(tilt) * np.concatenate([[0.0], wave[:-1]])
    return np.clip(2.0**gain * tilted, -1, 1).astype(np.float32)


def rewards_of(predictor, waves: List[np.ndarray], fs: int) -> np.ndarray:
    """Scores; NaN where there is none."""
    try:
        return np.array([result.score for result in predictor(waves, fs)])
    except ValueError:  # of one of them
        if len(waves) == 1:
            return np.array([math.nan])
        return np.concatenate([rewards_of(predictor, [wave], fs) for wave in waves])


def main(cmd: Optional[List[str]] = None) -> List[float]:
    args = get_parser().parse_args(cmd)
    generator = np.random.default_rng(args.seed)
    wave, fs = soundfile.read(args.clip)
    predictor = RemoteMOSPredictor(args.url, frames=False)

    mean, spread = np.zeros(2), 0.5
    history = []
    for step in range(args.steps):
        actions = mean + spread * generator.normal(size=(args.group, 2))
        rewards = rewards_of(predictor, [generate(wave, a) for a in actions], fs)
        advantages = (rewards - np.nanmean(rewards)) / (np.nanstd(rewards) + 1e-6)
        advantages = np.nan_to_num(advantages)
        # The gradient of the log-probability, times spread^2 to be in its units.
        mean += args.lr * (advantages[:, None] * (actions - mean)).mean(axis=0)
        history.append(float(np.nanmean(rewards)))
        print(f"step {step}: mean score {history[-1]:.3f}, policy {mean.round(2)}")
    return history


if __name__ == "__main__":
    main()
    sys.exit(0)
