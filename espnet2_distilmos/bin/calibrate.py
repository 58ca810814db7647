#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Fit intervals, a flag of novelty, a scale or a datastore to a trained model."""

import argparse
import os
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.cli import (
    add_scoring_arguments,
    call,
    load_predictor,
    one_line,
    progress,
)
from espnet2_distilmos.data.datadir import DataError, read_score_range, read_scp
from espnet2_distilmos.data.inputs import InputFile, collect_inputs
from espnet2_distilmos.evaluation.formats import read_scores
from espnet2_distilmos.evaluation.join import (
    Score,
    clusters_of,
    count,
    decode_name,
    match,
    shown,
)
from espnet2_distilmos.evaluation.neighbours import DATASTORE, Datastore
from espnet2_distilmos.evaluation.trust import (
    CALIBRATION,
    NOVELTY_METHODS,
    SCALES,
    Confidence,
    fit_intervals,
    fit_novelty,
    fit_scale,
    scale_fingerprint,
    write_calibration,
    write_scale,
)
from espnet2_distilmos.onnx_predictor import BOX_NAME, is_exported

_SCALE = "scale.json"
# Levels that the summary names.
_LEVELS = (0.8, 0.9, 0.95)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos calibrate",
        description="Fit to a trained model what `distilmos predict --interval` needs: "
        "from the errors on labelled clips, intervals that hold the label with a given "
        "probability (split-conformal); from the training audio, a flag for clips "
        "unlike it. Or, with --fit-scale, the map to the scale of another listening "
        "test, for `distilmos predict --scale`. Or, with --datastore, the embeddings "
        "and labels of clips, of the training set say, for `distilmos predict --knn`.",
        epilog="The labelled clips must neither have trained the model nor chosen its "
        "checkpoint (but for --datastore), and be of the kind that will be scored. "
        "Exit code: 0, or 1 when some clip could not be used.",
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="as `distilmos predict --model` takes it")
    text = (
        "labelled clips: data directory with wav.scp and metric.scp, or labels in any "
        "format of `distilmos convert` with the paths of the audio"
    )
    add("--labels", required=True, metavar="DATA_DIR|FILE", help=text)
    text = (
        "audio of the labelled clips, as `distilmos predict` takes it, where the "
        "labels do not say; joined by id, path or file name"
    )
    add("--audio", nargs="+", metavar="INPUT", help=text)
    text = "which metric or column is the label; mos, or the only one, by default"
    add("--metric", metavar="NAME", help=text)
    text = (
        "sentence or source of each clip, a file or a regular expression with one "
        "group: clips of one source are not independent (default: DATA_DIR/utt2src)"
    )
    add("--cluster", metavar="UTT2SRC|REGEX", help=text)
    text = "the training audio: wav.scp or directory; without it nothing is flagged"
    add("--train", nargs="+", metavar="INPUT", help=text)
    text = "that many training clips at most, drawn at random (%(default)s)"
    add("--max-train", type=int, default=2000, help=text)
    add("--seed", type=int, default=0, help="seed of that draw (%(default)s)")
    text = (
        "distance from the training set: of one cloud (default), or from the 10th "
        "nearest clip, for training sets of several kinds"
    )
    add("--novelty", choices=NOVELTY_METHODS, default="mahalanobis", help=text)
    text = "share of the labelled clips that is not flagged (%(default)s)"
    add("--novelty-quantile", type=float, default=0.99, metavar="SHARE", help=text)
    text = "fit a scale instead: linear from 10 labelled clips on, monotone from 50"
    add("--fit-scale", choices=SCALES, help=text)
    text = "keep the labelled clips' embeddings and labels instead, with their ids"
    add("--datastore", action="store_true", help=text)
    text = (
        "calibrate the scores on this scale; by other clips of its listening test "
        "than it was fitted to"
    )
    add("--scale", metavar=_SCALE, help=text)
    text = (
        f"default: beside the model, {CALIBRATION} or, with --fit-scale, {_SCALE} or, "
        f"with --datastore, {DATASTORE}"
    )
    add("--output", metavar="FILE", help=text)
    add_scoring_arguments(parser)
    return parser


