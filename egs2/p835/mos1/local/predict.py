#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Predict MOS of a fold's test sets without training a network.

- ``ridge``: ridge regression on the pretrained upstream. The hidden states of all
  layers are averaged over the frames of a clip, standardised, and regressed on its
  label. The penalty is the one that predicts a left-out training talker best.
- ``distill-mos``: the released Distill-MOS (package distillmos) as it is: 4 M
  parameters, trained on far more listening tests than this recipe has.
- ``condition_mean``: the mean training label of a clip's condition, or of all clips
  where training has not its condition: what naming the condition is worth.

Predictions are written as ``metric.scp``, as a model's are.
"""

import argparse
import os
import statistics
import sys
from typing import Callable, Dict, List, Optional, Sequence

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
from espnet2_distilmos.teachers import load_teacher, teach

PENALTIES = np.logspace(0, 6, 13)

# From a data directory to scores by utterance.
Predictor = Callable[[str], Dict[str, float]]


def of_clips(folder: str, function: Callable[[torch.Tensor, str], object]) -> Dict:
    """Apply a function to every clip alone, (1, N) at 16 kHz and its id, by that."""
    found = {}
    for utt_id, path in read_scp(f"{folder}/wav.scp").items():
        speech = torch.from_numpy(read_audio(path, utt_id=utt_id))[None]
        with torch.no_grad():
            found[utt_id] = function(speech, utt_id)
    return found


def fit(inputs: np.ndarray, labels: np.ndarray, talkers: Sequence[str]) -> GridSearchCV:
    """Fit the regression, its penalty chosen by leaving training talkers out.

    Args:
        inputs: Features (n, d).
        labels: MOS (n,).
        talkers: Talker of each clip (n,), two at least.

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


def ridge(train: str, upstream: str) -> Predictor:
    """Fit ridge regression on mean-pooled layers of the upstream."""
    frontend = build_frontend("hf", {"upstream": upstream}).eval()

    def features(speech: torch.Tensor, _: str) -> np.ndarray:
        """(layers x dimension,), layer 0 first."""
        states, _ = frontend(speech, torch.tensor([speech.size(1)]))
        return np.concatenate([h[0].mean(0).numpy() for h in states])

    known = of_clips(train, features)
    labels = read_metric_scp(f"{train}/metric.scp")
    talkers = read_scp(f"{train}/utt2spk")
    ids = [utt_id for utt_id in known if labels.get(utt_id) is not None]
    model = fit(
        np.stack([known[u] for u in ids]),
        np.array([labels[u] for u in ids]),
        [talkers[u] for u in ids],
    )
    alpha = model.best_params_["ridge__alpha"]
    print(f"{train}: {len(ids)} clips, penalty {alpha:g}", file=sys.stderr)

    def predict(folder: str) -> Dict[str, float]:
        inputs = of_clips(folder, features)
        return dict(zip(inputs, model.predict(np.stack(list(inputs.values())))))

    return predict


def distill_mos() -> Predictor:
    """Predict with the released Distill-MOS."""
    teacher = load_teacher("distillmos")

    def score(speech: torch.Tensor, utt_id: str) -> float:
        return teach(teacher, speech[0].numpy(), utt_id)["distillmos"]

    return lambda folder: of_clips(folder, score)


def condition_mean(train: str) -> Predictor:
    """Predict the mean training label of a clip's condition, or of all if it is new."""
    labels = read_metric_scp(f"{train}/metric.scp")
    of_system: Dict[str, List[float]] = {}
    for utt_id, system in read_scp(f"{train}/utt2sys").items():
        of_system.setdefault(system, []).append(labels[utt_id])
    overall = statistics.fmean(labels.values())
    means = {system: statistics.fmean(found) for system, found in of_system.items()}
    return lambda folder: {
        utt_id: means.get(system, overall)
        for utt_id, system in read_scp(f"{folder}/utt2sys").items()
    }


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    methods = ("ridge", "distill-mos", "condition_mean")
    parser.add_argument("--method", required=True, choices=methods)
    parser.add_argument("--data", required=True, help="has train_FOLD and test_FOLD")
    parser.add_argument("--fold", required=True)
    parser.add_argument("--upstream", help="of ridge; WHISPER_TINY, or from the hub")
    parser.add_argument("--out", required=True, help="gets <test set>/metric.scp")
    args = parser.parse_args(argv)
    upstream = args.upstream or os.environ.get("WHISPER_TINY") or "openai/whisper-tiny"
    train = f"{args.data}/train_{args.fold}"
    try:
        if args.method == "ridge":
            predict = ridge(train, upstream)
        elif args.method == "distill-mos":
            predict = distill_mos()
        else:
            predict = condition_mean(train)
        for name in (f"test_{args.fold}", "bvrnn/test"):
            # Out of domain only where the corpus is there.
            if name != "bvrnn/test" or os.path.exists(f"{args.data}/{name}"):
                scores = predict(f"{args.data}/{name}")
                path = os.path.join(args.out, name, "metric.scp")
                write_metric_scp(path, scores, decimals=6)
    except (AudioError, DataError, OSError, ValueError) as error:
        print(f"predict: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
