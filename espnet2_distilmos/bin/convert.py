#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Convert labels and predictions between the formats of the field."""

import argparse
import os
import sys
from typing import Optional, Sequence

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation.formats import (
    FORMATS,
    file_stem,
    read_scores,
    systems_of,
    write_scores,
)

#: Formats by the ending of the output's name.
_ENDINGS = {
    ".scp": "metric-scp",
    ".csv": "distilmos-csv",
    ".jsonl": "distilmos-jsonl",
    ".tsv": "tsv",
    ".txt": "voicemos",
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
    parser.add_argument(
        "input", metavar="INPUT", help="file of scores, or data directory"
    )
    parser.add_argument("output", metavar="OUTPUT", help="file to write")
    parser.add_argument(
        "--from",
        dest="input_format",
        metavar="FORMAT",
        choices=list(FORMATS),
        help="format of INPUT; its content tells it by default",
    )
    parser.add_argument(
        "--to",
        dest="output_format",
        metavar="FORMAT",
        choices=list(FORMATS),
        help="format of OUTPUT; its ending tells it by default",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="which metric or column of INPUT is the score: mos, or the only one, by "
        "default; avg_score takes the labels of SHEET's results",
    )
    parser.add_argument(
        "--output-metric",
        metavar="NAME",
        help="name of the score in OUTPUT, as in INPUT by default",
    )
    parser.add_argument(
        "--systems",
        metavar="UTT2SYS|REGEX",
        help="file with lines `utt system`, or a regular expression with one group "
        "that finds the system in the id",
    )
    parser.add_argument(
        "--path-ids",
        action="store_true",
        help="name the utterances as their audio files, without folder and ending, as "
        "VoiceMOS does; SHEET's sample_id of BVCC lacks the system",
    )
    for name, text in (
        ("id", "utterances"),
        ("score", "scores"),
        ("system", "systems"),
        ("listener", "listeners; the rows of an utterance are then votes"),
    ):
        parser.add_argument(
            f"--{name}-column",
            metavar="NAME",
            help=f"for csv and tsv, name or number of the column of {text}",
        )
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
    names = ("id", "score", "system", "listener")
    columns = {name: getattr(args, f"{name}_column") for name in names}
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
        print(sentence, file=sys.stderr)
    num_scores = sum(record.score is not None for record in file.records)
    print(
        f"{args.output}: {output_format} from {file.format}, {len(file.records)} "
        f"utterances, {num_scores} with a score"
    )
    return 1 if file.problems else 0


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    try:
        return convert(args)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
