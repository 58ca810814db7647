# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""From the lists of a listening test to data directories: what every recipe needs.

A recipe's own parser (``local/prepare_data.py``) only knows its owner's layout: it
reads the owner's lists with ``read_table`` and adds their rows to ``ClipSet`` objects.
Averaging of votes, all checks and the writing are here.
"""

import argparse
import hashlib
import json
import math
import os
import sys
from collections import Counter
from pathlib import Path
from typing import (
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from espnet2_distilmos.data import tables
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    write_metric_scp,
    write_scp,
)

MISSING_AUDIO = "missing_audio.txt"
_DEFAULT_RANGE = (1.0, 5.0)


class Clip(NamedTuple):
    """A rated clip."""

    utt_id: str
    path: str  # of the audio, absolute
    system: str
    score: Optional[float]  # mean of the votes; None is unlabelled
    votes: Tuple[Tuple[str, float], ...] = ()  # (listener, score) in the owner's order
    speaker: str = ""  # empty is unknown
    source: str = ""  # sentence or recording that several clips share; empty is unknown
    domain: str = ""  # corpus or part of it


Row = Tuple[str, Dict[str, str]]  # where it stands, as PATH:LINE, and its fields


def one_word(text: str) -> str:
    """Return ``text`` without blanks, as names in data directories must be."""
    return "_".join(text.split())


def name_some(names: Sequence[str], limit: int = 5) -> str:
    """Name the first few of many: ``a, b, c and 9 more``."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def read_table(
    path: str,
    columns: Sequence[str],
    faults: List[str],
    header: bool = True,
    optional: Sequence[str] = (),
) -> List[Row]:
    """Read columns of an owner's table, UTF-8 text; see :func:`table_rows`.

    Raises:
        DataError: The file cannot be read, or lacks a column, or has one twice.
    """
    try:
        table = tables.read_table(path, 0 if header else len(columns))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path} cannot be read ({reason}), expected a list of the corpus; check "
            "the path of the corpus in db.sh, or get the file again from its owner."
        ) from error
    return table_rows(table, columns, faults, header, optional)


def table_rows(
    table: tables.Table,
    columns: Sequence[str],
    faults: List[str],
    header: bool = True,
    optional: Sequence[str] = (),
) -> List[Row]:
    """Return columns of a table, row by row.

    Args:
        table: With commas, semicolons or tabs between the fields.
        columns: Names that the first line must have, in any case; without ``header``
            those of the fields from left to right.
        faults: Gets a sentence for each row with another number of fields, which is
            left out.
        header: Whether the first line names the columns.
        optional: Names that it may have.

    Returns:
        The named columns of the rows, in the order of the file; texts stripped,
        decimal commas as points where they are that beyond doubt.

    Raises:
        DataError: The table lacks a column, or has one twice.
    """
    path = table.path
    names = table.names() if header else list(columns)
    places = {c: tables.find_column(path, names, c) for c in (*columns, *optional)}
    missing = [name for name in columns if places[name] is None]
    if missing:
        raise DataError(
            f"{path} has the columns {', '.join(names) or 'none'}, expected "
            f"also {', '.join(missing)}; get the file again from its owner."
        )
    good = []
    for line, cells in table.rows[header:]:
        if len(cells) == len(names):
            good.append((f"{path}:{line}", cells))
        else:
            faults.append(
                f"{path}:{line} has {len(cells)} fields, expected {len(names)} "
                f"({', '.join(names)}); correct the line, in which a field with "
                f"{tables.DELIMITERS[table.delimiter]} of its own needs quotes."
            )
    texts = {
        name: tables.with_points(
            [row[place].strip() for _, row in good], table.delimiter
        )
        for name, place in places.items()
        if place is not None
    }
    return [
        (where, {name: column[k] for name, column in texts.items()})
        for k, (where, _) in enumerate(good)
    ]


