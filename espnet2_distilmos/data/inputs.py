# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""From what a person names on the command line to audio files with unique ids."""

import collections
import csv
import glob
import os
import sys
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from espnet2_distilmos.data.audio import AUDIO_SUFFIXES, FOREIGN_SUFFIXES
from espnet2_distilmos.data.datadir import DataError, read_scp

_SUFFIXES = tuple(AUDIO_SUFFIXES | FOREIGN_SUFFIXES)
_TABLES = {".csv": ",", ".tsv": "\t"}
# What macOS writes beside each file on foreign disks, under the same suffix.
_RESOURCE_FORK = "._"


class InputFile(NamedTuple):
    """One thing to score.

    Attributes:
        id: unique; see :func:`collect_inputs`.
        path: as the system's calls take it; undecodable bytes are surrogates.
        error: why it cannot even be tried, or "".
    """

    id: str
    path: str
    error: str = ""


def collect_inputs(
    inputs: Sequence[str],
    stdin: Optional[BinaryIO] = None,
    null_separated: bool = False,
) -> List[InputFile]:
    """Find the audio files that ``inputs`` name, in a fixed order.

    ==================  =========================================  ====================
    input               files                                      id
    ==================  =========================================  ====================
    file                itself                                     path as given
    directory           all audio in it and below, sorted by name  path from there
    pattern (``*?[``)   what matches, sorted; ``**`` goes deep     as file or directory
    ``*.scp``           of each line ``id path``                   id of the line
    ``table.csv:col``   of each row (also .tsv, tab-separated);    path as written
                        relative to here, else to the table
    ``-``               of each line on standard input             path as given
    ==================  =========================================  ====================

    Links are followed. In directories, files whose name ends like audio are taken, also
    when libsndfile cannot decode them (.m4a): they are to get a sentence and not to be
    passed over. The same id and path twice is one input; several files with one id
    (equal names in two directories) get their paths as ids.

    Args:
        inputs: as on the command line.
        stdin: where ``-`` reads; the process's own by default.
        null_separated: what ``-`` reads is separated by NUL characters, not lines.

    Returns:
        The files; ids are unique.

    Raises:
        DataError: a list or table cannot be read, a pattern matches nothing, or there
            is no input at all.
    """
    found: List[InputFile] = []
    for name in inputs:
        if name == "-":
            found += _of_stdin(stdin or sys.stdin.buffer, null_separated)
        elif os.path.lexists(name):
            found += _of_path(name)
        elif _split_table(name):
            found += _of_table(*_split_table(name))
        elif glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise DataError(
                    f"{name} matches no file, expected a pattern of audio files; "
                    "correct the pattern."
                )
            for match in matches:
                found += _of_path(match)
        else:
            # Its sentence comes when it is opened, as for a file that vanishes.
            found += _of_path(name)
    if not found:
        raise DataError(
            f"no audio file was found in {' '.join(inputs) or 'nothing'}, expected "
            "files such as .wav or .flac; correct the input."
        )
    return _unique(found)


def _of_path(path: str) -> List[InputFile]:
    if os.path.isdir(path):
        return list(_of_directory(path))
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".scp":
        return [InputFile(utt_id, wav) for utt_id, wav in read_scp(path).items()]
    if suffix in _TABLES and os.path.isfile(path):
        raise DataError(
            f"{path} is a table, expected the column with the paths too, such as "
            f"{path}:{_columns(path)[0]}; its columns are {', '.join(_columns(path))}."
        )
    return [InputFile(path, path)]


def _is_audio_name(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES) and not name.startswith(_RESOURCE_FORK)


def _of_directory(top: str) -> Iterator[InputFile]:
    """Files in the order of their names, those of a directory before its own."""
    yield from _walk(top, top, set())


def _walk(top: str, folder: str, above: Set[Tuple[int, int]]) -> Iterator[InputFile]:
    try:
        status = os.stat(folder)
        names = sorted(os.listdir(folder))
    except OSError as error:
        reason = f"{folder} cannot be read ({error.strerror}), expected a directory"
        yield InputFile(os.path.relpath(folder, top), folder, f"{reason}; check it.")
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return  # A link to a directory that it lies in.
    folders = []
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            folders.append(name)
        elif _is_audio_name(name):
            yield InputFile(os.path.relpath(path, top), path)
    for name in folders:
        path = os.path.join(folder, name)
        count = 0
        for item in _walk(top, path, above | {here}):
            count += 1
            yield item
        if not count and _is_audio_name(name):
            # Named like a file, and nothing in it: its sentence is due.
            yield InputFile(os.path.relpath(path, top), path)


def _of_stdin(stdin: BinaryIO, null_separated: bool) -> List[InputFile]:
    content = stdin.read()
    if null_separated:
        lines = content.split(b"\0")
    else:
        lines = [line.rstrip(b"\r") for line in content.split(b"\n")]
    paths = [os.fsdecode(line) for line in lines if line]
    return [InputFile(path, path) for path in paths]


def _split_table(name: str) -> Optional[Tuple[str, str]]:
    """``table.csv:column`` in two, or None."""
    table, colon, column = name.rpartition(":")
    if colon and column and os.path.splitext(table)[1].lower() in _TABLES:
        return table, column
    return None


def _read_table(path: str) -> Iterator[List[str]]:
    delimiter = _TABLES[os.path.splitext(path)[1].lower()]
    try:
        with open(
            path, encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as file:
            yield from csv.reader(file, delimiter=delimiter)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), expected a table; correct "
            "the name."
        ) from error
    except csv.Error as error:
        raise DataError(
            f"{path} is not a table ({error}), expected rows of one length with the "
            "names of the columns first; write it again."
        ) from error


def _columns(path: str) -> List[str]:
    for row in _read_table(path):
        return row
    raise DataError(f"{path} is empty, expected a table; write it again.")


def _of_table(path: str, column: str) -> List[InputFile]:
    columns = _columns(path)
    if column not in columns:
        raise DataError(
            f"{path} has no column {column}, expected one of {', '.join(columns)}; "
            "correct the name after the colon."
        )
    place = columns.index(column)
    found = []
    for number, row in enumerate(_read_table(path)):
        if number == 0 or not row:
            continue
        if len(row) <= place or not row[place]:
            raise DataError(
                f"{path}: row {number} has nothing in the column {column}, expected "
                "the path of an audio file; complete or remove the row."
            )
        name = row[place]
        beside = os.path.join(os.path.dirname(path), name)
        there = not os.path.exists(name) and os.path.exists(beside)
        found.append(InputFile(name, beside if there else name))
    return found


def _unique(found: Sequence[InputFile]) -> List[InputFile]:
    # A dictionary keeps the order.
    items = list(dict.fromkeys(found))
    counts = collections.Counter(item.id for item in items)
    taken: Set[str] = set()
    unique = []
    for item in items:
        name = item.id if counts[item.id] == 1 else item.path
        number = 2
        candidate = name
        while candidate in taken:
            candidate = f"{name}#{number}"
            number += 1
        taken.add(candidate)
        unique.append(item._replace(id=candidate))
    return unique
