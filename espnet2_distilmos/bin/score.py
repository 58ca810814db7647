#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score files of predictions against labels, whatever their formats."""

import argparse
import shlex
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from espnet2_distilmos.bin.mos_scoring import Row, write_results
from espnet2_distilmos.cli import start_logging
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation.bootstrap import RESAMPLES
from espnet2_distilmos.evaluation.formats import (
    FORMATS,
    Joined,
    clusters_of,
    file_stem,
    join,
    read_scores,
    systems_of,
)


class Scored(NamedTuple):
    """One file of predictions beside the labels.

    Attributes:
        name: Of the model.
        path: File of the predictions.
        joined: Labels and predictions of the same utterances.
        clusters: Of each utterance (n,); one without a cluster is its own. None where
            nothing was said of clusters.
        problems: A sentence each.
    """

    name: str
    path: str
    joined: Joined
    clusters: Optional[List[Any]]
    problems: List[str]


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `score` and `compare` share: files, systems, clusters, resampling."""
    parser.add_argument(
        "reference", metavar="REFERENCE", help="labels: file or data directory"
    )
    parser.add_argument(
        "predictions",
        metavar="[NAME=]PREDICTIONS",
        nargs="+",
        help="predictions of a model, named after their file by default",
    )
    parser.add_argument(
        "--systems",
        metavar="UTT2SYS|REGEX",
        help="file with lines `utt system`, or a regular expression with one group "
        "that finds the system in the id; by default what the files say",
    )
    parser.add_argument(
        "--cluster",
        metavar="UTT2SRC|REGEX",
        help="the same for the sentence or source of each clip: clips of one source "
        "are not independent, so intervals resample the sources",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="which metric or column of a file is the score; mos, or the only one, by "
        "default",
    )
    parser.add_argument(
        "--reference-metric",
        metavar="NAME",
        help="the same for REFERENCE, where it differs: avg_score takes the labels of "
        "SHEET's results",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        choices=list(FORMATS),
        help=f"format of the files, one of {', '.join(FORMATS)}; their content tells "
        "it by default",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples for the 95 %% intervals (1000); 0 for none",
    )
    parser.add_argument(
        "--resample",
        choices=RESAMPLES,
        default="clusters",
        help="what the bootstrap draws: clusters (or utterances without --cluster), "
        "those within each system, or whole systems; it says what an interval is "
        "about, other clips or other systems",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the resampling (0)"
    )
    parser.add_argument("--output", metavar="DIR", help="write the results here too")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos score",
        description="Score predicted MOS against listeners' MOS: error, linear and "
        "rank correlation of utterances and of systems with bootstrap intervals. "
        "Reads labels and predictions in any format of `distilmos convert`, writes "
        "results.json, RESULTS.md and scatter plots.",
    )
    add_input_arguments(parser)
    parser.add_argument(
        "--test-set",
        metavar="NAME",
        help="name of the test set in the table; that of REFERENCE by default",
    )
    parser.add_argument(
        "--note", action="append", default=[], help="a sentence above the table"
    )
    return parser


def split_name(text: str) -> Tuple[str, str]:
    """Split ``[NAME=]PATH`` into the two; without a name it is the file's."""
    name, equals, path = text.partition("=")
    if equals and name and "/" not in name:
        return name, path
    return file_stem(text.rstrip("/")).partition(".")[0] or text, text


def read_scored(args: argparse.Namespace) -> List[Scored]:
    """Read the labels and every file of predictions.

    Returns:
        The models that could be joined with the labels.

    Raises:
        DataError: A file cannot be read, or two models have one name.
    """
    metric = args.reference_metric or args.metric
    reference = read_scores(args.reference, args.format, metric)
    scored: Dict[str, Scored] = {}
    for text in args.predictions:
        name, path = split_name(text)
        if name in scored:
            raise DataError(
                f"{scored[name].path} and {path} have both the name {name}, expected a "
                "name for each model; name them as in NAME=FILE."
            )
        prediction = read_scores(path, args.format, args.metric)
        joined = join(reference, prediction)
        problems = [*prediction.problems, *joined.problems]
        if not scored:
            problems = reference.problems + problems
        if args.systems is not None:
            joined.systems, sentences = systems_of(joined.ids, args.systems)
            problems += sentences
        clusters: Optional[List[Any]] = None
        if args.cluster is not None:
            found, sentences = clusters_of(joined.ids, args.cluster)
            problems += sentences
            # A tuple cannot equal the name of a source.
            clusters = [c if c is not None else (i,) for c, i in zip(found, joined.ids)]
        scored[name] = Scored(name, path, joined, clusters, problems)
    return list(scored.values())


def pairs_of(scored: Scored) -> Dict[str, Any]:
    """What :func:`mos_scoring.score` takes of one model."""
    joined = scored.joined
    has_systems = any(system is not None for system in joined.systems)
    return {
        "pred": joined.prediction.tolist(),
        "true": joined.reference.tolist(),
        "systems": joined.systems if has_systems else None,
        "clusters": scored.clusters,
        "votes": [[v.score for v in record.votes] for record, _ in joined.pairs],
        "problems": scored.problems,
        "num_unlabelled": len(joined.unlabelled),
        "score_range": None,
    }


def score_all(args: argparse.Namespace) -> int:
    """Score every file of predictions and print the table.

    Returns:
        0, or 1 where anything was missing or unusable.

    Raises:
        DataError: Nothing could be scored or written.
    """
    test_set = args.test_set or split_name(args.reference)[0]
    rows = [
        Row(scored.name, test_set, pairs_of(scored), args.reference, scored.path)
        for scored in read_scored(args)
    ]
    document = write_results(
        rows,
        [],
        args.output,
        args.bootstrap,
        args.seed,
        notes=args.note,
        command=args.command,
        resample=args.resample,
    )
    return 1 if document["problems"] else 0


def run(
    work: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    cmd: Optional[Sequence[str]],
) -> int:
    """Parse the command line and do the work; a DataError becomes its sentence."""
    args = parser.parse_args(cmd)
    given = sys.argv[1:] if cmd is None else list(cmd)
    args.command = " ".join(map(shlex.quote, [*parser.prog.split(), *given]))
    start_logging()
    try:
        return work(args)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run(score_all, get_parser(), cmd)


if __name__ == "__main__":
    sys.exit(main())
