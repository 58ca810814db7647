# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import random

import numpy as np
import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation.join import (
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
    return ScoreFile([Score(*record) for record in records], path=path)


def test_labels_and_predictions_are_joined_in_the_order_of_the_reference():
    generator = random.Random(0)
    true = {f"utt{k}": generator.uniform(1, 5) for k in range(50)}
    shuffled = sorted(true, key=lambda _: generator.random())
    joined = join(
        score_file("ref", *true.items()),
        score_file("pred", *((i, 10 * true[i]) for i in shuffled)),
    )
    assert joined.ids == list(true) and joined.problems == []
    assert joined.reference.dtype == joined.prediction.dtype == np.float64
    np.testing.assert_array_equal(joined.reference, list(true.values()))
    np.testing.assert_array_equal(joined.prediction, 10 * joined.reference)
    assert [label.score for label, _ in joined.pairs] == list(true.values())
    assert [score.id for _, score in joined.pairs] == list(true)


def test_what_either_side_lacks_is_a_sentence():
    reference = score_file(
        "ref", ("a", 1, "s"), ("b", None), ("c", 3), ("d", 4), ("e", 5), ("f", 6)
    )
    prediction = score_file(
        *("pred", ("x", 9), ("e", 5.5, "u"), ("b", 2.5), ("c", None)),
        *(("a", 1.5, "t"), ("y", 8), ("1/f.wav", 6), ("2/f.wav", 6)),
    )
    joined = join(reference, prediction)
    assert joined.ids == ["a", "e"] and joined.unlabelled == ["b"]
    assert joined.systems == ["s", "u"]  # the reference's, else the prediction's
    np.testing.assert_array_equal(joined.prediction, [1.5, 5.5])
    ambiguous, missing, unscored, unknown = joined.problems
    assert "3 utterances (the first is f)" in ambiguous
    assert missing.startswith("pred has no prediction for 2 utterances (the first is d")
    assert unscored.startswith("pred has no score for 1 utterance (the first is c)")
    assert unknown.startswith("ref does not have 4 utterances (the first is x)")
    with pytest.raises(DataError, match="q has no prediction for 1 .* p does not have"):
        join(score_file("p", ("a", 1)), score_file("q", ("b", 1)))
    with pytest.raises(DataError, match="p has no labelled utterance"):
        join(score_file("p", ("a", None)), score_file("q", ("a", 1)))


@pytest.mark.parametrize(
    "left, right, expected",
    [
        ("foo.wav", "foo", "foo.wav=foo"),
        ("foo", "dir/foo.FLAC", "foo=dir/foo.FLAC"),
        # only the endings of audio files are endings
        ("sys.v1-utt", "sys", ""),
        # equal names in two folders stay apart
        ("x/a.wav y/a.wav", "y/a x/a", "x/a.wav=x/a y/a.wav=y/a"),
        ("a", "x/a.wav y/a.wav", "? a x/a.wav y/a.wav"),
        # although each side has but one left
        ("x/a z/a", "x/a y/a", "x/a=x/a ? z/a y/a"),
        # an equal id is equal whatever else there is
        ("a a.wav", "a.wav a", "a=a a.wav=a.wav"),
        # the path is narrower than the name
        ("1:/x/a.wav 2:/y/a.wav", "p:/y//a.wav q:/x/../x/a.wav", "1=q 2=p"),
        # SHEET's BVCC against answer.txt
        ("1:/w/A-1.wav 2:/w/B-2.wav", "B-2", "2=B-2"),
        # as people see them: slashes of Windows, endings of any kind and case, and
        # letters of any form; what only then is equal to two others matches none
        (r"\x\a.wav 2:D:\x\b.WAVE", "a x/b", r"\x\a.wav=a 2=x/b"),
        (r"1:D:\x\a.wav", "2:D:/x/a.WAV", "1=2"),
        ("a.nist b.rf64 c.voc d.snd e.WAV", "e d c b a.NIST", "*"),
        ("\u00e9 x/\u00e9.wav", "x/e\u0301.WAV e\u0301", "*"),
        (r"x\a x/a", "x/a.wav", r"? x\a x/a x/a.wav"),
        (
            "\u00e9.wav",
            "e\u0301.wav e\u0301.WAV",
            "? \u00e9.wav e\u0301.wav e\u0301.WAV",
        ),
        ("\u00e9 e\u0301", "e\u0301", "e\u0301=e\u0301"),
        # id and path of one fit two others
        ("a:b.wav", "x/a x/b", "? a x/a x/b"),
    ],
)
def test_match(left, right, expected):
    def items(text):
        return [
            (i, path or None) for i, _, path in (t.partition(":") for t in text.split())
        ]

    one, other = items(left), items(right)
    found, unclear = match(one, other)
    if expected == "*":  # all, in the other order
        ids = [[item[0] for item in side] for side in (one, other[::-1])]
        expected = " ".join(map("=".join, zip(*ids)))
    pairs, _, ambiguous = expected.partition("?")
    assert {f"{one[i][0]}={other[j][0]}" for i, j in found.items()} == set(
        pairs.split()
    )
    assert sorted(unclear) == sorted(ambiguous.split())
    turned, unclear = match(other, one)
    assert {i: j for j, i in turned.items()} == found
    assert sorted(unclear) == sorted(ambiguous.split())


def test_many_clips_of_one_name_do_not_multiply():
    # 300 systems of the same 20 sentences: 1.8 million pairs of equal file names
    left = [(f"sys{s}/{u}.wav", None) for s in range(300) for u in range(20)]
    right = [(i[: -len(".wav")], None) for i, _ in left[1:]] + [("0", None)]
    pairs, ambiguous = match(left, right)
    assert pairs == {i: i - 1 for i in range(1, 6000)}
    assert ambiguous == ["sys0/0.wav", "0"]


def test_systems_and_clusters_from_a_file(tmp_path):
    (tmp_path / "utt2sys").write_text("a sys one\nb.wav B\n%:c%20d %:C%20D\nunused x\n")
    source = str(tmp_path / "utt2sys")
    expected = ["B", "sys one", "C D", "sys one"]
    for function, alone in ((systems_of, None), (clusters_of, ("z",))):
        assert function(["b", "a", "c d", "a"], source) == (expected, [])
        groups, (problem,) = function(["z", "a"], source)
        assert groups == [alone, "sys one"]
        assert source in problem and "for 1 utterance (the first is z)" in problem
        with pytest.raises(DataError, match="for 1 utterance .the first is z. of 1"):
            function(["z"], source)
    (tmp_path / "utt2sys").write_text("x/a 1\ny/a 2\nb 3\n")
    assert systems_of(["a", "b"], source)[0] == [None, "3"]


def test_systems_and_clusters_from_an_expression():
    ids = ["sysA-utt1", "sysB-utt2.wav", "other", "-a"]
    assert systems_of(ids, "^([^-]*)-")[0] == ["sysA", "sysB", None, None]
    named = r"(?P<take>\d+)_(?P<system>\w+)$|^(x)"
    assert systems_of(["1_a", "22_b"], named) == (["a", "b"], [])
    assert clusters_of(["m_s1", "f_s1"], "_(?P<source>s.)") == (["s1", "s1"], [])


@pytest.mark.parametrize("source", ["sys(", "data/test/utt2sys", "(a)(b)", r"(\d)"])
def test_sources_that_cannot_be_used(source):
    with pytest.raises(DataError) as error:
        systems_of(["a", "b"], source)
    assert str(error.value).startswith(f"--systems {source} ")
    assert "\n" not in str(error.value)


def test_phrases():
    assert count(["a"]) == "1 utterance (the first is a)"
    assert shown("two\nlines") == "'two\\nlines'" and shown("日本 語") == "日本 語"
    assert file_stem(r"D:\x\a.WAVE") == "a"
    assert file_stem("/x/a.b.wav") == "a.b" and file_stem("a.b") == "a.b"
