#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score audio files: the command `distilmos predict`."""

import argparse
import csv
import dataclasses
import hashlib
import json
import math
import os
import sys
import warnings
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence

from espnet2_distilmos.cli import Progress, add_scoring_arguments, npy_path, one_line
from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.data.inputs import InputFile, collect_inputs
from espnet2_distilmos.data.journal import Journal
from espnet2_distilmos.evaluation.formats import (
    Score,
    encode_name,
    read_scores,
    shown,
    systems_of,
    write_scores,
)

# How the output is written, by the ending of its name.
_FORMATS = {
    ".csv": "distilmos-csv",
    ".jsonl": "distilmos-jsonl",
    ".scp": "metric-scp",
}
_COLUMNS = ("id", "path", "score", "error", "seconds", "note", "scorer")
_INTERVAL_COLUMNS = ("lower", "upper", "novelty", "novel")
_FRAMES_FORMAT_VERSION = 1
# More failures and groups than this stand in the output only.
_MOST_PRINTED = 50


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Predict the MOS of audio files: any rate and channel count, in "
        "the formats of libsndfile (WAV, FLAC, OGG, OPUS, MP3, ...).",
        epilog="Exit code: 0, or 1 when some file has no score (its row says why).",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio file, directory (searched in depth), pattern, wav.scp, "
        "table.csv:column, or - for a list on standard input",
    )
    parser.add_argument(
        "--model",
        default=os.environ.get("DISTILMOS_MODEL"),
        help="experiment directory, model file in one, packed .zip, or user/name of "
        "the Hugging Face hub (default: $DISTILMOS_MODEL)",
    )
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
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="of `distilmos calibrate` (default: the one beside the model)",
    )
    parser.add_argument(
        "--scale",
        metavar="scale.json",
        help="give the scores on the scale of another listening test (`distilmos "
        "calibrate --fit-scale`)",
    )
    add_scoring_arguments(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the scores of an interrupted run, and those in the output",
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
    if found.result is None:
        record.error = one_line(item.error or found.error)
    else:
        record.score = round(found.result.score, 6)
        if level is not None:
            record.extra.update(_confidence_of(found.result, level))
        record.extra["seconds"] = round(found.result.seconds, 4)
    # In every record, so that it is a column of every table.
    record.extra["note"] = found.result.note if found.result else ""
    record.extra["scorer"] = scorer
    return record


def _confidence_of(result, level: float) -> Dict[str, Any]:
    """What the columns of --interval hold."""
    lower, upper = result.interval(level)
    values = {"lower": round(lower, 6), "upper": round(upper, 6)}
    novelty = result.novelty
    if novelty is not None:
        values.update(novelty=round(novelty, 4), novel=int(novelty > 1))
    return values


def scorer_of(predictor, level: Optional[float]) -> str:
    """Identify what makes a row: what scores, and what makes the intervals."""
    if level is None:
        return predictor.fingerprint
    parts = [predictor.fingerprint, predictor.confidence.fingerprint, level]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _to_row(record: Score) -> Dict[str, Any]:
    row = {name: getattr(record, name) for name in ("id", "path", "score", "error")}
    return {**row, **record.extra}


def _from_row(row: Mapping[str, Any]) -> Score:
    extra = dict(row)
    fields = {name: extra.pop(name, None) for name in ("id", "path", "score", "error")}
    return Score(**fields, extra=extra)


class FrameFiles:
    """Frame scores in DIR/*.npy, with frames.scp and frames.json beside them."""

    def __init__(self, folder: str):
        self.folder = folder

    def path(self, utt_id: str) -> str:
        return npy_path(self.folder, utt_id)

    def write(self, utt_id: str, frames) -> str:
        import numpy as np

        path = self.path(utt_id)
        with atomic_write(path, "wb") as file:
            np.save(file, frames)
        return path

    def finish(self, records: Iterable[Score], predictor) -> None:
        """Write what says where the frames are, and where they lie in time."""
        info = {
            "format_version": _FRAMES_FORMAT_VERSION,
            "frame_shift": predictor.frame_shift,
            "frame_centre": predictor.model.frontend.frame_centre,
            "sample_rate": predictor.sample_rate,
        }
        with atomic_write(os.path.join(self.folder, "frames.json")) as file:
            file.write(json.dumps(info) + "\n")
        with atomic_write(os.path.join(self.folder, "frames.scp")) as file:
            for record in records:
                if record.score is not None:
                    utt_id = encode_name(record.id, "metric-scp")
                    file.write(f"{utt_id} {self.path(record.id)}\n")


# Summary


def summarize(records: Iterable[Score], by_system: bool) -> str:
    """A table of files, failures, mean and SD per system or directory.

    Args:
        records: of all files.
        by_system: else by directory.

    Returns:
        Lines; the best mean first.
    """
    groups: Dict[str, List[Optional[float]]] = {}
    for record in records:
        name = record.system or "(none)"
        if not by_system:
            name = os.path.dirname(record.path) or "."
        groups.setdefault(shown(name), []).append(record.score)
    lines = []
    for name, all_scores in groups.items():
        scores = [s for s in all_scores if s is not None]
        mean = math.fsum(scores) / len(scores) if scores else None
        deviation = None
        if len(scores) > 1:
            squares = math.fsum((s - mean) ** 2 for s in scores)
            deviation = math.sqrt(squares / (len(scores) - 1))
        failed = len(all_scores) - len(scores)
        lines.append((name, len(all_scores), failed, mean, deviation))
    lines.sort(key=lambda line: (line[3] is None, -(line[3] or 0.0), line[0]))
    left_out = len(lines) - _MOST_PRINTED
    lines = lines[:_MOST_PRINTED]
    head = "system" if by_system else "directory"
    width = max([len(head), *(len(line[0]) for line in lines)])
    table = [f"{head:{width}}  files  failed   mean     SD"]
    for name, count, failed, mean, deviation in lines:
        numbers = "  ".join(
            f"{'-':>5}" if x is None else f"{x:5.3f}" for x in (mean, deviation)
        )
        table.append(f"{name:{width}}  {count:5}  {failed:6}  {numbers}")
    if left_out > 0:
        table.append(f"and {left_out} more")
    return "\n".join(table)


# The command


def _check_options(args: argparse.Namespace) -> None:
    if not args.model:
        raise DataError(
            "no --model is given, expected an experiment directory, a packed .zip or "
            "a user/name of the Hugging Face hub; add it or set DISTILMOS_MODEL."
        )
    if args.output:
        suffix = os.path.splitext(args.output)[1]
        if suffix not in _FORMATS:
            raise DataError(
                f"--output {args.output} ends in {suffix!r}, expected "
                f"{', '.join(_FORMATS)}; rename it."
            )
        if os.path.isdir(args.output):
            raise DataError(
                f"--output {args.output} is a directory, expected a file; rename it."
            )
        if suffix == ".scp" and args.interval is not None:
            raise DataError(
                f"--output {args.output} holds scores only, expected .csv or .jsonl "
                "for --interval; rename it."
            )
    elif args.resume:
        raise DataError("--resume needs an --output to resume; add it.")
    if args.jobs < 1:
        raise DataError(f"--jobs is {args.jobs}, expected at least 1; correct it.")


def _score(
    predictor, items: Sequence[InputFile], args: argparse.Namespace
) -> Iterator[Score]:
    """Score files; with an output in the order of completion, else in theirs."""
    frames = FrameFiles(args.frames) if args.frames else None
    scorer = scorer_of(predictor, args.interval)
    progress = Progress(items)
    try:
        found = predictor.predict_files(
            (item.path for item in items),
            num_threads=args.jobs,
            in_order=not args.output,
        )
        for one in found:
            record = make_record(items[one.index], one, scorer, args.interval)
            if frames is not None and one.result is not None:
                record.extra["frames"] = frames.write(record.id, one.result.frames)
            progress.add(record.id, record.extra.get("seconds", 0.0))
            yield record
    finally:
        progress.close()


def _read_earlier(output: str, scorer: str) -> List[Score]:
    """The records of the output that is there, refused if something else made them."""
    if not os.path.isfile(output) or os.path.getsize(output) == 0:
        return []
    file = read_scores(output, _FORMATS[os.path.splitext(output)[1]])
    if file.problems:
        raise DataError(
            f"{file.problems[0]} Only what this command wrote can be resumed; remove "
            "it or run without --resume."
        )
    silent = False
    for record in file.records:
        made_by = record.extra.get("scorer")
        silent = silent or made_by is None
        if made_by not in (None, scorer):
            raise DataError(
                f"{output} has scores of the scorer {made_by}, and now model and "
                f"options are {scorer}; run as before, or without --resume."
            )
    if silent:
        print(
            f"{output} does not say which model made its scores; they are kept.",
            file=sys.stderr,
        )
    return file.records


def _resumable(
    items: Sequence[InputFile],
    earlier: Sequence[Score],
    args: argparse.Namespace,
    scorer: str,
) -> Dict[str, Score]:
    """Records of earlier runs that need not be made again, by id."""
    old = {record.id: record for record in earlier}
    kept = {}
    for item in items:
        record = old.get(item.id)
        if record is None or record.score is None:
            continue
        if record.path not in (None, item.path):
            continue
        if args.interval is not None and "lower" not in record.extra:
            continue
        extra = {"note": "", **record.extra, "scorer": scorer}
        extra.pop("frames", None)
        if args.frames:
            extra["frames"] = FrameFiles(args.frames).path(item.id)
            if not os.path.isfile(extra["frames"]):
                continue
        kept[item.id] = dataclasses.replace(
            record, path=item.path, system=None, extra=extra
        )
    return kept


def _predict_to_file(
    predictor, items: Sequence[InputFile], args: argparse.Namespace, systems
) -> List[Score]:
    # Not where the model lies: one that was moved or packed is the same model.
    scorer = scorer_of(predictor, args.interval)
    header = {
        "channel": str(args.channel),
        "max_seconds": args.max_seconds,
        "scorer": scorer,
    }
    # Before the journal: what is refused leaves nothing behind.
    earlier: List[Score] = []
    if args.resume:
        earlier = _read_earlier(args.output, scorer)
    journal = Journal(args.output + ".journal", header, args.resume)
    finished = False
    try:
        if journal.discarded:
            print(
                f"{journal.path} of an interrupted run was there: begun anew; "
                "--resume would have gone on with it.",
                file=sys.stderr,
            )
        records: Dict[str, Score] = {}
        if args.resume:
            earlier += map(_from_row, journal.rows)
            records = _resumable(items, earlier, args, scorer)
            print(f"{len(records)} of {len(items)} files have scores", file=sys.stderr)
        remaining = [item for item in items if item.id not in records]
        for record in _score(predictor, remaining, args):
            journal.add(_to_row(record))
            records[record.id] = record
        ordered = [records[item.id] for item in items]
        for record, system in zip(ordered, systems):
            record.system = system
        _write(args.output, ordered)
        if args.frames:
            FrameFiles(args.frames).finish(ordered, predictor)
        finished = True
        return ordered
    finally:
        journal.close(remove=finished)


def _write(output: str, records: Sequence[Score]) -> None:
    output_format = _FORMATS[os.path.splitext(output)[1]]
    if output_format == "metric-scp":
        # As stage 8 of the recipe writes it: scores and nothing else.
        records = [
            dataclasses.replace(record, path=None, system=None, error=None, extra={})
            for record in records
            if record.score is not None
        ]
        if not records:
            # No utterance is no file of scores, but there is nothing to say.
            with atomic_write(output):
                return
    write_scores(output, records, output_format)


def _predict_to_screen(
    predictor, items: Sequence[InputFile], args: argparse.Namespace, systems
) -> List[Score]:
    """The same table as in a file, row by row."""
    columns = [*_COLUMNS, *(["frames"] if args.frames else [])]
    if args.interval is not None:
        has_novelty = predictor.confidence.has_novelty
        columns[4:4] = _INTERVAL_COLUMNS if has_novelty else _INTERVAL_COLUMNS[:2]
    columns += ["system"] if args.systems else []
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    records = []
    for record, system in zip(_score(predictor, items, args), systems):
        record.system = system
        row = {**_to_row(record), "system": system}
        for name in ("id", "path", "system"):
            row[name] = encode_name(row[name] or "", "distilmos-csv")
        writer.writerow("" if row.get(c) is None else row[c] for c in columns)
        sys.stdout.flush()
        records.append(record)
    if args.frames:
        FrameFiles(args.frames).finish(records, predictor)
    return records


def _about_confidence(confidence, args: argparse.Namespace) -> List[str]:
    """What is to be known of --scale and --interval before any score.

    Raises:
        ValueError: there can be no intervals of the level.
    """
    sentences = []
    if confidence.scale is not None:
        low, high = confidence.scale["pred_range"]
        sentences.append(
            f"{args.scale}: a {confidence.scale['kind']} scale fitted to "
            f"{confidence.scale['num_clips']} clips that the model scores from "
            f"{low:.2f} to {high:.2f}."
        )
    if args.interval is None:
        return sentences
    try:
        confidence.half_width(args.interval)
    except ValueError as error:
        if confidence.calibration is not None:
            raise
        raise DataError(
            f"{args.model} cannot give intervals: {error} The command that makes them "
            f"possible is `distilmos calibrate {args.model} --labels DATA_DIR --train "
            "WAV_SCP`."
        ) from error
    if not confidence.coverage_is_known:
        sentences.append(
            f"How often the intervals hold a label on the scale of {args.scale} is not "
            "known, as they were calibrated on another listening test; `distilmos "
            "calibrate --scale` with other labelled clips of this test tells."
        )
    if not confidence.has_novelty:
        sentences.append(
            "The calibration knows no training set, so that no file can be flagged as "
            "novel; `distilmos calibrate --train` adds it."
        )
    return sentences


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
        systems, problems = systems_of([item.id for item in items], args.systems)
        for sentence in problems:
            print(sentence, file=sys.stderr)
    # Only now: it takes seconds.
    from espnet2_distilmos.predictor import MOSPredictor

    predictor = MOSPredictor.from_pretrained(
        args.model,
        device=args.device,
        channel=args.channel,
        max_seconds=args.max_seconds,
        batch_seconds=args.batch_seconds,
        scale=args.scale,
        calibration=args.calibration,
        corpus=args.corpus,
    )
    for sentence in _about_confidence(predictor.confidence, args):
        print(sentence, file=sys.stderr)
    work = _predict_to_file if args.output else _predict_to_screen
    records = work(predictor, items, args, systems)

    # The screen's standard output has the scores, a file's has none.
    print(
        summarize(records, bool(args.systems)),
        file=sys.stdout if args.output else sys.stderr,
    )
    novel = sum(record.extra.get("novel") == 1 for record in records)
    if novel:
        print(
            f"{novel} of {len(records)} files are unlike the training set (novel = 1): "
            "their scores and intervals are not to be trusted",
            file=sys.stderr,
        )
    failed = [record for record in records if record.score is None]
    for record in failed[:_MOST_PRINTED]:
        print(record.error, file=sys.stderr)
    if failed:
        where = f", see {args.output}" if args.output else ""
        more = len(failed) - _MOST_PRINTED
        where += f"; {more} more sentences stand there" if more > 0 else ""
        print(
            f"{len(failed)} of {len(records)} files have no score{where}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Names of files need not be text.
            stream.reconfigure(errors="backslashreplace")
    # Of torch about transformers' WavLM, once a run; nothing a user could mend.
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    try:
        return predict(args)
    except KeyboardInterrupt:
        rest = "; --resume goes on with it" if args.output else ""
        print(f"interrupted{rest}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the list has seen enough; nothing is to be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        # DataError is a ValueError.
        print(one_line(" ".join(str(error).split())), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
