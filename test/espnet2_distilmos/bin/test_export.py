# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import hashlib
import json
import sys

import numpy as np
import pytest
import soundfile
import torch
from mos.frontend import tiny_upstreams

import espnet2_distilmos.bin.export as module
from espnet2_distilmos.bin.export import (
    check_lengths,
    largest_difference,
    main,
    to_onnx,
)
from espnet2_distilmos.data.datadir import read_scp
from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.pruning import Units
from espnet2_distilmos.predictor import MOSPredictor

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

WAVEFORM = dict(tiny_upstreams.WAVEFORM, num_hidden_layers=2)
LARGE = dict(WAVEFORM, feat_extract_norm="layer", do_stable_layer_norm=True)
WHISPER = dict(
    d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48
)
FAMILIES = {
    "hubert": WAVEFORM,
    "wavlm": WAVEFORM,
    "wavlm ": LARGE,
    "wav2vec2": WAVEFORM,
    "wav2vec2 ": LARGE,
    "unispeech-sat": WAVEFORM,
    "data2vec-audio": dict(
        WAVEFORM, num_conv_pos_embeddings=5, conv_pos_kernel_size=19
    ),
    "wav2vec2-bert": dict(tiny_upstreams.LAYERS, num_hidden_layers=2),
    "whisper": WHISPER,
}


def make(family="hubert", head="distilmos", head_conf=None, **frontend_conf):
    if family in FAMILIES:
        conf = {"model_type": family.strip(), **FAMILIES[family]}
        frontend_conf = {"upstream_config": conf, **frontend_conf}
    config = {
        "frontend": "hf" if family in FAMILIES else family,
        "frontend_conf": frontend_conf,
        "head": head,
        "head_conf": head_conf or {"hidden_dim": 16},
    }
    torch.manual_seed(0)
    model = build_model(config, load_pretrained=True)
    # Else a padding or a norm that is gone astray could cancel out.
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm1d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    return model.eval()


def metadata_of(graph):
    properties = onnx.load_model_from_string(graph).metadata_props
    return {p.key: json.loads(p.value) if p.value else None for p in properties}


def assert_equal_scores(model, graph):
    session = onnxruntime.InferenceSession(graph)
    # The traced length is none of these.
    for num_samples in (model.frontend.minimum_samples, 4321, 16000, 50001):
        speech = 0.1 * torch.randn(1, num_samples)
        expected = model.inference(speech, torch.tensor([num_samples]))
        utt_mos, frame_mos, embedding = session.run(None, {"speech": speech.numpy()})
        np.testing.assert_allclose(embedding, expected.embedding, atol=1e-4)
        np.testing.assert_allclose(utt_mos, expected.utt_mos, atol=1e-5)
        np.testing.assert_allclose(frame_mos, expected.frame_mos, atol=5e-5)


@pytest.mark.parametrize(
    "family",
    [
        f if f in ("hubert", "wavlm") else pytest.param(f, marks=pytest.mark.slow)
        for f in FAMILIES
    ],
)
def test_scores_equal_those_of_torch(family):
    model = make(family)
    graph = to_onnx(model)
    assert_equal_scores(model, graph)
    longest = 30 * 16000 + 159 if family == "whisper" else None
    assert metadata_of(graph)["maximum_samples"] == longest


@pytest.mark.parametrize(
    "head,head_conf,stride",
    [
        ("ssl_mos", {"score_range": [1, 5]}, 1),
        ("distilmos", {"downsample_strides": [2, 1, 2], "hidden_dim": 8}, 4),
        ("distilmos", {"layer_mix": "softmax", "hidden_dim": 8}, 1),
    ],
)
def test_heads(head, head_conf, stride):
    model = make(head=head, head_conf=head_conf, normalize_waveform=True)
    graph = to_onnx(model)
    assert_equal_scores(model, graph)
    network = onnx.load_model_from_string(graph).graph.SerializeToString()
    assert metadata_of(graph) == {
        "graph_sha256": hashlib.sha256(network).hexdigest(),
        "format_version": 1,
        "sample_rate": 16000,
        "minimum_samples": model.frontend.minimum_samples,
        "maximum_samples": None,
        "frame_shift": 320 * stride,
        "frame_centre": model.frontend.frame_centre,
    }


