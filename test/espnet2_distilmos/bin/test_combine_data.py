# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import os
import re

import pytest

from espnet2_distilmos.bin.combine_data import main
from espnet2_distilmos.data.datadir import read_metric_scp, read_scp


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        text = "".join(f"{line}\n" for line in lines)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture
def sets(tmp_path):
    """A set of 1 to 5 with votes, and one of 0 to 100 of which little is known."""
    write(
        tmp_path / "one",
        wav__scp=["a /x/a.wav", "b /x/b.wav"],
        metric__scp=['a {"mos": 3.5}', "b {}"],
        utt2num_samples=["a 100", "b 200"],
        utt2sys=["a s1", "b s1"],
        votes__scp=['a [["l1", 3], ["l2", 4]]'],
        utt2domain=["a bvcc", "b bvcc"],
    )
    write(
        tmp_path / "two",
        wav__scp=["c /x/c.wav"],
        metric__scp=['c {"mos": 25}'],
        utt2num_samples=["c 300"],
        votes__scp=['c [["l1", 0], ["l3", 50]]'],
        score_range=["0 100"],
    )
    return tmp_path


def combine(sets, *options, code=0, second="more/two"):
    command = [f"one={sets / 'one'}", f"{second}={sets / 'two'}", *options]
    assert main([*command, "--output_dir", str(sets / "out")]) == code
    return sets / "out"


def test_all_of_both_under_names_of_their_corpora(sets, capsys):
    out = combine(sets, "--map_scores", "true")
    assert read_scp(out / "wav.scp") == {k: f"/x/{k}.wav" for k in "abc"}
    assert read_scp(out / "utt2num_samples") == {"a": "100", "b": "200", "c": "300"}
    assert read_scp(out / "utt2set") == {"a": "one", "b": "one", "c": "more/two"}
    domains = {"a": "bvcc", "b": "bvcc", "c": "more/two"}
    assert read_scp(out / "utt2domain") == domains
    assert read_scp(out / "utt2sys") == {"a": "bvcc/s1", "b": "bvcc/s1"}
    # 25 of 0 to 100 is a quarter of the way from 1 to 5.
    assert read_metric_scp(out / "metric.scp") == {"a": 3.5, "b": None, "c": 2.0}
    votes = {k: json.loads(v) for k, v in read_scp(out / "votes.scp").items()}
    assert votes == {
        "a": [["bvcc/l1", 3.0], ["bvcc/l2", 4.0]],
        "c": [["more/two/l1", 1.0], ["more/two/l3", 3.0]],
    }
    assert not (out / "utt2spk").exists()
    told = capsys.readouterr().err
    assert "two: 1 utterances" in told and "labels 0 to 100 mapped to 1 to 5\n" in told


def test_scales_are_kept_for_ranking_losses(sets):
    out = combine(sets, "--keep_scores", "true")
    assert read_metric_scp(out / "metric.scp") == {"a": 3.5, "b": None, "c": 25.0}
    assert json.loads(read_scp(out / "votes.scp")["c"])[1] == ["more/two/l3", 50.0]
    assert (out / "score_range").read_text() == "0 100\n"
    combine(sets, "--map_scores", "true")
    assert not (out / "score_range").exists()


def test_further_scores_stay(sets):
    lines = ['a {"dnsmos": 2.5, "mos": 3.5}', 'b {"dnsmos": 1}']
    write(sets / "one", metric__scp=lines)
    out = combine(sets, "--map_scores", "true")
    found = {k: json.loads(v) for k, v in read_scp(out / "metric.scp").items()}
    one, two = {"mos": 3.5, "dnsmos": 2.5}, {"dnsmos": 1}
    assert found == {"a": one, "b": two, "c": {"mos": 2.0}}


def test_another_scale_is_refused_unless_mapped(sets, capsys):
    out = combine(sets, code=1)
    assert "two/score_range is '0 100', and the training is told '1 5'; map it" in (
        capsys.readouterr().err
    )
    assert not out.exists()
    # A set that says nothing is on the scale of the training.
    combine(sets, "--score_range", "0", "100")
    assert read_metric_scp(out / "metric.scp") == {"a": 3.5, "b": None, "c": 25.0}


@pytest.mark.parametrize(
    "file, lines, words",
    [
        ("wav__scp", ["b /x/b.wav"], "two/wav.scp: utterance b is in .*one/wav.scp"),
        ("metric__scp", ["d {}"], "two/metric.scp: utterance c has no line"),
        ("metric__scp", ['c {"mos": 101}'], "two/metric.scp: utterance c .* 101"),
        ("votes__scp", ["c l1:3"], "two/votes.scp: utterance c has .*l1:3"),
        ("score_range", ["100"], "two/score_range does not hold two numbers"),
    ],
)
def test_faults_name_file_and_utterance(file, lines, words, sets, capsys):
    write(sets / "two", **{file: lines})
    out = combine(sets, "--map_scores", "true", code=1)
    assert re.search(words, capsys.readouterr().err)
    assert not out.exists()


def test_dates_stay_where_nothing_changed(sets):
    out = combine(sets, "--map_scores", "true")
    os.utime(out / "wav.scp", (2e9, 2e9))
    combine(sets, "--map_scores", "true")
    assert os.path.getmtime(out / "wav.scp") == 2e9
    # What no set has any more goes; other audio under the same name.
    (sets / "one" / "votes.scp").unlink()
    (sets / "two" / "votes.scp").unlink()
    os.utime(sets / "two" / "wav.scp", (3e9, 3e9))
    combine(sets, "--map_scores", "true")
    assert os.path.getmtime(out / "wav.scp") != 2e9
    assert not (out / "votes.scp").exists()
