#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Fit prediction intervals, a flag of novelty or a scale to a trained model."""

import argparse
import os
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from espnet2_distilmos.cli import add_scoring_arguments, one_line, progress
from espnet2_distilmos.data.calibration import (
    CALIBRATION,
    write_calibration,
    write_scale,
)
from espnet2_distilmos.data.datadir import DataError, read_scp
from espnet2_distilmos.data.inputs import InputFile, collect_inputs
from espnet2_distilmos.evaluation.formats import (
    Score,
    clusters_of,
    count,
    decode_name,
    match,
    read_scores,
    shown,
)

_SCALE = "scale.json"
# Levels that the summary names.
_LEVELS = (0.8, 0.9, 0.95)
# More sentences than this are only counted.
_MOST_PRINTED = 50


class Labelled(NamedTuple):
    """The clips that a model is calibrated on.

    Attributes:
        records: their labels.
        items: their audio, one a record.
        clusters: of each, or None.
        score_range: of the listening test where the data directory says it.
        problems: a sentence for each thing that was wrong.
    """

    records: List[Score]
    items: List[InputFile]
    clusters: Optional[List[Any]]
    score_range: Optional[Tuple[float, float]]
    problems: List[str]


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos calibrate",
        description="Fit to a trained model what `distilmos predict --interval` needs: "
        "from the errors on labelled clips, intervals that hold the label with a given "
        "probability (split-conformal); from the training audio, a flag for clips "
        "unlike it. Or, with --fit-scale, the map to the scale of another listening "
        "test, for `distilmos predict --scale`.",
        epilog="The labelled clips must neither have trained the model nor chosen its "
        "checkpoint, and be of the kind that will be scored. Exit code: 0, or 1 when "
        "some clip could not be used.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="experiment directory, model file in one, packed .zip, or user/name of "
        "the Hugging Face hub",
    )
    parser.add_argument(
        "--labels",
        required=True,
        metavar="DATA_DIR|FILE",
        help="labelled clips: data directory with wav.scp and metric.scp, or labels "
        "in any format of `distilmos convert` with the paths of the audio",
    )
    parser.add_argument(
        "--audio",
        nargs="+",
        metavar="INPUT",
        help="audio of the labelled clips, as `distilmos predict` takes it, where the "
        "labels do not say; joined by id, path or file name",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="which metric or column is the label; mos, or the only one, by default",
    )
    parser.add_argument(
        "--cluster",
        metavar="UTT2SRC|REGEX",
        help="sentence or source of each clip, a file or a regular expression with one "
        "group: clips of one source are not independent (default: DATA_DIR/utt2src)",
    )
    parser.add_argument(
        "--train",
        nargs="+",
        metavar="INPUT",
        help="the training audio: wav.scp or directory; without it nothing is flagged",
    )
    parser.add_argument(
        "--max-train",
        type=int,
        default=2000,
        help="that many training clips at most, drawn at random (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of that draw (%(default)s)"
    )
    parser.add_argument(
        "--novelty",
        choices=["mahalanobis", "knn"],
        default="mahalanobis",
        help="distance from the training set: of one cloud (default), or from the "
        "10th nearest clip, for training sets of several kinds",
    )
    parser.add_argument(
        "--novelty-quantile",
        type=float,
        default=0.99,
        metavar="SHARE",
        help="share of the labelled clips that is not flagged (%(default)s)",
    )
    parser.add_argument(
        "--fit-scale",
        choices=["linear", "monotone"],
        help="fit a scale instead: linear from about 10 labelled clips on, monotone "
        "from about 50",
    )
    parser.add_argument(
        "--scale",
        metavar="scale.json",
        help="calibrate the scores on this scale; by other clips of its listening "
        "test than it was fitted to",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"default: {CALIBRATION} beside the model; {_SCALE} with --fit-scale",
    )
    add_scoring_arguments(parser)
    return parser


# What goes in


