# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A record of finished work that outlives a killed process."""

import contextlib
import json
import os
from typing import Any, Dict, Iterator, List, Mapping

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.data.datadir import DataError, lock


class Journal:
    """Rows appended to a JSON-lines file as they are made.

    The first line says what made the rows. Each row is handed to the system as one
    line at once, so that a killed process loses at most the row that it was writing.

    Args:
        path: the file.
        header: what the rows depend on (model, options); JSON types.
        resume: go on with the rows that are there; else begin anew.

    Attributes:
        rows: those that were there.
        discarded: True when an older journal was there and was begun anew.

    Raises:
        DataError: the file cannot be written, another process writes it, or the rows
            that are there depend on something else.
    """

    def __init__(self, path: str, header: Mapping[str, Any], resume: bool):
        self.path = os.fspath(path)
        self.rows: List[Dict[str, Any]] = []
        with self._writing():
            os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
            self._file = open(self.path, "a+b")
        try:
            with self._writing():
                self._begin({"format_version": FORMAT_VERSION, **header}, resume)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, header: Dict[str, Any], resume: bool) -> None:
        if not lock(self._file):
            raise DataError(
                f"{self.path} is being written by another process, expected one at a "
                "time; wait for it or choose another output."
            )
        self._file.seek(0)
        content = self._file.read()
        # A cut-off last line goes; the next row must not be glued to it.
        whole = content[: content.rfind(b"\n") + 1]
        self.discarded = bool(content) and not (resume and whole)
        if not whole or not resume:
            self._file.truncate(0)
            self.add(header)
            return
        found, *rows = map(_parse, whole.splitlines())
        if found != json.loads(json.dumps(header)):
            raise DataError(
                f"{self.path} was written with {found}, expected {header}; run as "
                "before, or remove it to begin anew."
            )
        self.rows = [row for row in rows if row is not None]
        self._file.truncate(len(whole))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, or raise DataError: the disk is full, say."""
        with self._writing():
            self._file.write(json.dumps(row).encode("ascii") + b"\n")
            self._file.flush()

    def close(self, remove: bool = False) -> None:
        """Close the file; remove it when all that it was for is done."""
        if remove:
            # Still locked: nobody else has begun with it.
            with contextlib.suppress(OSError):
                os.remove(self.path)
        self._file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written ({error.strerror or error}), expected "
                "a writable directory with space left; choose another output."
            ) from error


def _parse(line: bytes) -> Any:
    """The JSON object of a line; None where a power cut left something else."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
