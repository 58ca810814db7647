# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""From what a person names on the command line to audio files with unique ids."""

import codecs
import collections
import glob
import os
import sys
from typing import BinaryIO, List, NamedTuple, Optional, Sequence, Set

from espnet2_distilmos.data.datadir import DataError, read_scp, read_text
from espnet2_distilmos.data.names import without_ending
from espnet2_distilmos.data.tables import find_column, parse_table

_TABLES = (".csv", ".tsv")
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
    """Find the audio files that arguments of a command line name, in a fixed order.

    ==================  =========================================  ====================
    input               files                                      id
    ==================  =========================================  ====================
    file                itself                                     path as given
    directory           all audio in it and below, sorted by name  path from there
    pattern (``*?[``)   what matches, sorted; ``**`` goes deep     as file or directory
    ``*.scp``           of each line ``id path``                   id of the line
    ``table.csv:col``   of each row (also .tsv);                   path as written
                        relative to here, else to the table
    ``-``               of each line on standard input             path as given
    ==================  =========================================  ====================

    Links are followed, but not to a directory that the link lies in. In directories,
    files whose name ends like audio are taken, also when libsndfile cannot decode them
    (.m4a): each gets a score or a sentence. The same id and path twice is one input;
    several files with one id (equal names in two directories) get their paths as ids.

    Args:
        inputs: as in the table.
        stdin: where ``-`` reads; the process's own by default.
        null_separated: what ``-`` reads is separated by NUL characters, not lines.

    Raises:
        DataError: a list or table cannot be read, or there is no input at all.
    """
    found: List[InputFile] = []
    for name in inputs:
        table, _, column = name.rpartition(":")
        if name == "-":
            found += _of_stdin(stdin or sys.stdin.buffer, null_separated)
        elif os.path.splitext(table)[1].lower() in _TABLES and not os.path.lexists(
            name
        ):
            found += _of_table(table, column)
        else:
            matches = [name]
            if glob.has_magic(name) and not os.path.lexists(name):
                matches = sorted(glob.glob(name, recursive=True)) or [name]
            # What is not there gets its sentence when it is opened.
            for match in matches:
                found += _of_path(match)
    if not found:
        raise DataError(
            f"no audio file was found in {' '.join(inputs) or 'nothing'}, expected "
            "files such as .wav or .flac; correct the input."
        )
    return _unique(found)


def _of_path(path: str) -> List[InputFile]:
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        return _of_directory(path)
    if suffix == ".scp":
        return [InputFile(utt_id, wav) for utt_id, wav in read_scp(path).items()]
    if suffix in _TABLES and os.path.isfile(path):
        return _of_table(path, "")
    return [InputFile(path, path)]


def _is_audio_name(name: str) -> bool:
    return without_ending(name) != name and not name.startswith(_RESOURCE_FORK)


def _of_directory(top: str) -> List[InputFile]:
    """Files in the order of their names, those of a directory before its own."""
    found = []

    def add(path: str, error: str = "") -> None:
        found.append(InputFile(os.path.relpath(path, top), path, error))

    def refuse(error: OSError) -> None:
        reason = f"{error.filename} cannot be read ({error.strerror})"
        add(error.filename, f"{reason}, expected a directory; check it.")

    for folder, folders, names in os.walk(top, onerror=refuse, followlinks=True):
        here = os.path.join(os.path.realpath(folder), "")
        real = {n: os.path.realpath(os.path.join(folder, n)) for n in folders}
        folders[:] = sorted(
            n for n in folders if not here.startswith(os.path.join(real[n], ""))
        )
        names = sorted(filter(_is_audio_name, names))
        for name in names:
            add(os.path.join(folder, name))
        if not names and not folders and _is_audio_name(os.path.basename(folder)):
            # Named like a file, and nothing in it: it gets a sentence.
            add(folder)
    return found


def _of_stdin(stdin: BinaryIO, null_separated: bool) -> List[InputFile]:
    content = stdin.read()
    if null_separated:
        lines = content.split(b"\0")
    else:
        lines = [line.rstrip(b"\r") for line in content.split(b"\n")]
    lines = [line.removeprefix(codecs.BOM_UTF8) for line in lines]
    paths = [os.fsdecode(line) for line in lines if line]
    return [InputFile(path, path) for path in paths]


def _of_table(path: str, column: str) -> List[InputFile]:
    try:
        table = parse_table(path, read_text(path, "surrogateescape", newline=""))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}), expected a table with "
            "the names of the columns first; correct the name or write the table again."
        ) from error
    names = table.names()
    place = find_column(path, names, column) if column else None
    if place is None:
        raise DataError(
            f"{path} has no column {column!r}, expected TABLE:COLUMN with one of its "
            f"columns {', '.join(names)}; correct the name after the colon."
        )
    found = []
    for line, row in table.rows[1:]:
        is_whole = len(row) == len(names)
        if not is_whole or not row[place]:
            fault = f"nothing in the column {column}"
            if not is_whole:
                fault = f"{len(row)} fields for {len(names)} columns"
            raise DataError(
                f"{path}:{line} has {fault}, expected the path of an audio file "
                "in its place; complete or remove the row."
            )
        name = row[place]
        beside = os.path.join(os.path.dirname(path), name)
        is_beside = not os.path.exists(name) and os.path.exists(beside)
        found.append(InputFile(name, beside if is_beside else name))
    return found


def _unique(found: Sequence[InputFile]) -> List[InputFile]:
    # A dictionary keeps the order.
    items = list(dict.fromkeys(found))
    counts = collections.Counter(item.id for item in items)
    taken: Set[str] = set()
    unique = []
    for item in items:
        name = item.id if counts[item.id] == 1 else item.path
        candidate, number = name, 1
        while candidate in taken:
            number += 1
            candidate = f"{name}#{number}"
        taken.add(candidate)
        unique.append(item._replace(id=candidate))
    return unique
