# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Files of labels and predictions, read and written; ``FORMATS`` lists them.

A data directory is read as its metric.scp, with utt2sys and votes.scp. A name that a
format cannot hold (blanks in Kaldi's files, commas in answer.txt, what is not UTF-8) is
written as ``%:`` and the name with these characters percent-encoded (``%:a%20b`` for
``a b``); only names that begin with ``%:`` are decoded.
"""

import ast
import collections
import csv
import json
import math
import os
import re
import sys
import urllib.parse
import warnings
from statistics import fmean
from typing import IO, Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    read_scp,
    read_text,
)
from espnet2_distilmos.data.tables import (
    Table,
    as_names,
    find_column,
    parse_table,
    with_points,
)
from espnet2_distilmos.evaluation.join import (
    DEFAULT_METRIC,
    ESCAPE,
    Score,
    ScoreFile,
    Vote,
    decode_name,
    shown,
)

# Lone surrogates stand for bytes of a file name that are not UTF-8.
_UNSAFE_TEXT = r"[\x00\ud800-\udfff]"


class Format(NamedTuple):
    """A format of files of scores.

    Attributes:
        description: For messages.
        columns: Field of ``Score`` (or ``Vote``) by the column or key that holds it; a
            further value cannot have its name. The key "" is the id before an object.
            Where there is none for the score, its key is the metric's name.
        extra: Whether it can hold further values.
        unlabelled: Whether it can hold utterances without a score.
        unsafe: Regular expression of what a name cannot have.
    """

    description: str
    columns: Dict[str, str]
    extra: bool = True
    unlabelled: bool = True
    unsafe: str = _UNSAFE_TEXT


_OURS = {name: name for name in ("id", "path", "score", "error", "system")}
_PLAIN = {name: name for name in ("id", "path", "score", "system")}
_SHEET = {"system_id": "system", "sample_id": "id"}
_LISTENER = {"listener_id": "listener", "listener_idx": "listener_idx"}
FORMATS: Dict[str, Format] = {
    # aqa_inference.py and json_scp.py of ESPnet; {} is unlabelled
    "metric-scp": Format(
        'lines `utt {"mos": 3.5}`, ours and ESPnet AQA\'s',
        {"": "id"},
        unsafe=r"[\s\x00-\x1f\x7f\ud800-\udfff]",
    ),
    "distilmos-csv": Format(
        "what `distilmos predict` writes, id,path,score,error,...", _OURS
    ),
    # votes: [[listener, score], ...]
    "distilmos-jsonl": Format("the same as JSON lines", {**_OURS, "votes": "votes"}),
    # local/data_prep.py of SHEET's corpora: the order of columns varies, benchmark sets
    # have avg_score for score, and a row without listener_id holds the mean
    "sheet": Format(
        "SHEET's data CSV, wav_path,score,system_id,sample_id,..., a row a vote",
        {"wav_path": "path", "score": "score", **_SHEET, **_LISTENER},
        unlabelled=False,
    ),
    # utils/calculate_metrics.py of SHEET; answer is the prediction, avg_score the label
    "sheet-results": Format(
        "SHEET's results.csv, wav_path,system_id,sample_id,avg_score,answer,...",
        {"wav_path": "path", **_SHEET, "answer": "score"},
        unlabelled=False,
    ),
    # predict.py of the 2022 baseline, which quotes nothing
    "voicemos": Format(
        "answer.txt of the VoiceMOS challenges, lines `name,score`",
        {"id": "id", "score": "score"},
        extra=False,
        unlabelled=False,
        unsafe=r"[\x00-\x1f\x7f\ud800-\udfff,]|^[\"\s]|\s$",
    ),
    # JSON of VERSA's scorer_shared.py, or Python literals of its aggregate_results.py
    "versa": Format(
        'VERSA\'s JSON lines, {"key": "utt", "utmos": 3.5, ...}', {"key": "id"}
    ),
    "csv": Format("name,score; or a heading such as id,mos,system", _PLAIN),
    "tsv": Format("the same between tabs", _PLAIN),
}
# Columns of a plain table whose heading is not ours
_FILES = "wav wav_path path file filename".split()
_HEADINGS = {
    "id": ["id", "utt", "utt_id", *_FILES, "name", "sample_id"],
    "score": "score mos rating pred prediction label answer".split(),
    "system": "system system_id sys".split(),
}
_JSON = ("metric-scp", "versa", "distilmos-jsonl")

# A clip of BVCC names its system.
_BVCC_NAME = re.compile(r"(?P<system>sys[0-9a-f]+)-utt[0-9a-f]+(\.wav)?")
# Further values in their order. All but novel are numbers, however spelt (2.50).
_ORDER = ["avg_score", "answer", "logvar", "lower", "upper", "novelty", "novel"]
_ORDER += ["seconds"]
_NUMERIC = {"score", *_ORDER} - {"novel"}
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


# Names and values


def encode_name(name: str, format: str) -> str:
    """Return an id, system, path or listener as the format can hold it.

    >>> encode_name("a b", "metric-scp"), encode_name("a b", "csv")
    ('%:a%20b', 'a b')
    """
    unsafe = FORMATS[format].unsafe
    if not name.startswith(ESCAPE) and not re.search(unsafe, name):
        return name

    def quote(found: "re.Match") -> str:
        return urllib.parse.quote(found[0].encode("utf-8", "surrogateescape"), safe="")

    return ESCAPE + re.sub(f"%|{unsafe}", quote, name)


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(map(shown, names[:12])) + more


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell_value(text: str, is_number: bool = False) -> Any:
    """Return the JSON value of which a cell is the very spelling, else the text.

    Of a number any spelling will do.
    """
    if is_number and _NUMBER.fullmatch(text.strip()) and math.isfinite(float(text)):
        return float(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    # 1.50, 007 and 1e5 are not how JSON spells numbers here: they may be names
    return value if value is not None and _cell_text(value) == text else text


def _cell_text(value: Any) -> str:
    """Return a further value as a cell; ``_cell_value`` is the inverse."""
    if isinstance(value, str) and _cell_value(value) == value:
        return value
    # text that looks like a number or other JSON goes into quotes
    return json.dumps(value, ensure_ascii=False)


class _InfAndNan(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in ("inf", "nan"):
            return ast.copy_location(ast.Constant(float(node.id)), node)
        return node


def _json_or_literal(line: str) -> Any:
    """Parse JSON, or a Python dict of literals and bare inf and nan, else None."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():  # on strange escapes in strings
            warnings.simplefilter("ignore")
            tree = _InfAndNan().visit(ast.parse(line, mode="eval"))
        return ast.literal_eval(tree) if isinstance(tree.body, ast.Dict) else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


# Reading


def _read_text(path: str) -> str:
    try:
        text = read_text(path, newline="")
        if text.strip(" \t\r\n,;"):
            return text
        error: Exception = ValueError("it is empty")
    except (OSError, UnicodeDecodeError) as found:
        error = found
    raise DataError(
        f"{path} cannot be read ({error}), expected a file of scores in UTF-8; check "
        "path and encoding, or write it again."
    ) from error


def _parse(path: str, text: str, format: str) -> Table:
    """Take a table of one of the formats apart."""
    if format == "tsv":
        return parse_table(path, text, "\t")
    if format != "voicemos":
        return parse_table(path, text, ",;")
    table = parse_table(path, text, ",;", csv.QUOTE_NONE)
    if table.delimiter == ",":
        return table
    raise DataError(
        f"{path} has semicolons between name and score, expected commas as in "
        "answer.txt; write it so, or read it as csv."
    )


def _can_be_score(cell: str) -> bool:
    """Whether a cell is empty, a number or nan: no name of a column."""
    try:
        float(cell.strip().replace(",", ".") or "0")
    except ValueError:
        return False
    return True


def _has_heading(rows: Sequence[Sequence[str]]) -> bool:
    """Guess whether the first row of a table names the columns."""
    # Above row names there may be nothing; without a name there is no utterance.
    names = rows[0][not rows[0][0].strip() :]
    return len(rows) > 1 and not any(map(_can_be_score, names))


def _fitting_columns(header: Sequence[str]) -> Dict[str, List[str]]:
    """Return the columns that can be id, score, system and path by their names.

    In a heading with id and score, as ours, the very name is the only one that fits,
    but for a score beside a MOS or rating, which may both be the label. Beside an id
    the column of a file is the path; of several such columns none is but ``path``.
    """
    names = {name.lower() for name in header}
    ours = {"id", "score"} <= set(header) and not names & {"mos", "rating"}
    fitting = {
        field: (
            [field]
            if ours and field in header
            else [name for known in names for name in header if name.lower() == known]
        )
        for field, names in _HEADINGS.items()
    }
    files = [name for name in header if name.lower() in _FILES]
    ids = [name for name in fitting["id"] if name not in files]
    if len(ids) == 1 and ids[0].lower() != "name":  # which may be a speaker's
        fitting["id"] = ids
        fitting["path"] = (
            files if len(files) == 1 else [n for n in files if n == "path"]
        )
    return fitting


def _plain_format(table: Table) -> str:
    return "tsv" if table.delimiter == "\t" else "csv"


def detect_format(path: str) -> str:
    """Return the key in ``FORMATS`` of what a file or data directory holds.

    Raises:
        DataError: The file cannot be read, is empty, fits no format or more than one.
    """
    if os.path.isdir(path):
        return "metric-scp"
    text = _read_text(path)
    first = text.strip().split("\n")[0].strip()
    item = _json_or_literal(first)
    if isinstance(item, dict):
        ours, versas = {"id", "score"} <= set(item), "key" in item
        if ours != versas:
            return "distilmos-jsonl" if ours else "versa"
    elif re.fullmatch(r"\S+\s+\{.*\}", first):
        return "metric-scp"
    else:
        table = parse_table(path, text)
        plain = _plain_format(table)
        rows = [cells for _, cells in table.rows[:2]]
        names = set(as_names(rows[0]))
        if plain == "csv" and {"wav_path", "sample_id"} <= names:
            if names & {"score", "answer", "avg_score"}:
                is_results = "answer" in names and "score" not in names
                return "sheet-results" if is_results else "sheet"
        if plain == "csv" and {"id", "path", "score", "error"} <= names:
            return "distilmos-csv"
        fitting = _fitting_columns(list(names))
        if fitting["id"] and fitting["score"]:
            return plain
        headed = _has_heading(rows)
        if len(rows[headed]) == len(rows[0]) == 2 and _can_be_score(rows[headed][1]):
            quoted = any(line.startswith('"') for line in text.split("\n"))
            is_answer = table.delimiter == "," and not headed and not quoted
            return "voicemos" if is_answer else plain
    formats = "; ".join(f"{name} ({f.description})" for name, f in FORMATS.items())
    raise DataError(
        f"{path}: the format is not clear, the first line is {_short(first)}, expected "
        f"one of: {formats}; name the format, or correct the heading."
    )


class _Row(NamedTuple):
    """A row of a table or an object of JSON lines."""

    line: int
    id: str
    fields: Dict[str, Any]  # of Score or Vote
    extra: Dict[str, Any]


def read_scores(
    path: str,
    format: Optional[str] = None,
    metric: Optional[str] = None,
    columns: Optional[Mapping[str, Any]] = None,
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
    directory = os.path.isdir(path) and format in (None, "metric-scp")
    if directory:
        path, format = os.path.join(path, "metric.scp"), "metric-scp"
    text = _read_text(path)
    if format is None:
        plain = _plain_format(parse_table(path, text)) if named else None
        format = plain or detect_format(path)
    allowed = ["csv", "tsv"] if named else list(FORMATS)
    if format not in allowed:
        raise DataError(
            f"{path} cannot be read as {format}{' with named columns' if named else ''}"
            f", expected {_list(allowed)}; name one of these."
        )
    file = ScoreFile(path=path, format=format)
    if format in _JSON:
        rows, layout = _read_objects(file, text, metric)
    else:
        rows, layout = _read_table(file, text, metric, named)
    columns = {column: name for name, column in layout.items()}
    utterances: Dict[str, List[_Row]] = {}
    for line, utt_id, values in rows:
        row = _Row(line, decode_name(utt_id), {}, {})
        for name, value in values.items():
            if name in columns:
                row.fields[columns[name]] = value
            elif value is not None:
                row.extra[name] = value
        known = utterances.setdefault(row.id, [])
        if known and "listener" not in layout:
            file.problems.append(
                f"{path}:{row.line}: the id {shown(row.id)} occurs a second time, "
                f"expected every id once; line {known[0].line} was used."
            )
        else:
            known.append(row)
    file.records = [_record(file, rows) for rows in utterances.values()]
    if not file.records:
        raise DataError(
            f"{path} has no utterance that could be read, expected at least one. "
            + " ".join(file.problems[:1])
        )
    if format == "voicemos":
        # only where all names are BVCC's: elsewhere a dash means something else
        matches = [_BVCC_NAME.fullmatch(record.id) for record in file.records]
        for record, found in zip(file.records, matches if all(matches) else []):
            record.system = found["system"]
    if directory:
        _add_data_directory(file)
    return file


def _choose_score(
    file: ScoreFile, names: Sequence[str], own: Optional[str], metric: Optional[str]
) -> str:
    """Return the column or key of the score, and set ``file.metric``.

    ``own`` is what the format calls the score, None where it names the metric.
    """
    if own is not None and (
        metric in (None, own) or (metric == DEFAULT_METRIC and metric not in names)
    ):
        return own
    if metric is None and (len(names) < 2 or DEFAULT_METRIC in names):
        metric = names[0] if len(names) == 1 else DEFAULT_METRIC
    elif metric not in names:
        raise DataError(
            f"{file.path} has the metrics or columns {_list(names) or 'none'}, "
            f"expected {metric or 'mos or a single one'}; name the metric."
        )
    file.metric = metric
    return metric


def _layout(format: str) -> Dict[str, str]:
    """Return column or key by the field that it holds."""
    return {field: column for column, field in FORMATS[format].columns.items()}


# Line, id and values by column or key of each row, and column by field
_Rows = Tuple[List[Tuple[int, str, Dict[str, Any]]], Dict[str, str]]


def _read_objects(file: ScoreFile, text: str, metric: Optional[str]) -> _Rows:
    """Read the lines of metric.scp, VERSA's and our JSON lines."""
    layout = _layout(file.format)
    key = layout["id"]
    rows = []
    for line, content in enumerate(text.split("\n"), 1):
        content = content.strip()
        if not content:
            continue
        try:
            if key:
                item = _json_or_literal(content)
                utt_id = item.pop(key)
            else:
                utt_id, value = content.split(maxsplit=1)
                item = json.loads(value)
            for name in (utt_id, *item.keys()):
                name.encode("utf-8", "surrogateescape")  # half a surrogate is no text
            rows.append((line, utt_id, item))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            example = f'{{"{key}": "utt1", ...}}' if key else 'utt1 {"mos": 3.5}'
            file.problems.append(
                f"{file.path}:{line}: the line is {_short(content)}, expected one such "
                f"as {example}; correct it."
            )
    numeric = {n: None for *_, item in rows for n, v in item.items() if _is_number(v)}
    layout["score"] = _choose_score(file, list(numeric), layout.get("score"), metric)
    return rows, layout


def _read_table(
    file: ScoreFile, text: str, metric: Optional[str], named: Mapping[str, str]
) -> _Rows:
    """Read CSV, TSV and answer.txt of any owner."""
    table = _parse(file.path, text, file.format)
    line, first = table.rows[0]
    header, body = as_names(first), table.rows[1:]
    layout = _layout(file.format)
    if file.format in ("csv", "tsv", "voicemos"):
        layout.pop("path", None)
        by_name = not all(column.isdecimal() for column in named.values())
        fitting = _fitting_columns(header)
        if not by_name and not (fitting["id"] and fitting["score"]):
            if _has_heading([cells for _, cells in table.rows]):
                row = _short(",".join(first))
                file.notes.append(f"{file.path}:{line}: {row} was taken as heading.")
            else:
                header, body = [str(i + 1) for i in range(len(first))], table.rows
                fitting = {}
        for field, fits in fitting.items():
            if field in named or (field == "score" and metric in header):
                continue
            if len(fits) == 1:
                layout[field] = fits[0]
            elif fits and len(header) > 2:
                raise DataError(
                    f"{file.path} has the columns {_list(fits)}, expected only one "
                    f"that can hold the {field}; rename the others in the heading."
                )
        for name, column in named.items():
            place = find_column(file.path, header, column)
            if column.isdecimal() and 1 <= int(column) <= len(header):
                place = int(column) - 1
                header[place] = header[place] or column
            layout[name] = column if place is None else header[place]
        others = [layout["id"], layout["score"], *(layout[name] for name in named)]
        if layout.get("path") in others or len(header) == 2:
            layout.pop("path", None)
        if len(header) == 2 and not header[0]:
            header[0] = layout["id"]  # the row names are all that there is
        rest = [name for name in header if name not in layout.values()]
        for name in ("id", "score") if len(header) == 2 else ():
            if name not in named and layout[name] not in header and rest:
                layout[name] = rest.pop(0)
        if len(header) == 2 or "score" in named:  # the caller may name the only score
            file.metric, metric = metric or DEFAULT_METRIC, None
    elif file.format == "sheet" and "score" not in header:  # a benchmark's means
        layout["score"] = "avg_score"
        del layout["listener"]
    # the column score of SHEET's data has votes, and no other column can be the score
    names = ["score"] if file.format == "sheet" and "listener" in layout else header
    layout["score"] = _choose_score(file, names, layout["score"], metric)
    needed = [layout[name] for name in ("id", "score", *named)]
    wrong = [name for name in needed if name not in header]
    wrong += [name for name in header if name and header.count(name) > 1]
    if wrong:
        raise DataError(
            f"{file.path} has the columns {_list(header)}, expected {wrong[0]} once "
            "among them; correct the heading, or name the columns, as `distilmos "
            "convert` can."
        )
    if body is not table.rows:
        table.names()  # refuses what has none
    numeric = {layout["score"], *_NUMERIC}
    whole = [cells for _, cells in body if len(cells) == len(header)]
    for place in (i for i, name in enumerate(header) if name in numeric):
        column = with_points([cells[place] for cells in whole], table.delimiter)
        for cells, cell in zip(whole, column):
            cells[place] = cell
    texts = [layout.get(name) for name in ("path", "system", "error", "listener")]
    rows = []
    for line, cells in body:
        values: Dict[str, Any] = {
            n: c for n, c in zip(header, cells) if n and c.strip()
        }
        utt_id = values.pop(layout["id"], "")
        if len(cells) != len(header) or not utt_id:
            file.problems.append(
                f"{file.path}:{line}: the row is {_short(','.join(cells))}, expected "
                f"{len(header)} cells and a name in {layout['id']}; correct it."
            )
            continue
        for name, cell in values.items():
            if name not in texts:
                is_number = name in _NUMERIC or name == layout["score"]
                values[name] = _cell_value(cell, is_number)
        utt_id = utt_id.strip() if file.format == "voicemos" else utt_id
        rows.append((line, utt_id, values))
    return rows, layout


def _record(file: ScoreFile, rows: Sequence[_Row]) -> Score:
    """Make an utterance of its row or object, or of the rows of its votes."""
    first = rows[0]
    record = Score(first.id, extra=first.extra)
    for row in rows:
        where = f"{file.path}:{row.line}: utterance {shown(row.id)}"
        one, other = (
            (r.extra, r.fields.get("path"), r.fields.get("system"))
            for r in (first, row)
        )
        if row is not first and one != other:
            file.problems.append(
                f"{where} differs from line {first.line} in more than the vote; the "
                "first was used, correct the line."
            )
        value = row.fields.get("score")
        # metric.scp says {} of the unlabelled; null is refused there
        is_null = file.format == "metric-scp" and "score" in row.fields
        score = _finite(file, value, where) if value is not None or is_null else None
        listener = row.fields.get("listener")
        if listener is None and len(rows) == 1:
            record.score = score
        elif score is not None:
            index = row.fields.get("listener_idx")
            record.votes.append(Vote(score, listener and decode_name(listener), index))
    for name in ("path", "system", "error"):
        value = first.fields.get(name) or None
        if isinstance(value, str):
            setattr(record, name, value if name == "error" else decode_name(value))
        elif value is not None:
            file.problems.append(
                f"{where} has the {name} {_short(value)}, expected text; correct it."
            )
    record.votes += _votes(file, where, first.fields.get("votes"))
    if record.score is None and record.votes:
        record.score = fmean(vote.score for vote in record.votes)
    return record


def _finite(file: ScoreFile, value: Any, where: str) -> Optional[float]:
    """Return a finite number, or note the problem."""
    if _is_number(value) and abs(value) <= sys.float_info.max:
        return float(value)
    file.problems.append(
        f"{where} has the score {_short(value)}, expected a finite number such as 3.5; "
        "correct it."
    )
    return None


def _votes(file: ScoreFile, where: str, value: Any) -> List[Vote]:
    """Parse ``[[listener, score], ...]``, with listener_idx third where known."""
    votes = []
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        is_vote = isinstance(item, list) and len(item) in (2, 3)
        if is_vote and (item[0] is None or (isinstance(item[0], str) and item[0])):
            score = _finite(file, item[1], where)
            if score is not None:
                votes.append(Vote(score, item[0] and decode_name(item[0]), *item[2:]))
        else:
            file.problems.append(
                f"{where} has the vote {_short(item)}, expected a pair such as "
                '["listener1", 4]; correct it.'
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
                where = f"{path}: utterance {shown(record.id)}"
                value = _json_or_literal(text)
                record.votes = _votes(file, where, text if value is None else value)


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
        Sentences on what the format cannot hold, with the number of utterances.

    Raises:
        DataError: An id occurs twice, a score is not finite, or no utterance has a
            score where the format wants one; nothing was written. Or the file cannot
            be written.
    """
    path = os.fspath(path)
    columns = dict(FORMATS[format].columns)
    if format == "sheet-results" and metric == "avg_score":
        del columns["answer"]
    if "score" not in columns.values():
        columns[metric] = "score"
    lost: Dict[str, int] = collections.Counter()
    seen = set()
    rows: List[Dict[str, Any]] = []
    for record in records:
        if record.id in seen or not math.isfinite(record.score or 0):
            raise DataError(
                f"{path}: utterance {shown(record.id)} occurs a second time or has the "
                f"score {record.score}, expected every id once and a finite number; "
                "nothing was written."
            )
        seen.add(record.id)
        if record.score is None and not FORMATS[format].unlabelled:
            lost["a missing score"] += 1
            continue
        of_one, lost_here = _rows(record, format, columns)
        rows += of_one
        lost.update(lost_here)
    if not rows:
        raise DataError(
            f"{path}: none of the {len(records)} utterances has a score, which {format}"
            " needs; nothing was written."
        )
    with atomic_write(path) as file:
        _write_rows(file, rows, format, columns)
    if metric != DEFAULT_METRIC and columns.get(metric) != "score":
        lost[f"the score's name {metric}"] = len(records)
    notes = []
    if lost:
        what = _list([f"{name} ({number})" for name, number in lost.items()])
        notes = [f"{path}: {format} cannot hold {what} of {len(records)} utterances."]
    for column in ("wav_path", "system_id"):
        if column in columns and not all(row[column] for row in rows):
            notes.append(f"{path}: {column}, which SHEET wants, has empty cells.")
    return notes


def _fits(name: str, value: Any, format: str, columns: Mapping[str, str]) -> bool:
    """Whether the format can hold a further value."""
    # a results.csv with a column score would be SHEET's data
    reserved = {*columns, "score"} if format == "sheet-results" else columns
    if not FORMATS[format].extra or name in reserved:
        return False
    if format == "metric-scp" and not (_is_number(value) or isinstance(value, str)):
        return False  # AQA's metrics are numbers, or names of categories
    try:
        # JSON has no infinity; a cell holds any text
        json.dumps(value, allow_nan=format not in _JSON)
    except (TypeError, ValueError):
        return False
    return True


def _rows(
    record: Score, format: str, columns: Mapping[str, str]
) -> Tuple[List[Dict[str, Any]], List[str]]:
    """Return values by column, in SHEET's data a dict a vote, and what is lost."""

    def name(text: Optional[str]) -> Optional[str]:
        return encode_name(text, format) if text else None

    votes = [(name(v.listener), float(v.score), v.listener_idx) for v in record.votes]
    fields: Dict[str, Any] = {
        "id": name(record.id),
        "score": None if record.score is None else float(record.score),
        "system": name(record.system),
        "path": name(record.path),
        "error": record.error or None,
        "votes": [v if v[2] is not None else v[:2] for v in votes] or None,
    }
    extra = {n: v for n, v in record.extra.items() if _fits(n, v, format, columns)}
    rows = []
    for vote in votes if format == "sheet" and votes else [None]:
        if vote is not None:
            fields["listener"], fields["score"], fields["listener_idx"] = vote
        rows.append({**{c: fields.get(name) for c, name in columns.items()}, **extra})

    held = {*columns.values(), *(["votes"] if format == "sheet" else [])}
    fields = {name: fields[name] for name in ("system", "path", "votes", "error")}
    lost = [f"the {name}" for name, v in fields.items() if v and name not in held]
    if format == "sheet" and votes:
        if not math.isclose(fmean(v[1] for v in votes), record.score, rel_tol=1e-9):
            lost.append("a score that is not the mean of the votes")
    return rows, lost + [n for n in record.extra if n not in extra]


def _write_rows(
    file: IO[str],
    rows: Sequence[Dict[str, Any]],
    format: str,
    columns: Mapping[str, str],
) -> None:
    if format == "voicemos":
        file.writelines(f"{row['id']},{row['score']!r}\n" for row in rows)
        return
    names = dict.fromkeys(name for row in rows for name in row)
    optional = ["system", "votes", "listener_id", "listener_idx"]
    for name in optional + ["path"] * (format in ("csv", "tsv")):
        if all(row.get(name) is None for row in rows):
            names.pop(name, None)
    last = ["system", "votes"]
    start = [name for name in columns if name not in (*_ORDER, *last)] + _ORDER
    further = [name for name in names if name not in (*start, *last)]
    header = [name for name in (*start, *further, *last) if name in names]
    if format in _JSON:
        # `distilmos predict` says null of what it lacks, the others leave it out
        keep_null = _OURS if format == "distilmos-jsonl" else ()
        for row in rows:
            item = {n: row.get(n) for n in header if n in keep_null or n in row}
            item = {n: v for n, v in item.items() if n in keep_null or v is not None}
            prefix = f"{item.pop('')} " if format == "metric-scp" else ""
            text = json.dumps(item, allow_nan=False, ensure_ascii=False)
            if re.search(_UNSAFE_TEXT, text):
                text = json.dumps(item, allow_nan=False)
            file.write(f"{prefix}{text}\n")
        return
    texts = {c for c, name in columns.items() if name != "listener_idx"}

    def cell(name: str, value: Any) -> str:
        if value is None:
            return ""
        is_text = name in texts and isinstance(value, str)
        text = (value if is_text else _cell_text(value)).replace("\0", "\\x00")
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    table = [header] + [[cell(n, row.get(n)) for n in header] for row in rows]
    # some versions of csv leave a lone carriage return without quotes
    careful = any("\r" in text for row in table for text in row)
    csv.writer(
        file,
        delimiter="\t" if format == "tsv" else ",",
        lineterminator="\n",
        quoting=csv.QUOTE_ALL if careful else csv.QUOTE_MINIMAL,
    ).writerows(table)
