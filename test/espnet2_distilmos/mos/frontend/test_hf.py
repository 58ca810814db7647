# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy
import json

import pytest
import torch
import transformers
import yaml

from espnet2_distilmos.mos.frontend.hf import HFFrontend

TINY = dict(
    conv_dim=[16, 24, 32],
    conv_kernel=[10, 8, 4],
    conv_stride=[5, 8, 8],
    num_feat_extract_layers=3,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=48,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
)
FAMILIES = ["hubert", "wav2vec2", "wavlm"]


def tiny(model_type="hubert", stable=False, **options):
    config = dict(TINY, model_type=model_type, do_stable_layer_norm=stable)
    config["feat_extract_norm"] = "layer" if stable else "group"
    return HFFrontend(upstream_config=config, **options)


def batch(lengths=(8000, 3210, 5555), seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    speech = 0.1 * torch.randn(len(lengths), int(lengths.max()), generator=generator)
    for i, n in enumerate(lengths):
        speech[i, n:] = 0
    return speech, lengths


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_padding_exact(model_type, stable, normalize):
    frontend = tiny(model_type, stable, normalize_waveform=normalize).eval()
    speech, lengths = batch()
    with torch.no_grad():
        hidden_states, frames = frontend(speech, lengths)
        assert len(hidden_states) == frontend.num_layers + 1
        for i, n in enumerate(lengths):
            alone, count = frontend(speech[i : i + 1, :n], lengths[i : i + 1])
            assert count[0] == frames[i] == frontend.num_frames(int(n))
            for padded, single in zip(hidden_states, alone):
                assert single.shape == (1, count[0], frontend.output_size())
                difference = (padded[i, : count[0]] - single[0]).abs().max()
                assert difference < 1e-4 * single.square().mean().sqrt()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_hidden_states_are_the_layers_inputs_and_outputs(model_type):
    frontend = tiny(model_type).eval()
    seen = []
    layers = frontend.model.encoder.layers
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
    assert len(seen) == len(hidden_states) == 4
    for expected, found in zip(seen, hidden_states):
        assert torch.equal(expected, found)


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


def test_num_frames_and_minimum_come_from_the_network():
    frontend = tiny().eval()
    shortest = frontend.minimum_samples
    assert frontend.frame_shift == 320
    for samples in (shortest, shortest + 1, 5000, 5119, 5120, 5121):
        with torch.no_grad():
            features = frontend.model.feature_extractor(torch.randn(1, samples))
        assert features.size(-1) == frontend.num_frames(samples)
    assert frontend.num_frames(shortest) == 1
    assert frontend.num_frames(shortest - 1) == 0
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
    first = tiny(init_seed=7)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    second = tiny(init_seed=7)
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint() != tiny(init_seed=8).fingerprint()
    assert (
        first.fingerprint() != tiny(init_seed=7, normalize_waveform=True).fingerprint()
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_local_checkpoint_and_rebuild_without_files(tmp_path, model_type, dtype):
    source = tiny(model_type).model.to(getattr(torch, dtype))
    # The frontend zeroed it after construction; a checkpoint has it.
    source.config.mask_time_prob = 0.05
    upstream = tmp_path / "upstream"
    source.save_pretrained(upstream)
    preprocessor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}
    preprocessor["do_normalize"] = True
    (upstream / "preprocessor_config.json").write_text(json.dumps(preprocessor))

    frontend = HFFrontend(upstream=str(upstream)).eval()
    assert frontend.normalize_waveform is True
    assert all(p.dtype == torch.float32 for p in frontend.parameters())
    for key, value in source.state_dict().items():
        assert torch.equal(frontend.model.state_dict()[key], value.float()), key

    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    for path in sorted(upstream.iterdir()):
        path.unlink()
    rebuilt = HFFrontend(**conf, load_pretrained=False).eval()
    rebuilt.load_state_dict(frontend.state_dict(), strict=True)
    speech, lengths = batch()
    with torch.no_grad():
        for a, b in zip(frontend(speech, lengths)[0], rebuilt(speech, lengths)[0]):
            assert torch.equal(a, b)


def test_missing_preprocessor_config_means_no_normalization(tmp_path, caplog):
    tiny().model.save_pretrained(tmp_path)
    assert HFFrontend(upstream=str(tmp_path)).normalize_waveform is False
    assert "no preprocessor_config.json" in caplog.text
    overridden = HFFrontend(upstream=str(tmp_path), normalize_waveform=True)
    assert overridden.normalize_waveform is True


def _moves_and_modes(freeze):
    frontend = tiny(freeze=freeze)
    frontend.train()
    before = {k: p.detach().clone() for k, p in frontend.named_parameters()}
    trainable = [p for p in frontend.parameters() if p.requires_grad]
    loss = sum(h.square().mean() for h in frontend(*batch())[0])
    if loss.requires_grad:
        loss.backward()
        torch.optim.SGD(trainable, lr=0.1).step()
    moved = {k for k, p in frontend.named_parameters() if not torch.equal(p, before[k])}
    return frontend, moved


def test_freeze_none_moves_every_part():
    _, moved = _moves_and_modes("none")
    for part in ("feature_extractor", "feature_projection", "encoder.layers.2"):
        assert any(part in name for name in moved)


@pytest.mark.parametrize("freeze", ["cnn", "all", 0, 2, 3])
def test_freeze_holds_in_train_mode(freeze):
    frontend, moved = _moves_and_modes(freeze)
    frozen_parts = {
        "cnn": ["feature_extractor"],
        "all": [""],
        0: [
            "feature_extractor",
            "feature_projection",
            "pos_conv",
            "encoder.layer_norm",
        ],
        2: ["feature_extractor", "feature_projection", "layers.0.", "layers.1."],
        3: ["feature_extractor", "feature_projection", "layers."],
    }[freeze]
    assert not [n for n in moved if any(part in n for part in frozen_parts)]
    still_moving = {"cnn": "feature_projection", 0: "layers.0.", 2: "layers.2."}
    if freeze in still_moving:
        assert any(still_moving[freeze] in name for name in moved)
    assert not frontend.model.feature_extractor.training
    if freeze == 2:
        layers = frontend.model.encoder.layers
        assert [layer.training for layer in layers] == [False, False, True]
        assert not layers[0].dropout.training


def test_freeze_all_builds_no_graph():
    hidden_states, _ = tiny(freeze="all").train()(*batch())
    assert not any(h.requires_grad for h in hidden_states)


@pytest.mark.parametrize("freeze", ["everything", 4, -1, True, 1.5])
def test_impossible_freeze_is_refused(freeze):
    with pytest.raises(ValueError, match="freeze"):
        tiny(freeze=freeze)


def test_train_mode_has_all_layers_and_no_random_masking():
    config = dict(TINY, model_type="hubert", feat_extract_norm="group", layerdrop=0.9)
    for key in ("hidden_dropout", "attention_dropout", "activation_dropout"):
        config[key] = 0.0
    config.update(feat_proj_dropout=0.0, mask_time_prob=0.9, mask_time_length=2)
    speech, lengths = batch()
    frontend = HFFrontend(upstream_config=config)
    expected = frontend.eval()(speech, lengths)[0]
    found = frontend.train()(speech, lengths)[0]
    assert all(torch.equal(a, b) for a, b in zip(expected, found))
    masked = HFFrontend(upstream_config=config, spec_augment=True).train()
    found = masked(speech, lengths)[0]
    assert not torch.equal(expected[0], found[0])


@pytest.mark.parametrize("model_type", FAMILIES)
def test_mask_time_indices_put_in_the_mask_embedding(model_type):
    frontend = tiny(model_type).eval()
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


@pytest.mark.parametrize("model_type", FAMILIES)
def test_gradient_reaches_the_first_convolution(model_type):
    frontend = tiny(model_type).train()
    hidden_states, _ = frontend(*batch())
    hidden_states[-1].sum().backward()
    weight = frontend.model.feature_extractor.conv_layers[0].conv.weight
    assert weight.grad is not None and weight.grad.abs().sum() > 0


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("freeze", ["none", "cnn", 1])
def test_every_trainable_parameter_gets_a_gradient(model_type, stable, freeze):
    """As DistributedDataParallel demands."""
    frontend = tiny(model_type, stable, freeze=freeze).train()
    hidden_states, _ = frontend(*batch())
    sum(h.square().mean() for h in hidden_states[1:]).backward()
    without = [
        name
        for name, p in frontend.named_parameters()
        if p.requires_grad and p.grad is None
    ]
    assert not without


def test_bad_configurations_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="neither .upstream. nor .upstream_config."):
        HFFrontend()
    with pytest.raises(ValueError, match="'bert', expected one of hubert"):
        HFFrontend(upstream_config={"model_type": "bert"})
    with pytest.raises(ValueError, match="None, expected one of hubert"):
        HFFrontend(upstream_config={"hidden_size": 8})
    with pytest.raises(OSError, match="neither a local directory"):
        HFFrontend(upstream=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no .upstream_config."):
        HFFrontend(upstream="some/model", load_pretrained=False)