def read_labelled(
    args: argparse.Namespace, problems: List[str]
) -> List[Tuple[Score, InputFile]]:
    """Return the labels and the audio file of each; adds to ``problems``.

    Raises:
        DataError: nothing could be read, or no labelled clip has audio.
    """
    labels = read_scores(args.labels, metric=args.metric)
    problems += labels.problems
    records = [record for record in labels.records if record.score is not None]
    audio = args.audio
    if audio is None and os.path.isdir(args.labels):
        audio = [os.path.join(args.labels, "wav.scp")]
    if audio is None:
        kept = []
        for record in records:
            path = record.path or record.id
            if not os.path.exists(path):
                path = os.path.join(os.path.dirname(args.labels), path)
            kept.append((record, InputFile(record.id, path)))
    else:
        found = collect_inputs(audio)
        pairs, _ = match(
            [(record.id, record.path) for record in records],
            [(decode_name(item.id), item.path) for item in found],
        )
        kept = [(records[i], found[j]) for i, j in sorted(pairs.items())]
        without = [record.id for i, record in enumerate(records) if i not in pairs]
        if without:
            problems.append(
                f"{args.labels} has {count(without)} without audio in "
                f"{' '.join(audio)}, expected a file for each; complete --audio."
            )
    if not kept:
        raise DataError(
            f"{args.labels} has no labelled clip with audio, expected at least one; "
            f"correct --labels or --audio. {' '.join(problems[:1])}"
        )
    return kept


def sample_train(inputs: Sequence[str], most: int, seed: int) -> List[InputFile]:
    """Draw training clips, the same in whatever order they are listed.

    Raises:
        DataError: there is no audio.
    """
    scps = [os.path.join(name, "wav.scp") for name in inputs]
    names = [scp if os.path.isfile(scp) else name for scp, name in zip(scps, inputs)]
    items = sorted(collect_inputs(names), key=lambda item: os.fsencode(item.id))
    if len(items) <= most:
        return items
    drawn = np.random.default_rng(seed).choice(len(items), most, replace=False)
    return [items[i] for i in sorted(drawn)]


def seen_by_model(predictor, items: Sequence[InputFile]) -> List[str]:
    """Return sentences on clips that the scores know already.

    They are in the datastore, trained the model or chose its checkpoint; the latter
    only where the files that the experiment's config names are here.
    """
    ours = {os.path.realpath(item.path) for item in items}
    sentences = []
    if predictor.datastore is not None:
        sentences += predictor.datastore.own_clips(
            [(item.id, item.path) for item in items]
        )
    for part, did in (("train", "trained"), ("valid", "chose the checkpoint of")):
        key = f"{part}_data_path_and_name_and_type"
        for path, name, *_ in predictor.config.get(key) or []:
            if name != "speech" or not os.path.isfile(path):
                continue
            both = ours & {os.path.realpath(wav) for wav in read_scp(path).values()}
            if both:
                sentences.append(
                    f"{len(both)} of the {len(ours)} labelled clips are in {path}, "
                    f"which {did} the model: the intervals are too narrow; take others "
                    "(mos.sh --calibration_share keeps some back)."
                )
    return sentences


def score_files(
    predictor, items: Sequence[InputFile], jobs: int, problems: List[str]
) -> List[Any]:
    """Return a MOSResult for each file, or None and a sentence in ``problems``."""
    results = []
    files = predictor.predict_files((item.path for item in items), num_threads=jobs)
    for found in progress(files, "scores", len(items), "file"):
        if found.result is None:
            problems.append(items[found.index].error or found.error)
        results.append(found.result)
    return results