def read_labelled(args: argparse.Namespace) -> Labelled:
    """Read the labels and find their audio.

    Raises:
        DataError: nothing could be read, or no labelled clip has audio.
    """
    file = read_scores(args.labels, metric=args.metric)
    problems = list(file.problems)
    records = [record for record in file.records if record.score is not None]
    if not records:
        raise DataError(
            f"{args.labels} has no labelled clip, expected at least one; correct "
            "--labels."
        )
    is_directory = os.path.isdir(args.labels)
    audio = args.audio
    if audio is None and is_directory:
        audio = [os.path.join(args.labels, "wav.scp")]
    if audio is None:
        items: List[Optional[InputFile]] = [_named_audio(args, r) for r in records]
    else:
        found = collect_inputs(audio)
        pairs, _ = match(
            [(record.id, record.path) for record in records],
            [(decode_name(item.id), item.path) for item in found],
        )
        items = [found[pairs[i]] if i in pairs else None for i in range(len(records))]
        without = [r.id for r, item in zip(records, items) if item is None]
        if without:
            problems.append(
                f"{args.labels} has {count(without)} without audio in "
                f"{' '.join(audio)}, expected a file for each; complete --audio."
            )
    kept = [(r, item) for r, item in zip(records, items) if item is not None]
    if not kept:
        raise DataError(" ".join(problems))
    records = [record for record, _ in kept]

    source = args.cluster
    if source is None and is_directory:
        path = os.path.join(args.labels, "utt2src")
        source = path if os.path.exists(path) else None
    clusters = None
    if source is not None:
        names, sentences = clusters_of([record.id for record in records], source)
        problems += sentences
        # A tuple cannot equal the name of a source.
        clusters = [c if c is not None else (r.id,) for c, r in zip(names, records)]
    score_range = _score_range(args.labels) if is_directory else None
    return Labelled(records, [i for _, i in kept], clusters, score_range, problems)


def _named_audio(args: argparse.Namespace, record: Score) -> InputFile:
    """The audio that a file of labels names, from here or from where the file lies."""
    path = record.path or record.id
    beside = os.path.join(os.path.dirname(args.labels), path)
    return InputFile(record.id, path if os.path.exists(path) else beside)


def _score_range(folder: str) -> Optional[Tuple[float, float]]:
    path = os.path.join(folder, "score_range")
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            low, high = map(float, file.read().split())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be used ({error}), expected the lowest and highest label; "
            "correct it."
        ) from error
    return low, high


def sample_train(inputs: Sequence[str], most: int, seed: int) -> List[InputFile]:
    """Draw training clips, the same in whatever order they are listed.

    Raises:
        DataError: there is no audio.
    """
    import numpy as np

    names = []
    for name in inputs:
        wav_scp = os.path.join(name, "wav.scp")
        names.append(wav_scp if os.path.isfile(wav_scp) else name)
    items = sorted(collect_inputs(names), key=lambda item: os.fsencode(item.id))
    if len(items) <= most:
        return items
    drawn = np.random.default_rng(seed).choice(len(items), most, replace=False)
    return [items[i] for i in sorted(drawn)]


def seen_by_training(config: Dict[str, Any], items: Sequence[InputFile]) -> List[str]:
    """Tell whether the labelled clips trained the model or chose its checkpoint.

    Args:
        config: of the experiment; what it names is looked for from here.
        items: the labelled clips.

    Returns:
        Sentences; none where the training's files are not here.
    """
    ours = {os.path.realpath(item.path) for item in items}
    sentences = []
    for part, did in (
        ("train", "trained the model"),
        ("valid", "chose its checkpoint"),
    ):
        for entry in config.get(f"{part}_data_path_and_name_and_type") or []:
            path, name = str(entry[0]), str(entry[1])
            if name != "speech" or not os.path.isfile(path):
                continue
            theirs = {os.path.realpath(wav) for wav in read_scp(path).values()}
            if ours & theirs:
                sentences.append(
                    f"{len(ours & theirs)} of the {len(ours)} labelled clips are in "
                    f"{path}, which {did}: the intervals are too narrow; take others "
                    "(mos.sh --calibration_share keeps some back)."
                )
    return sentences


# What comes out


