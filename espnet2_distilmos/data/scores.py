# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Labels and predictions of utterances, how they are joined, and their systems.

``score_formats`` reads them from files and writes them.
"""

import dataclasses
import os
import re
import urllib.parse
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.data.datadir import DataError, read_scp

DEFAULT_METRIC = "mos"
#: Begins a name whose other characters are percent-encoded, see ``score_formats``.
#: Two hexadecimal digits follow every % of percent-encoding: no such text begins so.
ESCAPE = "%:"

_AUDIO_SUFFIX = re.compile(
    r"\.(wav|w64|flac|og[ga]|opus|mp[34]|m4a|aac|amr|wma|webm|aif[fc]?|au|sph|caf)$",
    re.IGNORECASE,
)


@dataclasses.dataclass
class Vote:
    """One listener's opinion.

    Attributes:
        score: What the listener chose.
        listener: The listener's name, None where the file has none.
        listener_idx: SHEET's number of the listener, None where there is none.
    """

    score: float
    listener: Optional[str] = None
    listener_idx: Optional[Any] = None


@dataclasses.dataclass
class Score:
    """What a file says of one utterance.

    Attributes:
        id: The utterance's name, any text.
        score: Finite label or prediction, None where it has none; the mean of the
            votes where a file has votes and no score.
        system: The system that made the utterance.
        path: The audio file.
        votes: The listeners' votes.
        error: Why there is no prediction, one sentence.
        extra: Further values by name, as JSON has them, none of them None.
    """

    id: str
    score: Optional[float] = None
    system: Optional[str] = None
    path: Optional[str] = None
    votes: List[Vote] = dataclasses.field(default_factory=list)
    error: Optional[str] = None
    extra: Dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class ScoreFile:
    """A file of scores, in the order of the file.

    Attributes:
        records: One an utterance, every id once.
        metric: Name of the score, for formats that name it.
        path: Where it was read.
        format: How it was read, a key of ``score_formats.FORMATS``.
        problems: A sentence for everything that was wrong, such as a row whose score
            is not a number (the utterance is kept without a score) or a second row of
            an utterance (left out). A tool exits with code 1 when there is any.
        notes: Sentences on what was assumed; nothing is wrong.
    """

    records: List[Score] = dataclasses.field(default_factory=list)
    metric: str = DEFAULT_METRIC
    path: str = ""
    format: str = ""
    problems: List[str] = dataclasses.field(default_factory=list)
    notes: List[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Joined:
    """A reference and a prediction of the same utterances.

    Attributes:
        ids: The reference's ids, in its order; N of them.
        reference: (N,) float64, labels.
        prediction: (N,) float64, predictions.
        systems: N systems, the reference's or else the prediction's, None where
            neither has one.
        pairs: N pairs of the reference's and the prediction's record.
        num_by_name: How many of the N were joined by file name, not by equal ids.
        missing: Labelled ids of the reference that the prediction does not have.
        unscored: Labelled ids that the prediction has, without a score.
        unlabelled: Ids of the reference without a label.
        unknown: Ids of the prediction that the reference does not have.
        ambiguous: Ids of either side whose file name fits more than one utterance of
            the other or of their own; they are also in ``missing`` or ``unknown``.
        problems: A sentence for each of these lists but ``unlabelled``.
    """

    ids: List[str]
    reference: np.ndarray
    prediction: np.ndarray
    systems: List[Optional[str]]
    pairs: List[Tuple[Score, Score]]
    num_by_name: int
    missing: List[str]
    unscored: List[str]
    unlabelled: List[str]
    unknown: List[str]
    ambiguous: List[str]
    problems: List[str]


def decode_name(name: str) -> str:
    """Return the name that ``score_formats.encode_name`` was given."""
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


def _without_suffix(name: str) -> str:
    return _AUDIO_SUFFIX.sub("", name)


def file_stem(path: str) -> str:
    """Return a file's name without folder and without the ending of an audio file."""
    return _without_suffix(os.path.basename(path))


