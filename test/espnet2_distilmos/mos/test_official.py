# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch

from espnet2_distilmos.mos.official import UNUSED, convert, parse_conv_layers

from . import official_models as official

LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}
VARIANTS = {
    "wavlm": ("wavlm", {}),
    "wavlm_like_large": ("wavlm", LARGE),
    "w2v2": ("w2v2", {}),
    "w2v2_layer_norm": ("w2v2", {"feat_extract_norm": "layer", "conv_bias": True}),
}
# Microsoft's default for `conv_feature_layers`.
STANDARD = [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2


@pytest.fixture(params=VARIANTS)
def released(request):
    backbone, changes = VARIANTS[request.param]
    cfg = official.model_cfg(backbone, **changes)
    return cfg, official.make_states(cfg)


@pytest.fixture
def wavlm():
    cfg = official.model_cfg("wavlm")
    return cfg, official.make_states(cfg)


@torch.no_grad()
def ours(model, speech):
    hidden_states, frames = model.frontend(speech[None], torch.tensor([len(speech)]))
    columns = list(range(len(model.token_columns)))
    return hidden_states, model.head(hidden_states, frames, columns)


def assert_equal(found, expected, atol=2e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("num_samples", [6000, 23457])
def test_scores_equal_the_published_forward_pass(released, num_samples):
    cfg, states = released
    model, config = convert(cfg, {"model": states, "epoch": 3})
    speech = official.make_speech(num_samples, seed=num_samples)
    expected = official.official_forward(cfg, states, speech)
    hidden_states, prediction = ours(model, speech)
    assert len(hidden_states) == len(expected["layers"]) + 1
    for found, layer in zip(hidden_states[1:], expected["layers"]):
        rms = float(layer.square().mean().sqrt())
        assert rms > 0.1
        assert_equal(found, layer, 1e-5 * max(1, rms))
    assert float(prediction.utt_mos) == pytest.approx(expected["mos"], abs=1e-5)
    assert_equal(prediction.frame_mos, expected["frame_mos"])
    assert expected["frame_mos"].std() > 0.02
    for found, logits in zip(prediction.token_logits, expected["token_logits"]):
        assert_equal(found, logits)
    # Complete, whatever the next transformers takes for a default.
    assert config["frontend_conf"] == model.frontend.resolved_conf()


@pytest.mark.slow
def test_every_tensor_matters(released):
    """Else a tensor in the wrong place, of the same shape, would go unseen above."""
    cfg, states = released
    speech = official.make_speech(4000)
    base = official.official_forward(cfg, states, speech)
    generator = torch.Generator().manual_seed(5)
    silent = set()
    for name, value in states.items():
        if not value.is_floating_point():
            continue
        changed = {**states, name: value + torch.rand(value.shape, generator=generator)}
        layers = None if name.startswith("ssl.") else base["layers"]
        result = official.official_forward(cfg, changed, speech, layers)
        found = [result["frame_mos"], *result["token_logits"]]
        kept = [base["frame_mos"], *base["token_logits"]]
        if all(torch.allclose(x, y, atol=1e-4, rtol=0) for x, y in zip(found, kept)):
            silent.add(name)
    # A softmax over keys does not see a shift of all of them.
    unread = (*UNUSED, "ssl.mask_emb", "ssl.masked_spec_embed")
    if cfg.get("wavlm_cfg", {}).get("layer_norm_first"):
        unread += ("ssl.encoder.layer_norm.",)  # behind the last layer's output
    expected = {
        name
        for name, value in states.items()
        if name.startswith(unread) or name.endswith("k_proj.bias")
        if value.is_floating_point()
    }
    assert silent == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"wavlm_cfg": {"max_distance": 60}},
        {"wavlm_cfg": {"activation_fn": "relu"}},
        {"downsample_strides": [2, 2, 2]},
    ],
)
def test_settings_that_no_shape_can_check(changes, wavlm):
    cfg, states = wavlm
    speech = official.make_speech(16000)
    before = official.official_forward(cfg, states, speech)["frame_mos"]
    cfg["wavlm_cfg"].update(changes.pop("wavlm_cfg", {}))
    cfg.update(changes)
    expected = official.official_forward(cfg, states, speech)
    _, prediction = ours(convert(cfg, states)[0], speech)
    assert_equal(prediction.frame_mos, expected["frame_mos"])
    found = expected["frame_mos"]
    assert found.shape != before.shape or (found - before).abs().max() > 2e-4


