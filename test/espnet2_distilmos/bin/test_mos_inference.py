# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import os
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.bin.mos_inference import get_parser, main
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import read_metric_scp, read_scp, write_scp


@pytest.fixture
def experiment(corpus, scorer_dir):
    shutil.copy(scorer_dir / "config.yaml", corpus)
    shutil.copy(scorer_dir / "valid.sys_srcc.best.pth", corpus / "x.pth")
    return corpus


def infer(corpus, *options, out="out", wav_scp="wav.scp"):
    cmd = ["--train_config", f"{corpus}/config.yaml"]
    cmd += ["--model_file", f"{corpus}/x.pth", "--wav_scp", f"{corpus}/{wav_scp}"]
    cmd += ["--output_dir", f"{corpus}/{out}", *options]
    return main(cmd), corpus / out


def test_scores_equal_the_model_on_single_files(experiment):
    """In the order of the wav.scp, in whatever batches."""
    paths = dict(reversed(read_scp(experiment / "wav.scp").items()))
    write_scp(experiment / "back.scp", paths, sort=False)
    model = MOSPredictor(experiment / "config.yaml", experiment / "x.pth").model
    for seconds in ("0.01", "4", "1000"):
        options = ("--batch_seconds", seconds)
        code, out = infer(experiment, *options, wav_scp="back.scp", out=seconds)
        scores = read_metric_scp(out / "metric.scp")
        frames = read_scp(out / "frames.scp")
        assert code == 0 and not (out / "errors.txt").exists()
        assert list(scores) == list(frames) == list(paths)
        for utt_id, path in paths.items():
            speech = torch.from_numpy(read_audio(path))[None]
            alone = model.inference(speech, torch.tensor([speech.shape[1]]))
            assert scores[utt_id] == pytest.approx(float(alone.utt_mos[0]), abs=1e-4)
            found = np.load(frames[utt_id])
            assert found.dtype == np.float32 and len(found) == int(alone.lengths[0])
            np.testing.assert_allclose(found, alone.frame_mos[0].numpy(), atol=1e-4)
    assert len({round(score, 3) for score in scores.values()}) > 6
    lines = (out / "metric.scp").read_text().splitlines()
    assert all(len(line.rstrip("}").rpartition(".")[2]) == 6 for line in lines)
    assert json.loads((out / "frames.json").read_text()) == {
        "format_version": 1,
        "frame_shift": 320,
        "frame_centre": model.frontend.frame_centre,
        "sample_rate": 16000,
    }


def test_options_from_a_config_file(experiment):
    options = {
        "train_config": f"{experiment}/config.yaml",
        "model_file": f"{experiment}/x.pth",
        "output_dir": f"{experiment}/from_file",
        "batch_seconds": 2,
        "write_frames": False,
    }
    (experiment / "decode.yaml").write_text(yaml.safe_dump(options))
    cmd = ["--config", f"{experiment}/decode.yaml"]
    assert main(cmd + ["--wav_scp", f"{experiment}/wav.scp"]) == 0
    _, out = infer(experiment)
    expected = read_metric_scp(out / "metric.scp")
    found = read_metric_scp(experiment / "from_file" / "metric.scp")
    assert found == pytest.approx(expected, abs=1e-4)
    assert os.listdir(experiment / "from_file") == ["metric.scp"]
    with pytest.raises(SystemExit):  # wav_scp stands nowhere
        main(cmd)


def test_bad_utterances_are_listed_and_the_rest_is_scored(experiment, capsys):
    paths = read_scp(experiment / "wav.scp")
    soundfile.write(experiment / "nan.wav", [np.nan] * 999, 16000, subtype="FLOAT")
    soundfile.write(experiment / "short.wav", np.zeros(17), 16000)
    (experiment / "text.wav").write_text("no audio")
    bad = ["nan", "short", "text", "missing"]
    more = {**{name: f"{experiment}/{name}.wav" for name in bad}, **paths}
    write_scp(experiment / "more.scp", more, sort=False)
    code, out = infer(experiment, wav_scp="more.scp")
    assert code == 1
    assert list(read_metric_scp(out / "metric.scp")) == list(paths)
    errors = (out / "errors.txt").read_text().splitlines()
    for name, line in zip(bad, errors):
        assert line.startswith(f"utterance {name}: {experiment}/{name}.wav ")
    printed = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and set(errors) <= set(printed)
    # the next run without them removes the list
    assert infer(experiment)[0] == 0
    assert not (out / "errors.txt").exists()


def test_long_utterances_are_scored_in_windows(experiment):
    """As MOSPredictor and `distilmos predict` score them."""
    wave = np.random.default_rng(0).normal(0, 0.1, 31 * 16000)
    soundfile.write(experiment / "long.wav", wave, 16000)
    write_scp(experiment / "long.scp", {"u": f"{experiment}/long.wav"})
    code, out = infer(experiment, wav_scp="long.scp")
    predictor = MOSPredictor(experiment / "config.yaml", experiment / "x.pth")
    expected = predictor(read_audio(experiment / "long.wav"), 16000)
    scores = read_metric_scp(out / "metric.scp")
    assert code == 0 and "in 3 windows" in expected.note
    assert scores == {"u": pytest.approx(expected.score, abs=1e-5)}


def test_broken_model_gives_no_scores(experiment, capsys):
    states = torch.load(experiment / "x.pth", weights_only=True)
    states["head.linear.bias"].fill_(np.nan)
    torch.save(states, experiment / "x.pth")
    code, out = infer(experiment)
    assert code == 1 and read_metric_scp(out / "metric.scp") == {}
    assert "got the score nan" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, found",
    [
        (["--model_file", "{corpus}/half.pth"], "half.pth"),
        (["--model_file", "{corpus}/none.pth"], "none.pth"),
        (["--train_config", "{corpus}/none.yaml"], "none.yaml"),
        (["--train_config", "{corpus}/train.yaml"], "format version"),
        (["--wav_scp", "{corpus}/none.scp"], "none.scp cannot be read"),
        (["--wav_scp", "{corpus}/twice.scp"], "u03 occurs a second time"),
        (["--output_dir", "{corpus}/x.pth/out"], "cannot be written"),
        (["--batch_seconds", "-1"], "batch_seconds"),
    ],
)
def test_one_sentence(experiment, capsys, options, found):
    whole = (experiment / "x.pth").read_bytes()
    (experiment / "half.pth").write_bytes(whole[: len(whole) // 2])
    (experiment / "twice.scp").write_text("u03 a.wav\nu03 b.wav\n")
    options = [option.replace("{corpus}", str(experiment)) for option in options]
    code, _ = infer(experiment, *options)
    lines = [x for x in capsys.readouterr().err.splitlines() if found in x]
    assert code == 1 and len(lines) == 1


def test_parser_has_a_description():
    assert get_parser().description
