# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.onnx_graph import to_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

LAYERS = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48
)
WAVEFORM = dict(
    LAYERS,
    conv_dim=[16, 24, 32],
    conv_kernel=[10, 8, 4],
    conv_stride=[5, 8, 8],
    num_feat_extract_layers=3,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
)
LARGE = dict(WAVEFORM, feat_extract_norm="layer", do_stable_layer_norm=True)
WHISPER = dict(
    d_model=32,
    encoder_layers=2,
    encoder_attention_heads=2,
    encoder_ffn_dim=48,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=16,
    vocab_size=20,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
FAMILIES = {
    "wav2vec2": WAVEFORM,
    "wav2vec2 ": LARGE,
    "hubert": WAVEFORM,
    "wavlm": WAVEFORM,
    "wavlm ": LARGE,
    "unispeech-sat": WAVEFORM,
    "data2vec-audio": dict(
        WAVEFORM, num_conv_pos_embeddings=5, conv_pos_kernel_size=19
    ),
    "wav2vec2-bert": LAYERS,
    "whisper": WHISPER,
}


def make(family="hubert", head="distilmos", head_conf=None, **frontend_conf):
    conf = {"model_type": family.strip(), **FAMILIES[family]}
    config = {
        "frontend": "hf",
        "frontend_conf": {"upstream_config": conf, **frontend_conf},
        "head": head,
        "head_conf": head_conf or {},
    }
    torch.manual_seed(0)
    model = build_model(config, load_pretrained=True)
    # Else a padding or a norm that is gone astray could cancel out.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def assert_equal_scores(model, graph):
    session = onnxruntime.InferenceSession(graph)
    # The traced length is none of these.
    for num_samples in (model.frontend.minimum_samples, 4321, 16000, 50001):
        speech = 0.1 * torch.randn(1, num_samples)
        expected = model.inference(speech, torch.tensor([num_samples]))
        utt_mos, frame_mos = session.run(None, {"speech": speech.numpy()})
        np.testing.assert_allclose(utt_mos, expected.utt_mos, atol=1e-5)
        np.testing.assert_allclose(frame_mos, expected.frame_mos, atol=5e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_those_of_torch(family):
    model = make(family, head_conf={"hidden_dim": 16})
    assert_equal_scores(model, to_onnx(model))


@pytest.mark.parametrize(
    "head, head_conf",
    [
        ("ssl_mos", {"score_range": [1, 5]}),
        ("distilmos", {"downsample_strides": [2, 1, 2], "hidden_dim": 8}),
        ("distilmos", {"layer_mix": "softmax", "hidden_dim": 8}),
    ],
)
def test_heads(head, head_conf):
    model = make(head=head, head_conf=head_conf, normalize_waveform=True)
    graph = to_onnx(model)
    assert_equal_scores(model, graph)
    properties = onnx.load_model_from_string(graph).metadata_props
    metadata = {item.key: item.value for item in properties}
    stride = 4 if "downsample_strides" in head_conf else 1
    assert {k: json.loads(v) for k, v in metadata.items() if v} == {
        "format_version": 1,
        "sample_rate": 16000,
        "minimum_samples": model.frontend.minimum_samples,
        "frame_shift": 320 * stride,
    }
    assert metadata["maximum_samples"] == ""


def test_a_limit_stands_in_the_metadata():
    properties = onnx.load_model_from_string(to_onnx(make("whisper"))).metadata_props
    metadata = {item.key: item.value for item in properties}
    assert int(metadata["maximum_samples"]) == 30 * 16000 + 159


def test_token_predictors_are_left_out():
    model = make()
    columns = [{"stream": "hubert", "layer": 1, "K": 7000}]
    info = {"format_version": 1, "columns": columns}
    config = {"model_type": "hubert", **WAVEFORM}
    with_tokens = build_model(
        {
            "frontend": "hf",
            "frontend_conf": {"upstream_config": config},
            "head": "distilmos",
            "token_info": info,
        },
        load_pretrained=True,
    ).eval()
    assert len(to_onnx(with_tokens)) < 1.1 * len(to_onnx(model))


def test_what_onnx_lacks_gets_a_sentence():
    model = make(head_conf={"hidden_dim": 8})
    linear = model.head.linear
    model.head.linear = torch.nn.Sequential(linear, Roll())
    with pytest.raises(ValueError, match="an operation of hubert that ONNX lacks"):
        to_onnx(model)


class Roll(torch.nn.Module):
    def forward(self, x):
        return torch.fft.ifft(torch.fft.fft(x, dim=1), dim=1).real
