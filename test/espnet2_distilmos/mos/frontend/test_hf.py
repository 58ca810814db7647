# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import torch
import transformers
import yaml

from espnet2_distilmos.mos.frontend.hf import FAMILIES, HFFrontend

from .tiny_upstreams import (
    FIRST,
    VARIANTS,
    batch,
    check_layer_of_parameters,
    each_family,
    each_variant,
    in_turn,
    inexactness,
    layers_of,
    loss_of,
    noiseless,
    relative_difference,
    states_of,
    tiny,
    trained_of,
)

EXTRACTORS = {
    "whisper": transformers.WhisperFeatureExtractor,
    "wav2vec2-bert": transformers.SeamlessM4TFeatureExtractor,
}
each_maskable_family = pytest.mark.parametrize(
    "model_type", in_turn(t for t in FIRST if t != "whisper")
)


# What Whisper has behind its last layer.
NORM = {"model.layer_norm.weight", "model.layer_norm.bias"}


def test_every_family_is_tested():
    assert set(FIRST) == set(FAMILIES)


# Exactness


@each_variant
def test_padding_exact(variant):
    frontend = tiny(variant, dict(normalize_waveform=True)).eval()
    # An odd number of windows, one frame alone, and zeros behind the longest.
    lengths = (8000, 3210, 5555, 1100, frontend.minimum_samples)
    speech, lengths = batch(lengths)
    worst = inexactness(frontend, speech, lengths)
    # Shown by `pytest -rP`: the figures of the README.
    print(f"{variant}: {worst:.1e} of the layer's RMS")
    assert worst < 1e-4
    # Also when the padding is not zero.
    for i, n in enumerate(lengths):
        speech[i, n:] = 0.5
    assert inexactness(frontend, speech, lengths) < 1e-4


def reference(frontend):
    """transformers' own network with the same weights."""
    conf = dict(frontend.config_dict)
    config = transformers.AutoConfig.for_model(conf.pop("model_type"), **conf)
    model = transformers.AutoModel.from_config(config)
    model = model.encoder if frontend.name == "whisper" else model
    model.load_state_dict(frontend.model.state_dict(), strict=True)
    return model.eval()