class ClipSet:
    """The clips of one data set as a parser finds them, and what is wrong with them.

    Args:
        name: Name of the data directory.
        published: Clips that the owner published, None if that is unknown.
        score_range: Lowest and highest score of the listening test.
        group: Sets of one group must not share audio; None is free to share.
        systems: Whether clips have systems; without, ``utt2sys`` is not written.
        keep_votes: Whether ``votes.scp`` is written; not if the listeners' names in it
            mean nothing.
        published_votes: Votes that the owner published, None if that is unknown.
    """

    def __init__(
        self,
        name: str,
        published: Optional[int] = None,
        score_range: Tuple[float, float] = _DEFAULT_RANGE,
        group: Optional[str] = "",
        systems: bool = True,
        keep_votes: bool = True,
        published_votes: Optional[int] = None,
    ):
        self.name = name
        self.published = published
        self.score_range = (float(score_range[0]), float(score_range[1]))
        self.group = group
        self.systems = systems
        self.keep_votes = keep_votes
        self.published_votes = published_votes
        self.faults: List[str] = []
        self._clips: Dict[str, Clip] = {}  # score is None where votes count

    def __len__(self) -> int:
        return len(self._clips)

    def __contains__(self, utt_id: str) -> bool:
        return utt_id in self._clips

    def add(
        self,
        where: str,
        utt_id: str,
        path: str,
        system: str,
        score: object,
        listener: Optional[str] = None,
        speaker: str = "",
        source: str = "",
        domain: str = "",
    ) -> None:
        """Add a row of the owner's list; a faulty one becomes a sentence in ``faults``.

        Args:
            where: File and line, named in the sentence.
            utt_id, speaker, source, domain: As of ``Clip``, one word each; the last
                three may be empty.
            path: Audio file, whether it exists or not.
            system: One word; empty in a set without systems.
            score: Number or text; None for an unlabelled clip.
            listener: Who gave the score; None if ``score`` is the clip's mean. A clip
                has one row, or one for each vote.
        """
        words = dict(speaker=speaker, source=source, domain=domain)
        needed = dict(name=utt_id)
        (needed if self.systems else words)["system"] = system
        if listener is not None:
            needed["listener"] = listener
        for what, word in {**needed, **words}.items():
            if len(word.split()) > 1 or (what in needed and not word.strip()):
                self.faults.append(
                    f"{where}: clip {utt_id!r} has the {what} {word!r}, expected one "
                    "word; correct or remove the row."
                )
                return
        value = None
        if score is not None or listener is not None:
            low, high = self.score_range
            try:
                value = float(score)  # type: ignore[arg-type]
            except (TypeError, ValueError):
                value = math.nan
            if not low <= value <= high:
                self.faults.append(
                    f"{where}: clip {utt_id} has the score {score!r}, expected a "
                    f"number from {low:g} to {high:g}, decimals after a point; correct "
                    "or remove the row."
                )
                return
        path = os.path.abspath(path)
        clip = Clip(utt_id, path, system, value, (), speaker, source, domain)
        if listener is not None:
            clip = clip._replace(score=None, votes=((listener, value),))
        known = self._clips.setdefault(utt_id, clip)
        if known is clip:
            return
        if listener is None or not known.votes:
            self.faults.append(
                f"{where}: clip {utt_id} has a second row, expected one; remove one."
            )
        elif known._replace(votes=()) != clip._replace(votes=()):
            self.faults.append(
                f"{where}: clip {utt_id} is of {system} in {clip.path}, but in an "
                f"earlier row of {known.system} in {known.path}, expected the same in "
                "all its rows; correct the row."
            )
        else:
            self._clips[utt_id] = known._replace(votes=known.votes + clip.votes)

    def add_extract(
        self,
        folder: str,
        words: Callable[[str, Dict[str, str]], Optional[Dict[str, str]]],
        further: Sequence[str] = (),
    ) -> None:
        """Add the clips of an extract: a folder with tables and the audio they name.

        ``ratings.csv`` has the columns utt, wav, system and mos, the paths from the
        folder on. ``votes.csv`` (utt, listener, score) is used if it is there, and
        held against the means. It is a fault that it is not where a number of votes
        was published.

        Args:
            folder: The extract.
            words: From where a row stands and its columns to the speaker, source and
                domain of ``add``, or None to leave the clip out.
            further: Columns that ``ratings.csv`` must have besides, for ``words``.

        Raises:
            DataError: A table cannot be read, or lacks a column, or has one twice.
        """
        path = os.path.join(folder, "ratings.csv")
        columns = ("utt", "wav", "system", "mos")
        rows = read_table(path, (*columns, *further), self.faults)
        listed = os.path.join(folder, "votes.csv")
        votes: Dict[str, List[Row]] = {}
        if os.path.exists(listed):
            for row in read_table(listed, ("utt", "listener", "score"), self.faults):
                votes.setdefault(row[1]["utt"], []).append(row)
        elif self.published_votes is not None:
            self.faults.append(
                f"{listed} is missing, expected the {self.published_votes} votes that "
                "were published; get it, or go on with the means alone, without "
                "votes.scp and so without single listeners and the reliability of the "
                "labels, with --skip_bad true."
            )
        means = {}
        for where, row in rows:
            place = words(where, row)
            given = votes.pop(row["utt"], [])
            if place is None:
                continue
            wav = os.path.join(folder, row["wav"])
            clip = (row["utt"], wav, one_word(row["system"]))
            if not os.path.exists(listed):
                self.add(where, *clip, row["mos"], **place)
                continue
            if row["utt"] in means:
                self.faults.append(
                    f"{where}: clip {row['utt']} has a second row, expected one; "
                    "remove one."
                )
                continue
            try:
                means[row["utt"]] = float(row["mos"])
            except ValueError:
                means[row["utt"]] = math.nan  # differs from every mean
            listeners = Counter(vote["listener"] for _, vote in given)
            if twice := [name for name, votes_of in listeners.items() if votes_of > 1]:
                self.faults.append(
                    f"{listed}: clip {row['utt']} has {listeners[twice[0]]} votes of "
                    f"the listener {twice[0]}, expected one; correct the listener, or "
                    "leave the others out."
                )
            for line, vote in given:
                self.add(line, *clip, vote["score"], vote["listener"], **place)
        if votes:
            self.faults.append(
                f"{listed} has votes of {len(votes)} clips that {path} has not "
                f"({name_some(sorted(votes))}), expected the same clips in both; get "
                "both tables again."
            )
        if means:
            self.check_means(path, means)

    def subset(self, name: str, utt_ids: Iterable[str]) -> "ClipSet":
        """Return a set of some clips of this one, free to share their audio."""
        options = (self.score_range, None, self.systems, self.keep_votes)
        part = ClipSet(name, None, *options)
        part._clips = {utt_id: self._clips[utt_id] for utt_id in utt_ids}
        return part

    def hold_out(self, name: str, share: float) -> "ClipSet":
        """Move a share of the clips, 0 to 1, into a new set, and return that.

        Sources stay whole: see ``divide``. The published count holds for both together.
        """
        self.check_count()
        options = (self.score_range, self.group, self.systems, self.keep_votes)
        held = ClipSet(name, None, *options)
        groups = {c.utt_id: c.source or c.utt_id for c in self._clips.values()}
        for utt_id, set_name in divide(groups, {name: share}).items():
            if set_name == name:
                held._clips[utt_id] = self._clips.pop(utt_id)
        return held

    def check_count(self) -> None:
        """Compare the numbers of clips and votes with the published ones, once.

        A list of means has no votes, which is no fault.
        """
        found, expected = f"{len(self)} clips", f"{self.published} that were published"
        votes = sum(len(clip.votes) for clip in self._clips.values())
        differ = self.published is not None and len(self) != self.published
        if self.published_votes is not None and votes:
            found += f" with {votes} votes"
            expected += f" with {self.published_votes}"
            differ = differ or votes != self.published_votes
        if differ:
            self.faults.append(
                f"{self.name}: the lists have {found}, expected the {expected}; get "
                "the lists again, or go on with these with --skip_bad true."
            )
        self.published = self.published_votes = None

    def check_means(self, path: str, means: Mapping[str, float]) -> None:
        """Compare the votes with the owner's means: votes may be doubled or lost.

        Args:
            path: File of the means, named in sentences.
            means: Published mean by utterance id.
        """
        for names, what in (
            (means.keys() - self._clips.keys(), "lacks the votes of"),
            (self._clips.keys() - means.keys(), "lacks the mean of"),
        ):
            if names:
                self.faults.append(
                    f"{path}, compared with the votes: {self.name} {what} {len(names)} "
                    f"clips ({name_some(sorted(names))}), expected both of every clip; "
                    "get the lists again."
                )
        for clip in self.clips():
            mean = means.get(clip.utt_id)
            if mean is None or clip.score is None or abs(clip.score - mean) <= 0.01:
                continue
            votes = self._clips[clip.utt_id].votes
            self.faults.append(
                f"{path}: clip {clip.utt_id} has the published mean {mean:g}, but "
                f"{len(votes)} votes with the mean {clip.score:g}, expected the same; "
                "a mean is wrong, or a vote is lost or doubled: get both lists again."
            )

    def clips(self) -> List[Clip]:
        """Return the clips in the order of the list, votes averaged."""
        clips = []
        for clip in self._clips.values():
            if clip.votes:
                mean = sum(score for _, score in clip.votes) / len(clip.votes)
                votes = clip.votes if self.keep_votes else ()
                clip = clip._replace(score=mean, votes=votes)
            clips.append(clip)
        return clips


