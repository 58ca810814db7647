# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The command; DISTILMOS_STRESS_FILES=1000 makes the folder of everything large."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.bin.predict import get_parser, main
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import read_metric_scp, read_scp
from espnet2_distilmos.data.frames import npy_path
from espnet2_distilmos.evaluation.formats import read_scores
from espnet2_distilmos.evaluation.join import Score, decode_name
from espnet2_distilmos.evaluation.predictions import report, summarize
from espnet2_distilmos.evaluation.trust import fit_scale

COLUMNS = ["id", "path", "score", "error", "seconds", "note", "scorer"]
NUM_FILES = int(os.environ.get("DISTILMOS_STRESS_FILES", 60))


def noise(seed, seconds, rate=16000):
    generator = np.random.default_rng(seed)
    n = int(seconds * rate)
    shape = np.sin(np.arange(n) / rate * generator.uniform(200, 2000))
    return 0.1 * shape + 0.02 * generator.normal(size=n)


def _cut_off(path):
    soundfile.write(path, noise(1, 1.0), 16000)
    os.truncate(path, 20000)


# How to make each kind of bad file (all kinds: data/test_audio.py).
BAD = {
    "is empty (0 bytes)": lambda path: open(path, "w").close(),
    "cannot be read as audio": lambda path: shutil.copy(__file__, path),
    "has 0 samples": lambda path: soundfile.write(path, np.zeros(0), 16000),
    "has 1 samples at 16000 Hz": lambda path: soundfile.write(path, np.zeros(1), 16000),
    "is a directory": os.mkdir,
    "is a broken link to nowhere.wav": lambda path: os.symlink("nowhere.wav", path),
    "is cut off": _cut_off,
}
ODD_NAMES = [
    b"quo'te\".wav",
    b"new\nline.wav",
    b"tab\t, comma.wav",
    "日本語 ñ.wav".encode(),
    b"\xff\xfeundecodable.wav",
    b"%20 percent.wav",
]


def folder_of_everything(root, num_files, num_bad):
    """Files of many formats, rates and lengths; returns the sentence of the bad ones.

    Returns:
        What each file's error is to say, "" for the good ones, by path (bytes).
    """
    expected = {}
    places = [os.path.join(root, d) for d in ("a", "b", os.path.join("b", "deep é"))]
    for place in places:
        os.makedirs(place)
    for k in range(num_bad):
        path = os.path.join(places[k % 3], f"bad{k:03d}.wav")
        sentence = list(BAD)[k % len(BAD)]
        BAD[sentence](path)
        expected[os.fsencode(path)] = sentence
    generator = np.random.default_rng(0)
    for k in range(num_files - num_bad):
        name = f"good{k // 3:04d}".encode()  # equal names in the three folders
        rate = (16000, 48000, 22050, 8000)[k % 4]
        suffix = (".wav", ".flac", ".wav", ".ogg", ".mp3")[k % 5]
        wave = noise(k, generator.uniform(0.1, 0.9), rate)
        if k % 7 == 0:
            wave = np.stack([wave, wave[::-1]], 1)
        path = os.path.join(os.fsencode(places[k % 3]), name + suffix.encode())
        if k < len(ODD_NAMES):
            path = os.path.join(os.fsencode(places[k % 3]), ODD_NAMES[k])
            suffix = ".wav"
        with open(path, "wb") as file:
            soundfile.write(file, wave, rate, format=suffix[1:].upper())
        expected[path] = ""
    return expected


@pytest.fixture
def run(scorer_dir, tmp_path, capsys):
    """Run the command in this process."""

    def call(*options):
        capsys.readouterr()
        code = main([*map(str, options), "--model", str(scorer_dir)])
        return code, capsys.readouterr()

    return call


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    for k in range(7):
        path = folder / f"sys{k % 2}" / f"u{k}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(k, 0.3 + 0.2 * ((3 * k) % 7)), 16000)
    return folder


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def predictor(scorer_dir):
    return MOSPredictor.from_pretrained(str(scorer_dir))


# Outputs


