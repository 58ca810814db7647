# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import random

import numpy as np
import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation.formats import (
    Score,
    ScoreFile,
    clusters_of,
    count,
    file_stem,
    join,
    match,
    shown,
    systems_of,
)


def score_file(path, *records):
    return ScoreFile(
        [r if isinstance(r, Score) else Score(*r) for r in records], path=path
    )


def matched(left, right):
    """The pairs of ids, and what was ambiguous."""
    left = [(i, None) if isinstance(i, str) else i for i in left]
    right = [(i, None) if isinstance(i, str) else i for i in right]
    pairs, ambiguous = match(left, right)
    return {left[i][0]: right[j][0] for i, j in pairs.items()}, ambiguous


def test_equal_ids_join_in_the_order_of_the_reference():
    generator = random.Random(0)
    true = {f"utt{k}": generator.uniform(1, 5) for k in range(50)}
    pred = {utt_id: 10 * value for utt_id, value in true.items()}
    shuffled = sorted(pred, key=lambda _: generator.random())
    reference = score_file("ref", *true.items())
    prediction = score_file("pred", *((i, pred[i]) for i in shuffled))
    joined = join(reference, prediction)
    assert joined.ids == list(true) and joined.problems == []
    assert joined.num_by_name == 0
    assert joined.reference.dtype == joined.prediction.dtype == np.float64
    np.testing.assert_array_equal(joined.reference, list(true.values()))
    np.testing.assert_array_equal(joined.prediction, 10 * joined.reference)
    assert joined.pairs[3] == (Score("utt3", true["utt3"]), Score("utt3", pred["utt3"]))


def test_what_either_side_lacks_is_listed():
    reference = score_file(
        "ref",
        *(("a", 1), ("b", None), ("c", 3), ("d", 4), ("e", 5)),
    )
    prediction = score_file(
        "pred", ("x", 9), ("e", 5.5), ("b", 2.5), ("c", None), ("a", 1.5), ("y", 8)
    )
    joined = join(reference, prediction)
    assert joined.ids == ["a", "e"]
    np.testing.assert_array_equal(joined.prediction, [1.5, 5.5])
    assert joined.missing == ["d"]
    assert joined.unscored == ["c"]
    assert joined.unlabelled == ["b"]
    assert joined.unknown == ["x", "y"]
    assert joined.ambiguous == []
    missing, unscored, unknown = joined.problems
    assert missing.startswith("pred has no prediction for 1 utterance (the first is d)")
    assert unscored.startswith("pred has no score for 1 utterance (the first is c)")
    assert unknown.startswith("pred has 2 utterances (the first is x) that ref does")


def test_systems_come_from_either_side():
    reference = score_file(
        "ref", Score("a", 1, system="s"), Score("b", 2), Score("c", 3)
    )
    prediction = score_file(
        "pred", Score("a", 1, system="t"), Score("b", 2, system="u")
    )
    assert join(reference, prediction).systems == ["s", "u"]


def test_nothing_to_join_is_refused():
    with pytest.raises(
        DataError, match="q has no prediction for 1 .* q has 1 utterance"
    ):
        join(score_file("p", ("a", 1)), score_file("q", ("b", 1)))
    with pytest.raises(DataError, match="p has no labelled utterance"):
        join(score_file("p", ("a", None)), score_file("q", ("a", 1)))


def test_file_names_join_where_ids_differ():
    # SHEET's BVCC against answer.txt
    reference = score_file(
        "ref",
        Score("utt1", 1, "sysA", "/w/sysA-utt1.wav"),
        Score("utt2", 2, "sysB", "/w/sysB-utt2.wav"),
    )
    prediction = score_file("pred", ("sysB-utt2", 2.5), ("sysA-utt1", 1.5))
    joined = join(reference, prediction)
    assert joined.ids == ["utt1", "utt2"] and joined.num_by_name == 2
    np.testing.assert_array_equal(joined.prediction, [1.5, 2.5])
    assert joined.problems == []


@pytest.mark.parametrize(
    "left, right, pairs, ambiguous",
    [
        (["foo.wav"], ["foo"], {"foo.wav": "foo"}, []),
        (["foo"], ["dir/foo.FLAC"], {"foo": "dir/foo.FLAC"}, []),
        # only the endings of audio files are endings
        (["sys.v1-utt"], ["sys"], {}, []),
        (["a.wav", "b"], ["b", "a"], {"a.wav": "a", "b": "b"}, []),
        # equal names in two folders stay apart
        (
            ["x/a.wav", "y/a.wav"],
            ["y/a", "x/a"],
            {"x/a.wav": "x/a", "y/a.wav": "y/a"},
            [],
        ),
        (["a"], ["x/a.wav", "y/a.wav"], {}, ["a", "x/a.wav", "y/a.wav"]),
        (["a.wav", "a.flac"], ["a"], {}, ["a.wav", "a.flac", "a"]),
        # although each side has but one left
        (["x/a", "z/a"], ["x/a", "y/a"], {"x/a": "x/a"}, ["z/a", "y/a"]),
        (["x/a"], ["x/a", "y/a"], {"x/a": "x/a"}, []),
        # an equal id is equal whatever else there is
        (["a", "a.wav"], ["a.wav", "a"], {"a": "a", "a.wav": "a.wav"}, []),
        # the path is narrower than the name
        (
            [("1", "/x/a.wav"), ("2", "/y/a.wav")],
            [("p", "/y//a.wav"), ("q", "/x/../x/a.wav")],
            {"1": "q", "2": "p"},
            [],
        ),
    ],
)
def test_match(left, right, pairs, ambiguous):
    assert matched(left, right) == (pairs, ambiguous)
    back, found = matched(right, left)
    assert back == {j: i for i, j in pairs.items()}
    assert sorted(found) == sorted(ambiguous)