@each_variant
def test_hidden_states_are_those_of_transformers(variant):
    frontend = tiny(variant)
    is_waveform = frontend.family.takes_waveform
    frontend = tiny(variant, dict(normalize_waveform=is_waveform)).eval()
    options = {}
    if frontend.name == "whisper":
        options["feature_size"] = frontend.model.config.num_mel_bins
    kind = EXTRACTORS.get(frontend.name, transformers.Wav2Vec2FeatureExtractor)
    # Whisper is padded to 30 seconds there.
    for samples in (480000,) if frontend.name == "whisper" else (8000, 8160):
        wave = batch((samples,))[0][0].numpy()
        inputs = kind(**options)(wave, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            output = reference(frontend)(**inputs, output_hidden_states=True)
            found, frames = frontend(*batch((samples,)))
        for a, b in zip(found, output.hidden_states, strict=True):
            assert relative_difference(a, b[:, : frames[0]]) < 1e-4


@pytest.mark.parametrize("model_type", list(EXTRACTORS))
def test_log_mel_equals_the_feature_extractor(model_type):
    family = tiny(model_type).family
    extractor = EXTRACTORS[model_type]()
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    silent = 0.1 * noise
    silent[4000:] = 0
    waves = [0.3 * noise, 1e-4 * noise[:719], 0.1 + 1e-3 * noise, silent, 0 * noise]
    for wave in waves:
        speech = torch.from_numpy(wave)[None]
        if model_type == "whisper":
            found = family.log_mel(speech, torch.tensor([len(wave)]))[0]
            options = dict(sampling_rate=16000, padding="do_not_pad")
            expected = extractor(wave, return_tensors="pt", **options)
            expected = expected.input_features[0]
        else:
            found = family.log_mel(speech)[0].float()
            expected = torch.from_numpy(extractor._extract_fbank_features(wave))
        assert torch.allclose(found, expected, atol=1e-5, rtol=0)


@each_family
def test_input_stays_fp32_under_autocast(model_type):
    """A log-mel in half precision would be noise."""
    frontend = tiny(model_type).eval()
    expected, frames = frontend(*batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = states_of(frontend)
    for a, b in zip(found, expected):
        for i, t in enumerate(frames):
            assert relative_difference(a[i, :t].float(), b[i, :t]) < 0.3


# Frames


@each_variant
def test_num_frames_and_minimum_come_from_the_network(variant):
    frontend = tiny(variant).eval()
    shortest = frontend.minimum_samples
    assert frontend.frame_shift == 320
    for samples in (shortest, 5119, 5120, 5121, 5280):
        found = states_of(frontend, torch.randn(1, samples), torch.tensor([samples]))
        assert {h.size(1) for h in found} == {frontend.num_frames(samples)}
    assert frontend.num_frames(shortest) == 1 and frontend.num_frames(100) == 0
    with pytest.raises(ValueError, match=f"{shortest - 1} .*samples.*{shortest}"):
        frontend(torch.randn(1, shortest - 1), torch.tensor([shortest - 1]))


def test_whisper_refuses_what_has_no_position():
    frontend = tiny("whisper", max_source_positions=10).eval()
    most = 10 * 320 + 159
    speech, lengths = batch((most, 2000))
    _, frames = frontend(torch.nn.functional.pad(speech, (0, 9000)), lengths)
    assert frames.tolist() == [10, 6]
    with pytest.raises(ValueError, match=f"{most + 1} samples.*{most}"):
        frontend(*batch((most + 1, 2000)))


@pytest.mark.parametrize("model_type", ["hubert", "whisper"])
def test_frame_centre_is_the_middle_of_the_receptive_field(model_type):
    """Of the span of samples that a frame before the transformer depends on."""
    frontend = tiny(model_type).eval()
    speech = batch((8000,))[0].requires_grad_(True)
    frame = 9
    if model_type == "whisper":
        features = frontend(speech, torch.tensor([8000]))[0][0][0, frame]
    else:
        extractor = frontend.model.feature_extractor
        # Group norm over time depends on everything.
        extractor.conv_layers[0].layer_norm = torch.nn.Identity()
        features = extractor(speech)[0, :, frame]
    (gradient,) = torch.autograd.grad(features.sum(), speech)
    field = gradient[0].nonzero()
    middle = float(field.min() + field.max()) / 2
    expected = frontend.frame_centre + frame * frontend.frame_shift
    # A window of an even length has weight zero at its first sample.
    assert abs(middle - expected) <= (0.5 if model_type == "whisper" else 0)


# Checkpoints


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
    extractor = EXTRACTORS.get(model_type, transformers.Wav2Vec2FeatureExtractor)
    extractor(do_normalize=True).save_pretrained(path)
    return model.encoder if model_type == "whisper" else model


@each_family
def test_local_checkpoint_and_rebuild_without_files(tmp_path, model_type):
    upstream = tmp_path / "upstream"
    source = save_checkpoint(upstream, model_type, "float16")
    frontend = HFFrontend(upstream=str(upstream)).eval()
    assert frontend.normalize_waveform is (model_type not in EXTRACTORS)
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
    for a, b in zip(states_of(frontend), states_of(rebuilt)):
        assert torch.equal(a, b)


@each_variant
def test_first_layers_are_those_of_the_whole_network(variant, tmp_path):
    """Also the last one that is kept: no final norm is applied to it."""
    conf = dict(VARIANTS[variant])
    save_checkpoint(tmp_path, conf.pop("model_type"), **conf)
    (tmp_path / "preprocessor_config.json").unlink()
    whole = HFFrontend(upstream=str(tmp_path)).eval()
    expected = states_of(whole)
    networks = {n: HFFrontend(upstream=str(tmp_path), num_layers=n) for n in (1, 2, 3)}
    for path in sorted(tmp_path.iterdir()):
        path.unlink()
    for kept, cut in networks.items():
        assert cut.num_layers == kept == len(layers_of(cut))
        for a, b in zip(states_of(cut.eval()), expected[: kept + 1], strict=True):
            assert torch.equal(a, b)
        dropped = set(whole.state_dict()) - set(cut.state_dict())
        assert (dropped >= NORM) is (whole.name == "whisper" and kept < 3)
        numbers = {int(k.split(".layers.")[1].split(".")[0]) for k in dropped - NORM}
        assert numbers == set(range(kept, 3))
        assert (cut.fingerprint() == whole.fingerprint()) is (kept == 3)

    conf = yaml.safe_load(yaml.safe_dump(networks[2].resolved_conf()))
    rebuilt = HFFrontend(**conf, load_pretrained=False).train()
    rebuilt.load_state_dict(networks[2].state_dict(), strict=True)
    assert rebuilt.fingerprint() == networks[2].fingerprint()
    # As training with DistributedDataParallel has it: nothing waits for a gradient.
    loss_of(*rebuilt(*batch())).backward()
    assert all(p.grad is not None for p in trained_of(rebuilt).values())


@pytest.mark.parametrize("kept", [0, 4, -1, True, "2", 1.0])
def test_other_numbers_of_layers_are_refused(kept):
    with pytest.raises(ValueError, match=f"num_layers={kept!r}, expected 1 to 3"):
        tiny("whisper", dict(num_layers=kept))


def test_checkpoint_of_a_task_model_without_mask_embedding(tmp_path, caplog):
    """A CTC checkpoint; its mask embedding is drawn, and always the same."""
    config = transformers.Wav2Vec2Config(**VARIANTS["wav2vec2 large"], vocab_size=9)
    model = transformers.Wav2Vec2ForCTC(config)
    states = model.state_dict()
    del states["wav2vec2.masked_spec_embed"]
    model.save_pretrained(tmp_path, state_dict=states)
    first = HFFrontend(upstream=str(tmp_path))
    assert first.normalize_waveform is False
    assert "no preprocessor_config.json" in caplog.text
    torch.manual_seed(99)
    assert HFFrontend(upstream=str(tmp_path)).fingerprint() == first.fingerprint()
    key = "encoder.layers.0.attention.k_proj.weight"
    assert torch.equal(first.model.state_dict()[key], model.wav2vec2.state_dict()[key])


@each_family
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, model_type):
    save_checkpoint(tmp_path, model_type, torch_file=True)
    states = torch.load(tmp_path / "pytorch_model.bin")
    prefix = "encoder." if model_type == "whisper" else ""
    key = [k for k in states if "layers.1." in k and k.startswith(prefix)][0]
    del states[key]
    torch.save(states, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=f"fit 1 tensors.*{key[len(prefix):]}"):
        HFFrontend(upstream=str(tmp_path))
    size = "d_model" if model_type == "whisper" else "hidden_size"
    other = "wavlm" if model_type == "hubert" else "hubert"
    for config in (VARIANTS[FIRST[other]], {size: 64}):
        with pytest.raises(ValueError, match=f"{tmp_path}: found "):
            HFFrontend(upstream=str(tmp_path), upstream_config=config)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({"sampling_rate": 8000}))
    with pytest.raises(ValueError, match=f"{tmp_path}: found sampling_rate=8000"):
        HFFrontend(upstream=str(tmp_path))


