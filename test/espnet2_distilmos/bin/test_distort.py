# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.bin import distort
from espnet2_distilmos.data.datadir import read_scp
from espnet2_distilmos.distortion import degradations
from espnet2_distilmos.distortion.systems import (
    SEED,
    SYSTEMS,
    choose_systems,
    make_copy,
)


def speech(seed, seconds=1.0, rate=16000):
    rng = np.random.default_rng(seed)
    times = np.arange(int(seconds * rate)) / rate
    return (
        0.3
        * np.sin(2 * np.pi * (100 + 20 * seed) * times)
        * rng.uniform(0.5, 1, len(times))
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "speech" / "b c").mkdir(parents=True)
    soundfile.write(tmp_path / "speech" / "a.wav", speech(0), 16000)
    soundfile.write(tmp_path / "speech" / "b c" / "a.flac", speech(1), 16000)
    soundfile.write(tmp_path / "speech" / "long.wav", speech(2, 3.0), 16000)
    return tmp_path / "speech"


def run(output, *inputs, copies=3, nj=1, **options):
    command = [*map(str, inputs), "--output", str(output), "--nj", str(nj)]
    command += ["--copies", str(copies), "--max_seconds", "2"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return distort.main(command)


def test_what_is_not_imported():
    assert (distort.SAMPLE_RATE, distort.SEED) == (degradations.SAMPLE_RATE, SEED)


def read_manifest(output):
    with open(output / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def contents(output):
    files = sorted((output / "data").iterdir())
    return {file.name: file.read_bytes() for file in files}


def test_copies_are_what_the_manifest_says(folder, tmp_path):
    output = tmp_path / "out"
    assert run(output, folder) == 0
    rows = read_manifest(output)
    ids = [row["id"] for row in rows]
    assert len(ids) == 9 and "b_c_a_c2" in ids
    for name in ("wav.scp", "utt2sys", "utt2src"):
        assert list(read_scp(output / name)) == ids
    wavs = read_scp(output / "wav.scp")
    for row in rows:
        written, rate = soundfile.read(wavs[row["id"]], dtype="int16")
        assert rate == 16000 and len(written) == float(row["seconds"]) * rate
        path = {"a": "a.wav", "b_c_a": "b c/a.flac", "long": "long.wav"}[row["source"]]
        start = round(float(row["start"]) * rate)
        original = soundfile.read(folder / path)[0][start:][:32000]
        copy = make_copy(original, row["systems"].split("+"), row["id"])
        np.testing.assert_array_equal(written, copy.audio)
        assert json.loads(row["parameters"]) == [step[1] for step in copy.steps]
        assert float(row["snr_db"]) == pytest.approx(copy.snr_db, abs=0.01)
        assert set(row["systems"].split("+")) <= set(SYSTEMS)
    assert [row["systems"] for row in rows if row["source"] == "a"] == [
        "+".join(choose_systems("a", number, 0.1, 0.5)) for number in range(3)
    ]
    # Each copy of long speech has a part of its own.
    starts = {row["start"] for row in rows if row["source"] == "long"}
    assert len(starts) == 3
    assert {row["start"] for row in rows if row["source"] == "a"} == {"0.0"}


def test_copies_depend_on_their_id_alone(folder, tmp_path):
    assert run(tmp_path / "all", folder, nj=2, copies=4) == 0
    (tmp_path / "wav.scp").write_text(
        f"long {folder / 'long.wav'}\na {folder / 'a.wav'}\n"
    )
    assert run(tmp_path / "some", tmp_path / "wav.scp") == 0
    whole, part = contents(tmp_path / "all"), contents(tmp_path / "some")
    assert len(part) == 6 and part == {name: whole[name] for name in part}
    assert run(tmp_path / "seed", tmp_path / "wav.scp", seed=1) == 0
    assert not set(contents(tmp_path / "seed").values()) & set(part.values())


def test_a_killed_run_goes_on_and_ends_the_same(folder, tmp_path, monkeypatch):
    output, whole = tmp_path / "out", tmp_path / "whole"
    assert run(whole, folder) == 0
    assert run(output, folder / "a.wav", folder / "long.wav") == 0
    for row in read_manifest(output)[::2]:
        os.remove(read_scp(output / "wav.scp")[row["id"]])
    (tmp_path / "wav.scp").write_text(
        "".join(
            f"{name} {folder / path}\n"
            for name, path in (("a", "a.wav"), ("b_c_a", "b c/a.flac"))
        )
        + f"long {folder / 'long.wav'}\n"
    )
    assert run(output, tmp_path / "wav.scp", copies=2) == 0
    kept = output / "data" / "a_c0.flac"
    os.utime(kept, (1, 1))
    broken = output / "data" / "b_c_a_c1.flac"
    broken.write_bytes(broken.read_bytes()[:10])
    assert run(output, tmp_path / "wav.scp") == 0
    assert os.path.getmtime(kept) == 1
    for name, content in contents(whole).items():
        assert contents(output)[name] == content
    rows = [(row["id"], row["snr_db"]) for row in read_manifest(whole)]
    assert [(row["id"], row["snr_db"]) for row in read_manifest(output)] == rows
    # Of other speech under the same id, and of other systems, it is made anew.
    soundfile.write(folder / "a.wav", speech(7), 16000)
    assert run(output, tmp_path / "wav.scp") == 0
    assert os.path.getmtime(kept) != 1
    os.utime(kept, (1, 1))
    monkeypatch.setattr(distort, "fingerprint", lambda: "another version")
    assert run(output, tmp_path / "wav.scp") == 0
    assert os.path.getmtime(kept) != 1


def test_bad_files_get_a_sentence_and_the_rest_goes_on(folder, tmp_path, capsys):
    (folder / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "short.wav", speech(0, 0.1), 16000)
    soundfile.write(folder / "a.flac", speech(0), 16000)
    assert run(tmp_path / "out", folder) == 1
    errors = capsys.readouterr().err
    assert len(read_manifest(tmp_path / "out")) == 9
    for sentence in (
        "broken.wav",
        "silent.wav: it has 1.00 s of silence",
        "short.wav: it has 0.10 s, expected",
        "both make the id a",
        "4 sources are without copies",
    ):
        assert sentence in errors
    assert run(tmp_path / "out", folder, copies=0) == 1
    assert "expected at least one copy" in capsys.readouterr().err
    for seconds in ("inf", "1e308", "nan"):
        assert run(tmp_path / "out", folder, max_seconds=seconds) == 1
        assert "finite seconds" in capsys.readouterr().err
    assert run(tmp_path / "out", folder, clean_share=2) == 1


def test_an_output_within_the_speech_or_of_others(folder, tmp_path, capsys):
    """Copies are no speech, and a list of somebody else's is not written over."""
    for _ in range(2):
        assert run(folder / "out", folder, copies=1) == 0
        assert len(read_manifest(folder / "out")) == 3
    line = f"x {folder}/a.wav\n"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wav.scp").write_text(line)
    assert run(tmp_path / "data", tmp_path / "data") == 1
    assert "was not written by this command" in capsys.readouterr().err
    assert (tmp_path / "data" / "wav.scp").read_text() == line


def test_a_copy_that_cannot_be_made_leaves_the_others(
    folder, tmp_path, monkeypatch, capsys
):
    write = distort.write_copy

    def fail(path, stamp, audio, number, *args):
        if number == 1:
            raise ValueError("no sound is left.")
        write(path, stamp, audio, number, *args)

    monkeypatch.setattr(distort, "write_copy", fail)
    monkeypatch.setattr(distort, "ProcessPoolExecutor", ThreadPoolExecutor)
    assert run(tmp_path / "out", folder) == 1
    assert len(read_manifest(tmp_path / "out")) == 6
    error = capsys.readouterr().err
    assert "long.wav makes no long_c1: no sound is left.\n" in error


def test_a_killed_process_gets_a_sentence(folder, tmp_path, monkeypatch, capsys):
    class Broken(ThreadPoolExecutor):
        def map(self, *args):
            raise BrokenProcessPool("abruptly")

    monkeypatch.setattr(distort, "ProcessPoolExecutor", Broken)
    assert run(tmp_path / "out", folder) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a process ended without a word" in line