def _with_audio(clip_set: ClipSet, folder: Path) -> List[Clip]:
    """Return clips with audio; all names of the missing ones go into a file."""
    clips = clip_set.clips()
    missing = [clip for clip in clips if not os.path.isfile(clip.path)]
    listed = folder / MISSING_AUDIO
    if not missing:
        listed.unlink(missing_ok=True)
        return clips
    with atomic_write(str(listed)) as file:
        file.writelines(f"{clip.path}\n" for clip in missing)
    names = name_some([os.path.basename(clip.path) for clip in missing], 10)
    clip_set.faults.append(
        f"{clip_set.name}: the audio of {len(missing)} of {len(clips)} clips is missing"
        f" in {os.path.dirname(missing[0].path)} ({names}; all are in {listed}), "
        "expected every file; get the missing ones, or go on without them with "
        "--skip_bad true."
    )
    lost = {clip.utt_id for clip in missing}
    return [clip for clip in clips if clip.utt_id not in lost]


def _unshared(clip_set: ClipSet, clips: List[Clip], seen: Dict[str, str]) -> List[Clip]:
    """Return clips whose audio no earlier clip of the group has; ``seen`` grows."""
    good, shared = [], []
    for clip in clips:
        if clip.path in seen:
            shared.append(f"{clip.utt_id} is {seen[clip.path]}")
        else:
            seen[clip.path] = f"{clip.utt_id} of {clip_set.name}"
            good.append(clip)
    if shared:
        clip_set.faults.append(
            f"{clip_set.name}: {len(shared)} clips have the audio of another clip "
            f"({name_some(shared)}), expected every file once; correct the lists."
        )
    return good