def test_offline_reads_the_cache_alone(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="some/model is neither .*directory instead"):
        HFFrontend(upstream="some/model")
    cached = tmp_path / "models--some--model"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    save_checkpoint(cached / "snapshots" / ("0" * 40), "hubert")
    assert HFFrontend(upstream="some/model").normalize_waveform is True


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"upstream_config": {"model_type": "bert"}},
        {"upstream": "some/model", "load_pretrained": False},
        {"upstream_config": VARIANTS["hubert base"], "layerdrop": 0.1},
        {"upstream_config": VARIANTS["whisper"], "spec_augment": True},
        {"upstream_config": VARIANTS["hubert base"], "freeze": 4},
        {"upstream_config": VARIANTS["hubert base"], "freeze": -1},
    ],
)
def test_impossible_configurations_are_refused(conf):
    with pytest.raises(ValueError, match="found ") as error:
        HFFrontend(**conf)
    assert "\n" not in str(error.value)


def test_bare_configuration_is_seeded_apart_from_the_global_generator():
    torch.manual_seed(1)
    first = tiny(options=dict(init_seed=7))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    options = [dict(init_seed=7), dict(init_seed=8)]
    options.append(dict(init_seed=7, normalize_waveform=True))
    fingerprints = [tiny(options=option).fingerprint() for option in options]
    assert len(set(fingerprints)) == 3 and first.fingerprint() == fingerprints[0]


