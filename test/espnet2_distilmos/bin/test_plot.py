# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import soundfile
from scipy import stats

import espnet2_distilmos.evaluation.plots as plots
from espnet2_distilmos.bin.plot import KINDS, get_parser, main

pytest.importorskip("matplotlib")


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    ids = [f"s{k % 3}-u{k}" for k in range(30)]
    true = rng.uniform(1, 5, 30).round(3)
    for name, values in (("labels", true), ("model", (true + 0.5).round(3))):
        rows = [f"{i},{v}\n" for i, v in zip(ids, values)]
        (tmp_path / f"{name}.txt").write_text("".join(rows))
    return tmp_path, ids, true


@pytest.fixture
def drawn(monkeypatch):
    """What the functions of evaluation.plots were called with, by their names."""
    calls = {}

    def watch(name):
        original = getattr(plots, name)

        def call(*args, **kwargs):
            calls[name] = args
            return original(*args, **kwargs)

        monkeypatch.setattr(plots, name, call)

    for name in dir(plots):
        if name.endswith("_figure"):
            watch(name)
    return calls


@pytest.mark.parametrize("kind", ["scatter", "residuals"])
def test_predictions_over_labels(kind, files, drawn, capsys):
    root, ids, true = files
    command = [kind, f"{root}/labels.txt", f"{root}/model.txt"]
    assert main([*command, "--output", f"{root}/new/f.png"]) == 0
    assert (root / "new" / "f.png").read_bytes().startswith(b"\x89PNG")
    name = {"scatter": "scatter_figure", "residuals": "residual_figure"}[kind]
    pred, labels = drawn[name][:2]
    np.testing.assert_allclose(labels, true)
    np.testing.assert_allclose(pred, true + 0.5, atol=1e-3)
    assert "new/f.png" in capsys.readouterr().out


def test_systems_with_t_intervals(files, drawn):
    root, ids, true = files
    command = ["systems", f"{root}/labels.txt", f"mine={root}/model.txt"]
    assert main([*command, "--systems", "^(s[0-9])", "--output", f"{root}/f.svg"]) == 0
    assert (root / "f.svg").read_text().startswith("<?xml")
    names, means, intervals, _ = drawn["system_figure"]
    assert sorted(names) == ["s0", "s1", "s2"]
    assert list(means) == ["listeners", "mine"]
    clips, k = true[1::3], names.index("s1")
    assert means["listeners"][k] == pytest.approx(clips.mean())
    assert means["mine"][k] == pytest.approx(clips.mean() + 0.5, abs=1e-3)
    expected = stats.t.interval(0.95, 9, clips.mean(), stats.sem(clips))
    np.testing.assert_allclose(intervals["listeners"][k], expected)


def test_training(mos_corpus, tmp_path, drawn, training_log):
    exp = mos_corpus.train(tmp_path / "exp", max_epoch=2)
    assert main(["training", str(exp), "--output", f"{tmp_path}/f.pdf"]) == 0
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")
    (history,) = drawn["training_figure"]
    assert sorted(history) == [1, 2]
    valid = training_log(exp)[2]["valid"]
    assert history[2]["valid"]["utt_srcc"] == valid["utt_srcc"]


def test_frames_are_those_of_the_predictor(mos_corpus, tmp_path, drawn):
    exp = mos_corpus.train(tmp_path / "exp", max_epoch=1)
    speech = 0.1 * np.random.default_rng(0).standard_normal(9000)
    path = tmp_path / "a clip.wav"
    soundfile.write(path, speech, 16000)
    command = ["frames", str(exp), str(path), "--output", f"{tmp_path}/f.png"]
    assert main(command) == 0
    drawn_speech, rate, frames, times, score, title = drawn["frame_figure"]
    assert rate == 16000 and len(drawn_speech) == 9000 and title == "a clip.wav"
    assert len(frames) == len(times) == 28
    assert np.mean(frames) == pytest.approx(score, abs=1e-5)
    assert 0 < times[0] < times[-1] < 9000 / 16000
    path.write_text("no audio")
    assert main(command) == 1


def test_models(tmp_path, drawn):
    row = {"model": "a", "test_set": "t", "utt_mos_lcc": 0.5, "intervals": {}}
    document = {"format_version": 1, "results": [row]}
    (tmp_path / "results.json").write_text(json.dumps(document))
    command = ["models", f"{tmp_path}/results.json", "--output", f"{tmp_path}/f.png"]
    assert main([*command, "--metric", "utt_mos_lcc"]) == 0
    assert drawn["comparison_figure"][:2] == ([row], "utt_mos_lcc")


@pytest.mark.parametrize(
    "command, message",
    [
        (["scatter", "labels.txt", "model.txt", "--output", "f.gif"], "ends in .gif"),
        (["scatter", "labels.txt", "model.txt", "b=model.txt"], "found 2 files of"),
        (["systems", "labels.txt", "model.txt"], "no utterance has a system"),
        (["training", "."], "found no readable checkpoint"),
        (["scatter", "gone.txt", "model.txt"], "gone.txt"),
    ],
)
def test_refusals(command, message, files, capsys, monkeypatch):
    monkeypatch.chdir(files[0])
    for name in ("labels.txt", "model.txt"):
        # Names that no format takes systems from.
        text = (files[0] / name).read_text().replace("-", "")
        (files[0] / name).write_text(text)
    if "--output" not in command:
        command = [*command, "--output", "f.png"]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not (files[0] / "f.png").exists()


def test_bad_lines_are_said_and_the_rest_drawn(files, drawn, capsys):
    root, ids, _ = files
    lines = (root / "model.txt").read_text().splitlines(True)
    (root / "model.txt").write_text("".join(lines[2:]))
    command = ["scatter", f"{root}/labels.txt", f"{root}/model.txt"]
    assert main([*command, "--output", f"{root}/f.png"]) == 1
    assert len(drawn["scatter_figure"][0]) == 28 and (root / "f.png").exists()
    assert "2 utterances" in capsys.readouterr().err


def test_every_kind_has_a_parser():
    parser = get_parser()
    assert parser.description
    for kind in KINDS:
        with pytest.raises(SystemExit):
            parser.parse_args([kind, "--help"])