def _base_name(path: str) -> str:
    folder, name = os.path.split(os.path.normpath(path))
    return os.path.basename(folder) if folder and name == "wav.scp" else name


def make_scale(
    args: argparse.Namespace, predictor, scores: List[float], labels: List[float]
) -> Tuple[Dict[str, Any], List[str]]:
    """Return a scale and a line that summarizes it."""
    scale = fit_scale(scores, labels, args.fit_scale)
    scale["model"] = predictor.method_fingerprint
    scale["labels"] = _base_name(args.labels)
    score_range = read_score_range(args.labels)
    if score_range:
        scale["score_range"] = score_range
    low, high = scale["pred_range"]
    return scale, [
        f"scale: {args.fit_scale}, {len(scores)} clips of {scale['labels']} that the "
        f"model scores from {low:.2f} to {high:.2f}; root mean squared error on them "
        f"{scale['residual_sd']:.3f}"
    ]


def check_labels(args: argparse.Namespace, predictor, records: Sequence[Score]) -> None:
    """Refuse labels that are on another scale than the scores.

    Raises:
        DataError: a label is beyond the model's scale, and no other is given.
    """
    low, high = predictor.score_range or (-float("inf"), float("inf"))
    for record in records:
        if args.scale is None and not low <= record.score <= high:
            mend = "fit a scale first (--fit-scale) and calibrate other clips with"
            mend += " --scale"
            if args.datastore:
                mend = "map the labels to it"
            raise DataError(
                f"{args.labels}: {shown(record.id)} has the label {record.score:g}, "
                f"expected one on the model's scale from {low:g} to {high:g}; {mend}."
            )


def make_datastore(
    args: argparse.Namespace, predictor, records: Sequence[Score], results: Sequence
) -> Tuple[Datastore, List[str]]:
    """Return a datastore and a line that summarizes it."""
    # An id may be a path: what it tells of this machine goes.
    ids = [os.path.basename(r.id) if os.path.isabs(r.id) else r.id for r in records]
    datastore = Datastore(
        model=predictor.model_fingerprint,
        ids=ids,
        embeddings=np.array([result.embedding for result in results], np.float32),
        labels=np.array([record.score for record in records], np.float32),
        source=_base_name(args.labels),
        score_range=predictor.score_range,
    )
    size = datastore.embeddings.shape[1]
    line = f"datastore: {len(ids)} clips of {datastore.source}, embeddings of {size}"
    return datastore, [line]


def make_calibration(
    args: argparse.Namespace,
    predictor,
    records: Sequence[Score],
    results: Sequence,
    problems: List[str],
) -> Tuple[Dict[str, Any], List[str]]:
    """Return a calibration and lines that summarize it; adds to ``problems``."""
    clusters = None
    source = args.cluster or os.path.join(args.labels, "utt2src")
    if args.cluster or os.path.exists(source):
        clusters, sentences = clusters_of([record.id for record in records], source)
        problems += sentences
    scores, labels = [r.score for r in results], [r.score for r in records]
    scale = predictor.confidence.scale
    calibration: Dict[str, Any] = {
        "model": predictor.method_fingerprint,
        "scale": scale_fingerprint(scale),
        "labels": _base_name(args.labels),
        "train": " ".join(map(_base_name, args.train)) if args.train else None,
        "intervals": fit_intervals(scores, labels, clusters),
        "novelty": None,
    }
    confidence = Confidence(predictor.method_fingerprint, calibration, scale)
    widths = []
    for level in _LEVELS:
        try:
            widths.append(f"{level:.0%} +-{confidence.half_width(level):.3f}")
        except ValueError:
            widths.append(f"{level:.0%} too few")
    line = f"intervals: {len(scores)} clips of {calibration['labels']}"
    if clusters is not None:
        line += f" in {calibration['intervals']['num_clusters']} clusters"
    lines = [f"{line}; {', '.join(widths)}"]
    if not args.train:
        return calibration, [*lines, "novelty: no --train; no clip will be flagged"]
    items = sample_train(args.train, args.max_train, args.seed)
    train = score_files(predictor, items, args.jobs, problems)
    novelty = calibration["novelty"] = fit_novelty(
        [result.embedding for result in train if result is not None],
        [result.embedding for result in results],
        quantile=args.novelty_quantile,
        method=args.novelty,
    )
    lines.append(
        f"novelty: {int(novelty['num_train'])} clips of {calibration['train']}; "
        f"{args.novelty} distance above {float(novelty['threshold']):.3g} is flagged "
        f"({args.novelty_quantile:.0%} of the labelled clips are not)"
    )
    return calibration, lines