# Training


@each_variant
@pytest.mark.parametrize("freeze", ["none", "cnn", "all", {"layers": 2}, 3])
def test_exactly_what_is_not_frozen_is_trained(variant, freeze):
    """It gets a gradient and has dropout; the rest has neither."""
    changes = {key: 0.5 for key in noiseless(variant)}
    frontend = tiny(variant, dict(freeze=freeze), **changes)
    n = freeze["layers"] if isinstance(freeze, dict) else freeze
    frozen = {"none": -1, "cnn": -1, "all": 3}.get(n, n)
    cnn = ("model.feature_extractor.", "model.conv") if n == "cnn" else ()
    # What no hidden state depends on, and fixed positions.
    never = {"model.masked_spec_embed", "model.embed_positions.weight"}
    if VARIANTS[variant].get("do_stable_layer_norm"):
        never |= {f"model.encoder.layer_norm.{p}" for p in ("weight", "bias")}
    trained = {
        name
        for name, layer in frontend.layer_of_parameters().items()
        if layer > frozen and not name.startswith(cnn) and name not in never
    }
    expected = states_of(frontend.eval())
    hidden_states, frames = frontend.train()(*batch())
    for number, (a, b) in enumerate(zip(hidden_states, expected)):
        assert torch.equal(a, b) is (number <= frozen)
        # Whisper has nothing but convolutions and fixed positions before the layers.
        assert a.requires_grad is (number > frozen) or (number, n) == (0, "cnn")
    loss = loss_of(hidden_states, frames)
    if loss.requires_grad:
        loss.backward()
    gradients = {k for k, p in frontend.named_parameters() if p.grad is not None}
    assert gradients == trained
    modes = [layer.training for layer in layers_of(frontend)]
    assert modes == [number > frozen for number in (1, 2, 3)]

    conf = frontend.resolved_conf()
    assert conf["freeze"] == n
    rebuilt = HFFrontend(**yaml.safe_load(yaml.safe_dump(conf)), load_pretrained=False)
    assert set(trained_of(rebuilt)) == trained


@each_variant
def test_layer_of_a_parameter_is_the_first_hidden_state_that_depends_on_it(variant):
    check_layer_of_parameters(tiny(variant))


@each_family
def test_a_waveform_has_its_gradient_through_frozen_weights(model_type):
    """The same as through weights that are not frozen."""
    speech, lengths = batch()
    # Not the squares: after a layer norm their sum is constant.
    weight = torch.randn(32)
    gradients = []
    for freeze in ("all", "none"):
        wave = speech.clone().requires_grad_(True)
        frontend = tiny(model_type, dict(freeze=freeze)).eval()
        (frontend(wave, lengths)[0][-1][0, 0] @ weight).backward()
        gradients.append(wave.grad)
    assert gradients[0].abs().max() > 0
    assert relative_difference(*gradients) < 1e-4


