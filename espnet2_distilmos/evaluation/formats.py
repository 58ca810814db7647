# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""Files of labels and predictions: the formats of the field, read and written.

What was checked in the owner's public code, and what is known from documentation only:

``metric-scp``
    ``utt {"mos": 3.5}``, ours and ESPnet AQA's; ``{}`` is unlabelled. Checked in
    ``aqa_inference.py`` (writes ``json.dumps`` of numbers, for ARECHO also of category
    names), ``json_scp.py``, ``prep_metric_id.py`` and AQA's README. A data directory
    is read as its metric.scp, with utt2sys and votes.scp where it has them.
``distilmos-csv``, ``distilmos-jsonl``
    What ``distilmos predict`` writes: ``id, path, score, error``, then whatever there
    is of ``lower, upper, novelty, novel, seconds, system`` and other values. JSON
    lines can also hold ``votes``, ``[[listener, score], ...]``.
``sheet``
    SHEET's data CSV, ``wav_path, score, system_id, sample_id[, listener_id,
    listener_idx, domain_idx, phoneme, cluster, reference]``, one row a vote. The
    columns were checked in its ``local/data_prep.py`` of 20 corpora (their order
    varies, benchmark sets have ``avg_score`` for ``score``, lines end in CR LF) and
    ``datasets/non_intrusive.py`` (rows of one sample_id are averaged). That a row
    without listener_id holds the mean opinion score is from its documentation only.
``sheet-results``
    SHEET's ``results.csv``: ``wav_path, system_id, sample_id, avg_score, answer[,
    logvar]``, checked in ``return_results`` and ``utils/calculate_metrics.py``. The
    score is ``answer``, the prediction; ``metric="avg_score"`` takes the label.
