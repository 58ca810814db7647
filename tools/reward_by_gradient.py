#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""Train a toy generator by the gradient of the predicted MOS.

The generator is a filter of 33 taps, at first the identity, that is to make noisy
speech better: the loss is minus its score, `predictor(wave, fs, grad=True).score`, and
what the filter changes. A predictor that is optimised against can be fooled; what keeps
a generator honest (here the second term) is part of the loss.

Example:

    % python tools/reward_by_gradient.py clip.wav --model exp/mos_train_distilmos_raw
"""

import argparse
import sys
from typing import List, Optional

import soundfile
import torch

from espnet2_distilmos import MOSPredictor

FILTER_LENGTH = 33


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train a filter by the gradient of the predicted MOS.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("clip", help="speech, one channel")
    parser.add_argument("--model", required=True, help="as of distilmos predict")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--noise", type=float, default=0.02, help="that is added")
    parser.add_argument("--weight", type=float, default=1.0, help="of the change")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", help="write the filtered clip")
    return parser


def main(cmd: Optional[List[str]] = None) -> List[float]:
    args = get_parser().parse_args(cmd)
    generator = torch.Generator().manual_seed(args.seed)
    samples, fs = soundfile.read(args.clip, dtype="float32")
    clean = torch.from_numpy(samples)
    noisy = clean + args.noise * torch.randn(len(clean), generator=generator)
    predictor = MOSPredictor.from_pretrained(args.model)

    taps = torch.zeros(1, 1, FILTER_LENGTH)
    taps[..., FILTER_LENGTH // 2] = 1.0
    taps.requires_grad_()
    optimizer = torch.optim.Adam([taps], lr=args.lr)
    scores = []
    for step in range(args.steps + 1):
        wave = torch.nn.functional.conv1d(
            noisy[None, None], taps, padding=FILTER_LENGTH // 2
        )[0, 0]
        score = predictor(wave, fs, grad=True).score
        change = (wave - noisy).square().mean() / noisy.square().mean()
        scores.append(score.item())
        print(f"step {step}: score {score.item():.3f}, change {change.item():.3f}")
        if step < args.steps:
            optimizer.zero_grad()
            (args.weight * change - score).backward()
            optimizer.step()
    if args.output:
        soundfile.write(args.output, wave.detach().numpy(), fs)
    return scores


if __name__ == "__main__":
    main()
    sys.exit(0)