def score_files(
    predictor, items: Sequence[InputFile], jobs: int
) -> Tuple[List[Any], List[str]]:
    """Score files with a progress bar.

    Returns:
        A MOSResult or None each, and the sentences of those that failed.
    """
    results, problems = [], []
    files = predictor.predict_files((item.path for item in items), num_threads=jobs)
    for found in progress(files, "scores", len(items), "file"):
        if found.result is None:
            problems.append(one_line(items[found.index].error or found.error))
        results.append(found.result)
    return results, problems


def _base_name(path: str) -> str:
    folder, name = os.path.split(os.path.normpath(path))
    return os.path.basename(folder) if folder and name == "wav.scp" else name


def fit_calibration(
    args: argparse.Namespace, predictor, labelled: Labelled, results: Sequence[Any]
) -> Tuple[Dict[str, Any], List[str]]:
    """Make what ``write_calibration`` stores.

    Args:
        args: options.
        predictor: the model.
        labelled: clips.
        results: theirs, none of them None.

    Returns:
        The calibration, and the sentences of training clips that could not be used.

    Raises:
        ValueError: the labels or embeddings cannot be used.
    """
    import numpy as np

    from espnet2_distilmos.evaluation.confidence import scale_fingerprint
    from espnet2_distilmos.evaluation.conformal import calibrate
    from espnet2_distilmos.evaluation.novelty import fit_novelty

    score_range = predictor.config.get("score_range")
    if args.scale is None and score_range is not None:
        for record in labelled.records:
            if not score_range[0] <= record.score <= score_range[1]:
                raise DataError(
                    f"{args.labels}: {shown(record.id)} has the label "
                    f"{record.score:g}, expected one on the model's scale from "
                    f"{score_range[0]:g} to {score_range[1]:g}; fit a scale first "
                    "(--fit-scale) and calibrate other clips with --scale."
                )
    calibration = {
        "model": predictor.model_fingerprint,
        "scale": scale_fingerprint(predictor.confidence.scale),
        "labels": _base_name(args.labels),
        "train": None,
        "intervals": calibrate(
            [result.score for result in results],
            [record.score for record in labelled.records],
            clusters=labelled.clusters,
        ),
        "novelty": None,
    }
    problems: List[str] = []
    if args.train:
        items = sample_train(args.train, args.max_train, args.seed)
        train, problems = score_files(predictor, items, args.jobs)
        novelty = fit_novelty(
            np.array([result.embedding for result in train if result is not None]),
            np.array([result.embedding for result in results]),
            quantile=args.novelty_quantile,
            method=args.novelty,
        )
        if not novelty["threshold"] > 0:
            raise DataError(
                f"{args.labels}: all clips lie where the training set lies to the last "
                "digit, expected some distance; calibrate on other clips."
            )
        calibration["novelty"] = novelty
        calibration["train"] = " ".join(map(_base_name, args.train))
    return calibration, problems


def summarize(calibration: Dict[str, Any], confidence) -> List[str]:
    """Lines that tell what was fitted."""
    intervals = calibration["intervals"]
    line = f"intervals: {intervals['num_clips']} clips of {calibration['labels']}"
    if intervals["clusters"] is not None:
        line += f" in {intervals['num_clusters']} clusters"
    widths = []
    for level in _LEVELS:
        try:
            widths.append(f"{level:.0%} +-{confidence.half_width(level):.3f}")
        except ValueError:
            widths.append(f"{level:.0%} too few")
    lines = [f"{line}; {', '.join(widths)}"]
    novelty = calibration["novelty"]
    if novelty is None:
        lines.append("novelty: no --train is given; no clip will be flagged")
    else:
        lines.append(
            f"novelty: {int(novelty['num_train'])} clips of {calibration['train']}; "
            f"{novelty['method']} distance above {float(novelty['threshold']):.3g} is "
            f"flagged ({float(novelty['quantile']):.0%} of the labelled clips are not)"
        )
    return lines


