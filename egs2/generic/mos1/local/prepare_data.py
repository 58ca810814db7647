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

from espnet2_distilmos.data import tables
from espnet2_distilmos.data.corpus import (
    ClipSet,
    Row,
    divide,
    one_word,
    run_parser,
    table_rows,
    true_or_false,
    wanted_sets,
)
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.names import as_seen, without_ending

# Usual names, in lower case and without blanks, underscores, hyphens and points.
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


def plain(name: str) -> str:
    """Return a heading as ``NAMES`` has it."""
    return re.sub(r"[\s_.-]", "", name).lower()


def numbered(names: Sequence[str], usual: Sequence[str]) -> List[List[str]]:
    """Return groups of headings such as rating_1, rating_2: of votes, maybe."""
    groups: Dict[str, List[str]] = {}
    for name in names:
        stem, number = re.fullmatch(r"(.*?)([0-9]*)", plain(name), re.DOTALL).groups()
        if number and stem in usual:
            groups.setdefault(stem, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def choose_columns(
    path: str, names: Sequence[str], wanted: Dict[str, Optional[str]]
) -> Dict[str, List[str]]:
    """Return the headings of each kind of column that a table has.

    That is one, but for scores in numbered columns, which are votes.

    Args:
        path: For messages.
        names: All headings.
        wanted: By kind the heading that was asked for; None finds it. Kinds that are
            not there are not looked for.

    Raises:
        DataError: A column that was asked for, or needed, is not there, or several
            could be meant.
    """
    chosen: Dict[str, List[str]] = {}
    has = f"{path} has the columns {', '.join(names) or 'none'}"
    for kind, name in wanted.items():
        if name is None:
            continue
        place = tables.find_column(path, names, name)
        groups = numbered(names, [plain(name)]) if kind == "score" else []
        if place is None and not groups:
            raise DataError(f"{has}, but not {name}; correct --{kind}_column.")
        chosen[kind] = groups[0] if place is None else [names[place]]
    taken = {name for group in chosen.values() for name in group}
    free = [name for name in names if name and name not in taken]
    for kind in wanted:
        if kind in chosen:
            continue
        usual = NAMES[kind].split()
        groups = [[name] for name in free if plain(name) in usual]
        if kind == "score":
            groups = groups or numbered(free, usual)
        if len(groups) > 1:
            fitting = ", ".join(name for group in groups for name in group)
            raise DataError(
                f"{path} has {fitting}, each of which could hold the {kind}, expected "
                f"one such column; name it with --{kind}_column."
            )
        if groups:
            chosen[kind] = groups[0]
        elif kind in NEEDED:
            raise DataError(
                f"{has}, and none of them is known to hold the {kind}; name it with "
                f"--{kind}_column."
            )
    if len(chosen["score"]) > 1 and "listener" in chosen:
        raise DataError(
            f"{path} has the scores {', '.join(chosen['score'])} and the listener "
            f"{chosen['listener'][0]}, expected a column a listener or a row a vote; "
            "name one column of scores with --score_column."
        )
    return chosen


def read_ratings(path: str, args: argparse.Namespace, faults: List[str]) -> List[Row]:
    """Return the rows of a table by kind of column; a row a vote of numbered columns.

    Raises:
        DataError: The table cannot be read, or its columns are not clear.
    """
    try:
        table = tables.read_table(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a table of ratings in UTF-8; "
            "correct --csv or convert the file."
        ) from error
    first = table.rows[0][1] if table.rows else []
    # As the VoiceMOS challenges write it.
    is_list = len(first) == 2 and re.fullmatch(r"\s*[-+]?[0-9.,]+\s*", first[1])
    names = list(NEEDED) if is_list else table.names()
    wanted = {
        kind: getattr(args, f"{kind}_column")
        for kind in NAMES
        if args.systems or kind != "system"
    }
    chosen = choose_columns(path, names, wanted)
    found = [f"{kind} is {', '.join(chosen[kind])}" for kind in NAMES if kind in chosen]
    votes = " (votes)" if len(chosen["score"]) > 1 else ""
    print(f"{path}: {', '.join(found)}{votes}", file=sys.stderr)
    columns = (
        names if is_list else [name for group in chosen.values() for name in group]
    )
    rows = []
    seen = set()
    for where, row in table_rows(table, columns, faults, header=not is_list):
        by_kind = {kind: row[group[0]] for kind, group in chosen.items()}
        scores = {name: row[name] for name in chosen["score"] if row[name]}
        if len(chosen["score"]) == 1 or not scores:
            rows.append((where, by_kind))
        elif by_kind["wav"] in seen:
            faults.append(
                f"{where}: clip {by_kind['wav']} has a second row of votes, expected "
                "one; remove one."
            )
        else:
            votes = [
                {"score": score, "listener": name} for name, score in scores.items()
            ]
            rows += [(where, {**by_kind, **vote}) for vote in votes]
        seen.add(by_kind["wav"])
    return rows


@functools.lru_cache(maxsize=None)
def list_folder(folder: str) -> Dict[str, List[str]]:
    """Return the names in a folder by what they look like, with and without ending."""
    found: Dict[str, List[str]] = {}
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        for seen in {as_seen(name), without_ending(as_seen(name))}:
            found.setdefault(seen, []).append(name)
    return found


def find_audio(name: str, audio_dir: str) -> List[str]:
    """Return the paths that a clip may have, one if all is well.

    In the table its ending may be missing, or letters, slashes and the ending be
    written otherwise than on disk. What is not found is returned as it is written.
    """
    path = os.path.join(audio_dir, name)
    if os.path.isfile(path):
        return [path]
    seen = as_seen(name)
    found = ["/" if seen.startswith("/") else audio_dir]
    for part in seen.split("/"):
        found = [
            os.path.join(folder, match)
            for folder in found
            for match in list_folder(folder).get(part, [part])
        ]
    return sorted(filter(os.path.isfile, found)) or [path]


def utterance_id(name: str) -> str:
    """Return an id made of the path in the table, without its ending."""
    stem = without_ending(as_seen(name)).lstrip("./")
    return one_word(re.sub("/+", "_", stem))


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
    ratings: List[Tuple[str, List[Row]]] = []
    for name, path in (("", args.csv), ("dev", args.dev_csv), ("test", args.test_csv)):
        if path:
            ratings.append((name, read_ratings(path, args, faults)))
    if faults and not any(rows for _, rows in ratings):
        raise DataError(f"{faults[0]} No row of {len(faults)} can be read.")
    if not any(rows for _, rows in ratings):
        raise DataError(f"{args.csv} has no rows, expected ratings; see --help.")
    ids = {
        row["wav"]: utterance_id(row["wav"]) for _, rows in ratings for _, row in rows
    }
    sets = {}
    asked = [table or "train" for table, _ in ratings]
    if not args.dev_csv and not args.test_csv:
        groups = {
            row["wav"]: row.get("source") or row["wav"]
            for _, rows in ratings
            for _, row in rows
        }
        shares = {"test": args.test_share, "dev": args.dev_share}
        sets = divide(groups, shares)
        shares["train"] = 1 - sum(shares.values())
        asked = [name for name, share in shares.items() if share > 0]
    if any(row.get("set") for _, row in ratings[0][1]):
        asked = [table for table, _ in ratings if table]
    new_set = functools.partial(
        ClipSet, score_range=args.score_range, systems=args.systems
    )
    clip_sets = {name: new_set(name) for name in asked}
    spellings: Dict[str, str] = {}
    for table, rows in ratings:
        for where, row in rows:
            name = table or (row.get("set") or sets.get(row["wav"], "train")).lower()
            name = one_word(SETS.get(name, name))
            if name not in clip_sets:
                clip_sets[name] = new_set(name)
            utt_id = ids[row["wav"]]
            if spellings.setdefault(utt_id, row["wav"]) != row["wav"]:
                clip_sets[name].faults.append(
                    f"{where}: clip {row['wav']!r} looks like {spellings[utt_id]!r} of "
                    "an earlier row, expected one spelling of a name; correct the row, "
                    "or rename one of two clips."
                )
                continue
            path, *others = find_audio(
                row["wav"], args.audio_dir or os.path.dirname(args.csv) or "."
            )
            if others:
                clip_sets[name].faults.append(
                    f"{where}: clip {row['wav']!r} can be {path} or {others[0]}, "
                    "expected one such file; write its name in full."
                )
                continue
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
                utt_id,
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
