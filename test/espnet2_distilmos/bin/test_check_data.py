# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.bin.check_data import check_data, main

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
    assert f" {utt_id} " in fault.sentence


def test_all_faults_come_at_once_and_the_good_remain(tmp_path, capsys):
    folder = write(
        tmp_path,
        wav__scp=[f"{u} {u}.flac" for u in "abcde"],
        metric__scp=['a {"mos": 3}', 'b {"mos": 9}', 'd {"mos": 2}', 'd {"mos": 3}']
        + ['e {"mos": 2}'],
        utt2sys=[f"{u} s" for u in "abce"],
    )
    good, faults = check_data(folder)
    assert good == ["a", "e"]
    assert [fault.utt_id for fault in faults] == ["d", "b", "c", "d"]
    good = tmp_path / "lists" / "good"
    command = ["--data_dir", folder, "--good_list", str(good)]
    assert main(command) == 1
    assert len(capsys.readouterr().err.splitlines()) == len(faults) + 1
    assert good.read_text().split() == ["a", "e"]
    assert main([*command, "--bad_exit_code", "3"]) == 3


def test_faults_of_the_whole_set(tmp_path):
    folder = write(tmp_path, metric__scp=["a {}", "b {}", "c {}"])
    (fault,) = check_data(folder)[1]
    assert fault.utt_id is None and "no usable label" in fault.sentence
    assert check_data(folder, need_labels=False)[1] == []
    folder = write(tmp_path, metric__scp=['a {"mos": 90}', "b {}", "c {}"])
    assert check_data(folder, score_range=(0, 100))[1] == []
    assert check_data(folder, score_range=(5, 1))[1][0].utt_id is None
    (tmp_path / "utt2sys").unlink()
    faults = check_data(folder, (0, 100))[1]
    assert "utt2sys cannot be read" in faults[0].sentence
    assert check_data(folder, (0, 100), need_systems=False)[1] == []
    assert main(["--data_dir", str(tmp_path / "no"), "--bad_exit_code", "3"]) == 1


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
        faults,
        ("is 0.100 s long", "cannot be read", "does not exist", "the audio of a"),
    ):
        assert words in fault.sentence
