#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Predict MOS by ridge regression on mean-pooled features of the pretrained upstream.

What fine-tuning and heads have to beat: the hidden states of all layers are averaged
over the frames of a clip, standardised, and regressed on its label. The penalty is the
one that predicts a left-out training talker best. Predictions are written as
``metric.scp``, as a model's are.
"""

import argparse
import os
import sys
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from espnet2_distilmos.data.audio import AudioError, read_audio
from espnet2_distilmos.data.datadir import (
    DataError,
    read_metric_scp,
    read_scp,
    write_metric_scp,
)
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend

PENALTIES = np.logspace(0, 6, 13)


def mean_pooled(wav_scp: str, frontend: AbsLayerFrontend) -> Dict[str, np.ndarray]:
    """Return (layers x dimension,) by utterance, layer 0 first."""
    features = {}
    for utt_id, path in read_scp(wav_scp).items():
        speech = torch.from_numpy(read_audio(path, utt_id=utt_id))[None]
        with torch.no_grad():
            states, _ = frontend(speech, torch.tensor([speech.size(1)]))
        features[utt_id] = np.concatenate([h[0].mean(0).numpy() for h in states])
    return features


def fit(
    inputs: np.ndarray, labels: np.ndarray, talkers: Sequence[str]
) -> Dict[str, object]:
    """Fit the regression, its penalty chosen by leaving training talkers out.

    Args:
        inputs: Features (n, d).
        labels: MOS (n,).
        talkers: Talker of each clip (n,), two at least.

    Returns:
        A scikit-learn estimator.

    Raises:
        ValueError: There are fewer than two talkers.
    """
    search = GridSearchCV(
        make_pipeline(StandardScaler(), Ridge()),
        {"ridge__alpha": PENALTIES},
        scoring="neg_mean_squared_error",
        cv=LeaveOneGroupOut(),
    )
    return search.fit(inputs, labels, groups=list(talkers))


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", required=True, help="directory of the training set")
    parser.add_argument("--test", nargs="+", required=True, help="those to predict")
    parser.add_argument("--upstream", required=True, help="hub id or local directory")
    parser.add_argument("--out", required=True, help="gets <test set>/metric.scp")
    args = parser.parse_args(argv)
    try:
        frontend = build_frontend("hf", {"upstream": args.upstream}).eval()
        known = mean_pooled(f"{args.train}/wav.scp", frontend)
        labels = read_metric_scp(f"{args.train}/metric.scp")
        talkers = read_scp(f"{args.train}/utt2spk")
        ids: List[str] = [u for u in known if labels.get(u) is not None]
        model = fit(
            np.stack([known[u] for u in ids]),
            np.array([labels[u] for u in ids]),
            [talkers[u] for u in ids],
        )
        alpha = model.best_params_["ridge__alpha"]
        print(f"{args.train}: {len(ids)} clips, penalty {alpha:g}", file=sys.stderr)
        for folder in args.test:
            inputs = mean_pooled(f"{folder}/wav.scp", frontend)
            scores = model.predict(np.stack(list(inputs.values())))
            path = os.path.join(args.out, os.path.basename(folder), "metric.scp")
            write_metric_scp(path, dict(zip(inputs, scores)), decimals=6)
    except (AudioError, DataError, OSError, ValueError) as error:
        print(f"ridge: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