def _write_set(folder: Path, clip_set: ClipSet, clips: Sequence[Clip]) -> None:
    speakers = {clip.utt_id: clip.speaker or clip.utt_id for clip in clips}
    of_speaker: Dict[str, List[str]] = {}
    for utt_id in sorted(speakers, key=lambda i: i.encode("utf-8")):
        of_speaker.setdefault(speakers[utt_id], []).append(utt_id)
    votes = {clip.utt_id: clip.votes for clip in clips if clip.votes}
    tables: Dict[str, Dict[str, str]] = {
        "utt2sys": {clip.utt_id: clip.system for clip in clips if clip.system},
        "utt2spk": speakers,
        "spk2utt": {speaker: " ".join(ids) for speaker, ids in of_speaker.items()},
        "votes.scp": {u: json.dumps(v, ensure_ascii=False) for u, v in votes.items()},
    }
    # These must have a line for every clip, or none at all.
    for name, field in (("utt2src", "source"), ("utt2domain", "domain")):
        values = {clip.utt_id: getattr(clip, field) for clip in clips}
        tables[name] = values if all(values.values()) else {}
    # What another run left must not be mixed with this one.
    for name in ("wav.scp", "score_range", *tables):
        (folder / name).unlink(missing_ok=True)
    scores = {clip.utt_id: clip.score for clip in clips}
    write_metric_scp(str(folder / "metric.scp"), scores)
    if clip_set.score_range != _DEFAULT_RANGE:
        with atomic_write(str(folder / "score_range")) as file:
            file.write("{:g} {:g}\n".format(*clip_set.score_range))
    tables["wav.scp"] = {clip.utt_id: clip.path for clip in clips}  # last: it is whole
    for name, table in tables.items():
        if table:
            write_scp(str(folder / name), table)