# From the narrowest to the widest: what may stand for an utterance.
_KEYS: Tuple[Callable[[str, Optional[str]], set], ...] = (
    lambda utt_id, path: {utt_id},
    lambda utt_id, path: {os.path.normpath(path)} if path else set(),
    lambda utt_id, path: {_without_suffix(utt_id)},
    lambda utt_id, path: {file_stem(utt_id)} | ({file_stem(path)} if path else set()),
)


def match(
    left: Sequence[Tuple[str, Optional[str]]],
    right: Sequence[Tuple[str, Optional[str]]],
) -> Tuple[Dict[int, int], List[str]]:
    """Find which utterance is which: by id, else by path, else by file name.

    Equal ids always match. What is left is matched by equal paths, then by ids without
    the ending of an audio file, then by the names of the files without folders and
    ending (of the id or the path: SHEET's sample_id of BVCC lacks the system that is
    in the file's name). A name that fits two utterances of one side matches none.

    Args:
        left: Id and path (or None) of each utterance; the ids differ.
        right: The same of the other side.

    Returns:
        Index in ``right`` by index in ``left``, and the ids that fit several.
    """
    pairs: Dict[int, int] = {}
    ambiguous: Tuple[set, set] = (set(), set())
    for keys_of in _KEYS:
        taken = set(pairs.values())
        if len(pairs) == len(left) or len(taken) == len(right):
            break
        # of all, also of what is matched already: two clips with one file name stay
        # apart when the other side has only one of them under its full name
        sides: List[Dict[str, List[int]]] = []
        for items in (left, right):
            index: Dict[str, List[int]] = {}
            for i, (utt_id, path) in enumerate(items):
                for key in keys_of(utt_id, path):
                    index.setdefault(key, []).append(i)
            sides.append(index)
        groups = [(sides[0][k], sides[1][k]) for k in sides[0].keys() & sides[1].keys()]
        unclear = (set(), set())
        partners: Tuple[Dict[int, int], Dict[int, int]] = ({}, {})
        for group in groups:
            for side, other in ((0, 1), (1, 0)):
                for i in group[side]:
                    first = partners[side].setdefault(i, group[other][0])
                    if len(group[0]) + len(group[1]) > 2 or first != group[other][0]:
                        unclear[side].add(i)
        for i, j in partners[0].items():
            if i not in unclear[0] and j not in unclear[1]:
                if i not in pairs and j not in taken:
                    pairs[i] = j
        # whoever has found its partner is nobody else's
        taken = set(pairs.values())
        ambiguous = (set(), set())
        for group in groups:
            rest = [i for i in group[0] if i not in pairs], set(group[1]) - taken
            if all(rest):
                ambiguous[0].update(rest[0])
                ambiguous[1].update(rest[1])
    names = [left[i][0] for i in sorted(ambiguous[0])]
    names += [right[j][0] for j in sorted(ambiguous[1])]
    return pairs, list(dict.fromkeys(names))


def join(reference: ScoreFile, prediction: ScoreFile) -> Joined:
    """Align predictions with labels, as ``match`` says.

    Args:
        reference: Labels.
        prediction: Predictions.

    Returns:
        The utterances that have both, in the order of the reference, and the rest.

    Raises:
        DataError: No utterance has both.
    """
    pairs, ambiguous = match(
        [(r.id, r.path) for r in reference.records],
        [(p.id, p.path) for p in prediction.records],
    )
    both, missing, unscored, unlabelled, by_name = [], [], [], [], 0
    for i, record in enumerate(reference.records):
        partner = prediction.records[pairs[i]] if i in pairs else None
        if record.score is None:
            unlabelled.append(record.id)
        elif partner is None:
            missing.append(record.id)
        elif partner.score is None:
            unscored.append(record.id)
        else:
            both.append((record, partner))
            by_name += record.id != partner.id
    matched = set(pairs.values())
    unknown = [p.id for j, p in enumerate(prediction.records) if j not in matched]
    problems = []
    if ambiguous:
        problems.append(
            f"{reference.path} and {prediction.path} have {count(ambiguous)} whose "
            "file names fit more than one utterance, they were left out; give both "
            "files the same ids."
        )
    if missing:
        problems.append(
            f"{prediction.path} has no prediction for {count(missing)} of "
            f"{reference.path}, they were left out; predict them too."
        )
    if unscored:
        problems.append(
            f"{prediction.path} has no score for {count(unscored)} of "
            f"{reference.path}, they were left out; see the errors of the prediction."
        )
    if unknown:
        problems.append(
            f"{prediction.path} has {count(unknown)} that {reference.path} does not "
            "know, they were left out; check that both are of the same test set."
        )
    if not both:
        raise DataError(
            " ".join(problems)
            or f"{reference.path} has no labelled utterance, expected at least one; "
            "correct the labels."
        )
    return Joined(
        ids=[record.id for record, _ in both],
        reference=np.array([record.score for record, _ in both], dtype=np.float64),
        prediction=np.array([partner.score for _, partner in both], dtype=np.float64),
        systems=[record.system or partner.system for record, partner in both],
        pairs=both,
        num_by_name=by_name,
        missing=missing,
        unscored=unscored,
        unlabelled=unlabelled,
        unknown=unknown,
        ambiguous=ambiguous,
        problems=problems,
    )