def test_many_clips_of_one_name_do_not_multiply():
    # 300 systems of the same 20 sentences: 1.8 million pairs of equal file names
    ids = [f"sys{s}/{u}.wav" for s in range(300) for u in range(20)]
    pairs, ambiguous = matched(ids, [i[: -len(".wav")] for i in ids[1:]] + ["0"])
    assert pairs == {i: i[: -len(".wav")] for i in ids[1:]}
    assert ambiguous == [ids[0], "0"]


def test_ambiguous_names_are_a_problem():
    reference = score_file("ref", ("a", 1), ("b", 2))
    prediction = score_file("pred", ("x/a.wav", 1), ("y/a.wav", 1), ("b.wav", 3))
    joined = join(reference, prediction)
    assert joined.ids == ["b"]
    assert joined.ambiguous == ["a", "x/a.wav", "y/a.wav"]
    assert joined.missing == ["a"] and joined.unknown == ["x/a.wav", "y/a.wav"]
    assert "have 3 utterances (the first is a) whose file names fit more than one" in (
        joined.problems[0]
    )


def test_systems_from_a_file(tmp_path):
    (tmp_path / "utt2sys").write_text("a sys one\nb.wav B\n%:c%20d %:C%20D\nunused x\n")
    source = str(tmp_path / "utt2sys")
    systems, problems = systems_of(["b", "a", "c d", "a"], source)
    assert (systems, problems) == (["B", "sys one", "C D", "sys one"], [])
    systems, (problem,) = systems_of(["z", "a", "y"], source)
    assert systems == [None, "sys one", None]
    assert problem == (
        f"--systems {source} has no system for 2 utterances (the first is z), expected "
        "one for each; correct --systems."
    )
    (tmp_path / "utt2sys").write_text("x/a 1\ny/a 2\nb 3\n")
    systems, (problem,) = systems_of(["a", "b"], source)
    assert systems == [None, "3"] and "fit more than one line" in problem
    with pytest.raises(DataError, match="has no system for 1 .*, which is all"):
        systems_of(["z"], source)
    (tmp_path / "utt2sys").write_text("a 1\na 2\n")
    with pytest.raises(DataError, match="utt2sys:2: the id a occurs a second time"):
        systems_of(["a"], source)


def test_systems_from_an_expression():
    ids = ["sysA-utt1", "sysB-utt2.wav", "other"]
    systems, (problem,) = systems_of(ids, r"^(sys[^-]+)-")
    assert systems == ["sysA", "sysB", None]
    assert "has no system for 1 utterance (the first is other)" in problem
    named = r"(?P<take>\d+)_(?P<system>\w+)$|^(x)"
    assert systems_of(["1_a", "22_b"], named) == (["a", "b"], [])
    # an empty group is no system
    assert systems_of(["-a", "b-a"], "^([^-]*)-")[0] == [None, "b"]


@pytest.mark.parametrize(
    "expression, match",
    [
        ("sys(", r"neither a file nor a regular expression \(.*position 3\)"),
        ("data/test/utt2sys", "no file, and as a regular expression it has 0 groups"),
        ("(a)(b)", "has 2 groups, expected a file utt2sys"),
        (r"(\d)", "which is all"),
    ],
)
def test_expressions_that_cannot_be_used(expression, match):
    with pytest.raises(DataError, match=match):
        systems_of(["a", "b"], expression)


def test_clusters(tmp_path):
    (tmp_path / "utt2src").write_text("a sentence 1\nb sentence 2\n")
    source = str(tmp_path / "utt2src")
    assert clusters_of(["b", "a"], source) == (["sentence 2", "sentence 1"], [])
    clusters, (problem,) = clusters_of(["a", "x"], source)
    assert clusters == ["sentence 1", None] and problem.startswith("--cluster ")
    assert clusters_of(["m_s1", "f_s1"], "_(?P<source>s.)") == (["s1", "s1"], [])
    with pytest.raises(DataError, match="expected a file utt2src"):
        clusters_of(["a"], "a")


def test_phrases():
    assert count(["a"]) == "1 utterance (the first is a)"
    assert count(["a b", "c"]) == "2 utterances (the first is a b)"
    assert shown("two\nlines") == "'two\\nlines'" and shown("日本 語") == "日本 語"
    assert file_stem("/x/a.b.wav") == "a.b" and file_stem("a.b") == "a.b"
