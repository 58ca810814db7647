# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import os

import pytest

from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    parse_metric,
    parse_votes,
    read_metric_scp,
    read_score_range,
    read_scp,
    write_metric_scp,
    write_scp,
)


def test_read_scp_keeps_order_and_spaces(tmp_path):
    path = tmp_path / "wav.scp"
    path.write_text("b /x/a file.wav\n\na /y.wav \n", encoding="utf-8")
    assert list(read_scp(path).items()) == [("b", "/x/a file.wav"), ("a", "/y.wav")]


def test_byte_order_marks_are_no_part_of_ids(tmp_path):
    path = tmp_path / "x"
    text = '\ufeffa {"mos": 3}\r\n\ufeffb x\u2028y\n'  # two files, joined
    path.write_text(text, encoding="utf-8", newline="")
    assert read_scp(path) == {"a": '{"mos": 3}', "b": "x\u2028y"}
    (tmp_path / "score_range").write_text("\ufeff0 100\n", encoding="utf-8")
    assert read_score_range(tmp_path) == (0, 100)
    path.write_text("\ufeffa x\na y\n", encoding="utf-8")
    with pytest.raises(DataError, match="the id a occurs a second time"):
        read_scp(path)


@pytest.mark.parametrize(
    "content, place",
    [(b"a x\nb y\na z\n", ":3: the id a"), (b"a x\nb\n", ":2: the id b")]
    + [(b"a \xff\xfe\n", ""), (None, "")],
)
def test_a_faulty_file_is_one_sentence(tmp_path, content, place):
    path = tmp_path / "utt2sys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_scp(path)
    assert str(error.value).startswith(f"{path}{place} ")
    assert "\n" not in str(error.value)


def test_a_value_may_be_missing_where_none_is_needed(tmp_path):
    (tmp_path / "ids").write_text("a x\nb\n")
    assert read_scp(tmp_path / "ids", need_value=False) == {"a": "x", "b": ""}


@pytest.mark.parametrize(
    "text, value",
    [
        ('{"mos": 3.5}', 3.5),
        ("{}", None),
        ('{"intelligibility": 2}', None),
        ('{"mos": 1, "x": "y"}', 1.0),
    ],
)
def test_parse_metric(text, value):
    assert parse_metric(text, "u", "metric.scp", (1, 5)) == value


def test_parse_votes():
    found = parse_votes('[["ann", 3], ["bob b.", 4.5]]', "u", "votes.scp", (1, 5))
    assert found == [("ann", 3.0), ("bob b.", 4.5)]
    assert parse_votes("[]", "u", "votes.scp") == []


@pytest.mark.parametrize(
    "score", ['"3.5"', "null", "true", "NaN", "Infinity", "1" + "0" * 400, "0.99", "50"]
)
def test_bad_scores_are_one_sentence(score):
    for parse, text in (
        (parse_metric, f'{{"mos": {score}}}'),
        (parse_votes, f'[["ann", {score}]]'),
    ):
        with pytest.raises(DataError, match="from 1 to 5") as error:
            parse(text, "utt7", "data/file:3", (1, 5))
        assert str(error.value).startswith("data/file:3: utterance utt7 has ")
        assert "\n" not in str(error.value)
        if score == "50":  # without a scale any finite number passes
            parse(text, "utt7", "data/file:3")


@pytest.mark.parametrize(
    "parse, text",
    [(parse_metric, text) for text in ("3.5x", "3.5", "[3.5]")]
    + [(parse_votes, text) for text in ("", "{}", "ann 3", '["ann", 3]', '[["ann"]]')]
    + [(parse_votes, text) for text in ('[["", 3]]', "[[1, 3]]", "[" * 100000)],
)
def test_what_is_no_label_or_list_of_votes(parse, text):
    with pytest.raises(DataError, match="^file: utterance utt7 has "):
        parse(text, "utt7", "file")


def test_write_scp_sorts_as_the_c_locale(tmp_path):
    path = tmp_path / "new" / "x"
    values = {"b": 1, "B": 2, "ä": 3, "a-1": 4, "a1": 5}
    write_scp(path, values)
    assert list(read_scp(path)) == ["B", "a-1", "a1", "b", "ä"]
    write_scp(path, values, sort=False)
    assert list(read_scp(path)) == list(values)


def test_metric_round_trip(tmp_path):
    path = tmp_path / "metric.scp"
    scores = {"a": 1 / 3, "b": None, "c": 5}
    write_metric_scp(path, scores)
    assert read_metric_scp(path) == scores
    write_metric_scp(path, scores, decimals=6)
    assert path.read_text() == 'a {"mos": 0.333333}\nb {}\nc {"mos": 5.000000}\n'


def test_writing_nan_is_refused_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "metric.scp"
    write_metric_scp(path, {"a": 1.0})
    with pytest.raises(DataError, match="utterance b has the score nan"):
        write_metric_scp(path, {"a": 2.0, "b": float("nan")})
    assert read_metric_scp(path) == {"a": 1.0}
    assert os.listdir(tmp_path) == ["metric.scp"]


def test_atomic_write_leaves_whole_files_or_none(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError):
        with atomic_write(path) as file:
            file.write("half of the n")
            raise KeyError
    assert path.read_text() == "old"
    with atomic_write(path, "wb") as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("path", ["file/below/x", "directory"])
def test_what_cannot_be_written_is_one_sentence(tmp_path, path):
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    with pytest.raises(DataError, match=f"{path} cannot be written"):
        write_scp(tmp_path / path, {"a": 1})
    assert sorted(os.listdir(tmp_path)) == ["directory", "file"]


def test_other_os_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic_write(tmp_path / "x"):
            open(tmp_path / "none")


def test_score_range(tmp_path):
    assert read_score_range(tmp_path) is None
    (tmp_path / "score_range").write_text("0 100\n")
    assert read_score_range(tmp_path) == (0, 100)
    (tmp_path / "score_range").write_text("5 1\n")
    with pytest.raises(DataError, match="score_range does not hold"):
        read_score_range(tmp_path)
