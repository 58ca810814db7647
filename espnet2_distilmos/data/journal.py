# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A record of finished work that outlives a killed process."""

import contextlib
import json
import os
from typing import Any, Dict, Iterable, List, Mapping

from espnet2_distilmos.data.datadir import DataError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None

FORMAT_VERSION = 1


class Journal:
    """Rows appended to a JSON-lines file as they are made.

    The first line says what made the rows. Each row is handed to the system as one
    line at once, so that a killed process loses at most the row that it was writing
    (a power cut can lose more; only whole lines are read again).

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
        self.discarded = False
        header = json.loads(json.dumps({"format_version": FORMAT_VERSION, **header}))
        try:
            os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
            self._file = open(self.path, "a+b")
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            self._lock()
            self._begin(header, resume)
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{self.path} is being written by another process, expected one at a "
                "time; wait for it or choose another output."
            ) from error
        except OSError:
            pass  # a file system without locks

    def _begin(self, header: Dict[str, Any], resume: bool) -> None:
        try:
            self._file.seek(0)
            content = self._file.read()
            end = content.rfind(b"\n") + 1
            lines = content[:end].split(b"\n")[:-1]
            if resume and lines:
                self._check_header(_parse(lines[0]), header)
                rows = (_parse(line) for line in lines[1:])
                self.rows = [row for row in rows if row is not None]
                # The cut-off last line goes; the next row must not be glued to it.
                self._file.truncate(end)
                return
            self.discarded = bool(content)
            self._file.truncate(0)
            self._write([header])
        except OSError as error:
            raise self._cannot_write(error) from error

    def _check_header(self, found: Any, expected: Dict[str, Any]) -> None:
        if found is None:
            raise DataError(
                f"{self.path} does not begin like a journal, expected that of an "
                "interrupted run; remove it or run without --resume."
            )
        for key in sorted({*found, *expected}):
            if found.get(key) != expected.get(key):
                raise DataError(
                    f"{self.path} was written with {key} {found.get(key)}, and now it "
                    f"is {expected.get(key)}; run as before, or without --resume."
                )

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._file.write(
            b"".join(json.dumps(row).encode("ascii") + b"\n" for row in rows)
        )
        self._file.flush()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row.

        Raises:
            DataError: the disk is full, say.
        """
        try:
            self._write([row])
        except OSError as error:
            raise self._cannot_write(error) from error

    def close(self, remove: bool = False) -> None:
        """Close the file; remove it when all that it was for is done."""
        if remove:
            # Still locked: nobody else has begun with it.
            with contextlib.suppress(OSError):
                os.remove(self.path)
        self._file.close()

    def _cannot_write(self, error: OSError) -> DataError:
        return DataError(
            f"{self.path} cannot be written ({error.strerror or error}), expected a "
            "writable directory with space left; choose another output."
        )


def _parse(line: bytes) -> Any:
    """The JSON object of a line; None where a power cut left something else."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
