#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Prune the model of a run, and predict what the run has predicted.

A script for lists of scripts/mos_ablation.sh. The sets that trained the model's last
epoch, latest.pth, prune it (distilmos prune); a head that is a ridge regression is
fitted anew to the smaller network. The pruned model is beside --out, in the directory
pruned, and predictions are in --out as those of a trained model are. Options that are
not listed here are options of mos_train for the training after each removal.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Dict, Optional, Sequence

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


def tested_sets(model: str, data: str) -> Sequence[str]:
    """Names of the sets in ``data`` that a run has predicted.

    Raises:
        DataError: there is none.
    """
    folder = Path(model, "inference")
    names = [f.parent.relative_to(folder) for f in folder.rglob("metric.scp")]
    names = sorted(str(name) for name in names if Path(data, name, "wav.scp").exists())
    if not names:
        raise DataError(
            f"{folder} has no predictions of sets in {data}, expected those of the "
            "run; train it and let it predict (stages 7 and 8) first, with --only too."
        )
    return names


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
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="the directory of a run")
    parser.add_argument("--keep", required=True, help="share of the units")
    parser.add_argument("--importance", choices=prune.IMPORTANCES, default="taylor")
    parser.add_argument("--rounds", default="1", help="of removing and training")
    parser.add_argument("--steps", default="1", help="of training in a round")
    parser.add_argument("--utterances", default="400", help="for the importance")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--data", required=True, help="has the data directories")
    parser.add_argument("--out", required=True, help="gets <test set>/metric.scp")
    args, of_training = parser.parse_known_args(argv)
    try:
        names = tested_sets(args.model, args.data)
        pruned = str(Path(args.out).parent / "pruned")
        options = ["--keep", args.keep, "--importance", args.importance]
        options += ["--rounds", args.rounds, "--steps", args.steps]
        options += ["--importance_utterances", args.utterances, "--seed", args.seed]
        options += [f"--train_args={shlex.join(of_training)}", "--output", pruned]
        for name, folder in training_sets(args.model).items():
            options += [name, folder]
        if prune.main([f"{args.model}/latest.pth", *options]):
            raise DataError(f"{args.model} could not be pruned, see above.")
        predict(pruned, args.data, names, args.out)
    except (DataError, OSError, ValueError) as error:
        print(f"prune_run.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
