# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import sys

import numpy as np
import pytest
import soundfile
import torch

import espnet2_distilmos.bin.export as module
from espnet2_distilmos.bin.export import get_parser, main
from espnet2_distilmos.bin.mos_inference import main as mos_inference
from espnet2_distilmos.bin.mos_pack import pack_model
from espnet2_distilmos.bin.predict import main as predict
from espnet2_distilmos.data.datadir import read_metric_scp, read_scp

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


def test_a_corpus_is_exported_packed_and_scored_alike(
    corpora_dir, mos_corpus, tmp_path, capsys
):
    packed = tmp_path / "exp.zip"
    files = [str(corpora_dir / n) for n in ("config.yaml", "valid.sys_srcc.best.pth")]
    pack_model(*files, str(packed))
    wav_scp = mos_corpus.root / "valid" / "wav.scp"
    command = ["--train_config", files[0], "--model_file", files[1]]
    command += ["--wav_scp", str(wav_scp), "--write_frames", "false"]
    scores = {}
    for corpus in ("a", "c"):
        option = ["--corpus", corpus]
        output = tmp_path / corpus
        assert mos_inference([*command, *option, "--output_dir", str(output)]) == 0
        scores[corpus] = read_metric_scp(str(output / "metric.scp"))
        assert main([str(packed), str(output / "mos.onnx"), *option]) == 0
        session = onnxruntime.InferenceSession(str(output / "mos.onnx"))
        utt_id, path = next(iter(read_scp(str(wav_scp)).items()))
        speech, _ = soundfile.read(path, dtype="float32")
        found = session.run(["utt_mos"], {"speech": speech[None]})[0][0]
        assert found == pytest.approx(scores[corpus][utt_id], abs=1e-4)
    assert all(abs(scores["a"][i] - scores["c"][i]) > 1e-3 for i in scores["a"])
    assert main([str(packed), str(tmp_path / "x.onnx"), "--corpus", "d"]) == 1
    assert "found the corpus d, expected one of a, b, c" in capsys.readouterr().err
    wav = read_scp(str(wav_scp))[utt_id]
    assert predict([wav, "--model", str(packed), "--corpus", "c"]) == 0
    (row,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert float(row["score"]) == pytest.approx(scores["c"][utt_id], abs=1e-3)


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
