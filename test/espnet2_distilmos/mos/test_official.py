# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy

import pytest
import torch

from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.official import (
    convert_config,
    convert_states,
    find_states,
    is_unused,
    parse_conv_layers,
)

from . import official_models as official

LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
LAYER_NORM = {"feat_extract_norm": "layer", "conv_bias": True}
VARIANTS = {
    "wavlm": ("wavlm", {}),
    "wavlm_like_large": ("wavlm", LARGE),
    "w2v2": ("w2v2", {}),
    "w2v2_layer_norm": ("w2v2", LAYER_NORM),
}

# Microsoft's default for `conv_feature_layers`.
STANDARD_LAYERS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


@pytest.fixture(params=VARIANTS)
def released(request):
    backbone, changes = VARIANTS[request.param]
    cfg = official.model_cfg(backbone, **changes)
    return cfg, official.make_states(cfg)


@pytest.fixture
def wavlm():
    cfg = official.model_cfg("wavlm")
    return cfg, official.make_states(cfg)


@pytest.fixture
def w2v2():
    cfg = official.model_cfg("w2v2")
    return cfg, official.make_states(cfg)


def converted(cfg, states):
    config, missing = convert_config(cfg, states)
    model = build_model(config, load_pretrained=False).eval()
    upstream = config["frontend_conf"]["upstream_config"]
    model.load_state_dict(convert_states(states, model.state_dict(), upstream))
    return model, config, missing


@torch.no_grad()
def ours(model, speech):
    lengths = torch.tensor([speech.numel()])
    hidden_states, frames = model.frontend(speech[None], lengths)
    columns = list(range(len(model.token_columns)))
    return hidden_states, model.head(hidden_states, frames, columns)


# The mapping ------------------------------------------------------------------------


@pytest.mark.parametrize("num_samples", [6000, 16000, 23457])
def test_scores_equal_the_published_forward_pass(released, num_samples):
    cfg, states = released
    model, config, missing = converted(cfg, states)
    speech = official.make_speech(num_samples, seed=num_samples)
    expected = official.official_forward(cfg, states, speech)
    hidden_states, prediction = ours(model, speech)
    assert len(hidden_states) == len(expected["layers"]) + 1
    for found, layer in zip(hidden_states[1:], expected["layers"]):
        rms = float(layer.square().mean().sqrt())
        assert rms > 0.1
        torch.testing.assert_close(found, layer, rtol=0, atol=1e-5 * max(1, rms))
    assert float(prediction.utt_mos) == pytest.approx(expected["mos"], abs=1e-5)
    torch.testing.assert_close(
        prediction.frame_mos, expected["frame_mos"], rtol=0, atol=2e-5
    )
    assert expected["frame_mos"].std() > 0.02
    for found, logits in zip(prediction.token_logits, expected["token_logits"]):
        torch.testing.assert_close(found, logits, rtol=0, atol=2e-5)


def test_every_tensor_matters(released):
    # Else a tensor in the wrong place, of the same shape, would go unseen above.
    cfg, states = released
    speech = official.make_speech(4000)
    base = official.official_forward(cfg, states, speech)
    generator = torch.Generator().manual_seed(5)
    silent = set()
    for name, value in states.items():
        if not value.is_floating_point():
            continue
        noise = torch.rand(value.shape, generator=generator)
        changed = {**states, name: value + noise}
        layers = None if name.startswith("ssl.") else base["layers"]
        result = official.official_forward(cfg, changed, speech, layers)
        found = [result["frame_mos"], *result["token_logits"]]
        kept = [base["frame_mos"], *base["token_logits"]]
        if all(torch.allclose(x, y, atol=1e-4, rtol=0) for x, y in zip(found, kept)):
            silent.add(name)
    unread = {n for n in states if is_unused(n) and states[n].is_floating_point()}
    unread |= {n for n in states if n.endswith(("mask_emb", "masked_spec_embed"))}
    # A softmax over keys does not see a shift of all of them.
    unread |= {n for n in states if n.endswith("k_proj.bias")}
    if cfg.get("wavlm_cfg", {}).get("layer_norm_first"):
        # Behind the last layer's output.
        unread |= {n for n in states if n.startswith("ssl.encoder.layer_norm.")}
    assert silent == unread


