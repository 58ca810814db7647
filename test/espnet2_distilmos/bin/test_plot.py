# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import soundfile
from scipy import stats

from espnet2_distilmos.bin.plot import KINDS, get_parser, main
from espnet2_distilmos.evaluation import plots

pytest.importorskip("matplotlib")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ids = [f"s{k % 3}-u{k}" for k in range(30)]
    true = rng.uniform(1, 5, 30).round(3)
    for name, values in (("labels", true), ("model", (true + 0.5).round(3))):
        rows = [f"{i},{v}\n" for i, v in zip(ids, values)]
        (tmp_path / f"{name}.txt").write_text("".join(rows))
    return tmp_path, true


@pytest.fixture
def drawn(monkeypatch):
    """What the functions of evaluation.plots were called with, by their names."""
    calls, figures = {}, {}

    def watch(name):
        original = getattr(plots, name)

        def call(*args, **kwargs):
            calls[name] = args
            figures[name] = original(*args, **kwargs)
            return figures[name]

        monkeypatch.setattr(plots, name, call)

    for name in dir(plots):
        if name.endswith("_figure"):
            watch(name)
    calls["figures"] = figures
    return calls


@pytest.mark.parametrize("kind", ["scatter", "residuals"])
def test_predictions_over_labels(kind, files, drawn, capsys):
    root, true = files
    assert main([kind, "labels.txt", "model.txt", "--output", "new/f.png"]) == 0
    assert (root / "new" / "f.png").read_bytes().startswith(b"\x89PNG")
    name = {"scatter": "scatter_figure", "residuals": "residual_figure"}[kind]
    pred, labels = drawn[name][:2]
    np.testing.assert_allclose(labels, true)
    np.testing.assert_allclose(pred, true + 0.5, atol=1e-3)
    assert "new/f.png" in capsys.readouterr().out


def test_labels_of_another_scale(files, drawn, capsys):
    """Each axis has its own range; what subtracts the two is refused."""
    rows = [f"s{k % 3}-u{k},{20 * v}\n" for k, v in enumerate(files[1])]
    (files[0] / "labels.txt").write_text("".join(rows))
    assert main(["scatter", "labels.txt", "model.txt", "--output", "f.png"]) == 0
    (axes,) = drawn["figures"]["scatter_figure"].axes
    assert axes.get_ylim()[1] < 7 and axes.get_xlim()[1] > 80
    for kind in ("residuals", "systems"):
        command = [kind, "labels.txt", "model.txt", "--systems", "^(s[0-9])"]
        assert main([*command, "--output", "g.png"]) == 1
        (line,) = capsys.readouterr().err.splitlines()[:1]
        assert "model.txt: the labels go from " in line and "--fit-scale" in line
    assert not (files[0] / "g.png").exists()


def test_systems_with_t_intervals(files, drawn):
    true = files[1]
    command = ["systems", "labels.txt", "mine=model.txt", "--systems", "^(s[0-9])"]
    assert main([*command, "--output", "f.svg"]) == 0
    tables, _ = drawn["system_figure"]
    rows = {row.system: row for row in tables["mine"]}
    assert sorted(rows) == ["s0", "s1", "s2"]
    clips = true[1::3]
    assert rows["s1"].label.mean == pytest.approx(clips.mean())
    assert rows["s1"].pred.mean == pytest.approx(clips.mean() + 0.5, abs=1e-3)
    expected = stats.t.interval(0.95, 9, clips.mean(), stats.sem(clips))
    np.testing.assert_allclose(rows["s1"].label.interval, expected)


def test_training(files, drawn, monkeypatch):
    history = {1: {"train": {"loss": 2.0}, "valid": {"loss": 3.0, "utt_srcc": 0.5}}}
    name = "espnet2_distilmos.train.mos_trainer.read_history"
    monkeypatch.setattr(name, {"exp": history}.get)
    assert main(["training", "exp", "--output", "f.pdf"]) == 0
    assert drawn["training_figure"] == (history,)
    assert (files[0] / "f.pdf").read_bytes().startswith(b"%PDF")


def test_frames_are_those_of_the_predictor(scorer_dir, files, drawn):
    speech = 0.1 * np.random.default_rng(0).standard_normal(9000)
    soundfile.write("a clip.wav", speech, 16000)
    command = ["frames", str(scorer_dir), "a clip.wav", "--output", "f.png"]
    assert main(command) == 0
    drawn_speech, rate, frames, times, score, title = drawn["frame_figure"]
    assert rate == 16000 and len(drawn_speech) == 9000 and title == "a clip.wav"
    assert len(frames) == len(times) == 28
    assert np.mean(frames) == pytest.approx(score, abs=1e-5)
    assert 0 < times[0] < times[-1] < 9000 / 16000
    (files[0] / "a clip.wav").write_text("no audio")
    assert main(command) == 1


def test_models(tmp_path, drawn):
    row = {"model": "a", "test_set": "t", "utt_mos_lcc": 0.5, "intervals": {}}
    document = {"format_version": 1, "results": [row]}
    (tmp_path / "results.json").write_text(json.dumps(document))
    command = ["models", f"{tmp_path}/results.json", "--output", f"{tmp_path}/f.png"]
    assert main([*command, "--metric", "utt_mos_lcc"]) == 0
    assert drawn["comparison_figure"][:2] == ([row], "utt_mos_lcc")


@pytest.mark.parametrize(
    "command, word",
    [
        (["scatter", "labels.txt", "model.txt", "--output", "f.gif"], ".gif"),
        (["scatter", "labels.txt", "model.txt", "b=model.txt"], "2 files"),
        (["systems", "labels.txt", "model.txt"], "system"),
        (["training", "."], "checkpoint"),
        (["scatter", "gone.txt", "model.txt"], "gone.txt"),
    ],
)
def test_refusals(command, word, files, capsys):
    if "--output" not in command:
        command = [*command, "--output", "f.png"]
    assert main(command) == 1
    assert word in capsys.readouterr().err
    assert not (files[0] / "f.png").exists()


def test_bad_lines_are_said_and_the_rest_drawn(files, drawn, capsys):
    lines = (files[0] / "model.txt").read_text().splitlines(True)
    (files[0] / "model.txt").write_text("".join(lines[2:]))
    assert main(["scatter", "labels.txt", "model.txt", "--output", "f.png"]) == 1
    assert len(drawn["scatter_figure"][0]) == 28 and (files[0] / "f.png").exists()
    assert "2 utterances" in capsys.readouterr().err


def test_every_kind_has_a_parser():
    parser = get_parser()
    assert parser.description
    for kind in KINDS:
        with pytest.raises(SystemExit):
            parser.parse_args([kind, "--help"])