def _summary(folder: Path, clips: Sequence[Clip]) -> str:
    scores = [clip.score for clip in clips if clip.score is not None]
    votes = [vote for clip in clips for vote in clip.votes]
    systems = {clip.system for clip in clips} - {""}
    parts = [f"{len(clips)} clips"] + [f"{len(systems)} systems"] * bool(systems)
    if len(scores) < len(clips):
        parts.append(f"{len(clips) - len(scores)} unlabelled")
    if votes:
        parts.append(f"{len(votes)} votes of {len({v[0] for v in votes})} listeners")
    if scores:
        parts.append(f"mean score {sum(scores) / len(scores):.2f}")
    return f"{folder}: {', '.join(parts)}"


def write_corpus(out: str, clip_sets: Sequence[ClipSet]) -> Tuple[List[str], List[str]]:
    """Check the sets and write a data directory for each, with what is good of it.

    ``utt2src`` and ``utt2domain`` are written where every clip has one, ``votes.scp``
    where there are votes, ``score_range`` if it is not 1 to 5. Files are sorted, and
    whole or not there. A line a set goes to stderr.

    Args:
        out: Directory of the data directories.
        clip_sets: What the parser found.

    Returns:
        The names of the sets that were written, which are those with a good clip; and
        a sentence for each fault: of the rows, of missing audio, of audio in two sets,
        and of counts that differ from the published ones.

    Raises:
        DataError: A file cannot be written.
    """
    faults: List[str] = []
    seen: Dict[str, Dict[str, str]] = {}
    written: List[str] = []
    for clip_set in clip_sets:
        folder = Path(out, clip_set.name)
        clip_set.check_count()
        clips = _with_audio(clip_set, folder)
        if clip_set.group is not None:
            clips = _unshared(clip_set, clips, seen.setdefault(clip_set.group, {}))
        faults += clip_set.faults
        if clips:
            _write_set(folder, clip_set, clips)
            written.append(clip_set.name)
            print(_summary(folder, clips), file=sys.stderr)
            continue
        faults.append(
            f"{folder} is not written: no clip of it is good, expected at least one; "
            "see the sentences about it."
        )
        (folder / "wav.scp").unlink(missing_ok=True)
    return written, faults