def test_another_upstream_setting_scores_otherwise(wavlm):
    # What no shape can check has to come from the configuration.
    cfg, states = wavlm
    speech = official.make_speech(16000)
    scores = []
    for changes in ({}, {"max_distance": 60}, {"activation_fn": "relu"}):
        other = copy.deepcopy(cfg)
        other["wavlm_cfg"].update(changes)
        scores.append(float(ours(converted(other, states)[0], speech)[1].utt_mos))
        expected = official.official_forward(other, states, speech)["mos"]
        assert scores[-1] == pytest.approx(expected, abs=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-4 and abs(scores[0] - scores[2]) > 1e-4


@pytest.mark.parametrize("strides", [[1, 2, 1], [2, 2, 2]])
def test_strides(wavlm, strides):
    cfg, states = wavlm
    cfg["downsample_strides"] = strides
    model, *_ = converted(cfg, states)
    speech = official.make_speech(16000)
    expected = official.official_forward(cfg, states, speech)
    _, prediction = ours(model, speech)
    torch.testing.assert_close(
        prediction.frame_mos, expected["frame_mos"], rtol=0, atol=2e-5
    )


def test_the_waveform_is_raw_even_if_wavlm_was_trained_on_normalised_ones():
    cfg = official.model_cfg("wavlm", normalize=True)
    config, _ = convert_config(cfg, official.make_states(cfg))
    assert config["frontend_conf"]["normalize_waveform"] is False


def test_padding_changes_nothing(released):
    model, *_ = converted(*released)
    short, long = official.make_speech(9000), official.make_speech(16000, seed=1)
    batch = torch.zeros(2, 16000)
    batch[0, :9000], batch[1] = short, long
    together = model.inference(batch, torch.tensor([9000, 16000])).utt_mos
    for score, speech in zip(together, (short, long)):
        assert float(score) == pytest.approx(
            float(ours(model, speech)[1].utt_mos), abs=1e-4
        )


def test_config(wavlm):
    cfg, states = wavlm
    config, missing = convert_config(cfg, states)
    assert missing == []
    upstream = config["frontend_conf"]["upstream_config"]
    assert upstream["model_type"] == "wavlm"
    assert upstream["conv_dim"] == [16, 24, 16]
    assert upstream["conv_kernel"] == [10, 8, 8]
    assert upstream["conv_stride"] == [5, 8, 8]
    assert upstream["max_bucket_distance"] == 30 and upstream["num_buckets"] == 16
    assert config["token_info"]["frame_shift"] == 320
    assert config["token_info"]["columns"] == [
        {"stream": "wavlm", "layer": 1, "K": official.CLUSTERS},
        {"stream": "wavlm", "layer": 3, "K": official.CLUSTERS},
    ]
    assert config["token_info"]["upstream_fingerprint"] is None
    assert config["frontend_conf"]["freeze"] == "none"
    config, _ = convert_config({**cfg, "freeze_wavlm": True}, states)
    assert config["frontend_conf"]["freeze"] == "all"


def test_w2v2_columns_are_of_wav2vec2(w2v2):
    config, _ = convert_config(*w2v2)
    assert [c["stream"] for c in config["token_info"]["columns"]] == ["wav2vec2"] * 2


def test_no_token_predictors(wavlm):
    cfg, states = wavlm
    cfg["target_layers"] = []
    states = {k: v for k, v in states.items() if not k.startswith("predictors.")}
    model, config, _ = converted(cfg, states)
    assert config["token_info"] is None and len(model.head.predictors) == 0


# Defaults of the authors' code ------------------------------------------------------


@pytest.mark.parametrize("backbone", ["wavlm", "w2v2"])
def test_the_backbone_is_told_by_the_tensors(backbone):
    # The authors' command line sets it, so model_cfg.yaml may leave it out.
    cfg = official.model_cfg(backbone)
    states = official.make_states(cfg)
    expected = converted(cfg, states)[1]
    del cfg["ssl_backbone"], cfg["downsample_kernels"], cfg["downsample_strides"]
    _, config, missing = converted(cfg, states)
    assert config == expected
    assert missing == ["ssl_backbone", "downsample_strides", "downsample_kernels"]


def test_defaults_are_wavlm_base():
    states = {"ssl.post_extract_proj.weight": torch.zeros(768, 512)}
    for i in range(12):
        states[f"predictors.{i}.layers.4.weight"] = torch.zeros(200, 256)
    config, missing = convert_config({"hidden_dim": 256}, states)
    upstream = config["frontend_conf"]["upstream_config"]
    assert upstream["num_hidden_layers"] == 12 and upstream["hidden_size"] == 768
    assert upstream["num_buckets"] == 320 and upstream["max_bucket_distance"] == 800
    assert upstream["conv_dim"] == [512] * 7
    assert upstream["conv_kernel"] == [10, 3, 3, 3, 3, 2, 2]
    assert upstream["conv_stride"] == [5, 2, 2, 2, 2, 2, 2]
    assert [c["layer"] for c in config["token_info"]["columns"]] == list(range(1, 13))
    assert {c["K"] for c in config["token_info"]["columns"]} == {200}
    assert config["head_conf"]["hidden_dim"] == 256
    assert "wavlm_cfg" in missing and "target_layers" in missing


def test_a_missing_key_of_wavlm_cfg_has_microsofts_default(wavlm):
    from s3prl.upstream.wavlm.WavLM import WavLMConfig

    cfg, states = wavlm
    kept = ("relative_position_embedding", "gru_rel_pos")
    cfg["wavlm_cfg"] = {key: cfg["wavlm_cfg"][key] for key in kept}
    cfg["target_layers"] = []
    config, missing = convert_config(cfg, states)
    default = WavLMConfig()
    upstream = config["frontend_conf"]["upstream_config"]
    assert upstream["max_bucket_distance"] == default.max_distance
    assert upstream["hidden_size"] == default.encoder_embed_dim
    assert upstream["num_conv_pos_embeddings"] == default.conv_pos
    assert upstream["hidden_act"] == default.activation_fn
    layers = list(zip(*(upstream[f"conv_{k}"] for k in ("dim", "kernel", "stride"))))
    assert default.conv_feature_layers == STANDARD_LAYERS
    assert layers == [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2
    assert "wavlm_cfg.max_distance" in missing


# conv_feature_layers ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        (STANDARD_LAYERS, [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2),
        ("2 * [(4, 3, 1), (5, 2, 2)]", [(4, 3, 1), (5, 2, 2)] * 2),
        (" ([(1,2,3)] + [[4,5,6]]) * 2 ", [(1, 2, 3), (4, 5, 6)] * 2),
        ([[512, 10, 5], (512, 3, 2)], [(512, 10, 5), (512, 3, 2)]),
    ],
)
def test_conv_layers_as_python_has_them(text, expected):
    assert [tuple(x) for x in parse_conv_layers(text)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').abort()",
        "[(512,10,5)] + [x for x in [(1,2,3)]]",
        "[(512,10,int(5))]",
        "[(1,1,1)] * 1000000000",
        "[(1,1,1)] * 64 * 64",
        "[(1,1,1)] * 0",
        "[(1,1)]",
        "[(1,1,-1)]",
        "[(1,1,1.5)]",
        "[(1,1,True)]",
        "[5]",
        "[",
        "",
        "\0",
        "(" * 900,
        "[(1,1,1)] + " * 200 + "[(1,1,1)]",
        7,
        None,
        [1, 2],
    ],
)
def test_conv_layers_are_never_run(text):
    with pytest.raises(ValueError, match="^found wavlm_cfg.conv_feature_layers=") as e:
        parse_conv_layers(text)
    assert "\n" not in str(e.value)


