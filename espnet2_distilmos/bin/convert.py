#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Convert labels and predictions between the formats of the field."""

import argparse
import os
import sys
from typing import Optional, Sequence

from espnet2_distilmos.cli import call, one_line
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation.formats import FORMATS, read_scores, write_scores
from espnet2_distilmos.evaluation.join import file_stem, systems_of

#: Formats by the ending of the output's name.
_ENDINGS = {
    ".scp": "metric-scp",
    ".csv": "distilmos-csv",
    ".jsonl": "distilmos-jsonl",
    ".tsv": "tsv",
    ".txt": "voicemos",
}
_COLUMNS = {
    "id": "utterances",
    "score": "scores",
    "system": "systems",
    "listener": "listeners; the rows of an utterance are then votes",
}


def get_parser() -> argparse.ArgumentParser:
    formats = "\n".join(f"  {name:16} {f.description}" for name, f in FORMATS.items())
    endings = ", ".join(f"{ending} {name}" for ending, name in _ENDINGS.items())
    parser = argparse.ArgumentParser(
        description="Convert labels or predictions from one format to another. What "
        "the output cannot hold is said, never left out in silence.",
        epilog=f"formats:\n{formats}\n\nby the ending of OUTPUT: {endings}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("input", metavar="INPUT", help="file of scores, or data directory")
    add("output", metavar="OUTPUT", help="file to write")
    of_formats = {"metavar": "FORMAT", "choices": list(FORMATS)}
    text = "format of INPUT, detected from its content by default"
    add("--from", dest="input_format", help=text, **of_formats)
    text = "format of OUTPUT, by its ending by default"
    add("--to", dest="output_format", help=text, **of_formats)
    text = (
        "which metric or column of INPUT is the score: mos, or the only one, by "
        "default; avg_score takes the labels of SHEET's results"
    )
    add("--metric", metavar="NAME", help=text)
    text = "name of the score in OUTPUT, as in INPUT by default"
    add("--output-metric", metavar="NAME", help=text)
    text = (
        "file with lines `utt system`, or a regular expression with one group that "
        "finds the system in the id"
    )
    add("--systems", metavar="UTT2SYS|REGEX", help=text)
    text = (
        "name the utterances as their audio files, without folder and ending, as "
        "VoiceMOS does; SHEET's sample_id of BVCC lacks the system"
    )
    add("--path-ids", action="store_true", help=text)
    for name, what in _COLUMNS.items():
        text = f"for csv and tsv, name or number of the column of {what}"
        add(f"--{name}-column", metavar="NAME", help=text)
    return parser


def convert(args: argparse.Namespace) -> int:
    """Read, write, and say what was wrong and what was lost.

    Returns:
        0, or 1 where anything of the input was wrong.

    Raises:
        DataError: Nothing could be read or written.
    """
    ending = os.path.splitext(args.output)[1].lower()
    output_format = args.output_format or _ENDINGS.get(ending)
    if output_format is None:
        raise DataError(
            f"{args.output} does not end like a known format, expected one of "
            f"{', '.join(_ENDINGS)}; name the format with --to."
        )
    columns = {name: getattr(args, f"{name}_column") for name in _COLUMNS}
    file = read_scores(args.input, args.input_format, args.metric, columns)
    if args.path_ids:
        for record in file.records:
            record.id = file_stem(record.path or record.id)
    if args.systems is not None:
        ids = [record.id for record in file.records]
        systems, problems = systems_of(ids, args.systems)
        file.problems += problems
        for record, system in zip(file.records, systems):
            record.system = system or record.system
    metric = args.output_metric or file.metric
    notes = write_scores(args.output, file.records, output_format, metric)
    for sentence in file.problems + file.notes + notes:
        print(one_line(sentence), file=sys.stderr)
    num_scores = sum(record.score is not None for record in file.records)
    print(
        f"{args.output}: {output_format} from {file.format}, {len(file.records)} "
        f"utterances, {num_scores} with a score"
    )
    return 1 if file.problems else 0


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return call(lambda: convert(args))


if __name__ == "__main__":
    sys.exit(main())