@each_family
def test_train_mode_has_all_layers_and_no_random_masking(tmp_path, model_type):
    changes = noiseless(FIRST[model_type])
    changes.update(mask_time_prob=0.9, mask_time_length=2, apply_spec_augment=True)
    changes["encoder_layerdrop" if model_type == "whisper" else "layerdrop"] = 0.9
    # An adapter follows the last hidden state: DistributedDataParallel would wait
    # for its gradients.
    save_checkpoint(tmp_path, model_type, add_adapter=True, **changes)
    frontend = HFFrontend(upstream=str(tmp_path)).train()
    assert not [k for k in frontend.state_dict() if "model.adapter" in k]
    found, expected = states_of(frontend), states_of(frontend.eval())
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    if model_type != "whisper":
        masked = HFFrontend(upstream=str(tmp_path), spec_augment=True).train()
        assert not torch.equal(expected[0], states_of(masked)[0])


def test_batches_of_inference_do_not_spoil_training():
    """transformers keeps rotary angles, then of inference mode, for equal lengths."""
    frontend = tiny("wav2vec2-bert rotary")
    with torch.inference_mode():
        frontend(*batch())
    loss_of(*frontend.train()(*batch())).backward()
    assert all(p.grad is not None for p in trained_of(frontend).values())


# Masked prediction


@each_maskable_family
def test_mask_time_indices_put_in_the_mask_embedding(model_type):
    # A checkpoint may say that it was fine-tuned without SpecAugment.
    frontend = tiny(model_type, apply_spec_augment=False).eval()
    inputs = batch((8000, 8000))
    frames = frontend.num_frames(8000)
    mask = torch.zeros(2, frames, dtype=torch.bool)
    mask[1] = True
    captured = []
    frontend.model.encoder.register_forward_pre_hook(
        lambda _, args: captured.append(args[0].clone())
    )
    plain, masked = states_of(frontend, *inputs), states_of(frontend, *inputs, mask)
    embedding = frontend.model.masked_spec_embed
    assert torch.equal(captured[1][0], captured[0][0])
    assert torch.equal(captured[1][1], embedding.expand(frames, -1))
    assert torch.allclose(plain[-1][0], masked[-1][0], atol=1e-6)
    assert not torch.allclose(plain[-1][1], masked[-1][1], atol=1e-2)

    assert not embedding.requires_grad
    frontend.set_mask_training(True)
    frontend(*inputs, mask)[0][-1].square().mean().backward()
    assert embedding.grad.any()
    frontend.set_mask_training(False)
    assert not embedding.requires_grad


def test_whisper_masks_with_zeros_before_the_positions():
    frontend = tiny("whisper").eval()
    mask = torch.zeros(2, frontend.num_frames(8000), dtype=torch.bool)
    mask[1, 3:9] = True
    plain = states_of(frontend, *batch((8000, 5000)))
    masked = states_of(frontend, *batch((8000, 5000)), mask)
    positions = frontend.model.embed_positions.weight
    assert torch.equal(masked[0][1, 3:9], positions[3:9])
    assert torch.equal(masked[0][~mask], plain[0][~mask])
    assert not torch.allclose(plain[-1][1, :3], masked[-1][1, :3], atol=1e-5)
    frontend.set_mask_training(True)


@pytest.mark.parametrize(
    "freeze,trained", [("none", True), ("cnn", True), (1, False), ("all", False)]
)
def test_the_mask_embedding_is_trained_where_it_is_not_frozen(freeze, trained):
    frontend = tiny("hubert", dict(freeze=freeze)).train()
    frontend.set_mask_training(True)
    assert frontend.model.masked_spec_embed.requires_grad is trained


def test_no_mask_embedding_is_refused():
    frontend = tiny("hubert", mask_time_prob=0.0).eval()
    mask = torch.ones(1, frontend.num_frames(8000), dtype=torch.bool)
    with pytest.raises(ValueError, match="has no mask embedding"):
        frontend(*batch((8000,)), mask)
    with pytest.raises(ValueError, match="has no mask embedding"):
        frontend.set_mask_training(True)
    frontend.set_mask_training(False)