# Strictness -------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["model", "state_dict", None])
def test_where_the_state_dict_stands(key):
    states = {"linear.weight": torch.zeros(1, 3)}
    assert find_states({key: states, "epoch": 3} if key else states) == states


@pytest.mark.parametrize(
    "checkpoint, sentence",
    [
        ({}, "found no tensors"),
        ({"model": {}}, "found no tensors"),
        ({"model": {"a": 1}}, "found int at 'a'"),
        ({"a": torch.zeros(1), "epoch": 3}, "found int at 'epoch'"),
        ({3: torch.zeros(1)}, "found Tensor at 3"),
    ],
)
def test_no_state_dict(checkpoint, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        find_states(checkpoint)


def test_unused_tensors_may_be_absent_and_have_any_shape(wavlm):
    cfg, states = wavlm
    expected = converted(cfg, states)[0].state_dict()
    unused = [name for name in states if is_unused(name)]
    assert len(unused) == 6
    for change in (None, torch.zeros(5)):
        other = {k: v for k, v in states.items() if k not in unused}
        other.update({k: change for k in unused if change is not None})
        found = converted(cfg, other)[0].state_dict()
        assert all(torch.equal(found[k], v) for k, v in expected.items())


def test_both_spellings_of_weight_norm(released):
    cfg, states = released
    expected = converted(cfg, states)[0].state_dict()
    pairs = [("weight_g", "parametrizations.weight.original0")]
    pairs += [("weight_v", "parametrizations.weight.original1")]
    other = {}
    for name, value in states.items():
        for old, new in pairs:
            if name.endswith(new):
                name = name.replace(new, old)
            elif name.endswith(old):
                name = name.replace(old, new)
        other[name] = value
    assert set(other) != set(states)
    found = converted(cfg, other)[0].state_dict()
    assert all(torch.equal(found[k], v) for k, v in expected.items())


def test_half_precision_becomes_fp32(wavlm):
    cfg, states = wavlm
    half = {k: v.half() if v.is_floating_point() else v for k, v in states.items()}
    model, *_ = converted(cfg, half)
    assert {v.dtype for v in model.state_dict().values()} == {
        torch.float32,
        torch.int64,
    }


@pytest.mark.parametrize("backbone", ["wavlm", "w2v2"])
def test_every_tensor_is_needed_in_its_shape(backbone):
    cfg = official.model_cfg(backbone)
    states = official.make_states(cfg)
    config, _ = convert_config(cfg, states)
    upstream = config["frontend_conf"]["upstream_config"]
    expected = build_model(config, load_pretrained=False).state_dict()
    for name, value in states.items():
        if is_unused(name):
            continue
        rest = {k: v for k, v in states.items() if k != name}
        short = name
        for long, old in (("original0", "weight_g"), ("original1", "weight_v")):
            short = short.replace(f"parametrizations.weight.{long}", old)
        with pytest.raises(ValueError) as e:
            convert_states(rest, expected, upstream)
        assert str(e.value).startswith(f"found nothing for {short}, expected shape (")
        with pytest.raises(ValueError) as e:
            convert_states({**states, name: value[None]}, expected, upstream)
        found, wanted = (1, *value.shape), tuple(value.shape)
        assert str(e.value).startswith(
            f"found shape {found} for {name}, expected shape {wanted}: use the "
        )


def test_unknown_and_broken_tensors(wavlm):
    cfg, states = wavlm
    with pytest.raises(ValueError, match="^found 2 tensors .* first is ssl.extra: "):
        extra = {"ssl.extra": torch.zeros(1), "weighted_sum.layer_weight": 0}
        converted(cfg, {**states, **extra})
    with pytest.raises(ValueError, match="1 tensors .* first is predictors.2.layers.0"):
        name = "predictors.2.layers.0.weight"
        converted(cfg, {**states, name: torch.zeros(1)})
    broken = {**states, "decoder.cnn.bias": torch.full((official.HIDDEN,), torch.nan)}
    with pytest.raises(ValueError, match="^found numbers in decoder.cnn.bias that are"):
        converted(cfg, broken)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"ssl_backbone": "hubert"}, "found ssl_backbone='hubert', expected one of"),
        ({"ssl_backbone": "w2v2"}, "found a wavlm checkpoint .*, but ssl_backbone is"),
        ({"hidden_dim": 13}, "found shape .12,.* for feature_processor"),
        ({"hidden_dim": "12"}, "found hidden_dim='12', expected a whole number"),
        ({"freeze_wavlm": "no"}, "found freeze_wavlm='no', expected true or false"),
        ({"downsample_kernels": 5}, "found downsample_kernels=5, expected a list"),
        ({"downsample_strides": [0]}, "found downsample_strides=.0., expected a list"),
        ({"downsample_strides": [1]}, "found 3 downsample_kernels and 1 downsample"),
        ({"downsample_kernels": [5, 5, 3]}, "found shape .12, 1, 3. for feature_pro"),
        ({"target_layers": [1, 2, 3]}, "found nothing for predictors.2.layers.4.weig"),
        ({"target_layers": [1]}, "found 6 tensors .* the first is predictors.1.lay"),
        ({"target_layers": [1, 4]}, "found target_layers=.1, 4., expected different"),
        ({"target_layers": [1, 1]}, "found target_layers=.1, 1., expected different"),
        ({"wavlm_cfg": "x"}, "found wavlm_cfg of type str, expected a mapping"),
    ],
)
def test_wrong_configuration(wavlm, changes, sentence):
    cfg, states = wavlm
    with pytest.raises(ValueError, match=f"^{sentence}") as e:
        converted({**cfg, **changes}, states)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"gru_rel_pos": False}, "wavlm_cfg.gru_rel_pos=False, expected True"),
        ({"activation_fn": "glu"}, "wavlm_cfg.activation_fn='glu', expected gelu or"),
        ({"extractor_mode": "x"}, "wavlm_cfg.extractor_mode='x', expected default or"),
        ({"encoder_layers": 0}, "wavlm_cfg.encoder_layers=0, expected something like"),
        ({"encoder_layers": 2}, "target_layers=.1, 3., expected different layers"),
        ({"dropout": "a"}, "wavlm_cfg.dropout='a', expected something like 0.1"),
        ({"num_buckets": 32}, "shape .16, 4. for ssl.encoder.layers.0.self_attn.rel"),
        ({"conv_feature_layers": "[]"}, "wavlm_cfg.conv_feature_layers='..', expect"),
        (
            {"conv_feature_layers": "[(16,10,5)]"},
            "2 tensors .* first is ssl.feature_ex",
        ),
    ],
)
def test_wrong_wavlm_cfg(wavlm, changes, sentence):
    cfg, states = wavlm
    cfg["wavlm_cfg"].update(changes)
    with pytest.raises(ValueError, match=f"^found ({sentence})"):
        converted(cfg, states)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"conv_kernel": [10, 8]}, "found a w2v2_cfg that transformers refuses"),
        ({"hidden_size": "x"}, "found a w2v2_cfg that transformers refuses"),
        ({"model_type": "hubert"}, "found w2v2_cfg.model_type='hubert', expected wav"),
        ({"do_stable_layer_norm": True}, "found w2v2_cfg.do_stable_layer_norm=True"),
        ({"intermediate_size": 41}, "found shape .* for ssl.encoder.layers.0.feed_f"),
        ({"mask_time_prob": 0.0}, "found 1 tensors .* first is ssl.masked_spec_embed"),
    ],
)
def test_wrong_w2v2_cfg(w2v2, changes, sentence):
    cfg, states = w2v2
    cfg["w2v2_cfg"].update(changes)
    with pytest.raises(ValueError, match=f"^{sentence}") as e:
        converted(cfg, states)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("config", [None, [], "x", {}, {"frontend": "hf"}])
def test_no_model_cfg(config, wavlm):
    with pytest.raises(ValueError, match="^found none of the keys .* expected the mod"):
        convert_config(config, wavlm[1])


def test_nothing_of_distilmos():
    with pytest.raises(ValueError, match="^found neither ssl_backbone in the config"):
        convert_config({"hidden_dim": 12}, {"linear.weight": torch.zeros(1, 12)})
