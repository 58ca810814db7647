# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Tables of any owner: what is between the cells, and which column is which.

Every table is read here (lists of the recipes, files of scores, lists of inputs), as
spreadsheets, R, pandas and people write them. What could be read in two ways is
refused: a label must not come from another column or line.
"""

import contextlib
import csv
import io
import itertools
import re
import unicodedata
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from espnet2_distilmos.data.datadir import DataError, read_text

DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}

_NUMBER = re.compile(r"[+-]?\d+([.,]\d+)?", re.ASCII)
_WITH_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
_WITH_POINT = re.compile(r"[+-]?\d+\.\d+", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)


class Table(NamedTuple):
    """A table as it is written.

    Attributes:
        path: For messages.
        delimiter: What is between the cells, a key of ``DELIMITERS``.
        rows: Number of the first line, and cells, of each row that is not blank, the
            heading too.
    """

    path: str
    delimiter: str
    rows: List[Tuple[int, List[str]]]

    def names(self) -> List[str]:
        """Return the headings in the first row; that of R's row names is empty.

        Raises:
            DataError: A later column without a heading is not empty.
        """
        names = as_names(self.rows[0][1] if self.rows else [])
        for place, name in enumerate(names):
            for line, cells in self.rows[1:] if place and not name else ():
                if place < len(cells) and cells[place].strip():
                    raise DataError(
                        f"{self.path}:{line}: column {place + 1} has {cells[place]!r} "
                        "and no heading, expected a heading for every column; add it, "
                        "or put cells with a comma of their own into quotes."
                    )
        return names


def as_names(cells: Sequence[str]) -> List[str]:
    """Return cells as headings, without quotes and blanks around."""
    return [cell.strip().strip("\"'").strip() for cell in cells]


def read_table(path: str, num_columns: int = 0) -> Table:
    """Read and parse a table; see :func:`parse_table`.

    Raises:
        DataError: As of :func:`parse_table`.
        OSError, UnicodeDecodeError: The file cannot be read, or is not UTF-8.
    """
    return parse_table(path, read_text(path, newline=""), num_columns=num_columns)


def parse_table(
    path: str,
    text: str,
    delimiters: Sequence[str] = tuple(DELIMITERS),
    quoting: int = csv.QUOTE_MINIMAL,
    num_columns: int = 0,
) -> Table:
    """Take a table apart.

    Args:
        path: For messages.
        text: Its content, line ends as they are.
        delimiters: What may be between the cells.
        quoting: Of the csv module; ``QUOTE_NONE`` for formats without quotes.
        num_columns: Number of columns where it is known.

    Raises:
        DataError: It is not clear what is between the cells, or a quote is not closed.
    """
    if named := re.match(r"sep=([,;\t])(?=[\r\n])", text):
        # The line that tells Excel. It stays as a blank one, for the numbers of lines.
        text, delimiters = text[named.end() :], [named[1]]
    delimiter = _find_delimiter(path, text, delimiters, quoting, num_columns)
    return Table(path, delimiter, list(_rows(path, text, delimiter, quoting)))


def _rows(
    path: str, text: str, delimiter: str, quoting: int
) -> Iterator[Tuple[int, List[str]]]:
    # People write `"a", "b"`; otherwise a blank belongs to the cell.
    is_spaced = re.search(f'{delimiter} +"', text.lstrip().partition("\n")[0])
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=quoting,
        strict=True,
        skipinitialspace=is_spaced is not None,
    )
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}:{line}: the row cannot be read ({error}), expected cells with "
            "every quote closed; correct the line."
        ) from error


def _find_delimiter(
    path: str, text: str, delimiters: Sequence[str], quoting: int, num_columns: int
) -> str:
    """Return what is between the cells: in most tables only one divides the first row.

    Otherwise it is one that makes numbers of some cells, and the comma not where it is
    inside of numbers; then one that divides all rows alike.
    """
    tables: Dict[str, List[List[str]]] = {}
    for delimiter in delimiters:
        with contextlib.suppress(DataError):
            _, first = next(_rows(path, text, delimiter, quoting), (0, []))
            if len(first) > 1:
                tables[delimiter] = [first]
    found = list(tables)
    if len(found) > 1:
        found = [d for d in found if len(tables[d][0]) == num_columns] or found
        for delimiter in found:
            with contextlib.suppress(DataError):
                rows = _rows(path, text, delimiter, quoting)
                tables[delimiter] = [cells for _, cells in rows]

        def having(pattern: "re.Pattern") -> List[str]:
            """Return what makes a cell of this kind."""
            cells = {d: map(str.strip, itertools.chain(*tables[d])) for d in found}
            return [d for d in found if any(map(pattern.fullmatch, cells[d]))]

        found = having(_NUMBER) or found
        found = having(_WITH_COMMA) or found
        even = [d for d in found if len({len(cells) for cells in tables[d]}) == 1]
        found = even if len(found) > 1 else found
    if len(found) != 1 and tables:
        names = " and ".join(DELIMITERS[delimiter] for delimiter in tables)
        raise DataError(
            f"{path}: its first line has {names}, each of which could be between the "
            "cells, expected one of them; write the table with tabs, or put cells that "
            "contain a delimiter into quotes."
        )
    return found[0] if found else delimiters[0]


def _as_read(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def find_column(path: str, names: Sequence[str], wanted: str) -> Optional[int]:
    """Return the place of a heading, else of the same in other case; None without one.

    Raises:
        DataError: It stands there more than once.
    """
    places = [place for place, name in enumerate(names) if name == wanted]
    if not places:
        same = _as_read(wanted)
        places = [place for place, name in enumerate(names) if _as_read(name) == same]
    if len(places) > 1:
        raise DataError(
            f"{path} has the heading {wanted} {len(places)} times, in the columns "
            f"{', '.join(str(place + 1) for place in places)}, expected it once; "
            "rename or remove the others."
        )
    return places[0] if places else None


def with_points(cells: Sequence[str], delimiter: str) -> List[str]:
    """Return a column, its decimal commas as points where nothing else is possible.

    It is the column that decides: nowhere a decimal point, a comma in numbers only,
    which in a table with tabs are not all like ``1,234``. Between commas a number with
    a comma stays as it is, and so is no number.
    """
    found = [cell.strip() for cell in cells if "," in cell]
    if (
        delimiter == ","
        or not all(map(_WITH_COMMA.fullmatch, found))
        or any(_WITH_POINT.fullmatch(cell.strip()) for cell in cells)
        or (delimiter != ";" and all(map(_THOUSANDS.fullmatch, found)))
    ):
        return list(cells)
    return [cell.replace(",", ".") for cell in cells]
