# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet2_distilmos.bin.mos_inference import get_parser, main
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import read_metric_scp, read_scp, write_scp
from espnet2_distilmos.mos.build import build_frontend, build_model
from espnet2_distilmos.mos.checkpoint import load_model


@pytest.fixture(params=["distilmos", "ssl_mos"])
def experiment(request, corpus, tiny_conf):
    """An experiment directory with config.yaml and random weights."""
    frontend = build_frontend("hf", tiny_conf)
    config = {
        "mos_format_version": 1,
        "frontend": "hf",
        "frontend_conf": frontend.resolved_conf(),
        "head": request.param,
        "head_conf": {},
        "losses": {"mos_l1": {"weight": 1.0}},
        "token_info": None,
        "model_conf": {},
    }
    torch.manual_seed(1)
    torch.save(build_model(config, load_pretrained=True).state_dict(), corpus / "x.pth")
    (corpus / "config.yaml").write_text(yaml.safe_dump(config))
    return corpus


def infer(corpus, *options, out="out", wav_scp="wav.scp"):
    cmd = ["--train_config", f"{corpus}/config.yaml"]
    cmd += ["--model_file", f"{corpus}/x.pth", "--wav_scp", f"{corpus}/{wav_scp}"]
    cmd += ["--output_dir", f"{corpus}/{out}", *options]
    return main(cmd), corpus / out


def test_scores_equal_the_model_on_single_files(experiment):
    code, out = infer(experiment, "--batch_seconds", "4")
    assert code == 0 and not (out / "errors.txt").exists()
    scores = read_metric_scp(out / "metric.scp")
    frames = read_scp(out / "frames.scp")
    paths = read_scp(experiment / "wav.scp")
    model, _ = load_model(experiment / "config.yaml", experiment / "x.pth")
    assert list(scores) == list(frames) == list(paths)
    assert len({round(score, 4) for score in scores.values()}) > 6
    for utt_id, path in paths.items():
        speech = torch.from_numpy(read_audio(path))[None]
        alone = model.inference(speech, torch.tensor([speech.shape[1]]))
        assert scores[utt_id] == pytest.approx(float(alone.utt_mos[0]), abs=1e-4)
        found = np.load(frames[utt_id])
        assert found.dtype == np.float32 and len(found) == int(alone.lengths[0])
        np.testing.assert_allclose(found, alone.frame_mos[0].numpy(), atol=1e-4)
    info = json.loads((out / "frames.json").read_text())
    assert info == {"format_version": 1, "frame_shift": 320, "sample_rate": 16000}


def test_batches_do_not_change_the_scores(experiment):
    _, one = infer(experiment, "--batch_seconds", "0.01", out="one")
    _, all_ = infer(experiment, "--batch_seconds", "1000", out="all")
    first, second = (read_metric_scp(d / "metric.scp") for d in (one, all_))
    assert first.keys() == second.keys()
    for utt_id, score in first.items():
        assert score == pytest.approx(second[utt_id], abs=1e-4)


def test_order_and_decimals_of_the_output(experiment):
    paths = read_scp(experiment / "wav.scp")
    write_scp(experiment / "back.scp", dict(reversed(paths.items())), sort=False)
    _, out = infer(experiment, "--write_frames", "false", wav_scp="back.scp")
    lines = (out / "metric.scp").read_text().splitlines()
    assert [line.split()[0] for line in lines] == list(reversed(paths))
    assert all(len(line.rstrip("}").rpartition(".")[2]) == 6 for line in lines)
    assert sorted(os.listdir(out)) == ["metric.scp"]


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
    assert not (experiment / "from_file" / "frames").exists()
    with pytest.raises(SystemExit):  # wav_scp stands nowhere
        main(cmd)


def test_bad_utterances_are_listed_and_the_rest_is_scored(experiment, capsys):
    paths = read_scp(experiment / "wav.scp")
    samples = np.zeros(16000)
    samples[5] = np.nan
    soundfile.write(experiment / "nan.wav", samples, 16000, subtype="FLOAT")
    soundfile.write(experiment / "short.wav", np.zeros(100), 16000)
    soundfile.write(experiment / "none.wav", np.zeros(0), 16000)
    (experiment / "text.wav").write_text("no audio")
    (experiment / "empty.wav").touch()
    (experiment / "folder.wav").mkdir()
    bad = ["nan", "short", "none", "text", "empty", "folder", "missing"]
    more = {**{name: f"{experiment}/{name}.wav" for name in bad}, **paths}
    write_scp(experiment / "more.scp", more, sort=False)
    code, out = infer(experiment, wav_scp="more.scp")
    assert code == 1
    _, good = infer(experiment, out="good")
    expected = read_metric_scp(good / "metric.scp")
    assert read_metric_scp(out / "metric.scp") == pytest.approx(expected, abs=1e-4)
    errors = (out / "errors.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in errors] == [f"utterance {n}" for n in bad]
    printed = capsys.readouterr().err
    assert all(line in printed for line in errors)
    # the next run without them removes the list
    assert infer(experiment)[0] == 0
    assert not (out / "errors.txt").exists()


def test_stereo_and_other_rates_are_scored(experiment):
    tone = np.sin(np.arange(48000) * 2 * np.pi * 200 / 48000)
    noise = tone * (1 + 0.1 * np.sin(np.arange(48000) / 3000)) * 0.3
    for rate, step in ((48000, 1), (16000, 3), (8000, 6)):
        name = f"{experiment}/r{rate}.wav"
        soundfile.write(name, np.stack([noise[::step]] * 2, 1), rate, subtype="FLOAT")
    scp = {f"r{rate}": f"{experiment}/r{rate}.wav" for rate in (8000, 16000, 48000)}
    write_scp(experiment / "rates.scp", scp)
    code, out = infer(experiment, wav_scp="rates.scp")
    scores = read_metric_scp(out / "metric.scp")
    assert code == 0
    assert scores["r48000"] == pytest.approx(scores["r16000"], abs=0.02)
    assert scores["r8000"] == pytest.approx(scores["r16000"], abs=0.02)


def test_broken_model_gives_no_scores(experiment, capsys):
    states = torch.load(experiment / "x.pth", weights_only=True)
    for key, value in states.items():
        if key.startswith("frontend."):
            value.fill_(np.nan)
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
        (["--output_dir", "{corpus}/x.pth/out"], "cannot be written"),
        (["--batch_seconds", "-1"], "--batch_seconds"),
    ],
)
def test_one_sentence(experiment, capsys, options, found):
    whole = (experiment / "x.pth").read_bytes()
    (experiment / "half.pth").write_bytes(whole[: len(whole) // 2])
    code, _ = infer(
        experiment, *[o.replace("{corpus}", str(experiment)) for o in options]
    )
    lines = [x for x in capsys.readouterr().err.splitlines() if found in x]
    assert code == 1 and len(lines) == 1


def test_duplicate_ids(experiment, capsys):
    with open(experiment / "wav.scp", "a") as file:
        file.write(f"u03 {experiment}/wav/u04.wav\n")
    assert infer(experiment)[0] == 1
    assert "wav.scp:13: the id u03 occurs a second time" in capsys.readouterr().err


def test_inference_does_not_import_the_task():
    code = (
        "import sys, espnet2_distilmos.bin.mos_inference;"
        "bad = [m for m in sys.modules if m.startswith(('espnet2.tasks', "
        "'espnet2_distilmos.tasks', 'sklearn', 's3prl'))];"
        "sys.exit(' '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr


def test_parser_has_a_description():
    assert get_parser().description
