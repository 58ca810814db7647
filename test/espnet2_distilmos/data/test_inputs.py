# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io
import os

import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.inputs import InputFile, collect_inputs

DEEP = ["10.FLAC", "2.wav", "sub/x.mp3", "sub/deep/y.opus"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Empty files: nothing is read here."""
    monkeypatch.chdir(tmp_path)
    others = ["a/notes.txt", "a/._2.wav", "b/2.wav", "b/z.m4a", "one.ogg"]
    for name in [f"a/{name}" for name in DEEP] + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def ids(*inputs, **options):
    return [item.id for item in collect_inputs(inputs, **options)]


def test_files_directories_and_patterns(tree):
    assert ids("one.ogg", "b/2.wav") == ["one.ogg", "b/2.wav"]
    # what is not there gets its sentence when it is opened
    assert ids("none.wav", "*.mp4") == ["none.wav", "*.mp4"]
    assert collect_inputs(["a"]) == [InputFile(name, f"a/{name}") for name in DEEP]
    assert ids("a/") == ids("a") == ids(str(tree / "a")) == DEEP
    assert ids("*/2.wav") == ["a/2.wav", "b/2.wav"]
    assert ids("**/*.opus") == ["a/sub/deep/y.opus"]
    assert ids("[ab]") == ids("a", "b")
    (tree / "what[1]?.wav").touch()
    assert ids("what[1]?.wav") == ["what[1]?.wav"]


def test_ids_are_unique(tree):
    assert ids("a", "b") == ["10.FLAC", "a/2.wav", *DEEP[2:], "b/2.wav", "z.m4a"]
    assert ids("one.ogg", "one.ogg", "a", "a") == ["one.ogg", *DEEP]
    (tree / "x.scp").write_text("u a/2.wav\nb/2.wav b/2.wav\n")
    (tree / "y.scp").write_text("u a/2.wav\nb/2.wav a/10.FLAC\n")
    (tree / "z.scp").write_text("a/10.FLAC one.ogg\n")
    found = collect_inputs(["x.scp", "y.scp", "z.scp"])
    assert [item.id for item in found] == [
        "u",
        "b/2.wav",
        *(f"a/10.FLAC{n}" for n in ("", "#2")),
    ]
    assert [item.path for item in found[2:]] == ["a/10.FLAC", "one.ogg"]


def test_directories_named_like_files_and_links(tree):
    (tree / "a" / "empty.wav").mkdir()
    (tree / "a" / "full.wav" / "more").mkdir(parents=True)
    (tree / "a" / "full.wav" / "more" / "v.wav").touch()
    (tree / "a" / "broken.wav").symlink_to("nowhere.wav")
    (tree / "a" / "link").symlink_to("../b")
    (tree / "a" / "sub" / "loop").symlink_to("..")
    expected = {"empty.wav", "full.wav/more/v.wav", "broken.wav"}
    assert set(ids("a")) == {*DEEP, *expected, "link/2.wav", "link/z.m4a"}


def test_an_unreadable_directory_is_one_failure(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = collect_inputs(["a"])
    assert [item.id for item in found] == ["10.FLAC", "2.wav", "sub"]
    assert "a/sub cannot be read (Permission denied)" in found[-1].error


def test_wav_scp(tree):
    (tree / "wav.scp").write_text("\ufeffu2 b/2.wav\nu1 a file.wav\nu3 sox x |\n")
    items = {"u2": "b/2.wav", "u1": "a file.wav", "u3": "sox x |"}
    assert collect_inputs(["wav.scp"]) == [InputFile(*item) for item in items.items()]


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
    (tree / "excel.csv").write_text('"Score";"Wav"\n3,05;one.ogg\n')
    assert ids("excel.csv:wav") == ["one.ogg"]


def test_lists_on_standard_input(tree):
    lines = b"one.ogg\r\n\nb/2.wav\n sp ace.wav"
    assert ids("-", stdin=io.BytesIO(lines)) == ["one.ogg", "b/2.wav", " sp ace.wav"]
    marked = io.BytesIO(b"\xef\xbb\xbfone.ogg\n\xef\xbb\xbfb/2.wav\n")  # of two files
    assert ids("-", stdin=marked) == ["one.ogg", "b/2.wav"]
    names = b"new\nline.wav\0\xff.wav\0"
    found = collect_inputs(["-"], io.BytesIO(names), null_separated=True)
    assert [os.fsencode(item.path) for item in found] == [b"new\nline.wav", b"\xff.wav"]


def test_odd_names(tree):
    names = [b"new\nline.wav", b"q'\"uote.wav", b"\xff\xfe.wav", "日 é.wav".encode()]
    folder = os.fsencode(tree / "odd")
    os.mkdir(folder)
    for name in names:
        open(os.path.join(folder, name), "w").close()
    found = collect_inputs([str(tree / "odd")])
    assert {os.fsencode(item.id) for item in found} == set(names)
    assert all(os.path.isfile(item.path) for item in found)


@pytest.mark.parametrize(
    "inputs, found",
    [
        (["void"], "no audio file was found in void"),
        (["-"], "no audio file was found"),
        (["t.csv"], "t.csv has no column '', .* score, wav"),
        (["t.csv:wave"], "t.csv has no column 'wave', .* score, wav"),
        (["none.csv:wav"], "none.csv cannot be read"),
        (["t.csv:wav"], "t.csv:4 has nothing in the column wav"),
        (["u.csv:wav"], "u.csv has the heading wav 2 times"),
        (["v.csv:wav"], "v.csv:2 has 3 fields for 2 columns"),
    ],
)
def test_what_names_nothing_is_a_sentence(tree, inputs, found):
    (tree / "void").mkdir()
    (tree / "t.csv").write_text("score,wav\n1,one.ogg\n\n2,\n")
    (tree / "u.csv").write_text("wav,wav\none.ogg,b/2.wav\n")
    (tree / "v.csv").write_text("score,wav\n3,05,one.ogg\n")
    with pytest.raises(DataError, match=found):
        collect_inputs(inputs, io.BytesIO(b"\n"))
