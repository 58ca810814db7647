# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Labels and predictions as records, and which prediction belongs to which label."""

import collections
import os
import posixpath
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Hashable, List, Optional, Sequence, Set, Tuple

import numpy as np

from espnet2_distilmos.data.datadir import DataError, read_scp
from espnet2_distilmos.data.names import as_seen, without_ending

DEFAULT_METRIC = "mos"
#: Begins an escaped name. Two hexadecimal digits follow every % of percent-encoding:
#: no such text begins so.
ESCAPE = "%:"


@dataclass
class Vote:
    """One listener's opinion."""

    score: float
    listener: Optional[str] = None
    listener_idx: Optional[Any] = None  # SHEET's number of the listener


@dataclass
class Score:
    """What a file says of one utterance."""

    id: str
    score: Optional[float] = None  # finite; without one, the mean of the votes
    system: Optional[str] = None
    path: Optional[str] = None
    votes: List[Vote] = field(default_factory=list)
    error: Optional[str] = None  # why there is no prediction
    extra: Dict[str, Any] = field(default_factory=dict)  # further values, as in JSON


@dataclass
class ScoreFile:
    """A file of scores.

    Attributes:
        records: In the order of the file, every id once.
        metric: Name of the score, for formats that name it.
        path: Where it was read.
        format: How it was read, a key of ``FORMATS``.
        problems: A sentence for everything that was wrong, such as a row whose score
            is not a number (the utterance is kept without a score) or a second row of
            an utterance (left out). A tool exits with code 1 when there is any.
        notes: Sentences on what was assumed; nothing is wrong.
    """

    records: List[Score] = field(default_factory=list)
    metric: str = DEFAULT_METRIC
    path: str = ""
    format: str = ""
    problems: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


# Names


def decode_name(name: str) -> str:
    """Return the name that ``encode_name`` was given."""
    if not name.startswith(ESCAPE):
        return name
    text = urllib.parse.unquote_to_bytes(name[len(ESCAPE) :])
    return text.decode("utf-8", "surrogateescape")


def shown(name: str) -> str:
    """Return a name as a sentence can show it: on one line."""
    return name if name.isprintable() else repr(name)


def count(ids: Sequence[str]) -> str:
    """Return a phrase such as ``3 utterances (the first is utt1)``."""
    plural = "utterance" if len(ids) == 1 else "utterances"
    return f"{len(ids)} {plural} (the first is {shown(ids[0])})"


def file_stem(path: str) -> str:
    """Return a file's name without folder and without the ending of an audio file."""
    return without_ending(re.split(r"[/\\]", path)[-1])


# Joining


# What may stand for an utterance of this id and path, from the narrowest to the widest.
_KEYS: Tuple[Callable[[str, Optional[str]], Set[str]], ...] = (
    lambda utt_id, path: {utt_id},
    lambda utt_id, path: {as_seen(utt_id)},
    lambda utt_id, path: {posixpath.normpath(as_seen(path))} if path else set(),
    lambda utt_id, path: {without_ending(as_seen(utt_id))},
    lambda utt_id, path: {
        file_stem(as_seen(utt_id)),
        file_stem(as_seen(path or "") or as_seen(utt_id)),
    },
)


def match(
    left: Sequence[Tuple[str, Optional[str]]],
    right: Sequence[Tuple[str, Optional[str]]],
) -> Tuple[Dict[int, int], List[str]]:
    """Match utterances by id, else by path, else by file name.

    Equal ids always match. What is left is matched by ids that look equal (see
    ``as_seen``), then by paths, by ids without the ending of an audio file, and by the
    names of the files without folders and ending (of the id or the path: SHEET's
    sample_id of BVCC lacks the system that is in the file's name). A name that fits two
    utterances of one side matches none.

    Args:
        left: Id and path (or None) of each utterance; the ids differ.
        right: The same of the other side.

    Returns:
        Index in ``right`` by index in ``left``, and the ids that fit several.

    >>> match([("a", None), ("b", None)], [("x/b.wav", None), ("a", None)])
    ({0: 1, 1: 0}, [])
    """
    sides = (left, right)
    pairs: Dict[int, int] = {}
    for of_level in _KEYS:
        # of all, also of what is matched already: two clips with one file name stay
        # apart when the other side has only one of them under its full name
        keys = [[of_level(*item) for item in items] for items in sides]
        index: List[Dict] = [collections.defaultdict(set) for _ in sides]
        for side in (0, 1):
            for i, own in enumerate(keys[side]):
                for key in own:
                    index[side][key].add(i)

        def partners(side: int, i: int) -> set:
            """Those of the other side that share a key with an utterance."""
            return set().union(*(index[1 - side][key] for key in keys[side][i]))

        taken = set(pairs.values())
        for i in range(len(left)):
            found = partners(0, i) if i not in pairs else set()
            if len(found) == 1 and not found & taken and partners(1, *found) == {i}:
                pairs[i] = found.pop()
        if len(pairs) == min(len(left), len(right)):
            break
    matched = (set(pairs), set(pairs.values()))
    ambiguous = [
        items[i][0]
        for side, items in enumerate(sides)
        for i in range(len(items))
        if i not in matched[side] and partners(side, i) - matched[1 - side]
    ]
    return pairs, list(dict.fromkeys(ambiguous))


