# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import resource

import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.journal import Journal

ROWS = [{"id": "a", "x": 1.5}, {"id": "\udcff\n", "x": None}]
HEADER = {"model": "m", "channel": "mean"}


def write(path, rows=ROWS, header=HEADER):
    journal = Journal(path, header, resume=False)
    for row in rows:
        journal.add(row)
    journal.close()


def test_rows_are_on_file_before_it_is_closed(tmp_path):
    path = tmp_path / "new" / "j"
    journal = Journal(path, HEADER, resume=False)
    journal.add(ROWS[0])
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"format_version": 1, **HEADER},
        ROWS[0],
    ]
    journal.close(remove=True)
    assert not path.exists()


def test_resume_reads_the_rows_and_goes_on(tmp_path):
    path = tmp_path / "j"
    write(path)
    journal = Journal(path, HEADER, resume=True)
    assert journal.rows == ROWS and not journal.discarded
    journal.add({"id": "c"})
    journal.close()
    assert Journal(path, HEADER, resume=True).rows == [*ROWS, {"id": "c"}]


def test_cut_off_anywhere(tmp_path):
    """Killed in the middle of a line: the whole rows stay, the next one is whole."""
    path = tmp_path / "j"
    write(path)
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        journal = Journal(path, HEADER, resume=True)
        count = max(sum(end <= size for end in ends) - 1, 0)
        assert journal.rows == ROWS[:count]
        journal.add({"id": "next"})
        journal.close()
        journal = Journal(path, HEADER, resume=True)
        assert journal.rows == [*ROWS[:count], {"id": "next"}]
        journal.close()


def test_a_spoilt_line_is_left_out(tmp_path):
    path = tmp_path / "j"
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\0\xff\n[1]\n" + lines[2])
    assert Journal(path, HEADER, resume=True).rows == ROWS[1:]


def test_without_resume_it_begins_anew(tmp_path):
    path = tmp_path / "j"
    write(path)
    journal = Journal(path, {"model": "other"}, resume=False)
    assert journal.discarded and journal.rows == []
    journal.close()
    assert len(path.read_text().splitlines()) == 1


def test_what_differs_is_named(tmp_path):
    path = tmp_path / "j"
    write(path)
    with pytest.raises(DataError, match="written with channel mean, and now it is 1"):
        Journal(path, {"model": "m", "channel": "1"}, resume=True)
    path.write_text("u1 3.5\n")
    with pytest.raises(DataError, match="does not begin like a journal"):
        Journal(path, HEADER, resume=True)
    assert path.read_text() == "u1 3.5\n"


def test_one_writer_at_a_time(tmp_path):
    path = tmp_path / "j"
    journal = Journal(path, HEADER, resume=False)
    journal.add(ROWS[0])
    for resume in (True, False):
        with pytest.raises(DataError, match="being written by another process"):
            Journal(path, HEADER, resume=resume)
    journal.close()
    assert Journal(path, HEADER, resume=True).rows == ROWS[:1]


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        Journal(tmp_path / "file" / "j", HEADER, resume=False)
    journal = Journal(tmp_path / "j", HEADER, resume=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))  # as a full disk
    try:
        with pytest.raises(DataError, match="j cannot be written"):
            for row in ROWS * 10:
                journal.add(row)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
