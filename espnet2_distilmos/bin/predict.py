#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score audio files: the command `distilmos predict`."""

import argparse
import csv
import hashlib
import json
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
)

from espnet2_distilmos.cli import (
    add_model_arguments,
    add_scoring_arguments,
    call,
    is_url,
    load_predictor,
    one_line,
    progress,
)
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.frames import npy_path, write_frame_index, write_frames
from espnet2_distilmos.data.inputs import InputFile, collect_inputs
from espnet2_distilmos.data.journal import Journal
from espnet2_distilmos.data.shards import Shard
from espnet2_distilmos.evaluation.formats import encode_name, read_scores
from espnet2_distilmos.evaluation.join import Score, systems_of
from espnet2_distilmos.evaluation.predictions import check_output, report, write

# Of a Score, in every row; what else there is stands in its ``extra``.
_FIELDS = ("id", "path", "score", "error")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Predict the MOS of audio files: any rate and channel count, in "
        "the formats of libsndfile (WAV, FLAC, OGG, OPUS, MP3, ...).",
        epilog="--model http://HOST:PORT asks a `distilmos serve` ($DISTILMOS_TOKEN is "
        "its token). Exit code: 0, or 1 when some file has no score (its row says "
        "why).",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio file, directory (searched in depth), pattern, wav.scp, "
        "table.csv:column, or - for a list on standard input",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--output",
        help="scores.csv, scores.jsonl or scores.scp (default: CSV on the screen)",
    )
    parser.add_argument(
        "--frames", metavar="DIR", help="write the scores of the frames, .npy files"
    )
    parser.add_argument(
        "--interval",
        type=float,
        metavar="LEVEL",
        help="add the interval that holds the label with this probability, such as "
        "0.9, and how unlike the training set the file is (columns lower, upper, "
        "novelty, novel); the model needs a calibration (`distilmos calibrate`)",
    )
    add_scoring_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the scores of an interrupted run, and those in the output",
    )
    parser.add_argument(
        "--shard",
        metavar="N/OF",
        help="score the part N of OF parts of the files, such as 3/16, into "
        "OUTPUT.3of16.csv; for several processes or machines, `distilmos merge` joins "
        "their tables",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS|local",
        help="score on a Ray cluster (auto, HOST:PORT), whose machines all see files "
        "and model, or by several processes here; with --device cuda each worker "
        "takes a GPU",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes of --ray (default: one a GPU, or one a CPU)",
    )
    parser.add_argument(
        "--systems",
        metavar="UTT2SYS|REGEX",
        help="file of lines `id system`, or a regular expression with one group that "
        "finds the system in the id",
    )
    parser.add_argument(
        "-0",
        "--null",
        action="store_true",
        help="the list on standard input is separated by NUL, as of `find -print0`",
    )
    return parser


# Records


def make_record(
    item: InputFile, found, scorer: str, level: Optional[float] = None
) -> Score:
    """Return what the output says of a file.

    Args:
        item: the file.
        found: its FileResult.
        scorer: fingerprint of model and options.
        level: of the interval; None for no interval.
    """
    record = Score(item.id, path=item.path)
    result = found.result
    if result is None:
        record.error = one_line(item.error or found.error)
    else:
        record.score = round(result.score, 6)
        if level is not None:
            lower, upper = result.interval(level)
            record.extra.update(lower=round(lower, 6), upper=round(upper, 6))
            if (novelty := result.novelty) is not None:
                record.extra.update(novelty=round(novelty, 4), novel=int(novelty > 1))
        record.extra["seconds"] = round(result.seconds, 4)
    # In every record, so that it is a column of every table.
    record.extra["note"] = result.note if result else ""
    record.extra["scorer"] = scorer
    return record


def scorer_of(predictor, level: Optional[float]) -> str:
    """Identify what makes a row: what scores, and what makes the intervals."""
    if level is None:
        return predictor.fingerprint
    parts = [predictor.fingerprint, predictor.confidence.fingerprint, level]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _to_row(record: Score) -> Dict[str, Any]:
    row = {name: getattr(record, name) for name in _FIELDS}
    return {**row, **record.extra}


def _from_row(row: Mapping[str, Any]) -> Score:
    extra = dict(row)
    fields = {name: extra.pop(name, None) for name in _FIELDS}
    return Score(**fields, extra=extra)


# The command