def test_padding_changes_nothing(released):
    model, _ = convert(*released)
    short, long = official.make_speech(9000), official.make_speech(16000, seed=1)
    batch = torch.zeros(2, 16000)
    batch[0, :9000], batch[1] = short, long
    together = model.inference(batch, torch.tensor([9000, 16000])).utt_mos
    alone = torch.cat([ours(model, speech)[1].utt_mos for speech in (short, long)])
    assert_equal(together, alone, 1e-4)


def test_configuration(wavlm):
    cfg, states = wavlm
    cfg["wavlm_cfg"]["normalize"] = True  # theirs takes the waveform as it is
    _, config = convert({**cfg, "freeze_wavlm": True}, states)
    assert config["frontend_conf"]["normalize_waveform"] is False
    assert config["frontend_conf"]["freeze"] == "all"
    assert config["token_info"]["frame_shift"] == 320
    assert config["token_info"]["columns"] == [
        {"stream": "wavlm", "layer": n, "K": official.CLUSTERS} for n in (1, 3)
    ]
    cfg["target_layers"] = []
    states = {k: v for k, v in states.items() if not k.startswith("predictors.")}
    model, config = convert(cfg, states)
    assert config["token_info"] is None and len(model.head.predictors) == 0


@pytest.mark.parametrize("backbone", ["wavlm", "w2v2"])
def test_defaults_of_the_authors(backbone, caplog):
    cfg = official.model_cfg(backbone)
    states = official.make_states(cfg)
    expected = convert(cfg, states)[1]
    # Their command line sets it, so model_cfg.yaml may leave it out.
    del cfg["ssl_backbone"], cfg["downsample_kernels"]
    assert convert(cfg, states)[1] == expected
    assert "lacks ssl_backbone, downsample_kernels" in caplog.text


def test_defaults_of_microsoft(wavlm):
    from s3prl.upstream.wavlm.WavLM import WavLMConfig

    from espnet2_distilmos.mos.official import convert_config

    default = WavLMConfig()
    states = {"ssl.post_extract_proj.weight": torch.zeros(768, 512)}
    for given, max_distance in ((None, 800), ({}, default.max_distance)):
        if given is not None:
            given = {"relative_position_embedding": True, "gru_rel_pos": True}
        cfg = {"wavlm_cfg": given, "target_layers": []}
        upstream = convert_config(cfg, states)["frontend_conf"]["upstream_config"]
        assert upstream["max_bucket_distance"] == max_distance
        assert upstream["hidden_size"] == default.encoder_embed_dim == 768
        assert upstream["num_conv_pos_embeddings"] == default.conv_pos
        assert upstream["hidden_act"] == default.activation_fn
        layers = zip(*(upstream[f"conv_{k}"] for k in ("dim", "kernel", "stride")))
        assert list(layers) == STANDARD


def test_conv_layers():
    from s3prl.upstream.wavlm.WavLM import WavLMConfig

    assert parse_conv_layers(WavLMConfig().conv_feature_layers) == STANDARD
    assert parse_conv_layers([list(layer) for layer in STANDARD]) == STANDARD
    for text in ("__import__('os').abort()", "[(1,1,1)] * 1000000000", "[(1,1)]", ""):
        with pytest.raises((ValueError, SyntaxError)):
            parse_conv_layers(text)


