# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy
import json
import os

import numpy as np
import pytest
import torch
import transformers
import yaml

from espnet2_distilmos.mos.frontend.hf import FAMILIES, HFFrontend

from . import tiny_upstreams as upstreams

FIRST, VARIANTS = upstreams.FIRST, upstreams.VARIANTS
batch, layers_of, loss_of = upstreams.batch, upstreams.layers_of, upstreams.loss_of
noiseless, tiny = upstreams.noiseless, upstreams.tiny
inexactness, relative_difference = upstreams.inexactness, upstreams.relative_difference
inexactness_of_layers = upstreams.inexactness_of_layers

WITH_MASK_EMBEDDING = [t for t in FIRST if t != "whisper"]
IMPOSSIBLE = ["everything", 4, -1, True, 1.5, None, [2], {"layers": 4}]
IMPOSSIBLE += [{"layers": "2"}, {"layers": True}, {"layer": 2}, {}]
# No corpus and no weights are in the repository; a directory with those of the
# whisper-tiny encoder (`hf download openai/whisper-tiny`) turns these tests on.
REAL_WHISPER = os.environ.get("MOS_TEST_WHISPER_TINY")


def test_every_family_is_tested():
    assert set(FIRST) == set(FAMILIES)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("normalize", [False, True])
def test_padding_exact(variant, normalize):
    options = dict(normalize_waveform=normalize)
    frontend = tiny(variant, options).eval()
    # An odd number of windows, one frame alone, and zeros behind the longest.
    lengths = (8000, 3210, 5555, 1100, frontend.minimum_samples)
    speech, lengths = batch(lengths)
    worst = inexactness(frontend, speech, lengths)
    # Shown by `pytest -rP`: the figures of the README.
    print(f"{variant}: {worst:.1e} of the layer's RMS")
    assert worst < 1e-4
    # Also when what stands in the padding is not zero.
    dirty = speech.clone()
    for i, n in enumerate(lengths):
        dirty[i, n:] = 0.5
    with torch.no_grad():
        clean, frames = frontend(speech, lengths)
        for a, b in zip(clean, frontend(dirty, lengths)[0]):
            for i, t in enumerate(frames):
                assert relative_difference(b[i, :t], a[i, :t]) < 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_are_the_layers_inputs_and_outputs(variant):
    frontend = tiny(variant).eval()
    seen = []
    layers = layers_of(frontend)
    layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(
            (args[0] if args else kwargs["hidden_states"]).clone()
        ),
        with_kwargs=True,
    )
    for layer in layers:
        layer.register_forward_hook(
            lambda _, args, out: seen.append(
                (out[0] if isinstance(out, tuple) else out).clone()
            )
        )
    with torch.no_grad():
        hidden_states, _ = frontend(*batch())
        if frontend.name == "whisper":
            seen[-1] = frontend.model.layer_norm(seen[-1])
    assert len(seen) == len(hidden_states) == 4
    for expected, found in zip(seen, hidden_states):
        assert torch.equal(expected, found)


def reference(frontend):
    """transformers' own network with the same weights."""
    conf = dict(frontend.config_dict)
    config = transformers.AutoConfig.for_model(conf.pop("model_type"), **conf)
    model = transformers.AutoModel.from_config(config)
    model = model.encoder if frontend.name == "whisper" else model
    model.load_state_dict(frontend.model.state_dict(), strict=True)
    return model.eval()


WAVEFORM_VARIANTS = [v for v in VARIANTS if "conv_dim" in VARIANTS[v]]
BERT_VARIANTS = [v for v in VARIANTS if v.startswith("wav2vec2-bert")]
WHISPER_VARIANTS = [v for v in VARIANTS if "d_model" in VARIANTS[v]]


