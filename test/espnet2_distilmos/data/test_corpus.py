# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import argparse
import json
import statistics
from collections import Counter

import pytest

from espnet2_distilmos.bin.check_data import check_data
from espnet2_distilmos.data.corpus import (
    ClipSet,
    divide,
    fold_sets,
    name_some,
    one_word,
    read_table,
    run_parser,
    wanted_sets,
    write_corpus,
)
from espnet2_distilmos.data.datadir import DataError, read_metric_scp, read_scp


def audio(folder, name):
    path = folder / f"{name}.wav"
    path.write_bytes(b"not opened here")
    return str(path)


# Reading


def test_table_with_names_a_byte_order_mark_and_tabs(tmp_path):
    path = tmp_path / "ratings.tsv"
    path.write_text(
        "\ufeffwav\tMOS \textra\tx\tx\na.wav\t3,5\tx,y\t\t\n\n b.wav \t4\t\t\t\n",
        "utf-8",
    )
    faults = []
    rows = read_table(str(path), ("wav", "mos"), faults, optional=("Extra", "no"))
    assert rows == [
        (f"{path}:2", {"wav": "a.wav", "mos": "3.5", "Extra": "x,y"}),
        (f"{path}:4", {"wav": "b.wav", "mos": "4", "Extra": ""}),
    ]
    assert faults == []


