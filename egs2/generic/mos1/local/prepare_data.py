#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories from any table of ratings: one row a clip, or one row a vote.

Comma, semicolon or tab between the fields; columns are found by their usual names or
named with --*_column. A list ``wav,score`` without names is understood too.
"""

import argparse
import functools
import os
import re
import sys
from typing import Dict, List, Optional, Sequence, Tuple

from espnet2_distilmos.data.corpus import (
    ClipSet,
    Row,
    divide,
    one_word,
    read_table,
    run_parser,
    true_or_false,
    wanted_sets,
)
from espnet2_distilmos.data.datadir import DataError

# Usual names, in lower case and without anything but letters; the first found is taken.
NAMES = {
    "wav": "wav wavpath wavname audio audiopath audiofile path file filename filepath "
    "filenamedeg filepathdeg degwav clip stimulus utteranceid utterance",
    "score": "score mos rating vote choice mean meanscore avgscore qualityscore answer",
    "system": "system systemid sys sysid condition con method model algorithm codec",
    "listener": "listener listenerid rater raterid worker workerid subject participant",
    "speaker": "speaker speakerid spk talker voice",
    "source": "source sourceid sentence sentenceid reference referenceid filenameref",
    "set": "set split subset partition",
    "domain": "domain corpus db dataset",
}
NEEDED = ("wav", "score")
SETS = {"valid": "dev", "val": "dev", "validation": "dev", "eval": "test"}


def read_first_line(path: str) -> Tuple[List[str], str]:
    """Return the fields of the first line and what stands between them."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            line = file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a table of ratings in UTF-8; "
            "correct --csv or convert the file."
        ) from error
    delimiter = max(",;\t", key=line.count)
    return line.split(delimiter), delimiter


def choose_columns(
    path: str, names: Sequence[str], wanted: Dict[str, Optional[str]]
) -> Dict[str, str]:
    """Return the name in the table of each kind of column that it has.

    Raises:
        DataError: A column that was asked for, or needed, is not there.
    """
    chosen = {}
    plain = {re.sub("[^a-z]", "", name.lower()): name.strip() for name in names}
    for kind, usual in NAMES.items():
        if wanted.get(kind):
            if wanted[kind] not in plain.values():
                raise DataError(
                    f"{path} has the columns {', '.join(plain.values())}, but not "
                    f"{wanted[kind]}; correct --{kind}_column."
                )
            chosen[kind] = wanted[kind]
            continue
        found = [plain[name] for name in usual.split() if name in plain]
        found = [name for name in found if name not in chosen.values()]
        if found:
            chosen[kind] = found[0]
        elif kind in NEEDED:
            raise DataError(
                f"{path} has the columns {', '.join(plain.values())}, and none of them "
                f"is known to hold the {kind}; name it with --{kind}_column."
            )
    return chosen


def read_ratings(path: str, args: argparse.Namespace, faults: List[str]) -> List[Row]:
    """Return the rows of a table by kind of column."""
    names, delimiter = read_first_line(path)
    wanted = {kind: getattr(args, f"{kind}_column") for kind in NAMES}
    header = True
    if len(names) == 2 and re.fullmatch(r"\s*[-+]?[0-9.]+\s*", names[1]):
        names, header = ["wav", "score"], False  # as the VoiceMOS challenges write it
    chosen = choose_columns(path, names, wanted)
    print(
        f"{path}: " + ", ".join(f"{kind} is {name}" for kind, name in chosen.items()),
        file=sys.stderr,
    )
    columns = names if not header else list(chosen.values())
    rows = read_table(path, columns, faults, header, delimiter)
    return [
        (where, {kind: row[name] for kind, name in chosen.items()})
        for where, row in rows
    ]


def find_audio(name: str, audio_dir: str) -> str:
    """Return the path of a clip; its ending may be missing in the table."""
    path = os.path.join(audio_dir, name)
    if not os.path.exists(path):
        for ending in (".wav", ".flac", ".ogg", ".mp3"):
            if os.path.exists(path + ending):
                return path + ending
    return path


def utterance_id(name: str) -> str:
    """Return an id made of the path in the table, without its ending."""
    stem = re.sub(r"\.(wav|flac|ogg|opus|mp3)$", "", name, flags=re.IGNORECASE)
    return one_word(re.sub(r"[/\\]+", "_", stem.lstrip("./\\")))


