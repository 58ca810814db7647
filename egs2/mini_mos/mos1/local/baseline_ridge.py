#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""Predict MOS by ridge regression on duration, level and long-term spectrum.

A trained model that does not beat this has learnt nothing about quality that a mean
spectrum would not tell. Predictions are written as ``metric.scp``, as a model's are.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile as sf
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from espnet2_distilmos.data.datadir import (
    read_metric_scp,
    read_scp,
    write_metric_scp,
)
from espnet2_distilmos.distortion.degradations import mel_filters, stft

BANDS = 40


def features(path):
    """Return (2 + 40,): seconds, level in dBov, mean power of 40 mel bands in dB."""
    audio, rate = sf.read(path, dtype="float64")
    power = np.mean(np.abs(stft(audio, 512, 160)) ** 2, axis=0)
    bands = mel_filters(BANDS, 512, rate) @ power
    level = 10 * np.log10(np.mean(audio**2) + 1e-10)
    return np.array([len(audio) / rate, level, *(10 * np.log10(bands + 1e-10))])


def read_set(folder):
    """Return utterance ids and their features (utterances, 42)."""
    wavs = read_scp(folder / "wav.scp")
    return list(wavs), np.stack([features(path) for path in wavs.values()])


def main(argv=None):
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, default=Path("data/train"))
    parser.add_argument(
        "--test",
        type=Path,
        nargs="+",
        default=[Path("data/test"), Path("data/test_ood")],
    )
    parser.add_argument("--out", type=Path, default=Path("exp/ridge_baseline"))
    args = parser.parse_args(argv)

    utterances, inputs = read_set(args.train)
    labels = read_metric_scp(args.train / "metric.scp")
    labelled = [i for i, name in enumerate(utterances) if labels.get(name) is not None]
    targets = np.array([labels[utterances[i]] for i in labelled])
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13)))
    model.fit(inputs[labelled], targets)

    for folder in args.test:
        utterances, inputs = read_set(folder)
        scores = dict(zip(utterances, model.predict(inputs)))
        path = args.out / folder.name / "metric.scp"
        write_metric_scp(path, scores, decimals=4)
        print(f"{path}: {len(scores)} predictions", file=sys.stderr)


if __name__ == "__main__":
    main()
