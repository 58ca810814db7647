# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import sys

import numpy as np
import pytest
import soundfile
import torch

import espnet2_distilmos.bin.export as module
from espnet2_distilmos.bin.export import get_parser, main
from espnet2_distilmos.bin.mos_inference import main as mos_inference
from espnet2_distilmos.fileio.datadir import read_metric_scp, read_scp

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def experiment(mos_corpus, tmp_path_factory):
    return mos_corpus.train(tmp_path_factory.mktemp("export") / "exp", max_epoch=1)


def test_scores_are_those_of_the_recipe(experiment, mos_corpus, tmp_path, capsys):
    output = tmp_path / "new" / "mos.onnx"
    assert main([str(experiment), str(output)]) == 0
    assert "MB; scores in onnxruntime differ by" in capsys.readouterr().out
    wav_scp = mos_corpus.root / "valid" / "wav.scp"
    best = experiment / "valid.sys_srcc.best.pth"
    command = ["--train_config", str(experiment / "config.yaml")]
    command += ["--model_file", str(best), "--wav_scp", str(wav_scp)]
    assert mos_inference([*command, "--output_dir", str(tmp_path / "scores")]) == 0
    expected = read_metric_scp(str(tmp_path / "scores" / "metric.scp"))
    session = onnxruntime.InferenceSession(str(output))
    for utt_id, path in read_scp(str(wav_scp)).items():
        speech, _ = soundfile.read(path, dtype="float32")
        utt_mos, frame_mos = session.run(None, {"speech": speech[None]})
        assert utt_mos[0] == pytest.approx(expected[utt_id], abs=1e-4)
        assert np.mean(frame_mos) == pytest.approx(utt_mos[0], abs=1e-5)


def test_a_graph_that_differs_is_not_written(experiment, tmp_path, capsys, monkeypatch):
    original = module.to_onnx

    def biased(model, opset):
        graph = original(model, opset)
        with torch.no_grad():
            model.head.linear.bias += 0.01
        return graph

    monkeypatch.setattr(module, "to_onnx", biased)
    assert main([str(experiment), str(tmp_path / "mos.onnx")]) == 1
    assert "differ by 1.0e-02, expected 1e-04 at most" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_no_model(tmp_path, capsys):
    assert main([str(tmp_path), str(tmp_path / "mos.onnx")]) == 1
    assert "no config.yaml" in capsys.readouterr().err


def test_without_onnx(experiment, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main([str(experiment), str(tmp_path / "mos.onnx")]) == 1
    assert "pip install onnx onnxruntime" in capsys.readouterr().err


def test_parser_has_a_description():
    assert get_parser().description
