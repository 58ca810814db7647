# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "measure_sensitivity.py"
spec = importlib.util.spec_from_file_location("measure_sensitivity", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_changes_of_a_known_score():
    """A score that is level in dB plus duration in seconds, so changes are known."""
    fs = 1000
    clips = [np.full(fs, level, np.float32) for level in (0.05, 0.2, 0.4)]

    def score(waves):
        loudest = [20 * np.log10(np.abs(wave).max()) for wave in waves]
        return [level + len(wave) / fs for level, wave in zip(loudest, waves)]

    rows = tool.measure(score, clips, fs)
    assert rows["-20 dB"]["mean"] == pytest.approx(-20, abs=1e-4)
    assert rows["-20 dB"]["clips"] == 3 and rows["-20 dB"]["srcc"] == 1
    # 0.4 becomes 0.8 with +6 dB and would clip with +10 dB.
    assert [rows[f"+{g} dB"]["clips"] for g in (6, 10, 20)] == [3, 2, 1]
    assert rows["0.5 s of silence before"]["mean"] == pytest.approx(0.5)
    assert rows["3 s of silence before"]["largest"] == pytest.approx(3)
    assert rows["3 s of silence before"]["sd"] == pytest.approx(0, abs=1e-6)


def test_summary():
    row = tool.summarise([1.0, 2.0, 3.0], [2.0, 1.0, 3.5])
    assert row["mean"] == pytest.approx(0.5 / 3) and row["largest"] == 1
    assert row["srcc"] == pytest.approx(0.5)


def test_a_trained_model(mos_corpus, tmp_path, capsys):
    exp = mos_corpus.train(tmp_path / "exp", max_epoch=1)
    wav_scp = str(mos_corpus.root / "valid" / "wav.scp")
    assert tool.main([str(exp), wav_scp, "--clips", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(tool.GAINS_DB) + len(tool.SILENCE_SECONDS)
    assert lines[2].startswith("| -20 dB | 4 |")
