# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import resource

import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.journal import Journal

ROWS = [{"id": "a", "x": 1.5}, {"id": "\udcff\n", "x": None}]
HEADER = {"model": "m", "channel": "mean"}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "new" / "j"
    journal = Journal(path, HEADER, resume=False)
    for row in ROWS:
        journal.add(row)
    # On file before it is closed.
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"format_version": 1, **HEADER}, *ROWS]
    journal.close()
    return path


def test_cut_off_anywhere(path):
    """Killed in the middle of a line: the whole rows stay, the next one is whole."""
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
        journal.close(remove=size == len(content))
    assert not path.exists()


def test_a_spoilt_line_is_left_out(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0\0\0\xff\n[1]\n" + lines[2])
    assert Journal(path, HEADER, resume=True).rows == ROWS[1:]


def test_without_resume_it_begins_anew(path):
    journal = Journal(path, {"model": "other"}, resume=False)
    assert journal.discarded and journal.rows == []
    journal.close()
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.parametrize("content", ['{"model": "n"}\n', "u1 3.5\n"])
def test_what_was_written_with_something_else_is_refused_and_kept(path, content):
    path.write_text(content)
    with pytest.raises(DataError, match="j was written with"):
        Journal(path, HEADER, resume=True)
    assert path.read_text() == content


def test_one_writer_at_a_time(path):
    journal = Journal(path, HEADER, resume=True)
    for resume in (True, False):
        with pytest.raises(DataError, match="being written by another process"):
            Journal(path, HEADER, resume=resume)
    journal.close()
    assert Journal(path, HEADER, resume=True).rows == ROWS


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