def test_csv_has_the_models_scores_in_input_order(run, folder, predictor, tmp_path):
    code, printed = run(folder, "--output", tmp_path / "s.csv")
    rows = read_csv(tmp_path / "s.csv")
    assert code == 0 and list(rows[0]) == COLUMNS
    expected = [f"sys0/u{k}.wav" for k in (0, 2, 4, 6)]
    expected += [f"sys1/u{k}.wav" for k in (1, 3, 5)]
    assert [row["id"] for row in rows] == expected
    for row in rows:
        wave = read_audio(row["path"])
        assert float(row["score"]) == pytest.approx(
            predictor(wave, 16000).score, abs=1e-5
        )
        assert float(row["seconds"]) == pytest.approx(len(wave) / 16000, abs=1e-4)
        assert (row["error"], row["note"]) == ("", "")
        assert row["scorer"] == predictor.fingerprint
    assert sorted(os.listdir(tmp_path)) == ["in", "s.csv"]  # no journal is left


def test_jsonl_scp_and_the_screen_say_the_same(run, folder, tmp_path):
    (folder / "bad one.wav").write_text("no audio")
    for suffix in ("csv", "jsonl", "scp"):
        code, _ = run(folder, "--output", tmp_path / f"s.{suffix}")
        assert code == 1
    code, printed = run(folder)
    assert code == 1
    rows = read_csv(tmp_path / "s.csv")
    assert list(rows[0]) == COLUMNS
    assert printed.out.splitlines()[0] == ",".join(COLUMNS)
    screen = list(csv.DictReader(printed.out.splitlines()))
    lines = rows_of(tmp_path / "s.jsonl")
    assert len(rows) == len(lines) == len(screen) == 8
    for found in (lines, screen):
        for row, other in zip(rows, found):
            for name in COLUMNS:
                value = other.get(name)
                if name in ("score", "seconds") and row[name]:
                    assert float(value) == pytest.approx(float(row[name]), abs=1e-5)
                else:
                    assert (value or "") == row[name]
    expected = {r["id"]: float(r["score"]) for r in rows if r["score"]}
    scores = read_metric_scp(tmp_path / "s.scp")
    assert scores == pytest.approx(expected, abs=1e-5) and len(scores) == 7


def test_outputs_are_read_by_the_other_commands(run, tmp_path):
    """Names that a format cannot hold come back as they were."""
    (tmp_path / "in").mkdir()
    for k, name in enumerate(ODD_NAMES):
        with open(os.path.join(os.fsencode(tmp_path / "in"), name), "wb") as file:
            soundfile.write(file, noise(k, 0.3), 16000, format="WAV")
    for suffix in ("csv", "jsonl", "scp"):
        output = tmp_path / f"s.{suffix}"
        assert run(tmp_path / "in", "--output", output)[0] == 0
        file = read_scores(str(output))
        assert not file.problems
        assert {os.fsencode(r.id) for r in file.records} == set(ODD_NAMES)
        assert all(r.score is not None for r in file.records)


def test_frames(run, folder, predictor, tmp_path):
    (folder / "bad.wav").write_text("no audio")
    code, _ = run(folder, "--output", tmp_path / "s.jsonl", "--frames", tmp_path / "fr")
    assert code == 1
    rows = rows_of(tmp_path / "s.jsonl")
    index = read_scp(tmp_path / "fr" / "frames.scp")
    assert list(index) == [row["id"] for row in rows if row["score"]]
    for row in rows:
        if row["score"] is None:
            assert "frames" not in row
            continue
        expected = predictor(read_audio(row["path"]), 16000)
        assert row["frames"] == index[row["id"]]
        np.testing.assert_allclose(np.load(row["frames"]), expected.frames, atol=1e-4)
    info = json.loads((tmp_path / "fr" / "frames.json").read_text())
    first = info["frame_centre"] / info["sample_rate"]
    assert expected.times[0] == first
    assert expected.times[1] - first == info["frame_shift"] / info["sample_rate"]


# The folder of everything


def check_everything(rows, expected):
    found = {os.fsencode(decode_name(row["path"])): row for row in rows}
    assert len(rows) == len(found) == len(expected)
    assert len({row["id"] for row in rows}) == len(rows)
    for path, sentence in expected.items():
        row = found[path]
        error = row["error"] or ""
        assert sentence in error and bool(sentence) == bool(error), row
        assert (row["score"] is None) == bool(sentence)
        assert "\n" not in error and "wav.scp" not in error
    scores = [row["score"] for row in rows if row["score"] is not None]
    assert len({round(score, 3) for score in scores}) > len(scores) / 3