def systems_of(
    ids: Sequence[str], source: str
) -> Tuple[List[Optional[str]], List[str]]:
    """Tell the systems of utterances.

    Args:
        ids: Ids of utterances, every one once.
        source: A file utt2sys, lines ``utt system``, or else a regular expression
            that is searched in each id and whose group ``system``, or only group, is
            the system.

    Returns:
        The system of each id, None where there is none, and a sentence on these.

    Raises:
        DataError: The source is neither, cannot be read, or fits no id.
    """
    return _groups_of(ids, source, "system", "utt2sys", "--systems")


def clusters_of(
    ids: Sequence[str], source: str
) -> Tuple[List[Optional[str]], List[str]]:
    """Tell the sentences or sources that utterances were made of.

    Clips of one source are not independent; intervals resample the sources.

    Args:
        ids: Ids of utterances, every one once.
        source: A file utt2src, lines ``utt source``, or else a regular expression as
            ``systems_of`` takes it, with a group ``source`` or a single one.

    Returns:
        The source of each id, None where there is none, and a sentence on these.

    Raises:
        DataError: The source is neither, cannot be read, or fits no id.
    """
    return _groups_of(ids, source, "source", "utt2src", "--cluster")


def _groups_of(
    ids: Sequence[str], source: str, what: str, file_name: str, option: str
) -> Tuple[List[Optional[str]], List[str]]:
    ambiguous: List[str] = []
    if os.path.exists(source):
        values = {decode_name(k): decode_name(v) for k, v in read_scp(source).items()}
        names = list(values)
        unique = list(dict.fromkeys(ids))
        pairs, ambiguous = match(
            [(utt_id, None) for utt_id in unique], [(name, None) for name in names]
        )
        found = {unique[i]: values[names[j]] for i, j in pairs.items()}
        groups = [found.get(utt_id) for utt_id in ids]
    else:
        pattern, group = _compile(source, what, file_name, option)
        matches = [pattern.search(utt_id) for utt_id in ids]
        groups = [(m[group] or None) if m else None for m in matches]
    without = [utt_id for utt_id, group in zip(ids, groups) if group is None]
    if not without:
        return groups, []
    sentence = f"{option} {source} has no {what} for {count(without)}"
    if len(without) == len(ids):
        raise DataError(
            f"{sentence}, which is all, expected one for each; correct {option}."
        )
    if ambiguous:
        sentence += f" (the names of {len(ambiguous)} fit more than one line)"
    return groups, [f"{sentence}, expected one for each; correct {option}."]


def _compile(
    text: str, what: str, file_name: str, option: str
) -> Tuple["re.Pattern", Any]:
    """Compile the user's expression; return it and its group."""
    expected = (
        f"expected a file {file_name}, or an expression with one group such as "
        f"'^([^-]+)-' or a group '(?P<{what}>...)'"
    )
    try:
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise DataError(
            f"{option} {text} is neither a file nor a regular expression ({error}), "
            f"{expected}."
        ) from error
    if what in pattern.groupindex:
        return pattern, what
    if pattern.groups != 1:
        raise DataError(
            f"{option} {text} is no file, and as a regular expression it has "
            f"{pattern.groups} groups, {expected}."
        )
    return pattern, 1
