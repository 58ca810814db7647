# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Both examples of a reward, on small models."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

EXAMPLES = Path(__file__).resolve().parents[2] / "tools"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clip(tmp_path):
    generator = np.random.default_rng(0)
    wave = 0.1 * np.sin(np.arange(6000) / 9) + 0.02 * generator.normal(size=6000)
    soundfile.write(tmp_path / "clip.wav", wave, 16000)
    return str(tmp_path / "clip.wav")


def test_a_generator_learns_by_gradient(clip, scorer_dir, tmp_path):
    output = str(tmp_path / "out.wav")
    options = ["--model", str(scorer_dir), "--steps", "6", "--output", output]
    scores = load("reward_by_gradient").main([clip, *options])
    assert len(scores) == 7 and scores[-1] > scores[0] + 1e-3
    from espnet2_distilmos import MOSPredictor

    predictor = MOSPredictor.from_pretrained(str(scorer_dir))
    wave, fs = soundfile.read(output)
    assert predictor(wave, fs).score == pytest.approx(scores[-1], abs=1e-2)


def test_a_generator_learns_by_a_server(clip):
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        pytest.importorskip(package)
    module = "espnet2_distilmos.bin.serve"
    command = [sys.executable, "-m", module, "--model", "box", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = re.search(r"http\S+", server.stdout.readline())[0]
            history = load("reward_by_server").main(
                [clip, "--url", url, "--steps", "8", "--group", "8"]
            )
        finally:
            server.terminate()
    assert server.returncode == 0
    assert len(history) == 8
    assert np.mean(history[-3:]) > history[0]


def test_a_candidate_without_a_score_has_no_part():
    class Predictor:
        def __call__(self, waves, fs):
            if any(len(wave) < 3 for wave in waves):
                raise ValueError("too short")
            return [type("Result", (), {"score": float(len(wave))}) for wave in waves]

    found = load("reward_by_server").rewards_of(
        Predictor(), [np.zeros(4), np.zeros(1), np.zeros(5)], 16000
    )
    np.testing.assert_array_equal(found, [4, np.nan, 5])