@pytest.mark.parametrize(
    "family, conf",
    [
        ("spec_cnn", {"size": "m", "num_layers": 2}),
        ("spec_cnn", {"channels": [4, 4, 4], "normalize_waveform": False}),
        ("whisper", {"num_layers": 1}),
        ("wavlm ", {"num_layers": 1}),
    ],
)
def test_students(family, conf):
    model = make(family, **conf)
    graph = to_onnx(model)
    assert_equal_scores(model, graph)
    # The shortest utterance and the lengths of the command, too.
    lengths = module.check_lengths(model.frontend)
    assert module.largest_difference(model, graph, lengths) < 1e-5


class Fourier(torch.nn.Module):
    def forward(self, x):
        return torch.fft.ifft(torch.fft.fft(x, dim=1), dim=1).real


def test_what_onnx_lacks_gets_a_sentence():
    model = make()
    model.head.linear = torch.nn.Sequential(model.head.linear, Fourier())
    with pytest.raises(ValueError, match="hubert") as error:
        to_onnx(model)
    assert "\n" not in str(error.value)


def test_what_cannot_be_made_is_one_sentence(scorer_dir, tmp_path, capfd):
    (tmp_path / "dir.onnx").mkdir()
    for model, output, options, found in (
        (tmp_path, "mos.pt", (), "ends in .onnx"),  # before the model is opened
        (tmp_path, "dir.onnx", (), "ends in .onnx"),
        (scorer_dir, "mos.onnx", ("--opset", "3"), "--opset 3"),
    ):
        capfd.readouterr()
        assert main([str(model), str(tmp_path / output), *options]) == 1
        printed = capfd.readouterr()
        assert printed.out == "" and found in printed.err
        assert printed.err.count("\n") == 1


def test_the_command_exports_one_policy(corpora_dir, mos_corpus, tmp_path, capsys):
    path = next(iter(read_scp(str(mos_corpus.root / "valid" / "wav.scp")).values()))
    speech, _ = soundfile.read(path, dtype="float32")
    scores = {}
    for name, policy in (
        ("a", {"corpus": "a"}),
        ("c", {"corpus": "c"}),
        ("all of c", {"corpus": "c", "listener": "all"}),
    ):
        output = tmp_path / name / "mos.onnx"
        options = [part for k, v in policy.items() for part in (f"--{k}", v)]
        assert main([str(corpora_dir), str(output), *options]) == 0
        assert "scores in onnxruntime differ by" in capsys.readouterr().out
        session = onnxruntime.InferenceSession(str(output))
        scores[name] = session.run(["utt_mos"], {"speech": speech[None]})[0][0]
        predictor = MOSPredictor.from_pretrained(str(corpora_dir), **policy)
        assert scores[name] == pytest.approx(predictor(speech, 16000).score, abs=1e-4)
    assert abs(scores["a"] - scores["c"]) > 1e-3
    assert abs(scores["all of c"] - scores["c"]) > 1e-3
    assert main([str(corpora_dir), str(tmp_path / "x.onnx"), "--corpus", "d"]) == 1
    assert "a, b, c" in capsys.readouterr().err


def test_a_graph_that_differs_is_not_written(scorer_dir, tmp_path, monkeypatch, capsys):
    original = module.to_onnx

    def biased(model, *options):
        graph = original(model, *options)
        with torch.no_grad():
            model.head.linear.bias += 0.01
        return graph

    monkeypatch.setattr(module, "to_onnx", biased)
    assert main([str(scorer_dir), str(tmp_path / "mos.onnx")]) == 1
    assert "1.0e-02" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_model_or_onnxruntime(tmp_path, capsys, monkeypatch):
    assert main([str(tmp_path), str(tmp_path / "mos.onnx")]) == 1
    assert "no config.yaml" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main([str(tmp_path), str(tmp_path / "mos.onnx")]) == 1
    assert "pip install onnx onnxruntime" in capsys.readouterr().err


@pytest.mark.parametrize("empty", [0, 1])
@pytest.mark.parametrize("family", ["hubert", "wavlm", "wavlm ", "whisper"])
def test_a_pruned_network(family, empty):
    """Also of layers without heads and inner units."""
    model = make(family)
    units = Units(model.frontend)
    kept = torch.arange(len(units)) % 3 > 0
    parts = units.split(kept)
    parts[2 * empty][:] = parts[2 * empty + 1][:] = False
    units.remove(torch.cat(parts))
    graph = to_onnx(model)
    assert largest_difference(model, graph, check_lengths(model.frontend)) < 1e-5
