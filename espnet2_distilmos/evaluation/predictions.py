# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Tables of `distilmos predict`: written, summed up, and merged from shards."""

import math
import os
import statistics
import sys
from typing import IO, Dict, Iterable, List, Mapping, Optional, Sequence

import numpy as np

from espnet2_distilmos.data.datadir import DataError, write_scp
from espnet2_distilmos.data.shards import COLUMNS, Shard
from espnet2_distilmos.evaluation.formats import read_scores, write_scores
from espnet2_distilmos.evaluation.join import Score, ScoreFile, shown
from espnet2_distilmos.evaluation.trust import OFF_SCALE

# How the output is written, by the ending of its name.
FORMATS = {
    ".csv": "distilmos-csv",
    ".jsonl": "distilmos-jsonl",
    ".scp": "metric-scp",
}
# More failures and groups than this stand in the output only.
_MOST_PRINTED = 50


def check_output(output: str) -> str:
    """Return the format, a key of ``formats.FORMATS``, of a table to be written.

    Raises:
        DataError: The name has another ending, or is a directory's.
    """
    suffix = os.path.splitext(output)[1]
    if suffix not in FORMATS or os.path.isdir(output):
        endings = ", ".join(FORMATS)
        raise DataError(
            f"--output is {output}, expected a file that ends in {endings}."
        )
    return FORMATS[suffix]


def write(output: str, records: Sequence[Score]) -> None:
    """Write a table in the format that its name's ending says.

    Raises:
        DataError: It cannot be written.
    """
    output_format = check_output(output)
    if output_format == "metric-scp":
        # As stage 8 of the recipe writes it: scores and nothing else.
        records = [Score(r.id, r.score) for r in records if r.score is not None]
        if not records:
            # write_scores refuses a metric.scp without a score.
            write_scp(output, {})
            return
    write_scores(output, records, output_format)


def is_off_scale(record: Score) -> bool:
    """Whether the note says that the score is outside the scale."""
    return OFF_SCALE in (record.extra.get("note") or "")


def summarize(records: Iterable[Score], by_system: bool) -> str:
    """A table of the scores per system or directory: how many, where, how spread.

    Files, failures, files whose score is outside the scale (their note says which),
    mean, SD, median, 5 % and 95 % quantile.

    Args:
        records: of all files.
        by_system: else by directory.

    Returns:
        Lines; the best mean first.
    """
    groups: Dict[str, List[Score]] = {}
    for record in records:
        name = record.system or "(none)"
        if not by_system:
            name = os.path.dirname(record.path or "") or "."
        groups.setdefault(shown(name), []).append(record)
    rows = []
    for name, group in groups.items():
        scores = [record.score for record in group if record.score is not None]
        mean = statistics.fmean(scores) if scores else -math.inf
        counts = (len(group), len(group) - len(scores), sum(map(is_off_scale, group)))
        cells = [name, *map(str, counts)]
        cells.append(f"{mean:.3f}" if scores else "-")
        cells.append(f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else "-")
        for q in (50, 5, 95):
            cells.append(f"{np.percentile(scores, q):.3f}" if scores else "-")
        rows.append((-mean, cells))
    head = ["files", "failed", "outside", "mean", "SD", "median", "p5", "p95"]
    table = [["system" if by_system else "directory", *head]]
    table += [cells for _, cells in sorted(rows)[:_MOST_PRINTED]]
    width = max(len(cells[0]) for cells in table)
    lines = [
        f"{name:{width}}" + "".join(f"{cell:>8}" for cell in cells)
        for name, *cells in table
    ]
    if len(rows) > _MOST_PRINTED:
        lines.append(f"and {len(rows) - _MOST_PRINTED} more")
    return "\n".join(lines)


def report(
    records: Sequence[Score], by_system: bool, output: Optional[str], out: IO
) -> int:
    """Print the summary to ``out``, and what is to be known about it to stderr.

    Returns:
        The exit code: 1 where a file has no score.
    """
    print(summarize(records, by_system), file=out)
    novel = sum(record.extra.get("novel") == 1 for record in records)
    if novel:
        print(
            f"{novel} of {len(records)} files are unlike the training set (novel = 1): "
            "their scores and intervals are not to be trusted",
            file=sys.stderr,
        )
    outside = sum(map(is_off_scale, records))
    if outside:
        print(
            f"{outside} of {len(records)} files have a score outside the scale of the "
            "labels (see their note): the model extrapolates",
            file=sys.stderr,
        )
    failed = [
        record.error or f"{shown(record.id)} has no score"
        for record in records
        if record.score is None
    ]
    for sentence in failed[:_MOST_PRINTED]:
        print(sentence, file=sys.stderr)
    if failed:
        print(
            f"{len(failed)} of {len(records)} files have no score, see "
            f"{output or 'above'}",
            file=sys.stderr,
        )
    return 1 if failed else 0


