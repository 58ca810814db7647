# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Kaldi-style text files of a data directory, and atomic writing."""

import contextlib
import hashlib
import io
import json
import math
import os
import re
import sys
import urllib.parse
from typing import IO, Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

# Lowest and highest allowed score; None is any finite number.
ScoreRange = Optional[Tuple[float, float]]


class DataError(ValueError):
    """A data file that cannot be used or written; the message is one sentence."""


def read_text(path: str, errors: str = "strict", newline: Optional[str] = None) -> str:
    """Read a file of UTF-8 text that a person may have written.

    Byte order marks, which editors and spreadsheets write at the beginning, are no part
    of the text; of joined files they are at the beginning of other lines, too.

    Args:
        path: File to read.
        errors, newline: As of ``open``.

    Raises:
        OSError, UnicodeDecodeError: The file cannot be read, or is not UTF-8.
    """
    with open(path, encoding="utf-8", errors=errors, newline=newline) as file:
        return re.sub("^\ufeff+", "", file.read(), flags=re.MULTILINE)


def scan_scp(
    path: str, need_value: bool = True
) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Read a text file of lines ``id value`` with its faults; see :func:`read_scp`.

    Returns:
        Values by id, the first of an id that repeats; a sentence by faulty id.

    Raises:
        DataError: The file is missing or not UTF-8 text.
    """
    values: Dict[str, str] = {}
    faults: Dict[str, str] = {}
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or f"not UTF-8 text: {error}"
        raise DataError(
            f"{path} cannot be read ({reason}), expected a text file with lines of "
            "`id value`; run the stage that writes it."
        ) from error
    # Not splitlines: a line separator of Unicode may be in a name.
    for number, line in enumerate(io.StringIO(text), 1):
        fields = line.strip().split(maxsplit=1)
        if not fields:
            continue
        utt_id, value = fields[0], "".join(fields[1:])
        where = f"{path}:{number}: the id {utt_id}"
        if utt_id in values:
            faults[utt_id] = (
                f"{where} occurs a second time, expected every id once; remove or "
                "rename one."
            )
            continue
        values[utt_id] = value
        if need_value and not value:
            faults[utt_id] = (
                f"{where} has no value, expected `id value`; complete or remove the "
                "line."
            )
    return values, faults


def read_scp(path: str, need_value: bool = True) -> Dict[str, str]:
    """Read a text file of lines ``id value`` (wav.scp, utt2spk, utt2sys, ...).

    Args:
        path: UTF-8 text file. Blank lines are skipped.
        need_value: Refuse a line with an id and nothing after it.

    Returns:
        Values by id in the order of the file; a value may contain spaces.

    Raises:
        DataError: The file is missing or not UTF-8 text, an id occurs twice, or a
            value is missing; names the file and the line.
    """
    values, faults = scan_scp(path, need_value)
    for sentence in faults.values():
        raise DataError(sentence)
    return values


def _is_score(value: Any, score_range: ScoreRange) -> bool:
    low, high = score_range or (-sys.float_info.max, sys.float_info.max)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and low <= value <= high  # NaN is not


def _on_scale(score_range: ScoreRange) -> str:
    if score_range is None:
        return ""
    return f" from {score_range[0]:g} to {score_range[1]:g} (--score_range)"


def parse_metric(
    text: str,
    utt_id: str,
    source: str,
    score_range: ScoreRange = None,
    name: str = "mos",
) -> Optional[float]:
    """Parse the label of one utterance, a JSON object such as ``{"mos": 3.5}``.

    Args:
        text: The JSON object; ``{}``, or an object without ``name``, is unlabelled.
        utt_id: Utterance id, named in error messages.
        source: File (and line) of the label, named in error messages.
        score_range: Lowest and highest allowed label, or None for any number.
        name: Key of the label.

    Returns:
        The label, or None where the utterance has none.

    Raises:
        DataError: The text is not a JSON object, or the label is not a finite number
            within ``score_range``.

    Example:
        >>> parse_metric('{"mos": 3.5}', "utt1", "metric.scp", (1, 5))
        3.5
    """
    try:
        metrics = json.loads(text)
    except (ValueError, RecursionError):
        metrics = None
    if isinstance(metrics, dict):
        if name not in metrics:
            return None
        if _is_score(metrics[name], score_range):
            return float(metrics[name])
    raise DataError(
        f"{source}: utterance {utt_id} has the label {text!r}, expected a JSON object "
        f'such as {{"{name}": 3.5}} with a finite number{_on_scale(score_range)}, or '
        "{} for an unlabelled utterance; correct the line."
    )


def parse_votes(
    text: str, utt_id: str, source: str, score_range: ScoreRange = None
) -> List[Tuple[str, float]]:
    """Parse the votes of one utterance, a JSON list such as ``[["listener1", 4]]``.

    Args:
        text: The JSON list; ``[]`` is an utterance without votes.
        utt_id: Utterance id, named in error messages.
        source: File (and line) of the votes, named in error messages.
        score_range: Lowest and highest allowed score, or None for any number.

    Returns:
        Pairs of listener and score, in their order.

    Raises:
        DataError: The text is not a list of such pairs, or a score is not a finite
            number within ``score_range``.
    """
    try:
        votes = json.loads(text)
        good = isinstance(votes, list) and all(
            isinstance(vote, list)
            and len(vote) == 2
            and isinstance(vote[0], str)
            and vote[0] != ""
            and _is_score(vote[1], score_range)
            for vote in votes
        )
    except (ValueError, RecursionError):
        good = False
    if not good:
        raise DataError(
            f"{source}: utterance {utt_id} has the votes {text!r}, expected a list of "
            'listeners and their scores such as [["listener1", 4]], each a finite '
            f"number{_on_scale(score_range)}; correct the line."
        )
    return [(listener, float(score)) for listener, score in votes]


def read_metric_scp(
    path: str, name: str = "mos", score_range: ScoreRange = None
) -> Dict[str, Optional[float]]:
    """Read the labels of a set, lines such as ``utt1 {"mos": 3.5}``.

    Returns:
        Labels by utterance id in the order of the file; None where there is none.

    Raises:
        DataError: As ``read_scp`` and ``parse_metric``.
    """
    return {
        utt_id: parse_metric(text, utt_id, str(path), score_range, name)
        for utt_id, text in read_scp(path).items()
    }


@contextlib.contextmanager
def atomic_write(path: str, mode: str = "w") -> Iterator[IO]:
    """Open a file for writing that appears under its name only when it is whole.

    The data go to a file beside ``path`` (the directory is made if necessary), which
    replaces ``path`` when the block ends, and is removed when the block raises.

    Args:
        path: File to write.
        mode: ``"w"`` for UTF-8 text, ``"wb"`` for bytes.

    Yields:
        The open file.

    Raises:
        DataError: The directory or the file cannot be written.
    """
    path = os.fspath(path)
    directory = os.path.dirname(path) or "."
    # The process id keeps parallel jobs from writing one temporary file.
    temporary = os.path.join(directory, f".{os.path.basename(path)}.tmp{os.getpid()}")
    try:
        os.makedirs(directory, exist_ok=True)
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        # Of the file or a directory above it, or a full disk, which has no name; an
        # OSError of the caller's own passes unchanged.
        if isinstance(error, OSError) and temporary.startswith(error.filename or ""):
            raise DataError(
                f"{path} cannot be written ({error.strerror or error}), expected a "
                "writable directory with space left; choose another output directory."
            ) from error
        raise


def write_scp(
    path: str, values: Mapping[str, Union[str, int, float]], sort: bool = True
) -> None:
    """Write lines ``id value`` atomically.

    Args:
        path: File to write.
        values: Values by id.
        sort: Sort by id as the C locale does (UTF-8 bytes); else keep the order.

    Raises:
        DataError: The file cannot be written.
    """
    ids = sorted(values, key=lambda i: i.encode("utf-8")) if sort else values
    with atomic_write(path) as file:
        file.writelines(f"{utt_id} {values[utt_id]}\n" for utt_id in ids)


def path_of_id(folder: str, utt_id: str, suffix: str) -> str:
    """Return the file of an utterance in ``folder``; any id makes a safe name."""
    name = urllib.parse.quote(os.fsencode(utt_id), safe="")
    if name.startswith("."):  # ids such as ``..``
        name = "%2E" + name[1:]
    if len(name) > 200:
        # File systems take 255 bytes.
        digest = hashlib.sha256(os.fsencode(utt_id)).hexdigest()
        name = f"{name[:160]}-{digest[:32]}"
    return os.path.join(folder, name + suffix)


def write_metric_scp(
    path: str,
    scores: Mapping[str, Optional[float]],
    name: str = "mos",
    decimals: Optional[int] = None,
    sort: bool = True,
) -> None:
    """Write labels or predictions atomically, lines such as ``utt1 {"mos": 3.5}``.

    Args:
        path: File to write.
        scores: Finite numbers by utterance id; None is written as ``{}``.
        name: Key in the JSON objects.
        decimals: Fixed number of decimals, or None for the shortest exact form.
        sort: Sort by id as the C locale does; else keep the order.

    Raises:
        DataError: A score is not finite, or the file cannot be written.
    """
    lines = {}
    for utt_id, score in scores.items():
        if score is None:
            lines[utt_id] = "{}"
            continue
        score = float(score)
        if not math.isfinite(score):
            raise DataError(
                f"{path}: utterance {utt_id} has the score {score}, expected a "
                "finite number; nothing was written."
            )
        text = repr(score) if decimals is None else f"{score:.{decimals}f}"
        lines[utt_id] = "{" + json.dumps(name) + ": " + text + "}"
    write_scp(path, lines, sort=sort)


def read_score_range(ref_dir: str) -> ScoreRange:
    """Read the scale of a set, ``low up`` in its file score_range; None without one.

    Raises:
        DataError: The file cannot be read or does not hold two numbers.
    """
    path = os.path.join(ref_dir, "score_range")
    if not os.path.exists(path):
        return None
    try:
        low, up = map(float, read_text(path).split())
        if not low < up:
            raise ValueError(f"{low:g} is not below {up:g}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} does not hold two numbers ({error}), expected the lowest and the "
            "highest label such as `0 100`; correct the file."
        ) from error
    return low, up


def lock(file: IO) -> bool:
    """Take the lock of an open file, which ends when it is closed or its process dies.

    Returns:
        False when another process has it. True also where the file system has no
        locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
