# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""`predict --ray`: a local cluster of two workers, of which one is killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet2_distilmos import on_ray
from espnet2_distilmos.bin import predict

NUM_FILES = 60


def test_without_ray(scorer_dir, tmp_path, capsys, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.zeros(4000), 16000)
    options = [str(tmp_path / "a.wav"), "--model", str(scorer_dir)]
    monkeypatch.setitem(sys.modules, "ray", None)
    assert predict.main([*options, "--ray", "local"]) == 1
    error = capsys.readouterr().err
    assert "pip install 'espnet2_distilmos[ray]'" in error and error.count("\n") == 1
    assert predict.main([*options, "--workers", "2"]) == 1
    assert "expected at least 1, and --ray" in capsys.readouterr().err
    url = ["--model", "http://127.0.0.1:1", "--ray", "local"]
    assert predict.main([options[0], *url]) == 1
    assert "expected one that workers of --ray can load" in capsys.readouterr().err


def workers_of(process):
    """Process ids of Ray's workers that have a model, and descend from ``process``."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "cmdline").read_bytes()
            parents[int(folder.name)] = int(fields[1])
        except OSError:  # ended
            continue

    def descends(pid):
        while pid in parents and pid != process:
            pid = parents[pid]
        return pid == process

    return [p for p, name in names.items() if b"MapWorker" in name and descends(p)]


@pytest.mark.slow
@pytest.mark.parametrize("in_order", [True, False])
def test_a_block_that_ends_every_worker_costs_itself(monkeypatch, in_order):
    pytest.importorskip("ray.data")

    class Worker:  # local, so that Ray sends it as it is
        def __init__(self, **options):
            pass

        def __call__(self, batch):
            rows = []
            for index, path in zip(batch["index"], batch["path"]):
                if b"poison" in path:
                    os._exit(1)
                score = float(path[-3:])
                row = {"index": int(index), "score": score, "raw_score": score}
                row.update(seconds=1.0, note="", error="")
                if index == 30:
                    row = {"index": 30, "error": f"{os.fsdecode(path)} is bad"}
                rows.append(json.dumps(row).encode())
            return {"row": np.array(rows, dtype=object)}

    monkeypatch.setattr(on_ray, "_Worker", Worker)
    here = types.SimpleNamespace(fingerprint="0", confidence=None, frame_shift=320)
    predictor = on_ray.RayPredictor(here, "model", {"device": "cpu"}, "local", 2)
    assert predictor.frame_shift == 320
    paths = [f"sub/clip{k:03d}" for k in range(40)]
    paths[5] = "poison"
    found = list(predictor.predict_files(paths, in_order=in_order))
    if in_order:
        assert [one.index for one in found] == list(range(40))
    found.sort()
    assert [one.path for one in found] == paths
    lost = {one.index for one in found if "was given to 3 workers" in one.error}
    assert 5 in lost and len(lost) < 10
    assert max(lost) - min(lost) == len(lost) - 1  # one block
    assert found[30].error == "sub/clip030 is bad"
    for one in found:
        if one.index not in lost | {30}:
            assert one.result.score == one.index and one.error == ""


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(tmp_path):
    pytest.importorskip("ray.data")
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for k in range(NUM_FILES):
        wave = 0.1 * generator.normal(size=16000 + 8000 * (k % 20))
        soundfile.write(tmp_path / "in" / f"u{k:03d}.wav", wave, 16000)
    (tmp_path / "in" / "u007.wav").write_bytes(b"nothing")
    os.rename(tmp_path / "in" / "u009.wav", os.fsencode(tmp_path / "in") + b"/\xff.wav")
    tables = []
    for name, more in (("here", []), ("ray", ["--ray", "local", "--workers", "2"])):
        command = [sys.executable, "-m", "espnet2_distilmos.bin.distilmos", "predict"]
        command += ["in", "--model", "box", "--output", f"{name}.csv", *more]
        command += ["--frames", name]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
        if more:
            journal = tmp_path / "ray.csv.journal"
            while process.poll() is None:
                rows = journal.read_bytes().count(b"\n") if journal.exists() else 0
                workers = workers_of(process.pid)
                if rows > 2 and workers:
                    # Some files are done, and others are being scored.
                    os.kill(workers[0], signal.SIGKILL)
                    break
                time.sleep(0.05)
            assert process.poll() is None
        error = process.communicate()[1].decode()
        assert process.returncode == 1
        assert f"1 of {NUM_FILES} files have no score" in error
        with open(tmp_path / f"{name}.csv", newline="") as file:
            tables.append(list(csv.DictReader(file)))
    for one, other in zip(*tables, strict=True):
        scores = [float(row.pop("score") or "nan") for row in (one, other)]
        frames = [row.pop("frames") for row in (one, other)]
        assert one == other
        np.testing.assert_allclose(*scores, atol=1e-4)
        if frames[0]:
            found = [np.load(tmp_path / path) for path in frames]
            np.testing.assert_allclose(*found, atol=1e-3)
