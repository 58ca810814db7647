# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv

import pandas as pd
import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.tables import find_column, parse_table, with_points


def cells(text, **options):
    return [row for _, row in parse_table("f", text, **options).rows]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("wav,mos\na.wav,3.05\n", [["wav", "mos"], ["a.wav", "3.05"]]),
        ("wav;mos\na.wav;3,05\n", [["wav", "mos"], ["a.wav", "3,05"]]),
        ("utt1;3,05\nutt2;4\n", [["utt1", "3,05"], ["utt2", "4"]]),
        # no line that is broken makes the comma the delimiter of the others
        ("a;3,05\nb;4,1;x\n", [["a", "3,05"], ["b", "4,1", "x"]]),
        ("a;b,3.0\nc;d,2\n", [["a;b", "3.0"], ["c;d", "2"]]),
        ("Name, first\tmos\nB, A\t3.5\n", [["Name, first", "mos"], ["B, A", "3.5"]]),
        ("wav;of 1, 2\na;3,5\n", [["wav", "of 1, 2"], ["a", "3,5"]]),
        ('"a;1",3\n"b,2",4\n', [["a;1", "3"], ["b,2", "4"]]),
        ('"wav", "mos"\n"a, b", "3"\n', [["wav", "mos"], ["a, b", "3"]]),
        ("x\r\r\ny\r\n", [["x"], ["y"]]),
        # as Excel is told
        ("sep=;\r\na,1;b\r\nc;3,5\r\n", [["a,1", "b"], ["c", "3,5"]]),
        ("", []),
    ],
)
def test_what_is_between_cells(text, expected):
    assert cells(text) == expected


@pytest.mark.parametrize("text", ["a;b,c\nd;e,f\n", "wav;x,mos\n", "a\tb;3,c\n"])
def test_a_delimiter_that_is_not_clear_is_refused(text):
    with pytest.raises(DataError, match="^f: its first line has a .* and a ") as error:
        parse_table("f", text)
    assert "\n" not in str(error.value)
    # unless the number of columns is known
    assert cells("a;b;c,d\n", num_columns=3) == [["a", "b", "c,d"]]


def test_tables_as_r_and_pandas_write_them():
    frame = pd.DataFrame({"wav": ['a, "b".wav', "c\nd.wav"], "mos": [3.05, 4.0]})
    quoted = frame.to_csv(quoting=csv.QUOTE_ALL)  # R's write.csv writes the same
    assert quoted.startswith('"","wav","mos"')
    for text in (quoted, frame.to_csv(), frame.to_csv(sep=";", decimal=",")):
        table = parse_table("f", text)
        assert table.names() == ["", "wav", "mos"]
        assert [line for line, _ in table.rows] == [1, 2, 3]
        columns = zip(*(row for _, row in table.rows[1:]))
        _, wav, mos = (with_points(column, table.delimiter) for column in columns)
        assert (wav, [float(x) for x in mos]) == ([*frame.wav], [*frame.mos])


def test_an_open_quote_is_one_sentence():
    with pytest.raises(DataError, match="^f:3: the row cannot be read .* closed"):
        parse_table("f", 'wav,mos\na,3\n"b,4\nc,5\n')


@pytest.mark.parametrize(
    "delimiter, column, expected",
    [
        (";", "3,05 4 ", "3.05 4 "),
        (";", "1,234 2,345", "1.234 2.345"),  # such spreadsheets write no other comma
        ("\t", "3,05 1,234", "3.05 1.234"),
        ("\t", "1,234 2,345", None),  # thousands, maybe
        (",", "3,05 4", None),  # quoted
        (";", "1.234 2,5", None),
        (";", "3,5 a,b", None),
        (";", "1,234,567 3,5", None),
        (";", "3.5 4", None),
    ],
)
def test_decimal_commas(delimiter, column, expected):
    found = with_points(column.split(" "), delimiter)
    assert found == (expected or column).split(" ")


def test_headings():
    names = ["mos", "MOS", "Wav", "é", "", "x", "X"]
    assert find_column("f", names, "mos") == 0 and find_column("f", names, "MOS") == 1
    assert find_column("f", names, "wav") == 2 and find_column("f", names, "y") is None
    assert find_column("f", names, "E\u0301") == 3
    for wanted, twice in (("Mos", names), ("x", [*names, "x"])):
        with pytest.raises(DataError, match=f"^f has the heading {wanted} 2 times"):
            find_column("f", twice, wanted)
    assert parse_table("f", "\" wav \",'mos'\n1,2\n").names() == ["wav", "mos"]
    assert parse_table("f", "wav,mos,,\na,3,,\n").names() == ["wav", "mos", "", ""]
    with pytest.raises(DataError, match="^f:3: column 3 has '05' and no heading"):
        parse_table("f", "wav,mos,\na,3,\nb,3,05\n").names()