``voicemos``
    ``answer.txt`` of the VoiceMOS challenges: lines ``name,score``. Checked in the
    2022 baseline (``predict.py`` cuts the name at its first dot and writes no header;
    its answer.txt has BVCC's ``sysXXXXX-uttXXXXXXX``) and the 2023 answers that SHEET
    carries. The names of the lists that the baseline reads end in .wav. What the
    challenges' servers accept is known from the baseline's README only.
``versa``
    VERSA's JSON lines, ``{"key": "utt", "utmos": 3.5, ...}``. Checked in
    ``scorer_shared.py``, in its demo results (``Infinity`` occurs, and strings) and in
    ``aggregate_results.py``, which, as the scorer did at first, writes Python literals
    with bare ``inf``: those are parsed as literals, nothing is evaluated.
``csv``, ``tsv``
    Two columns, a name and a score, with or without a header; or any columns, named or
    numbered from 1 by the caller.

Names. Kaldi's files hold no blanks in an id, answer.txt no commas, no text what is not
UTF-8. A name that a format cannot hold is written as ``%:`` and the name with its
offending characters percent-encoded (``%:a%20b`` for ``a b``), and only names that
begin with ``%:`` are decoded: elsewhere ``%`` and two digits are the name itself.
"""

import ast
import csv
import dataclasses
import io
import json
import math
import os
import re
import urllib.parse
import warnings
from typing import (
    IO,
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Pattern,
    Sequence,
    Tuple,
)

import numpy as np

from espnet2_distilmos.data.datadir import DataError, atomic_write, read_scp

DEFAULT_METRIC = "mos"
#: Begins a name whose other characters are percent-encoded, see above.
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
        format: How it was read, a key of ``FORMATS``.
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


# Lone surrogates stand for bytes of a file name that are not UTF-8.
_UNSAFE_TEXT = re.compile(r"[\x00\ud800-\udfff]")
_UNSAFE_ANSWER = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff,]|^[\"\s]|\s$")
_UNSAFE_KALDI = re.compile(r"[\s\x00-\x1f\x7f\ud800-\udfff]")


class Format(NamedTuple):
    """A format of files of scores.

    Attributes:
        description: For messages.
        holds: Of ``system``, ``path``, ``votes``, ``error``, ``extra``, ``metric`` (the
            score's name) and ``unlabelled`` (utterances without a score) those that it
            can hold, or that its owner's programs would survive.
        unsafe: What a name cannot have.
        reserved: Names that a further value cannot have.
    """

    description: str
    holds: FrozenSet[str]
    unsafe: Pattern = _UNSAFE_TEXT
    reserved: FrozenSet[str] = frozenset()


def _words(text: str) -> FrozenSet[str]:
    return frozenset(text.split())


FORMATS: Dict[str, Format] = {
    "metric-scp": Format(
        'lines `utt {"mos": 3.5}`, ours and ESPnet AQA\'s',
        _words("extra metric unlabelled"),
        _UNSAFE_KALDI,
    ),
    "distilmos-csv": Format(
        "what `distilmos predict` writes, id,path,score,error,...",
        _words("system path error extra unlabelled"),
        reserved=_words("id path score error system"),
    ),
    "distilmos-jsonl": Format(
        "the same as JSON lines",
        _words("system path votes error extra unlabelled"),
        reserved=_words("id path score error system votes"),
    ),
    "sheet": Format(
        "SHEET's data CSV, wav_path,score,system_id,sample_id,..., a row a vote",
        _words("system path votes extra"),
        reserved=_words("wav_path score system_id sample_id listener_id listener_idx"),
    ),
    "sheet-results": Format(
        "SHEET's results.csv, wav_path,system_id,sample_id,avg_score,answer,...",
        _words("system path extra"),
        reserved=_words("wav_path score system_id sample_id answer"),
    ),
    "voicemos": Format(
        "answer.txt of the VoiceMOS challenges, lines `name,score`",
        frozenset(),
        _UNSAFE_ANSWER,
    ),
    "versa": Format(
        'VERSA\'s JSON lines, {"key": "utt", "utmos": 3.5, ...}',
        _words("extra metric unlabelled"),
        reserved=_words("key"),
    ),
    "csv": Format(
        "name and score between commas, or named columns",
        _words("system extra unlabelled"),
        reserved=_words("id score system"),
    ),
    "tsv": Format(
        "the same between tabs",
        _words("system extra unlabelled"),
        reserved=_words("id score system"),
    ),
}
_JSON = ("metric-scp", "versa", "distilmos-jsonl")

# A clip of BVCC names its system.
_BVCC_NAME = re.compile(r"(?P<system>sys[0-9a-f]+)-utt[0-9a-f]+(\.wav)?")
# Further columns that hold numbers, however they are spelt (2.50).
_NUMERIC = _words("score answer avg_score logvar lower upper novelty seconds")
# The order in which `distilmos predict` writes its columns.
_PREDICT_ORDER = ("lower", "upper", "novelty", "novel", "seconds")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def describe_formats() -> str:
    """Return the formats with their descriptions, for messages and help."""
    return "; ".join(f"{name} ({f.description})" for name, f in FORMATS.items())


# Names and values


def encode_name(name: str, format: str) -> str:
    """Return a name as the format can hold it; ``scores.decode_name`` is the inverse.

    Args:
        name: Id, system, path or listener.
        format: Key of ``FORMATS``.

    Returns:
        The name itself, or ``%:`` and the percent-encoded name.

    Raises:
        DataError: The name holds half of a surrogate pair, which is no text.
    """
    unsafe = FORMATS[format].unsafe
    if not name.startswith(ESCAPE) and not unsafe.search(name):
        return name
    try:
        return ESCAPE + "".join(
            (
                urllib.parse.quote(c.encode("utf-8", "surrogateescape"), safe="")
                if c == "%" or unsafe.search(c)
                else c
            )
            for c in name
        )
    except UnicodeEncodeError as error:
        raise DataError(
            f"the name {name!r} holds half of a surrogate pair, expected text; rename "
            "the utterance."
        ) from error


def _printable(text: str) -> str:
    # An error message may quote a file name that is not UTF-8.
    text = text.replace("\0", "\\x00")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _list(names: Sequence[str], most: int = 12) -> str:
    more = len(names) - most
    return ", ".join(map(shown, names[:most])) + (
        f" and {more} more" if more > 0 else ""
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell_number(cell: str) -> Any:
    """Return the finite number that a cell spells, else the cell."""
    number = float(cell) if _NUMBER.fullmatch(cell.strip()) else math.inf
    return number if math.isfinite(number) else cell


def _is_heading(cell: str) -> bool:
    """Tell whether no score can stand there: not empty, a number or nan."""
    try:
        float(cell.strip() or "0")
    except ValueError:
        return True
    return False


def _cell_text(value: Any) -> str:
    """Return a further value as a cell; ``_cell_value`` is the inverse."""
    if isinstance(value, str) and _cell_value(value) == value:
        return value
    # text that looks like a number or other JSON goes into quotes
    return json.dumps(value, ensure_ascii=False)


def _cell_value(text: str) -> Any:
    """Return the JSON value of which a cell is the very spelling, else the text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    # 1.50, 007 and 1e5 are not how JSON spells numbers here: they may be names
    return value if value is not None and _cell_text(value) == text else text


class _InfAndNan(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in ("inf", "nan"):
            return ast.copy_location(ast.Constant(float(node.id)), node)
        return node


def _json_or_literal(line: str) -> Any:
    """Parse JSON, or a Python dict of literals in which inf and nan may stand bare.

    Raises:
        ValueError: The line is neither.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    if not line.startswith("{"):
        raise ValueError("no object")
    try:
        with warnings.catch_warnings():  # on strange escapes in strings
            warnings.simplefilter("ignore")
            tree = _InfAndNan().visit(ast.parse(line, mode="eval"))
        return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("neither JSON nor a Python literal") from error


# Detection


def _read_text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), expected a file of scores; "
            "check the path."
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}), "
            "expected a file of scores; convert its encoding with iconv."
        ) from error
    if not text.strip():
        raise DataError(
            f"{path} is empty, expected a file of scores; run the command that "
            "writes it again."
        )
    return text


def _rows(path: str, text: str, delimiter: str) -> Iterator[Tuple[int, List[str]]]:
    """Yield first line and cells of every row of a CSV that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line, empty = 1, True
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                empty = False
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{line}: the row cannot be read ({error}), expected cells between "
            f"{'tabs' if delimiter != ',' else 'commas'} with every quote closed; "
            "correct the line."
        ) from error
    if empty:
        raise DataError(f"{path} has only empty cells, expected names and scores.")


def detect_format(path: str) -> str:
    """Tell the format of a file from its content, whatever its name.

    Args:
        path: File, or data directory with metric.scp.

    Returns:
        A key of ``FORMATS``.

    Raises:
        DataError: The file cannot be read, is empty, fits no format or more than one.
    """
    path = os.fspath(path)
    return "metric-scp" if os.path.isdir(path) else _detect(path, _read_text(path))


def _detect(path: str, text: str) -> str:
    first = next(line.strip() for line in text.split("\n") if line.strip())
    try:
        item = _json_or_literal(first)
    except ValueError:
        item = None
    if isinstance(item, dict):
        ours, versas = {"id", "score"} <= set(item), "key" in item
        if ours != versas:
            return "distilmos-jsonl" if ours else "versa"
        has = "both id and score, and key" if ours else "neither id and score nor key"
        raise _unknown(path, f"its objects have {has}")
    if re.fullmatch(r"\S+\s+\{.*\}", first):
        return "metric-scp"
    plain, delimiter = _plain_format(first)
    rows = _rows(path, text, delimiter)
    row = [cell.strip() for cell in next(rows)[1]]
    if plain == "csv" and {"wav_path", "sample_id"} <= set(row):
        if "score" in row:
            return "sheet"
        if "answer" in row:
            return "sheet-results"
        if "avg_score" in row:  # data of a benchmark
            return "sheet"
    if plain == "csv" and {"id", "path", "score", "error"} <= set(row):
        return "distilmos-csv"
    if {"id", "score"} <= set(row):
        return plain
    if len(row) != 2:
        cells = _list([_short(cell) for cell in row])
        raise _unknown(path, f"its first row has the cells {cells}")
    if not _is_heading(row[1]):
        quoted = any(line.startswith('"') for line in text.split("\n"))
        return "voicemos" if plain == "csv" and not quoted else plain
    second = next(rows, (0, []))[1]
    if len(second) != 2 or _is_heading(second[1]):
        raise _unknown(path, f"its second column holds {_short(row[1])}, no score")
    return plain


def _plain_format(first: str) -> Tuple[str, str]:
    """Return format and delimiter of a table by its first line."""
    return ("tsv", "\t") if "\t" in first and "," not in first else ("csv", ",")


def _unknown(path: str, reason: str) -> DataError:
    return DataError(
        f"{path}: the format is not clear ({reason}), expected one of: "
        f"{describe_formats()}; name it with --from."
    )


# Reading


def read_scores(
    path: str,
    format: Optional[str] = None,
    metric: Optional[str] = None,
    columns: Optional[Mapping[str, Optional[str]]] = None,
) -> ScoreFile:
    """Read a file of labels or predictions.

    Args:
        path: File, or data directory with metric.scp.
        format: Key of ``FORMATS``; None detects it from the content.
        metric: Name of the metric or column that is the score. None takes ``mos`` or
            the only one; of a CSV, the column that its owner calls the score. Where a
            file has one score without a name, it gets this one.
        columns: For csv and tsv, the columns of ``id``, ``score``, ``system`` and
            ``listener``, by name or number (from 1). With a listener's column the
            rows of an utterance are votes.

    Returns:
        The utterances in the order of the file, and what was wrong with it.

    Raises:
        DataError: Nothing could be read, the format or the score is not clear, or a
            named column is missing.
    """
    path = os.fspath(path)
    named = {name: str(c) for name, c in (columns or {}).items() if c is not None}
    if format is not None and format not in FORMATS:
        raise DataError(
            f"the format {format} is not known, expected one of {', '.join(FORMATS)}."
        )
    directory = os.path.isdir(path) and format in (None, "metric-scp")
    if directory:
        path, format = os.path.join(path, "metric.scp"), "metric-scp"
    text = _read_text(path)
    if format is None:
        format = _plain_format(text.lstrip().split("\n")[0])[0] if named else None
        format = format or _detect(path, text)
    if named and format not in ("csv", "tsv"):
        raise DataError(
            f"{path} is read as {format}, whose columns are known, and columns were "
            "named; leave them out or add --from csv."
        )
    file = ScoreFile(path=path, format=format)
    if format in _JSON:
        _read_json(file, text, metric)
    elif format == "voicemos":
        _read_answer(file, text, metric)
    else:
        _read_table(file, text, metric, named)
    if not file.records:
        more = len(file.problems) - 1
        raise DataError(
            (file.problems[0] if file.problems else f"{path} holds no utterance.")
            + (f" None of {more} more lines could be used either." if more > 0 else "")
        )
    if directory:
        _add_data_directory(file)
    return file


def _where(file: ScoreFile, line: int, utt_id: str) -> str:
    return f"{file.path}:{line}: utterance {shown(utt_id)}"


def _is_second(file: ScoreFile, line: int, utt_id: str, lines: Dict[str, int]) -> bool:
    """Note the line of an id, or the problem that it occurs again."""
    first = lines.setdefault(utt_id, line)
    if first != line:
        file.problems.append(
            f"{file.path}:{line}: the id {shown(utt_id)} occurs a second time, "
            f"expected every id once; line {first} was used, remove one of them."
        )
    return first != line


def _try_score(file: ScoreFile, value: Any, where: str) -> Optional[float]:
    """Return a finite number, or note the problem."""
    try:
        number = float(value) if _is_number(value) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    if math.isfinite(number):
        return number
    file.problems.append(
        f"{where} has the score {_short(value)}, expected a finite number; correct the "
        "line."
    )
    return None


def _mean(votes: Sequence[Vote]) -> float:
    return math.fsum(vote.score for vote in votes) / len(votes)


def _heading_note(file: ScoreFile, line: int, row: str) -> str:
    return f"{file.path}:{line}: {_short(row)} was taken for the heading."


def _objects(file: ScoreFile, text: str) -> Iterator[Tuple[str, str, Dict[str, Any]]]:
    """Yield place, id and object of the lines of metric.scp and JSON lines."""
    key = {"versa": "key", "distilmos-jsonl": "id"}.get(file.format)
    lines: Dict[str, int] = {}
    for line, content in enumerate(text.split("\n"), 1):
        content = content.strip()
        if not content:
            continue
        utt_id: Any = None
        item: Any = None
        try:
            if key is None:
                utt_id, *rest = content.split(maxsplit=1)
                item = json.loads("".join(rest))
            else:
                item = (_json_or_literal if key == "key" else json.loads)(content)
                utt_id = item.pop(key, None) if isinstance(item, dict) else None
        except (ValueError, RecursionError):
            pass
        good = isinstance(item, dict) and all(isinstance(name, str) for name in item)
        if not good or not isinstance(utt_id, str) or not utt_id:
            example = f'{{"{key}": "utt1", ...}}' if key else 'utt1 {"mos": 3.5}'
            file.problems.append(
                f"{file.path}:{line}: the line is {_short(content)}, expected one such "
                f"as {example}; correct it."
            )
            continue
        utt_id = decode_name(utt_id)
        if not _is_second(file, line, utt_id, lines):
            yield _where(file, line, utt_id), utt_id, item


def _choose(file: ScoreFile, names: Sequence[str], metric: Optional[str]) -> str:
    """Return the name of the score among those of a file that names its metrics."""
    if metric is not None and metric not in names:
        raise DataError(
            f"{file.path} has no metric {metric}, expected one of its "
            f"{_list(names) or 'none'}; correct --metric."
        )
    if metric is None and len(names) > 1 and DEFAULT_METRIC not in names:
        raise DataError(
            f"{file.path} has the metrics {_list(names)}, expected {DEFAULT_METRIC} or "
            "a single one; choose with --metric."
        )
    if metric is None:
        metric = names[0] if len(names) == 1 else DEFAULT_METRIC
    return metric


def _read_json(file: ScoreFile, text: str, metric: Optional[str]) -> None:
    """Read metric.scp, VERSA's and our JSON lines."""
    ours = file.format == "distilmos-jsonl"
    objects = list(_objects(file, text))
    names = {
        n: None for _, _, item in objects for n, v in item.items() if _is_number(v)
    }
    if ours and metric in (None, DEFAULT_METRIC) and metric not in names:
        column = "score"
    else:
        column = _choose(file, list(names), metric)
        file.metric = DEFAULT_METRIC if ours and column == "score" else column
    for where, utt_id, item in objects:
        record = Score(utt_id)
        if ours:
            _read_our_fields(file, where, record, item)
        present, value = column in item, item.pop(column, None)
        # metric.scp says {} of the unlabelled; null is refused there
        if value is not None or (present and file.format == "metric-scp"):
            record.score = _try_score(file, value, where)
        elif record.votes:
            record.score = _mean(record.votes)
        record.extra = {name: v for name, v in item.items() if v is not None}
        file.records.append(record)


def _read_our_fields(
    file: ScoreFile, where: str, record: Score, item: Dict[str, Any]
) -> None:
    for name in ("path", "system", "error"):
        value = item.pop(name, None)
        if isinstance(value, str):
            value = value if name == "error" else decode_name(value)
            setattr(record, name, value or None)
        elif value is not None:
            file.problems.append(
                f"{where} has the {name} {_short(value)}, expected text; correct the "
                "line."
            )
    record.votes = _parse_votes(file, where, item.pop("votes", None))


def _parse_votes(file: ScoreFile, where: str, value: Any) -> List[Vote]:
    """Parse ``[[listener, score], ...]``, with listener_idx third where known."""
    votes = []
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        if (
            isinstance(item, list)
            and len(item) in (2, 3)
            and (item[0] is None or (isinstance(item[0], str) and item[0]))
        ):
            score = _try_score(file, item[1], where)
            if score is not None:
                listener = None if item[0] is None else decode_name(item[0])
                votes.append(Vote(score, listener, *item[2:]))
        else:
            file.problems.append(
                f"{where} has the vote {_short(item)}, expected a pair such as "
                '["listener1", 4]; correct the line.'
            )
    return votes


def _add_data_directory(file: ScoreFile) -> None:
    """Add utt2sys and votes.scp to the labels of a data directory."""
    records = {record.id: record for record in file.records}
    for name in ("utt2sys", "votes.scp"):
        path = os.path.join(os.path.dirname(file.path), name)
        for utt_id, text in (read_scp(path) if os.path.exists(path) else {}).items():
            record = records.get(decode_name(utt_id))
            if record is not None and name == "utt2sys":
                record.system = decode_name(text)
            elif record is not None:
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError):
                    value = text
                where = f"{path}: utterance {shown(record.id)}"
                record.votes = _parse_votes(file, where, value)


def _read_answer(file: ScoreFile, text: str, metric: Optional[str]) -> None:
    """Read answer.txt, whose owners split lines at commas, without quotes."""
    file.metric = metric or DEFAULT_METRIC
    lines: Dict[str, int] = {}
    content = [(n, c.strip()) for n, c in enumerate(text.split("\n"), 1) if c.strip()]
    for index, (line, row) in enumerate(content):
        name, *cells = row.split(",")
        utt_id = decode_name(name.strip())
        if len(cells) != 1 or not utt_id:
            file.problems.append(
                f"{file.path}:{line}: the line is {_short(row)}, expected `name,score`;"
                " correct it, or read quoted names with --from csv."
            )
        elif (
            index == 0
            and _is_heading(cells[0])
            and not _is_heading(content[-1][1].rpartition(",")[2])
        ):
            file.notes.append(_heading_note(file, line, row))
        elif not _is_second(file, line, utt_id, lines):
            record = Score(utt_id)
            if cells[0].strip():
                where = _where(file, line, utt_id)
                record.score = _try_score(file, _cell_number(cells[0]), where)
            file.records.append(record)
    # only where all names are BVCC's: elsewhere a dash means something else
    matches = [_BVCC_NAME.fullmatch(record.id) for record in file.records]
    for record, found in zip(file.records, matches if all(matches) else []):
        record.system = found["system"]


class _Layout(NamedTuple):
    """Names of a table's columns; all others hold further values."""

    id: str
    score: str
    path: Optional[str] = None
    system: Optional[str] = None
    error: Optional[str] = None
    listener: Optional[str] = None
    listener_idx: Optional[str] = None
    #: The rows of an utterance are votes.
    votes: bool = False


def _read_table(
    file: ScoreFile, text: str, metric: Optional[str], named: Mapping[str, str]
) -> None:
    """Read CSV and TSV of any owner."""
    rows = list(_rows(file.path, text, "\t" if file.format == "tsv" else ","))
    header = [cell.strip() for cell in rows[0][1]]
    if file.format in ("csv", "tsv"):
        if not _has_heading(file, rows, named):
            header = [str(i + 1) for i in range(len(header))]
            rows.insert(0, (0, header))
        layout = _plain_layout(file, header, metric, named)
    else:
        layout = _known_layout(file, header, metric)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(
            f"{file.path}:{rows[0][0]}: the heading has {_list(repeated)} twice, "
            "expected every column once; correct it."
        )
    for name in (layout.id, layout.score):
        if name not in header:
            raise DataError(
                f"{file.path} has no column {name}, expected it among its "
                f"{_list(header)}; name the columns with --id-column and "
                "--score-column, or the score with --metric."
            )
    utterances: Dict[str, List[Tuple[int, Dict[str, str]]]] = {}
    lines: Dict[str, int] = {}
    for line, cells in rows[1:]:
        row = dict(zip(header, cells))
        if len(cells) != len(header) or not row[layout.id].strip():
            file.problems.append(
                f"{file.path}:{line}: the row has {len(cells)} cells, expected "
                f"{len(header)} with a name in {layout.id}; correct it."
            )
            continue
        utt_id = decode_name(row[layout.id])
        if layout.votes or not _is_second(file, line, utt_id, lines):
            utterances.setdefault(utt_id, []).append((line, row))
    further = [name for name in header if name not in layout[:-1]]
    for utt_id, votes in utterances.items():
        file.records.append(_table_record(file, layout, further, utt_id, votes))


def _known_layout(file: ScoreFile, header: List[str], metric: Optional[str]) -> _Layout:
    """Return the columns of SHEET's and of our own files."""
    if file.format == "distilmos-csv":
        layout = _Layout("id", "score", "path", "system", "error")
    elif file.format == "sheet-results":
        layout = _Layout("sample_id", "answer", "wav_path", "system_id")
    else:
        votes = "score" in header
        layout = _Layout(
            "sample_id",
            "score" if votes else "avg_score",
            "wav_path",
            "system_id",
            listener="listener_id",
            listener_idx="listener_idx",
            votes=votes,
        )
    if metric is None or (metric == DEFAULT_METRIC and metric not in header):
        return layout
    if layout.votes and metric != "score":
        raise DataError(
            f"{file.path} has the listeners' votes in the column score, and --metric "
            f"is {metric}; leave --metric out or add --from csv with --id-column."
        )
    file.metric = DEFAULT_METRIC if metric == layout.score else metric
    return layout._replace(score=metric)


def _has_heading(
    file: ScoreFile, rows: List[Tuple[int, List[str]]], named: Mapping[str, str]
) -> bool:
    """Tell whether the first row of a csv or tsv names the columns."""
    line, first = rows[0]
    header = [cell.strip() for cell in first]
    if {"id", "score"} <= set(header) or set(named.values()) & set(header):
        return True
    score = named.get("score", "2")
    if not all(name.isdecimal() for name in [*named.values(), score]):
        return True  # and a column is missing
    at = int(score) - 1
    headed = len(rows) > 1 and at < len(first) and _is_heading(first[at])
    if headed:
        file.notes.append(_heading_note(file, line, ",".join(first)))
    return headed


def _plain_layout(
    file: ScoreFile,
    header: List[str],
    metric: Optional[str],
    named: Mapping[str, str],
) -> _Layout:
    """Return the columns of a csv or tsv."""
    two = len(header) == 2
    if metric is not None:
        file.metric = metric
        if "score" not in named and (metric in header or not two):
            if metric != DEFAULT_METRIC or metric in header:
                named = {**named, "score": metric}

    def column(name: str, at: int = -1) -> Optional[str]:
        wanted = named.get(name)
        if wanted is None:
            return name if name in header else header[at] if two and at >= 0 else None
        if wanted not in header and wanted.isdecimal() and 1 <= int(wanted):
            wanted = dict(enumerate(header, 1)).get(int(wanted), wanted)
        if wanted not in header:
            raise DataError(
                f"{file.path} has no column {wanted}, expected one of its "
                f"{_list(header)} or a number up to {len(header)}; correct "
                f"--{name}-column{' or --metric' if name == 'score' else ''}."
            )
        return wanted

    listener = column("listener") if "listener" in named else None
    return _Layout(
        column("id", 0) or "id",
        column("score", 1) or "score",
        system=column("system"),
        listener=listener,
        votes=listener is not None,
    )


def _table_record(
    file: ScoreFile,
    layout: _Layout,
    further: Sequence[str],
    utt_id: str,
    rows: List[Tuple[int, Dict[str, str]]],
) -> Score:
    """Make an utterance of its row or of the rows of its votes."""
    line, first = rows[0]
    record = Score(utt_id)
    for field in ("path", "system", "error"):
        text = first.get(getattr(layout, field) or "", "")
        setattr(
            record, field, (text if field == "error" else decode_name(text)) or None
        )
    for name in further:
        if first[name]:
            number = _cell_number(first[name]) if name in _NUMERIC else first[name]
            record.extra[name] = (
                number if _is_number(number) else _cell_value(first[name])
            )
    for other, row in rows[1:]:
        for name in [layout.path, layout.system, *further]:
            if name in row and row[name] != first[name]:
                file.problems.append(
                    f"{_where(file, other, utt_id)} has the {name} {_short(row[name])}"
                    f" and line {line} has {_short(first[name])}, expected the same in "
                    "all rows of an utterance; the first was used, correct the line."
                )
    for at, row in rows:
        if not row[layout.score].strip():
            continue
        number = _cell_number(row[layout.score])
        score = _try_score(file, number, _where(file, at, utt_id))
        if score is None:
            continue
        listener = decode_name(row.get(layout.listener or "", "")) or None
        if layout.votes and (listener is not None or len(rows) > 1):
            index = row.get(layout.listener_idx or "") or None
            index = None if index is None else _cell_value(index)
            record.votes.append(Vote(score, listener, index))
        else:
            record.score = score
    if record.votes:
        record.score = _mean(record.votes)
    return record


# Writing


def write_scores(
    path: str,
    records: Sequence[Score],
    format: str,
    metric: str = DEFAULT_METRIC,
) -> List[str]:
    """Write labels or predictions, whole or not at all, in their order.

    Args:
        path: File to write.
        records: The utterances, every id once.
        format: Key of ``FORMATS``.
        metric: Name of the score, in formats that name it. In SHEET's results
            ``avg_score`` makes the score the label and not the answer.

    Returns:
        A sentence on each kind of thing that the format cannot hold.

    Raises:
        DataError: An id occurs twice, a score is not finite, or no utterance has a
            score where the format wants one; nothing was written. Or the file cannot
            be written.
    """
    path = os.fspath(path)
    losses: Dict[str, List[str]] = {}
    seen = set()
    kept = []
    for record in records:
        wrong = None
        if record.id in seen:
            wrong = "occurs a second time, expected every id once"
        elif record.score is not None and not math.isfinite(record.score):
            wrong = f"has the score {record.score}, expected a finite number"
        if wrong:
            raise DataError(
                f"{path}: utterance {shown(record.id)} {wrong}; nothing written."
            )
        seen.add(record.id)
        lost = _lost(record, format, metric)
        for what in lost:
            losses.setdefault(what, []).append(record.id)
        if "a missing score" not in lost:
            kept.append(_encoded(record, format, metric))
    if not kept:
        raise DataError(
            f"{path}: none of the {len(records)} utterances has a score, which {format}"
            " needs; nothing written."
        )
    with atomic_write(path) as file:
        if format in _JSON:
            _write_json(file, kept, format, metric)
        elif format == "voicemos":
            file.writelines(f"{r.id},{float(r.score)!r}\n" for r in kept)
        else:
            _write_table(file, kept, format, metric)
    return _notes(path, kept, format, metric, losses)


def _lost(record: Score, format: str, metric: str) -> List[str]:
    """Return what of an utterance the format cannot hold."""
    holds = FORMATS[format].holds
    if record.score is None and "unlabelled" not in holds:
        return ["a missing score"]
    lost = []
    for field in ("system", "path", "votes", "error"):
        if getattr(record, field) and field not in holds:
            lost.append(f"the {field}")
    if format == "voicemos" and record.system:
        match = _BVCC_NAME.fullmatch(record.id)
        if match and match["system"] == record.system:
            lost.remove("the system")
    if format == "sheet" and record.votes:
        if not math.isclose(_mean(record.votes), record.score, rel_tol=1e-9):
            lost.append("a score that is not the mean of the votes")
    lost += [
        f"the value {n}" for n in record.extra if not _fits(n, record, format, metric)
    ]
    return lost


def _fits(name: str, record: Score, format: str, metric: str) -> bool:
    """Tell whether the format can hold a further value."""
    value = record.extra[name]
    reserved = FORMATS[format].reserved
    if format == "sheet-results" and metric == "avg_score":
        reserved = (reserved - {"answer"}) | {"avg_score"}
    if "metric" in FORMATS[format].holds:
        reserved = reserved | {metric}
    if "extra" not in FORMATS[format].holds or name in reserved:
        return False
    if format == "metric-scp" and not (_is_number(value) or isinstance(value, str)):
        return False  # AQA's metrics are numbers, or names of categories
    if isinstance(value, str):
        return True
    try:
        # JSON has no infinity; a cell holds any text
        json.dumps(value, allow_nan=format not in _JSON)
    except (TypeError, ValueError):
        return False
    return True


def _encoded(record: Score, format: str, metric: str) -> Score:
    """Return what the format can hold of an utterance, its names encoded."""
    holds = FORMATS[format].holds

    def name(field: str) -> Optional[str]:
        value = getattr(record, field) if field in holds else None
        return encode_name(value, format) if value else None

    votes = record.votes if "votes" in holds else []
    return Score(
        encode_name(record.id, format),
        None if record.score is None else float(record.score),
        system=name("system"),
        path=name("path"),
        votes=[
            Vote(
                float(vote.score),
                None if vote.listener is None else encode_name(vote.listener, format),
                vote.listener_idx,
            )
            for vote in votes
        ],
        error=_printable(record.error) if record.error and "error" in holds else None,
        extra={
            name: value
            for name, value in record.extra.items()
            if _fits(name, record, format, metric)
        },
    )


def _notes(
    path: str,
    kept: Sequence[Score],
    format: str,
    metric: str,
    losses: Dict[str, List[str]],
) -> List[str]:
    values = [what for what in losses if what.startswith("the value ")]
    if len(values) > 1:
        ids = dict.fromkeys(utt_id for what in values for utt_id in losses[what])
        names = _list([what[len("the value ") :] for what in values])
        losses = {what: i for what, i in losses.items() if what not in values}
        losses[f"the values {names}"] = list(ids)
    notes = [
        f"{path}: {format} cannot hold {what} of {count(ids)}; left out."
        for what, ids in losses.items()
    ]
    nameless = "metric" not in FORMATS[format].holds
    if format == "sheet-results":
        nameless = metric not in ("avg_score", "answer")
    if nameless and metric != DEFAULT_METRIC:
        notes.append(f"{path}: {format} cannot hold the score's name, {metric}.")
    if format in ("sheet", "sheet-results"):
        for field, column in (("path", "wav_path"), ("system", "system_id")):
            without = [record.id for record in kept if not getattr(record, field)]
            if without:
                notes.append(
                    f"{path}: {column}, which SHEET wants, is empty for "
                    f"{count(without)}."
                )
    return notes


def _write_json(
    file: IO[str], records: Sequence[Score], format: str, metric: str
) -> None:
    systems = any(record.system for record in records)
    for record in records:
        score = {} if record.score is None else {metric: record.score}
        if format == "metric-scp":
            item = {**score, **record.extra}
        elif format == "versa":
            item = {"key": record.id, **score, **record.extra}
        else:
            item = {"id": record.id, "path": record.path, "score": record.score}
            item.update(error=record.error, **record.extra)
            if systems:
                item["system"] = record.system
            if record.votes:
                item["votes"] = [
                    [vote.listener, vote.score]
                    + ([] if vote.listener_idx is None else [vote.listener_idx])
                    for vote in record.votes
                ]
        text = json.dumps(item, allow_nan=False, ensure_ascii=False)
        if _UNSAFE_TEXT.search(text):
            text = json.dumps(item, allow_nan=False)
        file.write(f"{record.id} {text}\n" if format == "metric-scp" else f"{text}\n")


def _write_table(
    file: IO[str], records: Sequence[Score], format: str, metric: str
) -> None:
    extra = dict.fromkeys(name for record in records for name in record.extra)
    score = "score"
    if format == "sheet":
        header = ["wav_path", "score", "system_id", "sample_id"]
        votes = [vote for record in records for vote in record.votes]
        for name, field in (("listener_id", "listener"), ("listener_idx",) * 2):
            if any(getattr(vote, field) is not None for vote in votes):
                header.append(name)
    elif format == "sheet-results":
        score = "avg_score" if metric == "avg_score" else "answer"
        header = ["wav_path", "system_id", "sample_id"]
        header += [n for n in ("avg_score", "answer") if n == score or n in extra]
    else:
        ours = format == "distilmos-csv"
        header = ["id", "path", "score", "error"] if ours else ["id", "score"]
    header += [name for name in _PREDICT_ORDER if name in extra]
    header += [name for name in extra if name not in header]
    if not format.startswith("sheet") and any(record.system for record in records):
        header.append("system")
    fixed = [name for name in header if name not in extra or name == score]
    rows = [header]
    for record in records:
        row = {name: _cell_text(value) for name, value in record.extra.items()}
        values = {
            "id": record.id,
            "path": record.path,
            "error": record.error,
            "system": record.system,
            score: None if record.score is None else repr(record.score),
            "wav_path": record.path,
            "system_id": record.system,
            "sample_id": record.id,
        }
        for vote in record.votes or [None]:
            if vote is not None:
                idx = vote.listener_idx
                values.update(score=repr(vote.score), listener_id=vote.listener)
                values["listener_idx"] = None if idx is None else _cell_text(idx)
            row.update((name, values.get(name) or "") for name in fixed)
            rows.append([_printable(row.get(name, "")) for name in header])
    # some versions of csv leave a lone carriage return without quotes
    careful = any("\r" in cell for row in rows for cell in row)
    csv.writer(
        file,
        delimiter="\t" if format == "tsv" else ",",
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if careful else csv.QUOTE_MINIMAL,
    ).writerows(rows)