def _output(args: argparse.Namespace) -> str:
    """Return where the result goes; there may be no place beside the model."""
    if args.output:
        return args.output
    if args.model == BOX_NAME:
        folder = ""
    elif is_exported(args.model):
        folder = os.path.dirname(args.model) or "."
    else:
        from espnet2_distilmos.mos.checkpoint import open_trained_model

        with open_trained_model(args.model) as files:
            folder = os.path.dirname(files.train_config)
    # What was unpacked from a .zip is gone, the hub's cache is not ours.
    if args.scale or not os.path.isdir(folder) or not os.path.exists(args.model):
        raise DataError(
            "--output is missing: a calibration on another scale, or anything of the "
            f"box or a packed model, has no place beside {args.model}; name a file "
            "for `distilmos predict`, or unpack the model."
        )
    name = _SCALE if args.fit_scale else DATASTORE if args.datastore else CALIBRATION
    return os.path.join(folder, name)


def calibrate_model(args: argparse.Namespace) -> int:
    """Do what the options say.

    Returns:
        The exit code: 1 when some clip could not be used.

    Raises:
        DataError, ValueError, OSError: nothing could be fitted or written.
    """
    if args.fit_scale or args.datastore:
        alone = "--fit-scale" if args.fit_scale else "--datastore"
        others = ("scale", "train", "datastore" if args.fit_scale else "knn")
        given = [f"--{name}" for name in others if getattr(args, name)]
        if given:
            raise DataError(
                f"{alone} makes one file and nothing else, expected no {given[0]} with "
                "it; run the command twice."
            )
    output = _output(args)
    problems: List[str] = []
    labelled = read_labelled(args, problems)
    predictor = load_predictor(args)
    if not args.fit_scale:
        check_labels(args, predictor, [record for record, _ in labelled])
    items = [item for _, item in labelled]
    if not args.fit_scale and not args.datastore:
        for sentence in seen_by_model(predictor, items):
            print(one_line(sentence), file=sys.stderr)
    found = score_files(predictor, items, args.jobs, problems)
    scored = [
        (r, result) for (r, _), result in zip(labelled, found) if result is not None
    ]
    if not scored:
        raise DataError(
            f"none of the {len(items)} labelled clips could be scored: {problems[-1]}"
        )
    if args.datastore and len(scored) < 2:
        raise DataError(
            f"{args.labels} has 1 labelled clip that could be scored, expected at "
            "least 2 in a datastore, one neighbour and a next one; label more. "
            f"{' '.join(problems[:1])}"
        )
    records, results = zip(*scored)
    if args.fit_scale:
        labels = [record.score for record in records]
        scores = [result.score for result in results]
        content, lines = make_scale(args, predictor, scores, labels)
        write_scale(output, content)
    elif args.datastore:
        content, lines = make_datastore(args, predictor, records, results)
        content.write(output)
    else:
        content, lines = make_calibration(args, predictor, records, results, problems)
        write_calibration(output, content)
    for sentence in problems:
        print(one_line(sentence), file=sys.stderr)
    print("\n".join(f"{output}: {line}" for line in lines))
    return 1 if problems else 0


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return call(lambda: calibrate_model(args))


if __name__ == "__main__":
    sys.exit(main())