def _output(args: argparse.Namespace) -> str:
    """Where the result goes.

    Raises:
        DataError: there is no place beside the model.
    """
    if args.output:
        return args.output
    if args.fit_scale:
        return _SCALE
    if args.scale:
        raise DataError(
            "--output is missing: a calibration of another listening test's scale has "
            "no place beside the model; name a file for `distilmos predict "
            "--calibration`."
        )
    from espnet2_distilmos.data.trained_model import open_trained_model

    with open_trained_model(args.model) as files:
        folder = os.path.dirname(files.train_config)
    # What was unpacked from a .zip is gone, the hub's cache is not ours.
    if not os.path.isdir(folder) or not os.path.exists(args.model):
        raise DataError(
            f"--output is missing: there is no place beside {args.model}; name a file "
            "for `distilmos predict --calibration`, or unpack the model."
        )
    return os.path.join(folder, CALIBRATION)


def calibrate_model(args: argparse.Namespace) -> int:
    """Do what the options say.

    Returns:
        The exit code: 1 when some clip could not be used.

    Raises:
        DataError, ValueError, OSError: nothing could be fitted or written.
    """
    if args.fit_scale and (args.scale or args.train):
        raise DataError(
            "--fit-scale fits a scale and nothing else, expected neither --scale nor "
            "--train with it; run the command twice."
        )
    if args.jobs < 1 or args.max_train < 1:
        raise DataError("--jobs and --max-train are at least 1; correct them.")
    output = _output(args)
    labelled = read_labelled(args)
    # Only now: it takes seconds.
    from espnet2_distilmos.evaluation.calibration import fit_scale
    from espnet2_distilmos.evaluation.confidence import Confidence
    from espnet2_distilmos.predictor import MOSPredictor

    predictor = MOSPredictor.from_pretrained(
        args.model,
        device=args.device,
        channel=args.channel,
        max_seconds=args.max_seconds,
        batch_seconds=args.batch_seconds,
        scale=args.scale,
        corpus=args.corpus,
    )
    if not args.fit_scale:
        for sentence in seen_by_training(predictor.config, labelled.items):
            print(sentence, file=sys.stderr)
    results, failures = score_files(predictor, labelled.items, args.jobs)
    problems = [*labelled.problems, *failures]
    good = [i for i, result in enumerate(results) if result is not None]
    if not good:
        raise DataError(
            f"none of the {len(results)} labelled clips could be scored: {problems[-1]}"
        )
    results = [results[i] for i in good]
    labelled = labelled._replace(
        records=[labelled.records[i] for i in good],
        clusters=labelled.clusters and [labelled.clusters[i] for i in good],
    )
    if args.fit_scale:
        pred = [result.score for result in results]
        true = [record.score for record in labelled.records]
        scale = fit_scale(pred, true, args.fit_scale)
        scale["model"] = predictor.model_fingerprint
        scale["labels"] = _base_name(args.labels)
        if labelled.score_range:
            scale["score_range"] = labelled.score_range
        write_scale(output, scale)
        lines = [
            f"scale: {args.fit_scale}, {len(pred)} clips of {scale['labels']} that the "
            f"model scores from {min(pred):.2f} to {max(pred):.2f}; root mean squared "
            f"error on them {scale['residual_sd']:.3f}"
        ]
    else:
        calibration, failures = fit_calibration(args, predictor, labelled, results)
        problems += failures
        write_calibration(output, calibration)
        model, scale = predictor.model_fingerprint, predictor.confidence.scale
        lines = summarize(calibration, Confidence(model, calibration, scale))
    for sentence in problems[:_MOST_PRINTED]:
        print(one_line(sentence), file=sys.stderr)
    if len(problems) > _MOST_PRINTED:
        print(f"and {len(problems) - _MOST_PRINTED} more", file=sys.stderr)
    print("\n".join(f"{output}: {line}" for line in lines))
    return 1 if problems else 0


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Names of files need not be text.
            stream.reconfigure(errors="backslashreplace")
    try:
        return calibrate_model(args)
    except (ValueError, OSError) as error:
        # DataError is a ValueError.
        print(one_line(" ".join(str(error).split())), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
