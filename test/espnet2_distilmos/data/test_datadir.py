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
    read_scp,
    write_metric_scp,
    write_scp,
)


def test_read_scp_keeps_order_and_spaces(tmp_path):
    path = tmp_path / "wav.scp"
    path.write_text("b /x/a file.wav\n\na /y.wav \n", encoding="utf-8")
    assert list(read_scp(path).items()) == [("b", "/x/a file.wav"), ("a", "/y.wav")]


def test_duplicate_id_names_the_line(tmp_path):
    path = tmp_path / "wav.scp"
    path.write_text("a x\nb y\na z\n")
    with pytest.raises(DataError, match=r"wav\.scp:3: the id a occurs a second time"):
        read_scp(path)


def test_missing_value(tmp_path):
    path = tmp_path / "utt2sys"
    path.write_text("a x\nb\n")
    with pytest.raises(DataError, match="utt2sys:2: the id b has no value"):
        read_scp(path)
    assert read_scp(path, need_value=False) == {"a": "x", "b": ""}


def test_missing_file_directory_and_binary(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_scp(tmp_path / "none")
    with pytest.raises(DataError, match="cannot be read"):
        read_scp(tmp_path)
    (tmp_path / "binary").write_bytes(b"a \xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_scp(tmp_path / "binary")


@pytest.mark.parametrize(
    "text, value",
    [
        ('{"mos": 3.5}', 3.5),
        ('{"mos": 4}', 4.0),
        ("{}", None),
        ('{"intelligibility": 2}', None),
        ('{"mos": 1, "x": "y"}', 1.0),
    ],
)
def test_parse_metric(text, value):
    assert parse_metric(text, "u", "metric.scp", (1, 5)) == value


@pytest.mark.parametrize(
    "text, found",
    [
        ("3.5x", "not JSON"),
        ('{"mos": 3.5', "not JSON"),
        ("3.5", "expected a JSON object"),
        ("[3.5]", "expected a JSON object"),
        ('{"mos": "3.5"}', "finite number"),
        ('{"mos": null}', "finite number"),
        ('{"mos": true}', "finite number"),
        ('{"mos": NaN}', "finite number"),
        ('{"mos": Infinity}', "finite number"),
        ('{"mos": 1' + "0" * 400 + "}", "finite number"),
        ('{"mos": 0.99}', "the mos 0.99, expected a number from 1 to 5"),
        ('{"mos": 50}', "the mos 50, expected a number from 1 to 5"),
    ],
)
def test_bad_label_gives_one_sentence(tmp_path, text, found):
    path = tmp_path / "metric.scp"
    path.write_text(f"utt7 {text}\n")
    with pytest.raises(DataError, match=found) as error:
        read_metric_scp(path, score_range=(1, 5))
    message = str(error.value)
    assert "utt7" in message and str(path) in message and "\n" not in message


def test_without_range_any_finite_number_passes():
    assert parse_metric('{"mos": -70}', "u", "m") == -70


def test_parse_votes():
    found = parse_votes('[["ann", 3], ["bob b.", 4.5]]', "u", "votes.scp", (1, 5))
    assert found == [("ann", 3.0), ("bob b.", 4.5)]
    assert parse_votes("[]", "u", "votes.scp") == []
    assert parse_votes('[["ann", -70]]', "u", "votes.scp") == [("ann", -70.0)]


@pytest.mark.parametrize(
    "text",
    ["", "{}", "3", "ann 3", '["ann", 3]', '[["ann"]]', '[["", 3]]', "[[1, 3]]"]
    + ['[["ann", "3"]]', '[["ann", true]]', '[["ann", NaN]]', '[["ann", 6]]']
    + ['[["ann", 1' + "0" * 400 + "]]", "[" * 100000],
)
def test_bad_votes_give_one_sentence(text):
    with pytest.raises(DataError, match="from 1 to 5 such as") as error:
        parse_votes(text, "utt7", "data/votes.scp:3", (1, 5))
    assert str(error.value).startswith("data/votes.scp:3: utterance utt7 has ")


def test_write_scp_sorts_as_the_c_locale(tmp_path):
    path = tmp_path / "new" / "x"
    values = {"b": 1, "B": 2, "ä": 3, "a-1": 4, "a1": 5}
    write_scp(path, values)
    assert path.read_text("utf-8").split("\n")[:-1] == [
        "B 2",
        "a-1 4",
        "a1 5",
        "b 1",
        "ä 3",
    ]
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


def test_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_scp(tmp_path / "file" / "below" / "x", {"a": 1})


def test_target_that_is_a_directory(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_scp(tmp_path / "x", {"a": 1})
    assert os.listdir(tmp_path) == ["x"]


def test_other_os_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError):
        with atomic_write(tmp_path / "x"):
            open(tmp_path / "none")
