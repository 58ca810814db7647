# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io
import os

import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.inputs import InputFile, collect_inputs


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Empty files; what is in them is nobody's business here."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "a/2.wav",
        "a/10.FLAC",
        "a/notes.txt",
        "a/._2.wav",
        "a/sub/x.mp3",
        "a/sub/deep/y.opus",
        "b/2.wav",
        "b/z.m4a",
        "one.ogg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def ids(*inputs, **options):
    return [item.id for item in collect_inputs(inputs, **options)]


def test_files_keep_their_names_and_order(tree):
    assert ids("one.ogg", "b/2.wav") == ["one.ogg", "b/2.wav"]
    # what is not there gets its sentence when it is opened
    assert collect_inputs(["none.wav"]) == [InputFile("none.wav", "none.wav")]


def test_directories_are_searched_in_depth(tree):
    found = collect_inputs(["a"])
    assert [item.id for item in found] == [
        "10.FLAC",
        "2.wav",
        "sub/x.mp3",
        "sub/deep/y.opus",
    ]
    assert [item.path for item in found] == [f"a/{item.id}" for item in found]
    assert ids("a/") == ids("a") == ids(str(tree / "a"))


def test_equal_names_in_two_directories(tree):
    assert ids("a", "b") == [
        "10.FLAC",
        "a/2.wav",
        "sub/x.mp3",
        "sub/deep/y.opus",
        "b/2.wav",
        "z.m4a",
    ]


def test_the_same_file_twice_is_one(tree):
    assert ids("one.ogg", "one.ogg") == ["one.ogg"]
    assert ids("a", "a") == ids("a")


def test_ids_are_unique_even_so(tree):
    (tree / "x.scp").write_text("u a/2.wav\nb/2.wav b/2.wav\n")
    (tree / "y.scp").write_text("u a/2.wav\nb/2.wav a/10.FLAC\n")
    (tree / "z.scp").write_text("a/10.FLAC one.ogg\n")
    found = collect_inputs(["x.scp", "y.scp", "z.scp"])
    assert [(item.id, item.path) for item in found] == [
        ("u", "a/2.wav"),
        ("b/2.wav", "b/2.wav"),
        ("a/10.FLAC", "a/10.FLAC"),
        ("a/10.FLAC#2", "one.ogg"),
    ]


def test_directories_named_like_files_and_broken_links(tree):
    (tree / "a" / "empty.wav").mkdir()
    (tree / "a" / "full.wav" / "more").mkdir(parents=True)
    (tree / "a" / "full.wav" / "more" / "v.wav").touch()
    (tree / "a" / "broken.wav").symlink_to("nowhere.wav")
    (tree / "a" / "link").symlink_to("../b")
    (tree / "a" / "loop").symlink_to("..")
    found = ids("a")
    assert "empty.wav" in found and "full.wav" not in found
    assert {"full.wav/more/v.wav", "broken.wav", "link/2.wav"} <= set(found)
    # the loop comes to a directory that it lies in, and ends there
    assert sorted(i for i in found if i.startswith("loop")) == [
        "loop/b/2.wav",
        "loop/b/z.m4a",
        "loop/one.ogg",
    ]


def test_an_unreadable_directory_is_one_failure(tree, monkeypatch):
    listdir = os.listdir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    found = collect_inputs(["a"])
    assert [item.id for item in found] == ["10.FLAC", "2.wav", "sub"]
    assert "a/sub cannot be read (Permission denied)" in found[-1].error


def test_patterns(tree):
    assert ids("*/2.wav") == ["a/2.wav", "b/2.wav"]
    assert ids("**/*.opus") == ["a/sub/deep/y.opus"]
    assert ids("[ab]") == ids("a", "b")
    (tree / "what[1]?.wav").touch()
    assert ids("what[1]?.wav") == ["what[1]?.wav"]
    with pytest.raises(DataError, match=r"\*.mp4 matches no file"):
        collect_inputs(["*.mp4"])


def test_wav_scp(tree):
    (tree / "wav.scp").write_text("u2 b/2.wav\nu1 a file.wav\nu3 sox x |\n")
    assert collect_inputs(["wav.scp"]) == [
        InputFile("u2", "b/2.wav"),
        InputFile("u1", "a file.wav"),
        InputFile("u3", "sox x |"),
    ]


def test_columns_of_tables(tree):
    (tree / "t").mkdir()
    table = tree / "t" / "votes.csv"
    table.write_text(
        '\ufeffscore,wav path,id\n3,one.ogg,x\n4,"q,""x"".wav",y\n5,one.ogg,z\n\n'
    )
    (tree / "t" / 'q,"x".wav').touch()
    found = collect_inputs(["t/votes.csv:wav path"])
    # beside the table where it is not here; one clip of several votes once
    assert found == [
        InputFile("one.ogg", "one.ogg"),
        InputFile('q,"x".wav', 't/q,"x".wav'),
    ]
    (tree / "votes.tsv").write_text("a\tb\n1\tone.ogg\n")
    assert ids("votes.tsv:b") == ["one.ogg"]
    for name, sentence in (
        ("t/votes.csv", "votes.csv:score; its columns are score, wav path, id"),
        ("t/votes.csv:wave", "no column wave, expected one of score, wav path, id"),
        ("t/none.csv:wav", "none.csv cannot be read"),
    ):
        with pytest.raises(DataError, match=sentence):
            collect_inputs([name])
    table.write_text("wav\none.ogg\n\n,\n")
    with pytest.raises(DataError, match="row 3 has nothing in the column wav"):
        collect_inputs(["t/votes.csv:wav"])


def test_lists_on_standard_input(tree):
    lines = b"one.ogg\r\n\nb/2.wav\n sp ace.wav"
    assert ids("-", stdin=io.BytesIO(lines)) == ["one.ogg", "b/2.wav", " sp ace.wav"]
    names = b"new\nline.wav\0\xff.wav\0"
    found = collect_inputs(["-"], io.BytesIO(names), null_separated=True)
    assert [os.fsencode(item.path) for item in found] == [b"new\nline.wav", b"\xff.wav"]


def test_odd_names(tree):
    names = [b"sp ace.wav", b"new\nline.wav", b"q'\"uote.wav", b"\xff\xfe.wav"]
    names += ["日本語 é.wav".encode(), b"%41,x.wav", b"-.wav"]
    folder = os.fsencode(tree / "odd")
    os.mkdir(folder)
    for name in names:
        open(os.path.join(folder, name), "w").close()
    found = collect_inputs([str(tree / "odd")])
    assert {os.fsencode(item.id) for item in found} == set(names)
    assert all(os.path.isfile(item.path) for item in found)


def test_nothing_is_a_sentence(tree):
    (tree / "void").mkdir()
    for inputs in (["void"], [], ["-"]):
        with pytest.raises(DataError, match="no audio file was found"):
            collect_inputs(inputs, io.BytesIO(b"\n"))