def _check_options(args: argparse.Namespace) -> None:
    is_scp = check_output(args.output or "scores.csv") == "metric-scp"
    wrong = ""
    if is_scp and args.interval is not None:
        wrong = f"{args.output} is .scp, expected .csv or .jsonl for --interval"
    elif args.shard and (is_scp or not args.output):
        wrong = f"--output is {args.output}, expected .csv or .jsonl for --shard"
    elif args.interval is not None and not 0 < args.interval < 1:
        wrong = f"--interval is {args.interval:g}, expected a level such as 0.9"
    elif args.resume and not args.output:
        wrong = "--resume needs an --output to resume"
    elif args.ray and is_url(args.model):
        wrong = f"--model is {args.model}, expected one that workers of --ray can load"
    elif args.workers is not None and (args.workers < 1 or not args.ray):
        wrong = f"--workers is {args.workers}, expected at least 1, and --ray"
    elif args.jobs < 1:
        wrong = f"--jobs is {args.jobs}, expected at least 1"
    if wrong:
        raise DataError(f"{wrong}.")


def _score(
    predictor,
    items: Sequence[InputFile],
    args: argparse.Namespace,
    scorer: Callable[[], str],
) -> Iterator[Score]:
    """Score files; with an output in the order of completion, else in theirs."""
    found = predictor.predict_files(
        (item.path for item in items), args.jobs, in_order=not args.output
    )
    for one in progress(found, "scores", len(items), "file"):
        record = make_record(items[one.index], one, scorer(), args.interval)
        if args.frames and one.result is not None:
            frames = write_frames(args.frames, record.id, one.result.frames)
            record.extra["frames"] = frames
        yield record


def _read_earlier(output: str, scorer: str) -> List[Score]:
    """The records of the output that is there, refused if something else made them."""
    if not os.path.isfile(output) or os.path.getsize(output) == 0:
        return []
    file = read_scores(output, check_output(output))
    scorers = {record.extra.get("scorer") for record in file.records}
    others = scorers - {None, scorer}
    if file.problems or others:
        found = f"It has scores of the scorer {', '.join(map(str, others))}."
        found = file.problems[0] if file.problems else found
        raise DataError(
            f"{output} cannot be resumed: {found} Expected scores of this command with "
            f"this model and these options (scorer {scorer}); run without --resume."
        )
    if None in scorers:
        print(
            f"{output} does not say which model made its scores; they are kept.",
            file=sys.stderr,
        )
    return file.records


def _resumable(
    items: Sequence[InputFile],
    earlier: Iterable[Score],
    args: argparse.Namespace,
    scorer: str,
) -> Dict[str, Score]:
    """Records of earlier runs that need not be made again, by id."""
    old = {record.id: record for record in earlier if record.score is not None}
    kept = {}
    for item in items:
        record = old.get(item.id)
        if record is None or record.path not in (None, item.path):
            continue
        extra = {"note": "", **record.extra, "scorer": scorer}
        extra.pop("frames", None)
        if args.frames:
            extra["frames"] = npy_path(args.frames, item.id)
        has_frames = not args.frames or os.path.isfile(extra["frames"])
        if has_frames and (args.interval is None or "lower" in extra):
            kept[item.id] = Score(item.id, record.score, path=item.path, extra=extra)
    return kept


def predict_to_file(
    predictor,
    items: Sequence[InputFile],
    args: argparse.Namespace,
    systems: Sequence[Optional[str]],
    columns: Optional[Mapping[str, Mapping[str, Any]]] = None,
) -> List[Score]:
    """Score files into ``args.output``, through a journal; ``columns`` are added."""
    # Not where the model lies: one that was moved or packed is the same model.
    scorer = scorer_of(predictor, args.interval)
    # Before the journal: what is refused leaves nothing behind.
    earlier = _read_earlier(args.output, scorer) if args.resume else []
    header = {
        "channel": str(args.channel),
        "max_seconds": args.max_seconds,
        "scorer": scorer,
    }
    journal = Journal(args.output + ".journal", header, args.resume)
    finished = False
    try:
        if journal.discarded:
            print(
                f"{journal.path} of an interrupted run was there: begun anew; "
                "--resume would have gone on with it.",
                file=sys.stderr,
            )
        earlier += map(_from_row, journal.rows)
        records = _resumable(items, earlier, args, scorer)
        if args.resume:
            print(f"{len(records)} of {len(items)} files have scores", file=sys.stderr)
        remaining = [item for item in items if item.id not in records]
        for record in _score(predictor, remaining, args, lambda: scorer):
            journal.add(_to_row(record))
            records[record.id] = record
        ordered = [records[item.id] for item in items]
        for item, record, system in zip(items, ordered, systems):
            record.system = system
            record.extra.update(columns[item.id] if columns else {})
        write(args.output, ordered)
        finished = True
        return ordered
    finally:
        journal.close(remove=finished)
        if not finished:
            print(f"{journal.path}: --resume goes on from here", file=sys.stderr)


