#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Predict MOS of a fold's test sets without training a network.

- ``distillmos``: the released Distill-MOS (package distillmos) as it is.
- ``dnsmos``: the released DNSMOS P.835, overall quality (package speechmos).
- ``knn``: half the score of a trained model, half the mean label of the eight training
  clips that are nearest in its embedding, the nearest of which count most.
- ``mean``: the mean of what other runs have predicted, each divided by its standard
  deviation over the clips of the set; a single clip's needs the others' for it.

Predictions are written as ``metric.scp``, as a model's are. Without ``--fold`` they are
of every clip of the sets, and in data/scores/METHOD they may be targets of the loss
aux_scores (see README.md); those of a fold are then taken from there. Killed, a
released model goes on where it was.
"""

import argparse
import os
import sys
from concurrent.futures import BrokenExecutor
from typing import Callable, Dict, List, Optional, Sequence

import numpy as np
from folds import read_fold, read_sets

from espnet2_distilmos.bin.pseudo_label import Set, Source, get_teacher, score_set
from espnet2_distilmos.cli import progress
from espnet2_distilmos.data.audio import AudioError, read_audio
from espnet2_distilmos.data.datadir import (
    DataError,
    read_metric_scp,
    read_scp,
    write_metric_scp,
)

# From audio (N,) at 16 kHz, and the clip's id for messages, to a score.
Predictor = Callable[[np.ndarray, str], float]


def released(method: str, data: Set, out: str, nj: int) -> Dict[str, float]:
    """Overall scores of a released model; ``data`` gets what is wrong with a clip."""
    source = Source(method, "", is_table=False)
    score_set(data, [source], out, nj, "cpu")
    key = get_teacher(source, "cpu").keys[0]
    return {utt_id: scores[key] for utt_id, scores in data.scores.items()}


def knn(model_dir: str, train: str, out: str) -> Predictor:
    """A trained model and the labels of its training set's nearest clips."""
    from espnet2_distilmos.bin import calibrate
    from espnet2_distilmos.predictor import MOSPredictor

    model, datastore = f"{model_dir}/latest.pth", f"{out}/datastore.npz"
    if not os.path.exists(model):
        raise DataError(f"{model} is not there; train the run l1 first.")
    os.makedirs(out, exist_ok=True)
    command = [model, "--labels", train, "--datastore", "--output", datastore]
    if calibrate.main(command):
        raise DataError(f"the datastore of {model} could not be made, see above.")
    config = f"{model_dir}/config.yaml"
    predictor = MOSPredictor(config, model, knn=8, knn_datastore=datastore)

    def predict(audio: np.ndarray, utt_id: str) -> float:
        try:
            return float(predictor(audio, 16000).score)
        except ValueError as error:
            raise ValueError(f"{utt_id}: {error}") from error

    return predict


def mean(runs: Sequence[str], name: str) -> Dict[str, float]:
    """Mean of the standardised scores of runs, for the clips of a set.

    Raises:
        DataError: a run has no predictions of the set, or of other clips, or all of
            them are the same.
    """
    standardised: List[Dict[str, float]] = []
    for run in runs:
        path = f"{run}/inference/{name}/metric.scp"
        if not os.path.exists(path):
            raise DataError(f"{path} is not there; predict with that run first.")
        scores = read_metric_scp(path)
        if standardised and scores.keys() != standardised[0].keys():
            raise DataError(
                f"{path} has other clips than that of {runs[0]}, expected the same; "
                "predict with both runs anew."
            )
        if missing := [utt_id for utt_id, x in scores.items() if x is None]:
            raise DataError(
                f"{path} has no score of {missing[0]}, expected one of each clip; "
                "predict with that run anew."
            )
        if not scores:
            raise DataError(f"{path} has no clip; predict with that run anew.")
        centre, spread = np.mean([*scores.values()]), np.std([*scores.values()])
        if not spread > 0:
            raise DataError(f"{path} has one score for all clips; leave the run out.")
        standardised.append({u: (x - centre) / spread for u, x in scores.items()})
    return {u: float(np.mean([s[u] for s in standardised])) for u in standardised[0]}


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    methods = ("distillmos", "dnsmos", "knn", "mean")
    parser.add_argument("--method", required=True, choices=methods)
    parser.add_argument("--data", default="data", help="has the data directories")
    parser.add_argument("--fold", help="predict its test sets; default: the whole sets")
    parser.add_argument("--model", help="of knn, the directory of a training")
    parser.add_argument("--runs", nargs="+", help="of mean, directories of runs")
    parser.add_argument("--out", required=True, help="gets <test set>/metric.scp")
    parser.add_argument(
        "--nj", type=int, default=1, help="processes of a released model"
    )
    args = parser.parse_args(argv)
    try:
        sets = read_sets()
        names = list(sets.values())
        if args.fold is not None:
            fold = read_fold(args.fold, sets)
            names = fold.test
        if args.method == "mean":
            if not args.runs:
                raise DataError("--method mean needs --runs; name at least one.")
            for name in names:
                path = os.path.join(args.out, name, "metric.scp")
                write_metric_scp(path, mean(args.runs, name), decimals=6)
            return 0
        if args.method == "knn":
            if args.model is None or args.fold is None:
                raise DataError("--method knn needs --fold and --model; give both.")
            train = f"{args.data}/{'+'.join(fold.directories('train'))}"
            predict = knn(args.model, train, args.out)
        if args.nj < 1:
            raise DataError(f"--nj is {args.nj}, expected 1 or more processes.")
        # Scores of each set by clip: two sets may have the same ids.
        known: Dict[str, Dict[str, Optional[float]]] = {n: {} for n in sets.values()}
        if args.method != "knn" and args.fold is not None:
            for name in sets.values():
                path = f"data/scores/{args.method}/{name}/metric.scp"
                if os.path.exists(path):
                    print(f"predict.py: what {path} has is taken from it")
                    scores = read_metric_scp(path)
                    known[name] = {u: x for u, x in scores.items() if x is not None}
        failed = False
        for name in names:
            folder = f"{args.data}/{name}"
            wavs = read_scp(f"{folder}/wav.scp")
            # A test part, test_SET, is a part of its set.
            of_set = known[name if "/" in name else sets[name.split("_", 1)[1]]]
            missing = {u: wav for u, wav in wavs.items() if u not in of_set}
            data = Set(name.replace("/", "_"), folder, missing, {}, {})
            if args.method == "knn":
                for utt_id, wav in progress(missing.items(), name, unit="clip"):
                    of_set[utt_id] = predict(read_audio(wav, utt_id=utt_id), utt_id)
            elif missing:
                of_set.update(released(args.method, data, args.out, args.nj))
            write_metric_scp(
                os.path.join(args.out, name, "metric.scp"),
                {utt_id: of_set.get(utt_id) for utt_id in wavs},
                decimals=6,
            )
            for sentences in data.faults.values():
                print(f"predict.py: {' '.join(sentences)}", file=sys.stderr)
                failed = True
        return 1 if failed else 0
    except BrokenExecutor:
        sentence = "a process was killed, perhaps for memory; the same command goes on."
        print(f"predict.py: {sentence}", file=sys.stderr)
        return 1
    except (AudioError, DataError, OSError, ValueError) as error:
        print(f"predict.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