def system_of(row: Dict[str, str], path: str, regex: Optional[str]) -> str:
    """Return the system: of its column, or from the path of the audio."""
    if "system" in row:
        return one_word(row["system"])
    if regex:
        match = re.search(regex, path)
        return one_word(match.group(1)) if match else ""
    return ""


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    if not args.csv:
        raise DataError(
            "--csv is missing, expected a table of ratings; give local/data.sh or, in "
            "quotes, ./run.sh --local_data_opts the options --csv TABLE --audio_dir "
            "FOLDER."
        )
    faults: List[str] = []
    tables: List[Tuple[str, List[Row]]] = []
    for name, path in (("", args.csv), ("dev", args.dev_csv), ("test", args.test_csv)):
        if path:
            tables.append((name, read_ratings(path, args, faults)))
    if not any(rows for _, rows in tables):
        raise DataError(f"{args.csv} has no rows, expected ratings; see --help.")
    ids = {
        row["wav"]: utterance_id(row["wav"]) for _, rows in tables for _, row in rows
    }
    sets = {}
    asked = [table or "train" for table, _ in tables]
    if not args.dev_csv and not args.test_csv:
        groups = {
            row["wav"]: row.get("source") or row["wav"]
            for _, rows in tables
            for _, row in rows
        }
        shares = {"test": args.test_share, "dev": args.dev_share}
        sets = divide(groups, shares)
        shares["train"] = 1 - sum(shares.values())
        asked = [name for name, share in shares.items() if share > 0]
    if any(row.get("set") for _, row in tables[0][1]):
        asked = [table for table, _ in tables if table]
    new_set = functools.partial(
        ClipSet, score_range=args.score_range, systems=args.systems
    )
    clip_sets = {name: new_set(name) for name in asked}
    for table, rows in tables:
        for where, row in rows:
            name = table or (row.get("set") or sets.get(row["wav"], "train")).lower()
            name = one_word(SETS.get(name, name))
            if name not in clip_sets:
                clip_sets[name] = new_set(name)
            path = find_audio(
                row["wav"], args.audio_dir or os.path.dirname(args.csv) or "."
            )
            system = system_of(row, path, args.system_regex) if args.systems else ""
            if args.systems and not system:
                clip_sets[name].faults.append(
                    f"{where}: clip {row['wav']} has no system, expected one in a "
                    "column (--system_column), or in the path of its audio "
                    "(--system_regex '/([^/]*)/[^/]*$' is the folder); without any, "
                    "--systems false scores utterances only."
                )
                continue
            listener = row.get("listener")
            clip_sets[name].add(
                where,
                ids[row["wav"]],
                path,
                system,
                row["score"] if row["score"] else None,
                one_word(listener) if listener is not None else None,
                one_word(row.get("speaker", "")),
                one_word(row.get("source", "")),
                one_word(row.get("domain", "")),
            )
    order = {"train": 0, "dev": 1, "test": 2}
    found = sorted(clip_sets.values(), key=lambda s: (order.get(s.name, 3), s.name))
    found[0].faults[:0] = faults
    wanted = wanted_sets(args, [clip_set.name for clip_set in found])
    return [clip_set for clip_set in found if clip_set.name in wanted]


def check(
    args: argparse.Namespace, clip_sets: List[ClipSet], written: List[str]
) -> List[str]:
    """Check what was written, audio too, and name the next step if all is well."""
    from espnet2_distilmos.bin.check_data import check_data

    sentences: List[str] = []
    for name in written:
        folder = os.path.join(args.out, name)
        _, faults = check_data(
            folder, args.score_range, need_systems=args.systems, audio=True
        )
        sentences += [fault.sentence for fault in faults]
    lost = [clip_set.name for clip_set in clip_sets if clip_set.name not in written]
    if lost:
        sentences.append(
            f"{args.out} lacks {', '.join(lost)}, expected every set; correct the "
            f"table, or take only the others with --sets {' '.join(written)}."
        )
    if not sentences and not any(clip_set.faults for clip_set in clip_sets):
        print("All is well; go on with ./run.sh --stage 2", file=sys.stderr)
    return sentences


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="local/data.sh",
        description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--csv", help="all ratings, or those to train on (needed)")
    parser.add_argument("--dev_csv", help="ratings to choose the epoch by")
    parser.add_argument("--test_csv", help="ratings to score against")
    parser.add_argument("--audio_dir", help="what paths start at; that of the table")
    parser.add_argument("--score_range", type=float, nargs=2, default=(1.0, 5.0))
    parser.add_argument(
        "--dev_share",
        type=float,
        default=0.1,
        help="without --dev_csv and a set column",
    )
    parser.add_argument("--test_share", type=float, default=0.1)
    parser.add_argument(
        "--systems", type=true_or_false, default=True, help="clips have systems"
    )
    parser.add_argument(
        "--system_regex", help="its first group is the system, in the audio's path"
    )
    # Every local/data.sh takes it; there is nothing to download.
    parser.add_argument("--download", help=argparse.SUPPRESS)
    for kind in NAMES:
        parser.add_argument(f"--{kind}_column", help=f"name of the {kind} column")
    sys.exit(run_parser(parser, read, check=check))