# Shards


def merge(paths: Sequence[str]) -> List[Score]:
    """Join the tables of all shards of one list of files.

    Args:
        paths: Tables that `predict --shard` wrote, in any order.

    Returns:
        The records of all files in the order of that list, as one machine gives them.

    Raises:
        DataError: A file is none of a shard, or damaged; they are of different lists or
            divisions, or of several scorers; a shard is missing or there twice.
    """
    files = [read_scores(path, check_input(path)) for path in paths]
    for file in files:
        _check_shard(file)
    for what, mend in (
        ("inputs", "run `predict --shard` on the same files everywhere"),
        ("count", "divide them into as many shards everywhere"),
        ("scorer", "use one model and the same options everywhere"),
    ):
        _check_one(files, what, mend)
    where: Dict[int, str] = {}
    records: Dict[int, Score] = {}
    for file in files:
        for record in file.records:
            place = record.extra["place"]
            if place in where:
                raise DataError(
                    f"{where[place]} and {file.path} both have {shown(record.id)}, "
                    "expected every file in one shard; leave one of the two out."
                )
            where[place], records[place] = file.path, record
    total = int(_value(files[0].records[0], "inputs").partition("-")[0])
    _check_complete(files, total, records)
    for record in records.values():
        # A column of every table, of which an empty cell is not read.
        extra = {"note": "", **record.extra}
        record.extra = {k: v for k, v in extra.items() if k not in COLUMNS}
    return [records[place] for place in range(1, total + 1)]


def check_input(path: str) -> str:
    """The format of a shard's table; as ``check_output``, for files that are there."""
    suffix = os.path.splitext(path)[1]
    if suffix not in (".csv", ".jsonl"):
        raise DataError(
            f"found {path}, expected tables of `predict --shard`, .csv or .jsonl."
        )
    return FORMATS[suffix]


def _check_shard(file: ScoreFile) -> None:
    problem = "it has no row" if not file.records else "".join(file.problems[:1])
    for record in file.records:
        place, inputs = record.extra.get("place"), str(record.extra.get("inputs"))
        total = inputs.partition("-")[0]
        is_whole = isinstance(place, int) and total.isdecimal()
        if not is_whole or not 1 <= place <= int(total) or "shard" not in record.extra:
            problem = f"{shown(record.id)} has no {', '.join(COLUMNS)}"
            break
        Shard.parse(str(record.extra["shard"]))
    if problem:
        raise DataError(
            f"{file.path} cannot be merged ({problem}), expected a whole table of "
            "`predict --shard`; make it again."
        )


def _value(record: Score, what: str) -> str:
    if what == "count":
        return record.extra["shard"].partition("/")[2]
    return str(record.extra.get(what))


def _check_one(files: Sequence[ScoreFile], what: str, mend: str) -> None:
    """Refuse files whose rows do not all say the same."""
    said: Dict[str, str] = {}
    for file in files:
        for record in file.records:
            said.setdefault(_value(record, what), file.path)
    if len(said) > 1:
        (one, here), (other, there) = list(said.items())[:2]
        name = "number of shards" if what == "count" else what
        raise DataError(
            f"{here} has the {name} {one} and {there} has {other}, expected one; "
            f"{mend}."
        )


def _check_complete(
    files: Sequence[ScoreFile], total: int, found: Mapping[int, Score]
) -> None:
    if len(found) == total:
        return
    count = int(_value(files[0].records[0], "count"))
    there = {_value(r, "shard") for file in files for r in file.records}
    shards = [f"{n}/{count}" for n in range(1, count + 1)]
    missing = [shard for shard in shards if shard not in there]
    what = f"of the shards {', '.join(there)}"
    if missing:
        more = f" and {len(missing) - 12} more" if len(missing) > 12 else ""
        what = f"the shards {', '.join(missing[:12])}{more}"
    raise DataError(
        f"{total - len(found)} of {total} files are missing ({what}), expected all; "
        "run `predict --shard` for them."
    )