@pytest.mark.parametrize("variant", WAVEFORM_VARIANTS)
@pytest.mark.parametrize("normalize", [False, True])
def test_waveform_families_equal_transformers(variant, normalize):
    frontend = tiny(variant, dict(normalize_waveform=normalize)).eval()
    speech, lengths = batch((7777,))
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalize)
    values = extractor(speech[0].numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        output = reference(frontend)(values.input_values, output_hidden_states=True)
        found, _ = frontend(speech, lengths)
    for a, b in zip(found, output.hidden_states, strict=True):
        assert relative_difference(a, b) < 1e-5


def utterances():
    """Waveforms that are hard on a log-mel: loud, faint, silent, with an offset."""
    generator = np.random.default_rng(0)
    for samples in (560, 719, 720, 4000, 8000):
        noise = generator.standard_normal(samples).astype(np.float32)
        yield 0.3 * noise
        yield 1e-4 * noise
        yield np.float32(0.1) + 1e-3 * noise
        half = 0.1 * noise
        half[samples // 2 :] = 0
        yield half
        yield np.sin(0.05 * np.arange(samples), dtype=np.float32)
    yield np.zeros(4000, dtype=np.float32)


def collate(waves):
    speech = torch.zeros(len(waves), max(len(w) for w in waves))
    for row, wave in zip(speech, waves):
        row[: len(wave)] = torch.from_numpy(wave)
    return speech, torch.tensor([len(w) for w in waves])


@pytest.mark.parametrize("num_mels", [80, 40])
def test_filter_bank_equals_the_seamless_extractor(num_mels):
    frontend = tiny("wav2vec2-bert", feature_projection_input_dim=2 * num_mels)
    extractor = transformers.SeamlessM4TFeatureExtractor(
        feature_size=num_mels, num_mel_bins=num_mels, padding_value=1
    )
    waves = list(utterances())
    speech, lengths = collate(waves)
    log_mel = frontend.family.log_mel(speech)
    features = frontend.family.features(speech, lengths)
    features = features.float()
    for i, wave in enumerate(waves):
        expected = torch.from_numpy(extractor._extract_fbank_features(wave))
        found = log_mel[i, : len(expected)].float()
        assert torch.allclose(found, expected, atol=4e-6, rtol=0)

        expected = extractor(wave, sampling_rate=16000, return_tensors="pt")
        valid = expected.attention_mask[0].bool()
        frames = frontend.num_frames(len(wave))
        assert int(valid.sum()) == frames
        assert not features[i, frames + 1 :].any()
        if found.std(dim=0).min() > 0.1:
            # Else the extractor's fp32 statistics are what would be seen.
            expected = expected.input_features[0][valid]
            assert torch.allclose(features[i, :frames], expected, atol=5e-5, rtol=0)
    assert features[-1].abs().max() < 1e-6


@pytest.mark.parametrize("variant", BERT_VARIANTS)
@pytest.mark.parametrize("samples", [8000, 8160])
def test_wav2vec2_bert_equals_transformers(variant, samples):
    """With an even and an odd number of windows."""
    frontend = tiny(variant).eval()
    speech, lengths = batch((samples,))
    extractor = transformers.SeamlessM4TFeatureExtractor()
    inputs = extractor(speech[0].numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        output = reference(frontend)(**inputs, output_hidden_states=True)
        found, frames = frontend(speech, lengths)
    for a, b in zip(found, output.hidden_states, strict=True):
        assert relative_difference(a, b[:, : frames[0]]) < 1e-4


@pytest.mark.parametrize("variant", WHISPER_VARIANTS)
def test_log_mel_equals_the_whisper_extractor(variant):
    frontend = tiny(variant)
    extractor = transformers.WhisperFeatureExtractor(
        feature_size=frontend.model.config.num_mel_bins
    )
    waves = list(utterances())
    speech, lengths = collate(waves)
    log_mel = frontend.family.log_mel(speech, lengths)
    for found, wave in zip(log_mel, waves):
        expected = extractor(
            wave, sampling_rate=16000, padding="do_not_pad", return_tensors="pt"
        ).input_features[0]
        assert torch.allclose(found[:, : expected.size(1)], expected, atol=1e-5, rtol=0)
        assert not found[:, expected.size(1) :].any()


@pytest.mark.parametrize("variant", WHISPER_VARIANTS)
def test_whisper_equals_transformers_at_30_seconds(variant):
    frontend = tiny(variant, encoder_layers=2).eval()
    speech, lengths = batch((480000,))
    extractor = transformers.WhisperFeatureExtractor(
        feature_size=frontend.model.config.num_mel_bins
    )
    inputs = extractor(speech[0].numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        output = reference(frontend)(**inputs, output_hidden_states=True)
        found, frames = frontend(speech, lengths)
    assert frames.tolist() == [1500]
    for a, b in zip(found, output.hidden_states, strict=True):
        assert relative_difference(a, b) < 1e-4


@pytest.mark.parametrize("samples", [8000, 8160])
def test_whisper_equals_its_layers_called_by_hand(samples):
    frontend = tiny("whisper").eval()
    model = reference(frontend)
    speech, lengths = batch((samples,))
    log_mel = transformers.WhisperFeatureExtractor()(
        speech[0].numpy(),
        sampling_rate=16000,
        padding="do_not_pad",
        return_tensors="pt",
    ).input_features
    with torch.no_grad():
        x = torch.nn.functional.gelu(model.conv1(log_mel))
        x = torch.nn.functional.gelu(model.conv2(x)).transpose(1, 2)
        x = x + model.embed_positions(torch.arange(x.size(1)))
        expected = [x]
        for layer in model.layers:
            expected.append(layer(expected[-1], None))
        expected[-1] = model.layer_norm(expected[-1])
        found, _ = frontend(speech, lengths)
    for a, b in zip(found, expected, strict=True):
        assert relative_difference(a, b) < 1e-5


def test_whisper_refuses_what_has_no_position():
    frontend = tiny("whisper", max_source_positions=10).eval()
    most = 10 * 320 + 159
    speech, lengths = batch((most, 2000))
    padded = torch.nn.functional.pad(speech, (0, 9000))
    with torch.no_grad():
        _, frames = frontend(padded, lengths)
    assert frames.tolist() == [10, 6]
    with pytest.raises(ValueError, match=f"{most + 1} samples.*at most {most}"):
        frontend(*batch((most + 1, 2000)))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_sdpa_where_transformers_has_it(model_type):
    config = tiny(model_type).model.config
    expected = "eager" if model_type == "wavlm" else "sdpa"
    assert config._attn_implementation == expected


@pytest.mark.parametrize("model_type", FAMILIES)
def test_input_stays_fp32_under_autocast(model_type):
    """A log-mel in half precision would be noise."""
    frontend = tiny(model_type).eval()
    speech, lengths = batch()
    with torch.no_grad():
        expected, _ = frontend(speech, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, frames = frontend(speech, lengths)
    for a, b in zip(found, expected):
        for i, t in enumerate(frames):
            assert relative_difference(a[i, :t].float(), b[i, :t]) < 0.3


def test_without_the_mask_padding_would_leak():
    """The fault that the masked norm removes is there without it."""
    frontend = tiny().eval()
    plain = copy.deepcopy(frontend.model)
    conv = plain.feature_extractor.conv_layers[0]
    norm = torch.nn.GroupNorm(16, 16)
    norm.load_state_dict(conv.layer_norm.state_dict())
    conv.layer_norm = norm
    speech, _ = batch((8000, 3210))
    with torch.no_grad():
        padded = plain.feature_extractor(speech)[1, :, :10]
        alone = plain.feature_extractor(speech[1:, :3210])[0, :, :10]
    assert (padded - alone).abs().max() > 1e-2


def test_whisper_is_exact_beyond_rounding():
    frontend = tiny("whisper").eval().double()
    speech, lengths = batch()
    assert inexactness(frontend, speech.double(), lengths) < 1e-12


def test_padding_would_leak_through_positional_convolutions():
    """The fault that is mended for data2vec is there without it."""
    frontend = tiny("data2vec-audio").eval()
    speech, lengths = batch((8000, 3210))
    assert inexactness(frontend, speech, lengths) < 1e-4
    frontend.family._set_lengths = lambda lengths: None
    assert inexactness(frontend, speech, lengths) > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_num_frames_and_minimum_come_from_the_network(variant):
    frontend = tiny(variant).eval()
    shortest = frontend.minimum_samples
    assert frontend.frame_shift == 320
    for samples in (shortest, shortest + 1, 5000, 5119, 5120, 5121, 5200, 5280):
        with torch.no_grad():
            found, frames = frontend(torch.randn(1, samples), torch.tensor([samples]))
        assert found[0].size(1) == found[-1].size(1) == frames[0]
        assert frames[0] == frontend.num_frames(samples)
    assert frontend.num_frames(shortest) == 1
    assert frontend.num_frames(100) == 0
    with pytest.raises(ValueError, match=f"{shortest - 1} samples.*{shortest}"):
        frontend(torch.randn(1, shortest - 1), torch.tensor([shortest - 1]))


def test_standard_stack_has_49_frames_a_second():
    config = transformers.HubertConfig().to_dict()
    config.update(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config.update(intermediate_size=16, conv_dim=[8] * 7)
    frontend = HFFrontend(upstream_config=config)
    assert frontend.num_frames(16000) == 49
    assert frontend.minimum_samples == 400


def test_bare_configuration_is_seeded_apart_from_the_global_generator():
    torch.manual_seed(1)
    first = tiny(options=dict(init_seed=7))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    second = tiny(options=dict(init_seed=7))
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint() != tiny(options=dict(init_seed=8)).fingerprint()
    assert (
        first.fingerprint()
        != tiny(options=dict(init_seed=7, normalize_waveform=True)).fingerprint()
    )


EXTRACTORS = {
    "whisper": transformers.WhisperFeatureExtractor,
    "wav2vec2-bert": transformers.SeamlessM4TFeatureExtractor,
}


def save_checkpoint(path, model_type, dtype="float32", torch_file=False, **changes):
    """Write a random checkpoint as transformers does; returns its network."""
    config = dict(VARIANTS[FIRST[model_type]], **changes)
    config = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    torch.manual_seed(3)
    model = transformers.AutoModel.from_config(config).to(getattr(torch, dtype))
    model.save_pretrained(path)
    if torch_file:
        (path / "model.safetensors").unlink()
        torch.save(model.state_dict(), path / "pytorch_model.bin")
    if model_type in EXTRACTORS:
        EXTRACTORS[model_type]().save_pretrained(path)
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
        extractor.save_pretrained(path)
    return model.encoder if model_type == "whisper" else model


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("dtype,torch_file", [("float32", True), ("float16", False)])
def test_local_checkpoint_and_rebuild_without_files(
    tmp_path, model_type, dtype, torch_file
):
    upstream = tmp_path / "upstream"
    source = save_checkpoint(upstream, model_type, dtype, torch_file)

    frontend = HFFrontend(upstream=str(upstream)).eval()
    assert frontend.normalize_waveform is (model_type not in EXTRACTORS)
    assert all(p.dtype == torch.float32 for p in frontend.parameters())
    expected = {f"model.{k}": v.float() for k, v in source.state_dict().items()}
    assert list(frontend.state_dict()) == list(expected)
    for key, value in expected.items():
        assert torch.equal(frontend.state_dict()[key], value), key

    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    for path in sorted(upstream.iterdir()):
        path.unlink()
    rebuilt = HFFrontend(**conf, load_pretrained=False).eval()
    assert rebuilt.fingerprint() != frontend.fingerprint()
    rebuilt.load_state_dict(frontend.state_dict(), strict=True)
    assert rebuilt.fingerprint() == frontend.fingerprint()
    speech, lengths = batch()
    with torch.no_grad():
        for a, b in zip(frontend(speech, lengths)[0], rebuilt(speech, lengths)[0]):
            assert torch.equal(a, b)


@pytest.mark.parametrize("encoder_only", [False, True])
def test_whisper_checkpoints_with_and_without_decoder(tmp_path, caplog, encoder_only):
    config = dict(VARIANTS["whisper"])
    config = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    model = transformers.WhisperForConditionalGeneration(config)
    keep = None
    if encoder_only:
        states = model.model.state_dict()
        keep = {k: v for k, v in states.items() if k.startswith("encoder.")}
        model = model.model
    model.save_pretrained(tmp_path, state_dict=keep)
    frontend = HFFrontend(upstream=str(tmp_path))
    assert not caplog.records
    states = model.get_encoder().state_dict()
    assert set(frontend.model.state_dict()) == set(states)
    for key, value in frontend.model.state_dict().items():
        assert torch.equal(value, states[key]), key


def test_checkpoint_of_a_task_model_without_mask_embedding(tmp_path):
    """A CTC checkpoint; its mask embedding is drawn, and always the same."""
    config = dict(VARIANTS["wav2vec2 base"], vocab_size=9)
    config = transformers.Wav2Vec2Config(**config)
    model = transformers.Wav2Vec2ForCTC(config)
    states = model.state_dict()
    del states["wav2vec2.masked_spec_embed"]
    model.save_pretrained(tmp_path, state_dict=states)
    first = HFFrontend(upstream=str(tmp_path))
    torch.manual_seed(99)
    assert HFFrontend(upstream=str(tmp_path)).fingerprint() == first.fingerprint()
    key = "encoder.layers.0.attention.k_proj.weight"
    assert torch.equal(first.model.state_dict()[key], model.wav2vec2.state_dict()[key])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_incomplete_checkpoint_is_refused(tmp_path, model_type):
    save_checkpoint(tmp_path, model_type, torch_file=True)
    states = torch.load(tmp_path / "pytorch_model.bin")
    prefix = "encoder." if model_type == "whisper" else ""
    key = [k for k in states if "layers.1." in k and k.startswith(prefix)][0]
    del states[key]
    torch.save(states, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"no weights for 1 .*{key[len(prefix):]}"):
        HFFrontend(upstream=str(tmp_path))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_configuration_of_another_network_is_refused(tmp_path, model_type):
    """As when --frontend_conf upstream=... meets a file with upstream_config."""
    save_checkpoint(tmp_path, model_type)
    other = "wavlm" if model_type == "hubert" else "hubert"
    config = dict(VARIANTS[FIRST[other]])
    sentence = f"a model of type '{model_type}', but .* of '{other}': leave"
    with pytest.raises(ValueError, match=sentence):
        HFFrontend(upstream=str(tmp_path), upstream_config=config)
    size = "d_model" if model_type == "whisper" else "hidden_size"
    with pytest.raises(ValueError, match="weights of other shapes than"):
        HFFrontend(upstream=str(tmp_path), upstream_config={size: 64})


@pytest.mark.parametrize("model_type", ["wav2vec2", "wav2vec2-bert", "data2vec-audio"])
def test_adapter_behind_the_last_layer_is_not_built(tmp_path, model_type):
    save_checkpoint(tmp_path, model_type, add_adapter=True)
    frontend = HFFrontend(upstream=str(tmp_path)).train()
    assert not [k for k in frontend.state_dict() if "model.adapter" in k]
    assert without_gradient(frontend) == []


@pytest.mark.parametrize(
    "model_type,change",
    [
        ("hubert", {"sampling_rate": 8000}),
        ("whisper", {"hop_length": 80}),
        ("whisper", {"feature_size": 128}),
        ("wav2vec2-bert", {"num_mel_bins": 40}),
    ],
)
def test_another_feature_extractor_is_refused(tmp_path, model_type, change):
    save_checkpoint(tmp_path, model_type)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **change)))
    ((key, value),) = change.items()
    with pytest.raises(ValueError, match=f"{key}={value}.*expected"):
        HFFrontend(upstream=str(tmp_path))


def test_missing_preprocessor_config_means_no_normalization(tmp_path, caplog):
    tiny().model.save_pretrained(tmp_path)
    assert HFFrontend(upstream=str(tmp_path)).normalize_waveform is False
    assert "no preprocessor_config.json" in caplog.text
    overridden = HFFrontend(upstream=str(tmp_path), normalize_waveform=True)
    assert overridden.normalize_waveform is True


def train_one_step(frontend, lr=0.01):
    """One step on all hidden states, however small the gradient; what moved."""
    before = {k: p.detach().clone() for k, p in frontend.named_parameters()}
    frontend.zero_grad()
    loss = loss_of(*frontend(*batch()))
    if loss.requires_grad:
        loss.backward()
        trainable = [p for p in frontend.parameters() if p.requires_grad]
        torch.optim.Adam(trainable, lr=lr, eps=1e-16).step()
    return {k for k, p in frontend.named_parameters() if not torch.equal(p, before[k])}


def names_of_parts(frontend):
    """Names of parameters by part: cnn, front, layer numbers, last; by hand."""
    parts = {}
    stable = getattr(frontend.model.config, "do_stable_layer_norm", False)
    for name, parameter in frontend.named_parameters():
        name = name[len("model.") :]
        if "layers." in name and not name.startswith("feature_extractor"):
            if ".pos_conv_embed." not in name:
                part = int(name.split("layers.")[1].split(".")[0]) + 1
                parts.setdefault(part, set()).add(f"model.{name}")
                continue
        if name.startswith(("feature_extractor.", "conv1.", "conv2.")):
            part = "cnn"
        elif name == "layer_norm.weight" or name == "layer_norm.bias":
            part = "last"
        elif name.startswith("encoder.layer_norm."):
            # Behind the last hidden state with stable layer norm.
            part = "never" if stable else "front"
        else:
            never = name in ("masked_spec_embed", "embed_positions.weight")
            part = "never" if never else "front"
        parts.setdefault(part, set()).add(f"model.{name}")
    return parts


def moving(names):
    """Without the biases of keys: softmax does not feel them."""
    return {n for n in names if not n.endswith(("k_proj.bias", "linear_k.bias"))}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("n", [0, 2, 3])
def test_frozen_layers_are_those_below(variant, n):
    """Hidden states 0 to n get no gradient and no dropout, those above do."""
    dropout = {key: 0.5 for key in noiseless(variant)}
    frontend = tiny(variant, dict(freeze=n), **dropout)
    speech, lengths = batch()
    expected, _ = frontend.eval()(speech, lengths)
    found, _ = frontend.train()(speech, lengths)
    for layer, (a, b) in enumerate(zip(found, expected)):
        assert torch.equal(a, b) is (layer <= n)
        assert a.requires_grad is (layer > n)
    names = [k for k, p in frontend.named_parameters() if p.requires_grad]
    assert all(any(f"layers.{i}." in k for i in range(n, 3)) for k in names) or (
        frontend.name == "whisper" and n < 3
    )
    assert bool(names) is (n < 3)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_freeze_cnn_of_every_family(model_type):
    frontend = tiny(model_type, dict(freeze="cnn")).train()
    frozen = {k for k, p in frontend.named_parameters() if not p.requires_grad}
    frozen -= {"model.masked_spec_embed", "model.embed_positions.weight"}
    if model_type == "wav2vec2-bert":
        assert not frozen
    elif model_type == "whisper":
        assert frozen == {
            f"model.conv{i}.{p}" for i in "12" for p in ("weight", "bias")
        }
    else:
        assert frozen
        assert all(k.startswith("model.feature_extractor.") for k in frozen)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("freeze", ["none", "cnn", "all", 0, {"layers": 2}, 3])
def test_exactly_what_is_not_frozen_moves_in_train_mode(variant, freeze):
    frontend = tiny(variant, dict(freeze=freeze)).eval().train()
    parts = names_of_parts(frontend)
    n = freeze["layers"] if isinstance(freeze, dict) else freeze
    still = {
        "none": ["never"],
        "cnn": ["never", "cnn"],
        "all": list(parts),
        0: ["never", "cnn", "front"],
        2: ["never", "cnn", "front", 1, 2],
        3: ["never", "cnn", "front", 1, 2, 3, "last"],
    }[n]
    expected = set().union(*(parts[part] for part in parts if part not in still))
    moved = train_one_step(frontend)
    assert moving(moved) == moving(expected) and moved <= expected
    for name, parameter in frontend.named_parameters():
        assert (parameter.grad is not None) == (name in expected), name
    modes = [layer.training for layer in layers_of(frontend)]
    frozen = {"none": 0, "cnn": 0, "all": 3}.get(n, n)
    assert modes == [False] * frozen + [True] * (3 - frozen)
    for layer in layers_of(frontend)[:frozen]:
        assert not any(part.training for part in layer.modules())


@pytest.mark.parametrize("freeze", ["none", "cnn", "all", 2, {"layers": 2}])
def test_freeze_has_one_spelling_in_the_configuration(freeze):
    conf = tiny(options=dict(freeze=freeze)).resolved_conf()
    assert conf["freeze"] == (2 if freeze == {"layers": 2} else freeze)
    rebuilt = HFFrontend(**yaml.safe_load(yaml.safe_dump(conf)), load_pretrained=False)
    expected = tiny(options=dict(freeze=freeze))
    for a, b in zip(rebuilt.parameters(), expected.parameters()):
        assert a.requires_grad == b.requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_of_a_parameter_is_the_first_hidden_state_that_feels_it(variant):
    frontend = tiny(variant).train()
    layer_of = frontend.layer_of_parameters()
    assert set(layer_of) == {name for name, _ in frontend.named_parameters()}
    trained = {k: p for k, p in frontend.named_parameters() if p.requires_grad}
    hidden_states, _ = frontend(*batch())
    first = {}
    for number, h in enumerate(hidden_states):
        grads = torch.autograd.grad(
            h.sum(), list(trained.values()), retain_graph=True, allow_unused=True
        )
        for name, grad in zip(trained, grads):
            if grad is not None:
                first.setdefault(name, number)
    assert {name: layer_of[name] for name in trained} == first
    assert set(first.values()) == {0, 1, 2, 3}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_freeze_all_builds_no_graph(model_type):
    hidden_states, _ = tiny(model_type, dict(freeze="all")).train()(*batch())
    assert not any(h.requires_grad for h in hidden_states)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_waveform_has_its_gradient_through_frozen_weights(model_type):
    """The same as through weights that are not frozen."""
    speech, lengths = batch()
    # Not the squares: behind a layer norm their sum is constant.
    weight = torch.randn(32)
    gradients = []
    for freeze in ("all", "none"):
        wave = speech.clone().requires_grad_(True)
        hidden_states, frames = tiny(model_type, dict(freeze=freeze)).eval()(
            wave, lengths
        )
        (hidden_states[-1][0, 0] @ weight).backward()
        gradients.append(wave.grad)
    assert gradients[0].abs().max() > 0
    assert relative_difference(*gradients) < 1e-4


@pytest.mark.parametrize("model_type", ["hubert", "data2vec-audio", "whisper"])
def test_frame_centre_is_the_middle_of_what_a_frame_hears(model_type):
    """Of the span of samples that a frame before the transformer depends on."""
    frontend = tiny(model_type).eval()
    if model_type == "hubert":
        # Group norm over time hears everything.
        convolution = frontend.model.feature_extractor.conv_layers[0]
        convolution.layer_norm = torch.nn.Identity()
    speech = batch((8000,))[0].requires_grad_(True)
    frame = 9
    if model_type == "whisper":
        features = frontend(speech, torch.tensor([8000]))[0][0][0, frame]
    else:
        features = frontend.model.feature_extractor(speech)[0, :, frame]
    (gradient,) = torch.autograd.grad(features.sum(), speech)
    heard = gradient[0].nonzero()
    middle = float(heard.min() + heard.max()) / 2
    expected = frontend.frame_centre + frame * frontend.frame_shift
    # a window of an even length has weight zero at its first sample
    assert abs(middle - expected) <= (0.5 if model_type == "whisper" else 0)


@pytest.mark.parametrize("freeze", IMPOSSIBLE)
def test_impossible_freeze_is_refused(freeze):
    with pytest.raises(ValueError, match="found frontend_conf.freeze="):
        tiny(options=dict(freeze=freeze))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_train_mode_has_all_layers_and_no_random_masking(model_type):
    changes = noiseless(FIRST[model_type])
    changes.update(mask_time_prob=0.9, mask_time_length=2, layerdrop=0.9)
    changes.update(apply_spec_augment=True)
    if model_type == "whisper":
        changes.update(encoder_layerdrop=0.9)
    speech, lengths = batch()
    frontend = tiny(model_type, **changes)
    expected = frontend.eval()(speech, lengths)[0]
    found = frontend.train()(speech, lengths)[0]
    assert all(torch.equal(a, b) for a, b in zip(expected, found))
    if model_type != "whisper":
        masked = tiny(model_type, dict(spec_augment=True), **changes).train()
        found = masked(speech, lengths)[0]
        assert not torch.equal(expected[0], found[0])


@pytest.mark.parametrize("option", [dict(layerdrop=0.1), dict(spec_augment=True)])
def test_whisper_has_no_training_noise(option):
    with pytest.raises(ValueError, match="whisper has neither"):
        tiny("whisper", option)


@pytest.mark.parametrize("model_type", WITH_MASK_EMBEDDING)
# A checkpoint may say that it was fine-tuned without SpecAugment.
@pytest.mark.parametrize("apply_spec_augment", [True, False])
def test_mask_time_indices_put_in_the_mask_embedding(model_type, apply_spec_augment):
    frontend = tiny(model_type, apply_spec_augment=apply_spec_augment).eval()
    speech, lengths = batch((8000, 8000))
    frames = frontend.num_frames(8000)
    mask = torch.zeros(2, frames, dtype=torch.bool)
    mask[1] = True
    captured = []
    handle = frontend.model.encoder.register_forward_pre_hook(
        lambda _, args: captured.append(args[0].clone())
    )
    with torch.no_grad():
        plain, _ = frontend(speech, lengths)
        masked, _ = frontend(speech, lengths, mask)
    handle.remove()
    assert torch.equal(captured[1][0], captured[0][0])
    embedding = frontend.model.masked_spec_embed.expand(frames, -1)
    assert torch.equal(captured[1][1], embedding)
    assert torch.allclose(plain[-1][0], masked[-1][0], atol=1e-6)
    assert not torch.allclose(plain[-1][1], masked[-1][1], atol=1e-2)


def test_whisper_masks_with_zeros_before_the_positions():
    frontend = tiny("whisper").eval()
    speech, lengths = batch((8000, 5000))
    frames = frontend.num_frames(8000)
    mask = torch.zeros(2, frames, dtype=torch.bool)
    mask[1, 3:9] = True
    with torch.no_grad():
        plain, _ = frontend(speech, lengths)
        masked, _ = frontend(speech, lengths, mask)
    positions = frontend.model.embed_positions.weight
    assert torch.equal(masked[0][1, 3:9], positions[3:9])
    assert torch.equal(masked[0][~mask], plain[0][~mask])
    assert torch.allclose(plain[-1][0], masked[-1][0], atol=1e-6)
    assert not torch.allclose(plain[-1][1, :3], masked[-1][1, :3], atol=1e-5)
    frontend.set_mask_training(True)


@pytest.mark.parametrize("model_type", WITH_MASK_EMBEDDING)
def test_the_mask_embedding_learns_when_masked_and_not_frozen(model_type):
    speech, lengths = batch()
    mask = torch.zeros(3, tiny(model_type).num_frames(8000), dtype=torch.bool)
    mask[:, 2:5] = True
    for freeze, trained in (("none", True), ("cnn", True), (1, False), ("all", False)):
        frontend = tiny(model_type, dict(freeze=freeze)).train()
        embedding = frontend.model.masked_spec_embed
        assert not embedding.requires_grad
        frontend.set_mask_training(True)
        assert embedding.requires_grad is trained
    frontend = tiny(model_type).train()
    frontend.set_mask_training(True)
    frontend(speech, lengths, mask)[0][-1].square().mean().backward()
    assert frontend.model.masked_spec_embed.grad.any()
    frontend.set_mask_training(False)
    assert not frontend.model.masked_spec_embed.requires_grad


@pytest.mark.parametrize("model_type", ["hubert", "wav2vec2-bert"])
def test_no_mask_embedding_gets_one_sentence(model_type):
    frontend = tiny(model_type, mask_time_prob=0.0).eval()
    speech, lengths = batch((8000,))
    mask = torch.ones(1, frontend.num_frames(8000), dtype=torch.bool)
    with pytest.raises(ValueError, match="has no mask embedding"):
        frontend(speech, lengths, mask)
    with pytest.raises(ValueError, match="has no mask embedding"):
        frontend.set_mask_training(True)
    frontend.set_mask_training(False)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_gradient_reaches_the_first_convolution(model_type):
    frontend = tiny(model_type).train()
    hidden_states, _ = frontend(*batch())
    hidden_states[-1].square().mean().backward()
    first = next(
        p for n, p in frontend.named_parameters() if "conv" in n or "proj" in n
    )
    assert first.grad is not None and first.grad.abs().sum() > 0


def without_gradient(frontend):
    hidden_states, _ = frontend(*batch())
    sum(h.square().mean() for h in hidden_states[1:]).backward()
    return [
        name
        for name, p in frontend.named_parameters()
        if p.requires_grad and p.grad is None
    ]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("freeze", ["none", "cnn", 1])
def test_every_trainable_parameter_gets_a_gradient(variant, freeze):
    """As DistributedDataParallel demands."""
    assert not without_gradient(tiny(variant, dict(freeze=freeze)).train())


def test_batches_of_inference_do_not_spoil_training():
    """transformers keeps rotary angles, then of inference mode, for equal lengths."""
    frontend = tiny("wav2vec2-bert rotary")
    with torch.inference_mode():
        frontend(*batch())
    assert not without_gradient(frontend.train())


def test_bad_configurations_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="neither .upstream. nor .upstream_config."):
        HFFrontend()
    families = "one of data2vec-audio, hubert"
    with pytest.raises(ValueError, match=f"'bert', expected {families}"):
        HFFrontend(upstream_config={"model_type": "bert"})
    with pytest.raises(ValueError, match=f"None, expected {families}"):
        HFFrontend(upstream_config={"hidden_size": 8})
    for config in ({"model_type": "bert"}, {"model_type": "new"}, {}):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=f"{tmp_path}: found .*{families}"):
            HFFrontend(upstream=str(tmp_path))
    with pytest.raises(ValueError, match="feature_projection_input_dim=81"):
        tiny("wav2vec2-bert", feature_projection_input_dim=81)
    with pytest.raises(OSError, match="neither a local directory"):
        HFFrontend(upstream=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no .upstream_config."):
        HFFrontend(upstream="some/model", load_pretrained=False)


def test_offline_reads_the_cache_alone(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="some/model is neither .*cache: .*frontend_conf"):
        HFFrontend(upstream="some/model")
    revision = "0" * 40
    cached = tmp_path / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision)
    model = save_checkpoint(cached / "snapshots" / revision, "hubert")
    frontend = HFFrontend(upstream="some/model")
    assert frontend.normalize_waveform is True
    for key, value in model.state_dict().items():
        assert torch.equal(frontend.model.state_dict()[key], value)


@pytest.mark.skipif(not REAL_WHISPER, reason="MOS_TEST_WHISPER_TINY is not set")
def test_real_whisper_weights(tmp_path):
    frontend = HFFrontend(upstream=REAL_WHISPER).eval()
    assert frontend.num_layers == 4 and frontend.output_size() == 384
    speech, lengths = batch((48000, 16000, 30001))
    *others, last = inexactness_of_layers(frontend, speech, lengths)
    # Single frames of the last layer are ill-conditioned: fp32 itself is as far off.
    assert max(others) < 2e-5 and last < 3e-4
    assert inexactness(frontend.double(), speech.double(), lengths) < 1e-10
    frontend = HFFrontend(upstream=REAL_WHISPER).eval()
    rebuilt = HFFrontend(**frontend.resolved_conf(), load_pretrained=False)
    rebuilt.load_state_dict(frontend.state_dict(), strict=True)
    assert rebuilt.fingerprint() == frontend.fingerprint()

    speech, lengths = batch((480000,))
    extractor = transformers.AutoFeatureExtractor.from_pretrained(REAL_WHISPER)
    inputs = extractor(speech[0].numpy(), sampling_rate=16000, return_tensors="pt")
    model = transformers.WhisperModel.from_pretrained(REAL_WHISPER, dtype=torch.float32)
    with torch.no_grad():
        output = model.encoder.eval()(**inputs, output_hidden_states=True)
        found, _ = frontend(speech, lengths)
    for a, b in zip(found, output.hidden_states, strict=True):
        assert relative_difference(a, b) < 1e-4