def divide(
    groups: Mapping[str, str], shares: Mapping[str, float], rest: str = "train"
) -> Dict[str, str]:
    """Divide clips into sets, a group always whole, the same way on every machine.

    Args:
        groups: Group by clip, such as its sentence; no group is in two sets.
        shares: Part of all clips by set, 0 to 1; a set gets at least that many, up to
            the size of a group more.
        rest: Set of what is left over.

    Returns:
        The set by clip.
    """
    sizes = Counter(groups.values())
    # The order is random, but hangs on the names only.
    order = sorted(sizes, key=lambda g: hashlib.sha256(g.encode("utf-8")).digest())
    set_of_group: Dict[str, str] = {}
    position = 0
    for name, share in shares.items():
        filled = 0
        while position < len(order) and filled < share * len(groups):
            set_of_group[order[position]] = name
            filled += sizes[order[position]]
            position += 1
    return {clip: set_of_group.get(group, rest) for clip, group in groups.items()}


def fold_sets(whole: ClipSet, folds: Mapping[str, Mapping[str, str]]) -> List[ClipSet]:
    """Return the training, validation and test sets of several folds of one set.

    Clips without audio are left out, which is said of the whole set alone.

    Args:
        whole: All clips.
        folds: By fold the part of each clip: train, dev, test, or "" for none of them.

    Returns:
        The sets ``train_FOLD``, ``dev_FOLD`` and ``test_FOLD`` of every fold.
    """
    there = {clip.utt_id for clip in whole.clips() if os.path.isfile(clip.path)}
    return [
        whole.subset(
            f"{part}_{fold}", [u for u, p in parts.items() if p == part and u in there]
        )
        for fold, parts in folds.items()
        for part in ("train", "dev", "test")
    ]


def true_or_false(text: str) -> bool:
    """Parse an option as the recipes' shell scripts write it."""
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is not true or false")
    return text == "true"


def wanted_sets(args: argparse.Namespace, known: Iterable[str]) -> List[str]:
    """Return those of the known sets that ``--sets`` names; all without it.

    Raises:
        DataError: It names another one.
    """
    known = list(known)
    unknown = [name for name in args.sets or () if name not in known]
    if unknown:
        raise DataError(
            f"--sets has {', '.join(unknown)}, expected some of {', '.join(known)}."
        )
    return [name for name in known if not args.sets or name in args.sets]


def run_parser(
    parser: argparse.ArgumentParser,
    read: Callable[[argparse.Namespace], List[ClipSet]],
    cmd: Optional[Sequence[str]] = None,
    check: Optional[
        Callable[[argparse.Namespace, List[ClipSet], List[str]], List[str]]
    ] = None,
) -> int:
    """Run a recipe's parser as a command.

    Args:
        parser: With the parser's own options; ``--out``, ``--sets`` (for
            ``wanted_sets``) and ``--skip_bad`` are added.
        read: Makes the sets from the options.
        cmd: Arguments, None for those of the command line.
        check: Takes the options, all sets and the names of those that were written;
            returns sentences on faults that ``--skip_bad`` does not excuse.

    Returns:
        Exit code: 0, or 1 when anything is faulty, unless ``--skip_bad true``.
    """
    parser.add_argument("--out", default="data", help="where data directories go")
    parser.add_argument("--sets", nargs="+", help="only these data directories")
    parser.add_argument(
        "--skip_bad",
        type=true_or_false,
        default=False,
        help="go on without what is missing or faulty (a partial copy of the corpus)",
    )
    args = parser.parse_args(cmd)
    try:
        clip_sets = read(args)
        written, faults = write_corpus(args.out, clip_sets)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    for sentence in faults:
        print(sentence, file=sys.stderr)
    if not written:
        return 1
    grave = check(args, clip_sets, written) if check else []
    for sentence in grave:
        print(sentence, file=sys.stderr)
    if faults and not args.skip_bad:
        print(
            f"{len(faults)} faults: the rest is in {args.out}; mend them and run this "
            "again, or go on without with --skip_bad true.",
            file=sys.stderr,
        )
        return 1
    return 1 if grave else 0
