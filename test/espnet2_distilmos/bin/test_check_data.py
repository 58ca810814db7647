# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.bin.check_data import check_data, get_parser, main

GOOD = {
    "wav.scp": ["a a.flac", "b b.flac", "c c.flac"],
    "metric.scp": ['a {"mos": 1.0}', 'b {"mos": 5}', "c {}"],
    "utt2sys": ["a s1", "b s1", "c s2"],
}


def write(folder, **changed):
    """Write GOOD with some files changed; a dot in a name is given as two underscores.

    None leaves a file out.
    """
    files = {**GOOD, **{k.replace("__", "."): v for k, v in changed.items()}}
    for name, lines in files.items():
        if lines is not None:
            (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return str(folder)


def sentences(folder, **options):
    return [fault.sentence for fault in check_data(folder, **options)[1]]


def test_good_data_has_no_fault(tmp_path):
    votes = ['a [["l1", 1], ["l2", 1.5]]', 'b [["l1", 5]]', "c []"]
    folder = write(tmp_path, votes__scp=votes, utt2src=["a x", "b x", "c y"])
    assert check_data(folder) == (["a", "b", "c"], [])


@pytest.mark.parametrize(
    "file, lines, utt_id",
    [
        ("metric.scp", GOOD["metric.scp"][:2], "c"),
        ("metric.scp", ["a {}", 'b {"mos": 5.1}', "c {}"], "b"),
        ("metric.scp", GOOD["metric.scp"] + ["d {}"], "d"),
        ("wav.scp", GOOD["wav.scp"] + ["b z.flac"], "b"),
        ("wav.scp", ["a a.flac", "b b.flac", "c"], "c"),
        ("utt2sys", GOOD["utt2sys"][:2], "c"),
        ("utt2sys", ["a s1", "b s 1", "c s2"], "b"),
        ("votes.scp", ['a [["l", 6]]'], "a"),
        ("utt2src", ["a x", "b x"], "c"),
    ],
)
def test_a_fault_names_file_and_utterance(tmp_path, file, lines, utt_id):
    folder = write(tmp_path, **{file.replace(".", "__"): lines})
    good, faults = check_data(folder)
    (fault,) = [fault for fault in faults if fault.utt_id is not None]
    assert fault.utt_id == utt_id and utt_id not in good
    assert str(tmp_path / file) in fault.sentence and "\n" not in fault.sentence
    assert f"utterance {utt_id}" in fault.sentence


def test_all_faults_come_at_once_and_the_good_remain(tmp_path):
    folder = write(
        tmp_path,
        wav__scp=[f"{u} {u}.flac" for u in "abcdefg"],
        metric__scp=[
            'a {"mos": 3}',
            'b {"mos": 9}',
            'c {"mos": "x"}',
            'e {"mos": 2}',
            'e {"mos": 3}',
            'f {"mos": 2}',
            'g {"mos": 2}',
        ],
        utt2sys=[f"{u} s" for u in "abcdeg"],
    )
    good, faults = check_data(folder)
    assert good == ["a", "g"]
    assert [fault.utt_id for fault in faults] == ["e", "b", "c", "d", "f"]


def test_a_set_without_any_label_is_a_fault_of_the_whole(tmp_path):
    folder = write(tmp_path, metric__scp=["a {}", "b {}", "c {}"])
    (fault,) = check_data(folder)[1]
    assert fault.utt_id is None and "no usable label" in fault.sentence
    assert check_data(folder, need_labels=False)[1] == []


def test_a_missing_file_is_named(tmp_path):
    folder = write(tmp_path, utt2sys=None)
    found = sentences(folder)
    assert any("utt2sys cannot be read" in s for s in found)
    assert sentences(folder, need_systems=False) == []
    assert any("wav.scp cannot be read" in s for s in sentences(str(tmp_path / "no")))


def test_the_scale_is_an_option(tmp_path):
    folder = write(tmp_path, metric__scp=['a {"mos": 90}', "b {}", "c {}"])
    assert sentences(folder, score_range=(0, 100)) == []
    assert "is empty" in sentences(folder, score_range=(5, 1))[0]


def test_command_line(tmp_path, capsys):
    folder = write(tmp_path, utt2sys=["a s", "b s"])
    good = tmp_path / "lists" / "good"
    command = ["--data_dir", folder, "--good_list", str(good)]
    assert main(command) == 1
    assert "utt2sys: utterance c has no line" in capsys.readouterr().err
    assert good.read_text().split() == ["a", "b"]
    assert main([*command, "--bad_exit_code", "3"]) == 3
    assert main([*command, "--need_systems", "false"]) == 0
    assert get_parser().description


def test_audio_is_opened_when_asked(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(800), 8000)  # 0.1 s, long enough
    soundfile.write(tmp_path / "b.flac", np.zeros(799), 8000)
    (tmp_path / "c.flac").write_text("no audio")
    lines = [f"{u} {tmp_path}/{f}.flac" for u, f in ("aa", "bb", "cc", "dn", "ea")]
    labels = [f'{u} {{"mos": 3}}' for u in "abcde"]
    systems = [f"{u} s" for u in "abcde"]
    folder = write(tmp_path, wav__scp=lines, metric__scp=labels, utt2sys=systems)
    assert check_data(folder)[1] == []
    good, faults = check_data(folder, audio=True)
    assert good == ["a"] and [fault.utt_id for fault in faults] == list("bcde")
    for fault, words in zip(
        faults, ("is 0.100 s long", "cannot be read", "does not exist", "audio of a")
    ):
        assert words in fault.sentence