def rows_of(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


# The command, killed behind a row of the journal.
KILLED = """
import os, signal, sys
from espnet2_distilmos.bin import distilmos
from espnet2_distilmos.data.journal import Journal

add, count = Journal.add, [int(sys.argv[1])]

def add_and_die(self, row):
    add(self, row)
    count[0] -= 1
    if not count[0]:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.add = add_and_die
distilmos.main(["predict", *sys.argv[2:]])
"""


def test_a_folder_of_everything(run, scorer_dir, tmp_path):
    """Good and bad, killed half-way without a warning, and resumed."""
    num_bad = max(len(BAD), NUM_FILES * 30 // 1000)
    expected = folder_of_everything(str(tmp_path / "in"), NUM_FILES, num_bad)
    journal = tmp_path / "killed.jsonl.journal"
    command = [sys.executable, "-c", KILLED, str(NUM_FILES // 2)]
    command += [str(tmp_path / "in"), "--model", str(scorer_dir)]
    command += ["--jobs", "1", "--batch-seconds", "0.5"]
    command += ["--output", str(tmp_path / "killed.jsonl")]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed.jsonl").exists()
    with open(journal, "ab") as file:
        file.write(b'{"id": "cut o')
    code, printed = run(
        tmp_path / "in", "--output", tmp_path / "killed.jsonl", "--resume"
    )
    assert code == 1
    done = int(printed.err.split(f" of {NUM_FILES} files have scores")[0].split()[-1])
    assert 0 < done < NUM_FILES - num_bad
    sentences = [x for x in printed.err.splitlines() if str(tmp_path / "in") in x]
    assert len(sentences) == min(num_bad, 50)
    assert f"{num_bad} of {NUM_FILES} files have no score" in printed.err

    resumed = rows_of(tmp_path / "killed.jsonl")
    check_everything(resumed, expected)
    assert not journal.exists()
    # in one go, in other batches
    code, _ = run(tmp_path / "in", "--output", tmp_path / "whole.jsonl", "--jobs", "3")
    whole = rows_of(tmp_path / "whole.jsonl")
    assert code == 1 and len(whole) == len(resumed)
    for one, other in zip(whole, resumed):
        score, again = one.pop("score"), other.pop("score")
        assert one == other
        assert score == (None if again is None else pytest.approx(again, abs=1e-4))


# Resuming


def test_resume_adds_what_is_new_and_retries_what_failed(run, folder, tmp_path):
    output = tmp_path / "s.csv"
    (folder / "sys0" / "u2.wav").rename(tmp_path / "kept.wav")
    (folder / "sys0" / "u2.wav").write_text("not yet")
    assert run(folder, "--output", output)[0] == 1
    first = read_csv(output)
    (tmp_path / "kept.wav").replace(folder / "sys0" / "u2.wav")
    soundfile.write(folder / "sys1" / "new.wav", noise(9, 0.5), 16000)
    # an earlier score that would be another if it were made again
    poisoned = output.read_text().replace(first[0]["score"], "9.5")
    output.write_text(poisoned)
    code, printed = run(folder, "--output", output, "--resume")
    rows = read_csv(output)
    assert code == 0 and "6 of 8 files have scores" in printed.err
    assert rows[0]["score"] == "9.5"
    assert [row["id"] for row in rows][4:6] == ["sys1/new.wav", "sys1/u1.wav"]
    assert all(row["score"] and not row["error"] for row in rows)
    # nothing to do: nothing is changed
    code, printed = run(folder, "--output", output, "--resume")
    assert read_csv(output) == rows and "8 of 8 files have scores" in printed.err


def test_resume_refuses_another_model_or_other_options(
    run, folder, tmp_path, scorer_dir
):
    output = tmp_path / "s.csv"
    assert run(folder, "--output", output)[0] == 0
    before = output.read_bytes()
    code, printed = run(folder, "--output", output, "--resume", "--channel", "0")
    assert code == 1 and "s.csv cannot be resumed" in printed.err
    assert not (tmp_path / "s.csv.journal").exists()
    # the same model elsewhere is the same; another is not
    model = shutil.copytree(scorer_dir, tmp_path / "moved")
    command = [str(folder), "--output", str(output), "--resume", "--model", str(model)]
    assert main(command) == 0
    states = torch.load(model / "valid.sys_srcc.best.pth", weights_only=True)
    states["head.linear.bias"] += 1e-3
    torch.save(states, model / "valid.sys_srcc.best.pth")
    assert main(command) == 1 and output.read_bytes() == before


def test_an_interrupted_run_is_not_overwritten_without_a_word(run, folder, tmp_path):
    output = tmp_path / "s.csv"
    journal = tmp_path / "s.csv.journal"
    header = {"format_version": 1, "scorer": "x", "channel": "mean", "max_seconds": 30}
    row = {"id": "u", "path": "u", "score": 1.0}
    journal.write_text(f"{json.dumps(header)}\n{json.dumps(row)}\n")
    code, printed = run(folder, "--output", output, "--resume")
    assert code == 1 and "s.csv.journal was written with" in printed.err
    code, printed = run(folder, "--output", output)
    assert code == 0 and "begun anew; --resume would have" in printed.err
    assert len(read_csv(output)) == 7


def test_resume_of_scp_and_of_frames(run, folder, tmp_path):
    output, frames = tmp_path / "s.scp", tmp_path / "fr"
    (folder / "sp ace.wav").write_bytes((folder / "sys0" / "u0.wav").read_bytes())
    assert run(folder, "--output", output, "--frames", frames)[0] == 0
    scores = read_metric_scp(output)
    os.remove(npy_path(str(frames), "sys1/u1.wav"))
    code, printed = run(folder, "--output", output, "--frames", frames, "--resume")
    assert code == 0 and "7 of 8 files have scores" in printed.err
    assert "does not say which model" in printed.err
    again = read_metric_scp(output)
    assert again == pytest.approx(scores, abs=1e-4) and list(again) == list(scores)
    assert os.path.isfile(npy_path(str(frames), "sys1/u1.wav"))
    output.write_text("no {scores\n")
    code, printed = run(folder, "--output", output, "--resume")
    assert code == 1 and "s.scp:1: the line is" in printed.err
    assert output.read_text() == "no {scores\n"


# Options


def test_long_files_have_a_note(run, folder, scorer_dir):
    _, printed = run(folder, "--max-seconds", "1.0")
    chosen = MOSPredictor.from_pretrained(str(scorer_dir), max_seconds=1.0)
    notes = 0
    for row in csv.DictReader(printed.out.splitlines()):
        expected = chosen(read_audio(row["path"]), 16000)
        assert float(row["score"]) == pytest.approx(expected.score, abs=1e-4)
        assert row["note"] == expected.note
        notes += bool(row["note"])
    assert 0 < notes < 7


def test_channels(run, tmp_path):
    waves = np.stack([noise(0, 1.0), noise(1, 1.0)], 1)
    soundfile.write(tmp_path / "stereo.wav", waves, 16000)
    rows = []
    for channel in ("mean", "0", "2"):
        _, printed = run(tmp_path / "stereo.wav", "--channel", channel)
        rows += csv.DictReader(printed.out.splitlines())
    assert abs(float(rows[0]["score"]) - float(rows[1]["score"])) > 1e-3
    assert "has 2 channels, expected one with the number 2" in rows[2]["error"]


def test_systems_by_file_and_by_expression(run, folder, tmp_path):
    lines = [f"u{k} sys{k % 2}" for k in range(6)]  # u6 has none
    (tmp_path / "utt2sys").write_text("\n".join(lines) + "\n")
    run(folder, "--output", tmp_path / "s.csv", "--systems", r"^sys(\d)")
    by_regex = {row["id"]: row["system"] for row in read_csv(tmp_path / "s.csv")}
    assert by_regex == {i: i[3] for i in by_regex}
    code, printed = run(
        folder, "--output", tmp_path / "s.csv", "--systems", tmp_path / "utt2sys"
    )
    rows = read_csv(tmp_path / "s.csv")
    for row in rows:
        expected = "" if "u6" in row["id"] else row["id"].split("/")[0]
        assert row["system"] == expected
    assert code == 0 and "has no system for 1 utterance" in printed.err
    assert printed.out.startswith("system") and "(none)" in printed.out
    _, printed = run(folder, "--systems", r"^sys(\d)")
    screen = list(csv.DictReader(printed.out.splitlines()))
    assert {row["id"]: row["system"] for row in screen} == by_regex


def test_summary_by_directory_best_first():
    paths = {"a/1.wav": 2.0, "b/1.wav": 4.0, "b/2.wav": 3.0, "b/3": None, "c/3": None}
    paths["b/4"] = 3.1
    records = [Score(path, score, path=path) for path, score in paths.items()]
    table = [x.split() for x in summarize(records, by_system=False).splitlines()]
    assert table == [
        "directory files failed outside mean SD median p5 p95".split(),
        # 5 % of the way from the first to the third of three, and from the last
        "b 4 1 0 3.367 0.551 3.100 3.010 3.910".split(),
        "a 1 0 0 2.000 - 2.000 2.000 2.000".split(),
        "c 1 1 0 - - - - -".split(),
    ]


def test_scores_outside_the_scale_are_flagged(folder, scorer_dir, tmp_path, capsys):
    """In the table, in the summary and by a sentence; with a scale also outside its."""
    model = shutil.copytree(scorer_dir, tmp_path / "model")
    command = [str(folder), "--model", str(model), "--output", f"{tmp_path}/s.csv"]
    assert main(command) == 0
    assert "outside" not in capsys.readouterr().err  # this model states no scale
    scores = sorted(float(row["score"]) for row in read_csv(tmp_path / "s.csv"))
    low, high = scores[1] - 1e-4, scores[-3] + 1e-4
    config = yaml.safe_load((model / "config.yaml").read_text())
    config["score_range"] = [low, high]
    (model / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(command) == 0
    printed = capsys.readouterr()
    for row in read_csv(tmp_path / "s.csv"):
        inside = low <= float(row["score"]) <= high
        assert row["note"] == (
            "" if inside else f"outside the scale of {low:g} to {high:g}"
        )
    head, *groups = (line.split() for line in printed.out.splitlines())
    assert sum(int(group[head.index("outside")]) for group in groups) == 3
    assert "3 of 7 files have a score outside the scale" in printed.err
    scale = fit_scale([low, high], [0, 100])
    scale["score_range"] = [-1000, 99.5]
    (tmp_path / "scale.json").write_text(json.dumps(scale))
    del config["score_range"]
    (model / "config.yaml").write_text(yaml.safe_dump(config))
    assert main([*command, "--scale", f"{tmp_path}/scale.json"]) == 0
    notes = [row["note"] for row in read_csv(tmp_path / "s.csv")]
    above = [float(row["score"]) > 99.5 for row in read_csv(tmp_path / "s.csv")]
    assert ["outside the scale of -1000 to 99.5" in note for note in notes] == above
    assert 2 <= sum(above) < 7


@pytest.mark.parametrize(
    "options, found",
    [
        (["--output", "s.txt"], "--output is s.txt, expected"),
        (["--resume"], "--resume needs an --output"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--interval", "90"], "--interval is 90, expected a level"),
        (["--systems", "("], "neither a file nor a regular expression"),
        (["--device", "cuda:99"], "device='cuda:99'"),
        (["--batch-seconds=-1"], "batch_seconds=-1"),
        (["--batch-seconds=inf"], "batch_seconds=inf, expected a positive number"),
        (["--channel", "x"], "channel='x'"),
        (["--max-seconds", "0"], "max_seconds=0"),
        (["--output", "/dev/null/s.csv"], "cannot be written"),
    ],
)
def test_impossible_options_get_one_sentence(run, folder, options, found):
    code, printed = run(folder, *options)
    assert code == 1 and found in printed.err and printed.out == ""
    assert len(printed.err.splitlines()) == 1


def test_without_a_model_the_box_scores(folder, capsys, monkeypatch, scorer_dir):
    monkeypatch.delenv("DISTILMOS_MODEL", raising=False)
    assert main([str(folder)]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("box: ")
    assert main([str(folder), "--model", "box"]) == 0
    assert capsys.readouterr().out == printed.out
    monkeypatch.setenv("DISTILMOS_MODEL", str(scorer_dir))
    assert main([str(folder)]) == 0
    other = capsys.readouterr()
    assert "box: " not in other.err and other.out != printed.out


def test_lists_on_standard_input(scorer_dir, folder, tmp_path):
    """As of `find -print0`, in a process of its own; and a reader that leaves."""
    names = [os.fsencode(p) for p in sorted(folder.rglob("*.wav"))]
    command = [sys.executable, "-m", "espnet2_distilmos.bin.predict", "-", "-0"]
    command += ["--model", str(scorer_dir)]
    done = subprocess.run(command, input=b"\0".join(names), capture_output=True)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(done.stdout.decode().splitlines()))
    assert [os.fsencode(row["path"]) for row in rows] == names


def test_parser_has_a_description():
    assert get_parser().description


def test_a_summary_of_rows_without_path_and_error(capsys):
    """Tables of others may lack both."""
    records = [Score("a", 3.0), Score("b")]
    assert report(records, False, None, sys.stdout) == 1
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split()[:4] == [".", "2", "1", "0"]
    assert printed.err.splitlines()[0] == "b has no score"