def predict_to_screen(
    predictor,
    items: Sequence[InputFile],
    args: argparse.Namespace,
    systems: Sequence[Optional[str]],
) -> List[Score]:
    """The same table as in a file, row by row."""
    columns = [*_FIELDS, "seconds", "note", "scorer"]
    if args.interval is not None:
        has_novelty = predictor.confidence.has_novelty
        columns[4:4] = ["lower", "upper", "novelty", "novel"][: 4 if has_novelty else 2]
    columns += ["frames"] * bool(args.frames) + ["system"] * bool(args.systems)
    writer = csv.DictWriter(
        sys.stdout, columns, extrasaction="ignore", lineterminator="\n"
    )
    writer.writeheader()
    records = []
    # All weights are hashed, which is not to keep the first score waiting.
    with ThreadPoolExecutor(max_workers=1) as beside:
        scorer = beside.submit(scorer_of, predictor, args.interval)
        found = _score(predictor, items, args, scorer.result)
        for record, system in zip(found, systems):
            record.system = system
            row = {**_to_row(record), "system": system}
            for name in ("id", "path", "system"):
                row[name] = encode_name(row[name] or "", "distilmos-csv")
            writer.writerow(row)
            sys.stdout.flush()
            records.append(record)
    return records


def _check_confidence(confidence, args: argparse.Namespace) -> None:
    """Refuse intervals that there cannot be, and say what limits the scores."""
    if confidence.scale is not None:
        print(
            f"{args.scale}: a {confidence.scale['kind']} scale fitted to "
            f"{confidence.scale['num_clips']} clips",
            file=sys.stderr,
        )
    if args.interval is None:
        return
    try:
        confidence.half_width(args.interval)
    except ValueError as error:
        raise DataError(
            f"{args.model} cannot give intervals: {error} See `distilmos calibrate "
            f"{args.model} --labels DATA_DIR --train WAV_SCP --output FILE` and here "
            "--calibration FILE."
        ) from error
    if not confidence.coverage_is_known:
        print(
            f"How often the intervals hold a label on the scale of {args.scale} is not "
            "known, as they were calibrated on another listening test; `distilmos "
            "calibrate --scale` with other labelled clips of this test tells.",
            file=sys.stderr,
        )
    if not confidence.has_novelty:
        print(
            "The calibration knows no training set, so that no file can be flagged as "
            "novel; `distilmos calibrate --train` adds it.",
            file=sys.stderr,
        )


def predict(args: argparse.Namespace) -> int:
    """Do what the options say.

    Returns:
        The exit code: 1 when a file has no score.

    Raises:
        DataError, ValueError, OSError: nothing could be scored or written.
    """
    _check_options(args)
    items = collect_inputs(args.inputs, null_separated=args.null)
    systems: Sequence[Optional[str]] = [None] * len(items)
    if args.systems:
        systems, notes = systems_of([item.id for item in items], args.systems)
        print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
    columns: Dict[str, Dict[str, Any]] = {}
    if args.shard:
        shard = Shard.parse(args.shard)
        args.output = shard.path(args.output)
        places, all_columns = shard.places(items, args.jobs), shard.columns(items)
        items, systems = [items[p] for p in places], [systems[p] for p in places]
        columns = {item.id: all_columns[p] for item, p in zip(items, places)}
    # Of torch about transformers' WavLM, once a run; nothing a user could mend.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    predictor = load_predictor(args)
    if predictor.about:
        print(predictor.about, file=sys.stderr)
    _check_confidence(predictor.confidence, args)
    if predictor.datastore is not None:
        datastore = predictor.datastore
        print(
            f"scores have a share of {predictor.knn_weight:g} of the labels of "
            f"{predictor.knn} neighbours among {len(datastore.ids)} clips of "
            f"{datastore.source}",
            *datastore.own_clips([(item.id, item.path) for item in items]),
            sep="\n",
            file=sys.stderr,
        )
    if args.output:
        records = predict_to_file(predictor, items, args, systems, columns)
    else:
        records = predict_to_screen(predictor, items, args, systems)
    if args.frames:
        paths = {
            encode_name(record.id, "metric-scp"): npy_path(args.frames, record.id)
            for record in records
            if record.score is not None
        }
        # Of all shards at the end.
        write_frame_index(args.frames, None if args.shard else paths, predictor)

    # The screen's standard output has the scores, a file's has none.
    out = sys.stdout if args.output else sys.stderr
    return report(records, bool(args.systems), args.output, out)


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return call(lambda: predict(args))


if __name__ == "__main__":
    sys.exit(main())