def test_table_without_names_and_rows_of_another_length(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text('a,3\nb\n"c, d",4\ne,5,6\n')
    faults = []
    rows = read_table(str(path), ("wav", "mos"), faults, header=False)
    assert [row for _, row in rows] == [
        {"wav": "a", "mos": "3"},
        {"wav": "c, d", "mos": "4"},
    ]
    assert [fault.split(" has ")[0] for fault in faults] == [f"{path}:2", f"{path}:4"]
    assert "has 3 fields, expected 2 (wav, mos)" in faults[1]


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"wav,score\n", "has the columns wav, score, expected also mos"),
        (b"", "has the columns none"),
        (
            b"wav,mos,Mos,mos\na,1,2,3\n",
            "has the heading mos 2 times, in the columns 2,",
        ),
        (b"wav,MOS,Mos\na,1,2\n", "has the heading mos 2 times"),
        (b"wav,mos,\na,3,05\n", ":2: column 3 has '05' and no heading"),
        (b"wav,mos\n\xff\n", "cannot be read"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_table_that_cannot_be_used(tmp_path, content, sentence):
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_table(str(path), ("wav", "mos"), [])
    assert sentence in str(error.value) and str(path) in str(error.value)


def test_names():
    assert one_word(" a  b\tc ") == "a_b_c"
    assert name_some(list("abcdefg")) == "a, b, c, d, e and 2 more"


# Rows


def test_votes_are_averaged_and_kept_in_order(tmp_path):
    clips = ClipSet("test")
    given = [("l2", 4), ("l1", 1), ("l2", 5)]  # one listener may vote twice
    for listener, score in given:
        clips.add("f:1", "u", "u.wav", "s", str(score), listener)
    (clip,) = clips.clips()
    assert clip.score == pytest.approx(statistics.mean(s for _, s in given))
    assert clip.votes == tuple(given) and clips.faults == []


@pytest.mark.parametrize(
    "row, word",
    [
        (dict(score="5.01"), "'5.01'"),
        (dict(score="nan"), "'nan'"),
        (dict(score=""), "score ''"),
        (dict(system=""), "system ''"),
        (dict(utt_id="two words"), "'two words'"),
        (dict(listener=" "), "listener ' '"),
        (dict(source="a b"), "'a b'"),
    ],
)
def test_a_bad_row_is_left_out_with_a_sentence(row, word):
    clips = ClipSet("test")
    good = dict(where="f:7", utt_id="u", path="u.wav", system="s", score=3)
    clips.add(**{**good, **row})
    assert len(clips) == 0
    (fault,) = clips.faults
    assert fault.startswith("f:7: ") and word in fault and "\n" not in fault


def test_rows_that_contradict_each_other():
    clips = ClipSet("test")
    clips.add("f:1", "u", "u.wav", "s", 3)
    clips.add("f:2", "u", "u.wav", "s", 3)
    clips.add("f:3", "v", "v.wav", "s", 3, "l1")
    clips.add("f:4", "v", "v.wav", "t", 3, "l2")
    clips.add("f:5", "v", "v.wav", "s", 3)
    assert [fault.split(",")[0] for fault in clips.faults] == [
        "f:2: clip u has a second row",
        "f:4: clip v is of t in " + clips.clips()[1].path,
        "f:5: clip v has a second row",
    ]
    assert [len(clip.votes) for clip in clips.clips()] == [0, 1]


def test_means_show_lost_and_doubled_votes():
    clips = ClipSet("test")
    for utt_id in "abc":
        for n in range(3):
            clips.add("f", utt_id, f"{utt_id}.wav", "s", 1 + n, f"l{n}")
    clips.check_means("means.txt", {"a": 2.004, "b": 2.02, "d": 3.0})
    assert len(clips.faults) == 3
    lost, new, differs = clips.faults
    assert "votes of 1 clips (d)" in lost and "mean of 1 clips (c)" in new
    assert "clip b has the published mean 2.02, but 3 votes with the mean 2" in differs


# Writing


def test_what_is_written_passes_the_check_of_stage_3(tmp_path):
    clips = ClipSet("test", published=3, score_range=(0, 100))
    for utt_id, score in (("é", 80), ("z", 20), ("B", 55.5)):
        path = audio(tmp_path, utt_id)
        clips.add("f", utt_id, path, "sys", score, "l1", "spk", "src", "corpus")
    written, faults = write_corpus(str(tmp_path / "data"), [clips])
    assert (written, faults) == (["test"], [])
    folder = tmp_path / "data" / "test"
    assert (folder / "score_range").read_text() == "0 100\n"
    good, faults = check_data(str(folder), (0, 100))
    assert good == ["B", "z", "é"] and faults == []  # the order of bytes
    assert read_metric_scp(str(folder / "metric.scp")) == {"B": 55.5, "z": 20, "é": 80}
    votes = read_scp(str(folder / "votes.scp"))
    assert json.loads(votes["B"]) == [["l1", 55.5]]
    assert read_scp(str(folder / "spk2utt")) == {"spk": "B z é"}
    for name, value in (
        ("utt2sys", "sys"),
        ("utt2src", "src"),
        ("utt2domain", "corpus"),
    ):
        assert read_scp(str(folder / name)) == dict.fromkeys(("B", "z", "é"), value)


def test_what_another_run_left_is_gone(tmp_path):
    full = ClipSet("test", score_range=(0, 10))
    path = audio(tmp_path, "a")
    full.add("f", "a", path, "sys", 3, "l1", source="src", domain="d")
    write_corpus(str(tmp_path / "data"), [full])
    plain = ClipSet("test", systems=False)
    plain.add("f", "a", path, "", 3)
    write_corpus(str(tmp_path / "data"), [plain])
    files = {path.name for path in (tmp_path / "data" / "test").iterdir()}
    assert files == {"wav.scp", "metric.scp", "utt2spk", "spk2utt"}
    # A set of which nothing is left does not pass for the old one.
    (tmp_path / "a.wav").unlink()
    written, faults = write_corpus(str(tmp_path / "data"), [plain])
    assert written == [] and "no clip of it is good" in faults[-1]
    assert not (tmp_path / "data" / "test" / "wav.scp").exists()


def test_sources_are_written_for_all_or_none(tmp_path):
    clips = ClipSet("test")
    clips.add("f", "a", audio(tmp_path, "a"), "sys", 3, source="src", speaker="spk")
    clips.add("f", "b", audio(tmp_path, "b"), "sys", 3)
    write_corpus(str(tmp_path / "data"), [clips])
    assert not (tmp_path / "data" / "test" / "utt2src").exists()
    speakers = read_scp(str(tmp_path / "data" / "test" / "utt2spk"))
    assert speakers == {"a": "spk", "b": "b"}  # an unknown speaker is nobody else


def test_audio_of_two_sets_and_of_two_clips(tmp_path):
    shared, own = audio(tmp_path, "shared"), audio(tmp_path, "own")
    train, test, free = ClipSet("train"), ClipSet("test"), ClipSet("all", group=None)
    train.add("f", "a", shared, "sys", 3)
    for clips in (test, free):
        clips.add("f", "b", str(tmp_path / "." / "shared.wav"), "sys", 3)
        clips.add("f", "c", own, "sys", 3)
    test.add("f", "d", own, "sys", 3)
    _, faults = write_corpus(str(tmp_path / "data"), [train, test, free])
    (fault,) = faults
    assert "test: 2 clips have the audio of another clip" in fault
    assert "(b is a of train, d is c of test)" in fault
    assert list(read_scp(str(tmp_path / "data" / "test" / "wav.scp"))) == ["c"]
    assert list(read_scp(str(tmp_path / "data" / "all" / "wav.scp"))) == ["b", "c"]


# The command


def command(tmp_path, options, present=3):
    def read(args):
        clips = ClipSet("test", published=3)
        for n in range(3):
            path = audio(tmp_path, n) if n < present else str(tmp_path / f"no{n}.wav")
            clips.add("f", f"u{n}", path, "sys", 3)
        return [clips]

    out = ["--out", str(tmp_path / "data")]
    return run_parser(argparse.ArgumentParser(), read, out + options)


def test_exit_codes(tmp_path, capsys):
    assert command(tmp_path, []) == 0
    assert command(tmp_path, [], present=2) == 1
    errors = capsys.readouterr().err
    assert "test: the audio of 1 of 3 clips is missing" in errors
    assert "1 faults: the rest is in" in errors.splitlines()[-1]
    assert command(tmp_path, ["--skip_bad", "true"], present=2) == 0
    assert "1 of 3 clips is missing" in capsys.readouterr().err
    assert command(tmp_path, ["--skip_bad", "true"], present=0) == 1


def test_a_corpus_that_cannot_be_read(capsys):
    def read(args):
        raise DataError("one sentence")

    assert run_parser(argparse.ArgumentParser(), read, []) == 1
    assert capsys.readouterr().err == "one sentence\n"


# Dividing


def test_divide_keeps_groups_whole_and_meets_the_shares():
    groups = {f"clip{n}": f"sentence{n % 20}" for n in range(100)}  # 5 clips each
    sets = divide(groups, {"test": 0.1, "dev": 0.22})
    counts = Counter(sets.values())
    assert counts == {"test": 10, "dev": 25, "train": 65}
    for group in set(groups.values()):
        assert len({sets[clip] for clip in groups if groups[clip] == group}) == 1
    # The order of the clips does not matter.
    again = divide(dict(reversed(groups.items())), {"test": 0.1, "dev": 0.22})
    assert again == sets
    assert set(divide(groups, {"test": 0.0}).values()) == {"train"}
    assert set(divide(groups, {"test": 1.0}).values()) == {"test"}


def test_hold_out_moves_whole_sources_and_counts_both_together(tmp_path):
    train = ClipSet("train", published=41)
    for n in range(40):
        train.add("f", f"u{n}", audio(tmp_path, n), "sys", 3, source=f"s{n % 8}")
    dev = train.hold_out("dev", 0.2)
    assert (len(train), len(dev)) == (30, 10)
    assert "train: the lists have 40 clips, expected the 41" in train.faults[0]
    written, faults = write_corpus(str(tmp_path / "data"), [train, dev])
    assert written == ["train", "dev"] and len(faults) == 1
    sources = [
        set(read_scp(str(tmp_path / "data" / name / "utt2src")).values())
        for name in written
    ]
    assert not sources[0] & sources[1] and len(sources[0] | sources[1]) == 8


def test_sets_that_are_asked_for():
    known = ("train", "dev", "test")
    args = argparse.Namespace(sets=None)
    assert wanted_sets(args, known) == ["train", "dev", "test"]
    args.sets = ["test", "dev"]
    assert wanted_sets(args, known) == ["dev", "test"]
    args.sets = ["test", "x"]
    with pytest.raises(DataError, match="--sets has x, expected some of train, dev"):
        wanted_sets(args, known)


# Extracts and folds


def write_extract(folder, ratings, votes=None):
    (folder / "ratings.csv").write_text(
        "\n".join(["utt,wav,system,mos,kind", *ratings])
    )
    if votes is not None:
        (folder / "votes.csv").write_text("\n".join(["utt,listener,score", *votes]))
    clip_set = ClipSet("test", 2, published_votes=4)
    place = dict(source="s", domain="d")
    clip_set.add_extract(
        str(folder),
        lambda where, row: None if row["kind"] == "no" else place,
        further=("kind",),
    )
    clip_set.check_count()
    return {clip.utt_id: clip for clip in clip_set.clips()}, clip_set.faults


RATINGS = ["a,flac/a.flac,one two,2.5,", "b,flac/b.flac,x,4,", "c,c.flac,x,4,no"]
VOTES = ["a,l1,2", "a,l2,3", "b,l1,3", "c,l1,1", "b,l2,5"]


def test_an_extract_with_votes_and_without(tmp_path):
    clips, faults = write_extract(tmp_path, RATINGS)
    assert [(c.score, c.votes) for c in clips.values()] == [(2.5, ()), (4.0, ())]
    (sentence,) = faults
    assert f"{tmp_path}/votes.csv is missing, expected the 4 votes" in sentence
    assert "without votes.scp" in sentence and "--skip_bad true" in sentence
    twice = [vote.replace("a,l2", "a,l1") for vote in VOTES]
    (sentence,) = write_extract(tmp_path, RATINGS, twice)[1]
    assert "clip a has 2 votes of the listener l1, expected one" in sentence
    clips, faults = write_extract(tmp_path, RATINGS, VOTES)
    assert not faults and set(clips) == {"a", "b"}
    assert clips["a"] == (
        *("a", str(tmp_path / "flac/a.flac"), "one_two", 2.5),
        *((("l1", 2.0), ("l2", 3.0)), "", "s", "d"),
    )


@pytest.mark.parametrize(
    "ratings, votes, sentences",
    [
        (
            ["a,a.flac,x,2.6,", RATINGS[1]],
            VOTES[:3] + VOTES[4:],
            ["published mean 2.6"],
        ),
        (["a,a.flac,x,good,", RATINGS[1]], VOTES[:3] + VOTES[4:], ["mean nan"]),
        (
            RATINGS,
            [*VOTES, "b,l2,4"],  # the mean stays
            ["2 clips with 5 votes, expected the 2 that were published with 4;"],
        ),
        (
            RATINGS,
            VOTES[:2],
            ["lacks the votes of 1 clips (b)", "the lists have 1 clips with 2 votes"],
        ),
        (RATINGS, [*VOTES, "z,l1,3"], ["has votes of 1 clips that"]),
        ([*RATINGS, RATINGS[0]], VOTES, [":5: clip a has a second row"]),
        (
            RATINGS,
            ["a,l1,2", "a,l2,3", "b,l1,4", "b,l2,6"],
            [":5: clip b has the score"],
        ),
    ],
)
def test_votes_of_an_extract_that_do_not_fit(tmp_path, ratings, votes, sentences):
    clips, faults = write_extract(tmp_path, ratings, votes)
    assert clips
    for sentence in sentences:
        assert sum(sentence in fault for fault in faults) == 1, faults


def test_folds_keep_all_of_a_clip_and_leave_missing_audio_to_the_whole(tmp_path):
    whole = ClipSet("all", 3, (0, 100))
    for name in "abc":
        path = audio(tmp_path, name) if name != "c" else str(tmp_path / "c.wav")
        for listener in ("l1", "l2"):
            whole.add("here", name, path, "x", 50, listener, "spk", "src", "dom")
    sets = fold_sets(
        whole,
        {"f": {"a": "train", "b": "test", "c": "dev"}, "g": {"a": "dev", "b": ""}},
    )
    assert {s.name: [c.utt_id for c in s.clips()] for s in sets if len(s)} == {
        **{"train_f": ["a"], "test_f": ["b"], "dev_g": ["a"]}
    }
    assert sets[0].clips() == whole.clips()[:1]
    written, faults = write_corpus(str(tmp_path / "data"), [whole, sets[0], sets[2]])
    assert written == ["all", "train_f", "test_f"]
    assert len(faults) == 1 and "all: the audio of 1 of 3 clips is missing" in faults[0]
    assert (tmp_path / "data/train_f/score_range").read_text() == "0 100\n"
