# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Kaldi-style text files of a data directory, and atomic writing."""

import contextlib
import json
import math
import os
from typing import IO, Dict, Iterator, List, Mapping, Optional, Tuple, Union


class DataError(ValueError):
    """A data file that cannot be used or written; the message is one sentence."""


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
    values: Dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                fields = line.strip().split(maxsplit=1)
                if not fields:
                    continue
                utt_id = fields[0]
                if utt_id in values:
                    raise DataError(
                        f"{path}:{number}: the id {utt_id} occurs a second time, "
                        "expected every id once; remove one of the lines."
                    )
                if need_value and len(fields) == 1:
                    raise DataError(
                        f"{path}:{number}: the id {utt_id} has no value, "
                        "expected `id value`; complete or remove the line."
                    )
                values[utt_id] = fields[1] if len(fields) == 2 else ""
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}), "
            "expected lines of `id value`; write the file again."
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), expected a text file with "
            "lines of `id value`; run the stage that writes it."
        ) from error
    return values


def parse_metric(
    text: str,
    utt_id: str,
    source: str,
    score_range: Optional[Tuple[float, float]] = None,
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
    """
    example = '{"' + name + '": 3.5}'
    where = f"{source}: utterance {utt_id}"
    try:
        metrics = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} has the label {text!r}, which is not JSON, "
            f"expected an object such as {example}; correct the line."
        ) from error
    if not isinstance(metrics, dict):
        raise DataError(
            f"{where} has the label {text!r}, "
            f"expected a JSON object such as {example}; correct the line."
        )
    if name not in metrics:
        return None
    value = metrics[name]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        value = float(value) if is_number else math.nan
    except OverflowError:  # an integer of hundreds of digits
        value = math.inf
    if not math.isfinite(value):
        raise DataError(
            f"{where} has the {name} {json.dumps(metrics[name])}, expected a finite "
            "number, or {} for an unlabelled utterance; correct the line."
        )
    if score_range is not None and not score_range[0] <= value <= score_range[1]:
        raise DataError(
            f"{where} has the {name} {value:g}, expected a number from "
            f"{score_range[0]:g} to {score_range[1]:g}; correct the line "
            "or give the scale with --score_range."
        )
    return value


def parse_votes(
    text: str,
    utt_id: str,
    source: str,
    score_range: Optional[Tuple[float, float]] = None,
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
    low, high = score_range or (-math.inf, math.inf)
    try:
        votes = json.loads(text)
        good = isinstance(votes, list) and all(
            isinstance(vote, list)
            and len(vote) == 2
            and isinstance(vote[0], str)
            and vote[0] != ""
            and isinstance(vote[1], (int, float))
            and not isinstance(vote[1], bool)
            and math.isfinite(vote[1])
            and low <= vote[1] <= high
            for vote in votes
        )
    except (ValueError, OverflowError, RecursionError):
        good = False
    if not good:
        scale = "" if score_range is None else f" from {low:g} to {high:g}"
        raise DataError(
            f"{source}: utterance {utt_id} has {text}, expected a list of listeners "
            f'and their scores{scale} such as [["listener1", 4]]; correct the line.'
        )
    return [(listener, float(score)) for listener, score in votes]


def read_metric_scp(
    path: str,
    name: str = "mos",
    score_range: Optional[Tuple[float, float]] = None,
) -> Dict[str, Optional[float]]:
    """Read the labels of a set, lines such as ``utt1 {"mos": 3.5}``.

    Args:
        path: Text file.
        name: Key of the label in the JSON objects.
        score_range: Lowest and highest allowed label, or None for any number.

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
        file = open(temporary, mode, encoding=None if "b" in mode else "utf-8")
    except OSError as error:
        raise DataError(_cannot_write(path, error)) from error
    try:
        with file:
            yield file
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        # A full disk shows here; an error of the caller's own passes unchanged.
        if isinstance(error, OSError) and error.filename in (None, temporary, path):
            raise DataError(_cannot_write(path, error)) from error
        raise


def _cannot_write(path: str, error: OSError) -> str:
    return (
        f"{path} cannot be written ({error.strerror or error}), expected a writable "
        "directory with space left; choose another output directory."
    )


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


def read_score_range(ref_dir: str) -> Optional[Tuple[float, float]]:
    """Read the scale of a set, ``low up`` in its file score_range; None without one.

    Raises:
        DataError: The file cannot be read or does not hold two numbers.
    """
    path = os.path.join(ref_dir, "score_range")
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            text = " ".join(file.read().split())
        low, up = map(float, text.split())
        if not low < up:
            raise ValueError(f"found {text}")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} does not hold two numbers ({error}), expected the lowest and the "
            "highest label such as `0 100`; correct the file."
        ) from error
    return low, up