def test_other_forms_of_the_same_weights(released):
    """Both spellings of weight norm, fp16, and without what is not read."""
    cfg, states = released
    states = {k: v.half() if v.is_floating_point() else v for k, v in states.items()}
    expected = convert(cfg, {"state_dict": states})[0].state_dict()
    assert {v.dtype for v in expected.values()} == {torch.float32, torch.int64}
    pairs = [("weight_g", "parametrizations.weight.original0")]
    pairs += [("weight_v", "parametrizations.weight.original1")]
    other = {}
    for name, value in states.items():
        for old, new in pairs:
            if name.endswith((old, new)):
                other_way = (new, old) if name.endswith(new) else (old, new)
                name = name.replace(*other_way)
                break
        if not name.startswith(UNUSED):
            other[name] = value
    assert len(set(other) - set(states)) == 2
    found = convert(cfg, other)[0].state_dict()
    assert all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize("name", ["ssl.mask_emb", "decoder.cnn.bias", "linear.weight"])
def test_every_tensor_is_needed_in_its_shape(name, wavlm):
    cfg, states = wavlm
    value = states.pop(name)
    for change in ({}, {name: value[None]}, {name: value * torch.nan}, {name: "x"}):
        with pytest.raises(ValueError, match=name) as error:
            convert(cfg, {**states, **change})
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="ssl.extra"):
        convert(cfg, {**states, name: value, "ssl.extra": value})


@pytest.mark.parametrize(
    "changes",
    [
        {"ssl_backbone": "hubert"},
        {"ssl_backbone": "w2v2"},
        {"hidden_dim": 13},
        {"hidden_dim": "12"},
        {"downsample_kernels": 5},
        {"downsample_strides": [1]},
        {"downsample_kernels": [5, 5, 3]},
        {"target_layers": [1, 2, 3]},
        {"target_layers": [1]},
        {"target_layers": [1, 4]},
        {"target_layers": [1, 1]},
        {"wavlm_cfg": "x"},
        {"wavlm_cfg": {**official.WAVLM_CFG, "gru_rel_pos": False}},
        {"wavlm_cfg": {**official.WAVLM_CFG, "activation_fn": "glu"}},
        {"wavlm_cfg": {**official.WAVLM_CFG, "extractor_mode": "x"}},
        {"wavlm_cfg": {**official.WAVLM_CFG, "encoder_layers": 2}},
        {"wavlm_cfg": {**official.WAVLM_CFG, "dropout": "a"}},
        {"wavlm_cfg": {**official.WAVLM_CFG, "num_buckets": 32}},
        {"wavlm_cfg": {**official.WAVLM_CFG, "conv_feature_layers": "[(1,1,1.5)]"}},
        {"wavlm_cfg": {**official.WAVLM_CFG, "conv_feature_layers": "(" * 900}},
    ],
)
def test_another_configuration_gets_a_sentence(wavlm, changes):
    cfg, states = wavlm
    with pytest.raises(ValueError, match="model_cfg.yaml") as error:
        convert({**cfg, **changes}, states)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [{"conv_kernel": [10, 8]}, {"hidden_size": "x"}, {"do_stable_layer_norm": True}],
)
def test_another_w2v2_configuration_gets_a_sentence(changes):
    cfg = official.model_cfg("w2v2")
    states = official.make_states(cfg)
    cfg["w2v2_cfg"].update(changes)
    with pytest.raises(ValueError, match="model_cfg.yaml") as error:
        convert(cfg, states)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cfg", [None, [], "x", {}, {"frontend": "hf"}])
def test_nothing_of_distilmos(cfg, wavlm):
    with pytest.raises(ValueError, match="model_cfg.yaml"):
        convert(cfg, wavlm[1])
    for checkpoint in ({}, {"model": {}}, {"model": {"a": 1}}, {3: torch.zeros(1)}):
        with pytest.raises(ValueError, match="found"):
            convert(wavlm[0], checkpoint)
