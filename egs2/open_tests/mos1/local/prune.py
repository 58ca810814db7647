#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Prune a model of a fold and predict the fold's test sets with what is left.

The sets that trained the model prune it (``distilmos prune``, one round); its head, a
ridge regression, is fitted anew to the smaller network. The pruned model is beside
``--out``, in the directory ``pruned``, and predictions are in ``--out`` as those of a
trained model are.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Dict, Optional, Sequence

from folds import read_fold, read_sets

from espnet2_distilmos.bin import prune
from espnet2_distilmos.data.datadir import DataError, read_scp, write_metric_scp


def training_sets(model: str) -> Dict[str, str]:
    """Data directories that trained and validated a model, by option of prune.

    Raises:
        DataError: the model is not there.
    """
    import yaml

    try:
        with open(f"{model}/config.yaml", encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except OSError as error:
        raise DataError(
            f"{model}/config.yaml is not there ({error.strerror}), expected a trained "
            "model; train the run first, with --only too."
        ) from error
    return {
        f"--{which}_set": os.path.dirname(
            config[f"{which}_data_path_and_name_and_type"][0][0]
        )
        for which in ("train", "valid")
    }


def predict(model: str, data: str, names: Sequence[str], out: str) -> None:
    """Write ``<test set>/metric.scp``; a clip of two sets is scored once.

    Raises:
        DataError, ValueError: a set or clip cannot be scored.
    """
    from espnet2_distilmos.predictor import MOSPredictor

    wavs = {name: read_scp(f"{data}/{name}/wav.scp") for name in names}
    paths = {utt_id: path for table in wavs.values() for utt_id, path in table.items()}
    scores = {}
    predictor = MOSPredictor.from_pretrained(model)
    for utt_id, found in zip(
        paths, predictor.predict_files(paths.values(), utt_ids=paths)
    ):
        if found.result is None:
            raise DataError(found.error)
        scores[utt_id] = found.result.score
    for name, of_set in wavs.items():
        table = {utt_id: scores[utt_id] for utt_id in of_set}
        write_metric_scp(os.path.join(out, name, "metric.scp"), table, decimals=6)


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="the directory of a training")
    parser.add_argument("--keep", required=True, help="share of the units")
    kinds = prune.IMPORTANCES
    parser.add_argument("--importance", choices=kinds, default="taylor")
    parser.add_argument("--utterances", default="400", help="for the importance")
    parser.add_argument("--data", required=True, help="has the data directories")
    parser.add_argument("--fold", required=True)
    parser.add_argument("--out", required=True, help="gets <test set>/metric.scp")
    args = parser.parse_args(argv)
    try:
        sets = read_sets()
        # run.sh may have left test parts out.
        names = [
            name
            for name in read_fold(args.fold, sets).test
            if os.path.exists(f"{args.data}/{name}/wav.scp")
        ]
        pruned = str(Path(args.out).parent / "pruned")
        options = ["--keep", args.keep, "--importance", args.importance]
        options += ["--rounds", "1", "--steps", "1", "--output", pruned]
        options += ["--importance_utterances", args.utterances]
        for name, folder in training_sets(args.model).items():
            options += [name, folder]
        if prune.main([f"{args.model}/latest.pth", *options]):
            raise DataError(f"{args.model} could not be pruned, see above.")
        predict(pruned, args.data, names, args.out)
    except (DataError, OSError, ValueError) as error:
        print(f"prune.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
