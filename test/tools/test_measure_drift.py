# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "measure_drift.py"
spec = importlib.util.spec_from_file_location("measure_drift", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_what_a_linear_map_recovers():
    rng = np.random.default_rng(0)
    states = [rng.standard_normal((4000, 8)) * np.arange(1, 9) for _ in range(2)]
    mixing = rng.standard_normal((8, 8))
    mixed = [half @ mixing + 3 for half in states]
    assert tool.recovered_variance(mixed, states) == pytest.approx(1, abs=1e-3)
    # Two of eight independent dimensions are gone.
    lacking = [half[:, 2:] for half in states]
    assert tool.recovered_variance(lacking, states) == pytest.approx(0.75, abs=0.01)
    # Noise of a third of the variance: R^2 of the regression on it is 1 / (1 + 1 / 3).
    noise = [
        half + rng.standard_normal(half.shape) * half.std(0) / 3**0.5 for half in states
    ]
    assert tool.recovered_variance(noise, states) == pytest.approx(0.75, abs=0.01)


def test_cka_is_the_normalised_correlation_of_the_similarities():
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal((60, 5)), rng.standard_normal((60, 7))
    centre = np.eye(60) - 1 / 60
    grams = [centre @ x @ x.T @ centre for x in (first, second)]
    expected = np.corrcoef(*(g.ravel() for g in grams))[0, 1]  # means are 0
    assert tool.linear_cka(first, second) == pytest.approx(expected, abs=1e-9)
    rotation, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    assert tool.linear_cka(first, 2 * first @ rotation + 1) == pytest.approx(1)


def test_trained_models(mos_corpus, tmp_path, capsys):
    conf = {**mos_corpus.frontend_conf, "freeze": "all"}
    frozen = mos_corpus.train(tmp_path / "frozen", frontend_conf=conf)
    moved = mos_corpus.train(tmp_path / "moved")
    wav_scp = str(mos_corpus.root / "valid" / "wav.scp")
    table = tmp_path / "drift.csv"
    assert tool.main([wav_scp, str(frozen), str(moved), "--csv", str(table)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[2].startswith("| model | layer 0 |") and len(printed) == 6
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    values = {str(path): [] for path in (frozen, moved)}
    for row in rows:
        values[row["model"]].append((float(row["recovered"]), float(row["cka"])))
    np.testing.assert_allclose(values[str(frozen)], 1, atol=0.02)
    np.testing.assert_allclose(np.array(values[str(frozen)])[:, 1], 1, atol=1e-9)
    assert min(cka for _, cka in values[str(moved)]) < 1 - 1e-7
    # A model that cannot be loaded does not cost the others.
    assert tool.main([wav_scp, "nowhere", str(frozen)]) == 1
    output = capsys.readouterr()
    assert "nowhere" in output.err and output.out.splitlines()[4] == printed[4]
    # What cannot be measured at all is one sentence.
    assert tool.main([wav_scp, str(frozen), "--clips", "1"]) == 1
    assert "--clips 1" in capsys.readouterr().err.splitlines()[-1]