@dataclass
class Joined:
    """The N utterances that a reference and a prediction share, in its order.

    Attributes:
        ids: The reference's ids.
        reference: (N,) float64, labels.
        prediction: (N,) float64, predictions.
        systems: The reference's or else the prediction's, None where neither has one.
        pairs: The reference's and the prediction's record.
        unlabelled: Ids of the reference without a label; they are not among the N.
        problems: A sentence each on the utterances that the prediction lacks or has no
            score for, that the reference lacks, and whose names fit several.
    """

    ids: List[str]
    reference: np.ndarray
    prediction: np.ndarray
    systems: List[Optional[str]]
    pairs: List[Tuple[Score, Score]]
    unlabelled: List[str]
    problems: List[str]


def join(reference: ScoreFile, prediction: ScoreFile) -> Joined:
    """Align predictions with labels, as ``match`` says.

    Raises:
        DataError: No utterance has both.
    """
    matched, ambiguous = match(
        [(r.id, r.path) for r in reference.records],
        [(p.id, p.path) for p in prediction.records],
    )
    pairs, missing, unscored, unlabelled = [], [], [], []
    for i, record in enumerate(reference.records):
        partner = prediction.records[matched[i]] if i in matched else None
        if record.score is None:
            unlabelled.append(record.id)
        elif partner is None:
            missing.append(record.id)
        elif partner.score is None:
            unscored.append(record.id)
        else:
            pairs.append((record, partner))
    known = set(matched.values())
    unknown = [p.id for j, p in enumerate(prediction.records) if j not in known]
    true, found = reference.path, prediction.path
    problems = [
        f"{start} {count(ids)}; left out, {mend}."
        for ids, start, mend in (
            (ambiguous, f"{true} and {found} do not match uniquely in", "use one id"),
            (missing, f"{found} has no prediction for", "predict them too"),
            (unscored, f"{found} has no score for", "see the errors of the prediction"),
            (unknown, f"{true} does not have", "check that it is the same test set"),
        )
        if ids
    ]
    if not pairs:
        raise DataError(
            " ".join(problems)
            or f"{true} has no labelled utterance, expected at least one; correct the "
            "labels."
        )
    return Joined(
        ids=[record.id for record, _ in pairs],
        reference=np.array([record.score for record, _ in pairs], dtype=np.float64),
        prediction=np.array([partner.score for _, partner in pairs], dtype=np.float64),
        systems=[record.system or partner.system for record, partner in pairs],
        pairs=pairs,
        unlabelled=unlabelled,
        problems=problems,
    )


def systems_of(
    ids: Sequence[str], source: str
) -> Tuple[List[Optional[str]], List[str]]:
    """Find the systems of utterances.

    Args:
        ids: Ids of utterances.
        source: A file utt2sys, lines ``utt system``, or else a regular expression
            that is searched in each id and whose group ``system``, or only group, is
            the system.

    Returns:
        The system of each id, None where there is none, and a sentence on these.

    Raises:
        DataError: The source is neither, cannot be read, or fits no id.

    >>> systems_of(["sysA-1", "sysB-1"], "^(sys.)-")
    (['sysA', 'sysB'], [])
    """
    return _groups_of(ids, source, "system", "--systems")


def clusters_of(ids: Sequence[str], source: str) -> Tuple[List[Hashable], List[str]]:
    """Find the sentences or sources that utterances were made of.

    Clips of one source are not independent; intervals resample the sources. As
    ``systems_of``, with a file utt2src or a group ``source``; an utterance without a
    source is a cluster of its own.
    """
    found, problems = _groups_of(ids, source, "source", "--cluster")
    # A tuple cannot equal the name of a source.
    return [(i,) if name is None else name for i, name in zip(ids, found)], problems


def _groups_of(
    ids: Sequence[str], source: str, what: str, option: str
) -> Tuple[List[Optional[str]], List[str]]:
    if os.path.exists(source):
        values = {decode_name(k): decode_name(v) for k, v in read_scp(source).items()}
        names, unique = list(values), list(dict.fromkeys(ids))
        pairs, _ = match([(i, None) for i in unique], [(name, None) for name in names])
        found = {unique[i]: values[names[j]] for i, j in pairs.items()}
        groups = [found.get(utt_id) for utt_id in ids]
    else:
        try:
            pattern = re.compile(source)
            group: Any = what if what in pattern.groupindex else 1
            if group == 1 and pattern.groups != 1:
                raise ValueError(f"it has {pattern.groups} groups")
        except (re.error, ValueError, OverflowError, RecursionError) as error:
            raise DataError(
                f"{option} {source} is neither a file nor a regular expression with "
                f"one group ({error}), expected a file of lines `utt {what}`, or an "
                f"expression such as '^([^-]+)-' or one with '(?P<{what}>...)'."
            ) from error
        matches = [pattern.search(utt_id) for utt_id in ids]
        groups = [(m[group] or None) if m else None for m in matches]
    without = [utt_id for utt_id, name in zip(ids, groups) if name is None]
    if not without:
        return groups, []
    sentence = (
        f"{option} {source} has no {what} for {count(without)} of {len(ids)}, expected "
        f"one for each; correct {option}."
    )
    if len(without) == len(ids):
        raise DataError(sentence)
    return groups, [sentence]
