# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import argparse
import hashlib
import json
import os
import random
import runpy
import shutil
import socket
import sys

import pytest
import torch
import transformers
import yaml

import espnet2_distilmos.mos.frontend.s3prl as module
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.frontend.s3prl import S3PRLFrontend
from espnet2_distilmos.mos.frontend.s3prl_entry import _recorded_loads

pytest.importorskip("s3prl")
from s3prl.nn import S3PRLUpstream  # noqa: E402

# The product of the strides is s3prl's 320.
CONV = [(16, 10, 5), (24, 8, 8), (24, 8, 8)]
FAIRSEQ = dict(
    conv_feature_layers=str(CONV),
    encoder_layers=3,
    encoder_embed_dim=32,
    encoder_ffn_embed_dim=48,
    encoder_attention_heads=2,
    conv_pos=16,
    conv_pos_groups=2,
    # Must not come to pass.
    encoder_layerdrop=0.9,
    mask_prob=0.9,
    dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
)
TRANSFORMERS = dict(
    conv_dim=[16, 24, 24],
    conv_kernel=[10, 8, 8],
    conv_stride=[5, 8, 8],
    num_feat_extract_layers=3,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=48,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
    layerdrop=0.9,
    mask_time_prob=0.9,
    mask_time_length=2,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
)
ENTRIES = [
    "wavlm_local",
    "unispeech_sat_local",
    "hubert_local",
    "wav2vec2_local",
    "data2vec_local",
    "hf_hubert_custom",
    "hf_wav2vec2_custom",
]
LENGTHS = (16000, 7001, 12345)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("The network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def _livelier(model):
    """Larger weights than the initial ones, so that a leak of padding shows."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "weight_g" not in name:
            parameter.data.mul_(2)
    return model


def write_checkpoint(directory, entry, large=False, **options):
    """A random network in the format that ``entry`` loads, by hand."""
    torch.manual_seed(1)
    if entry.startswith("hf_"):
        config = dict(TRANSFORMERS, do_stable_layer_norm=large, **options)
        config["feat_extract_norm"] = "layer" if large else "group"
        kind = "Hubert" if entry == "hf_hubert_custom" else "Wav2Vec2"
        model_class = getattr(transformers, f"{kind}Model")
        model = model_class(getattr(transformers, f"{kind}Config")(**config))
        _livelier(model).save_pretrained(directory)
        preprocessor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor"}
        preprocessor["do_normalize"] = large
        path = directory / "preprocessor_config.json"
        path.write_text(json.dumps(preprocessor))
        return str(directory)
    config = dict(FAIRSEQ, extractor_mode="layer_norm" if large else "default")
    config.update(layer_norm_first=large, conv_bias=large, **options)
    task = {"normalize": large}
    if entry in ("wavlm_local", "unispeech_sat_local"):
        from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

        relative = entry == "wavlm_local"
        config.update(relative_position_embedding=relative, gru_rel_pos=relative)
        config.update(num_buckets=32, max_distance=80, **task)
        model = _livelier(WavLM(WavLMConfig(config)))
        contents = {"cfg": config, "model": model.state_dict()}
    elif entry == "hubert_local":
        from s3prl.upstream.hubert import hubert_model

        config.update(label_rate=50.0, final_dim=16)
        model = hubert_model.HubertModel(
            hubert_model.HubertConfig(**config),
            hubert_model.HubertPretrainingConfig(**task),
            [["a", "b", "c"]],
        )
        contents = {"dictionaries_symbols": [["a", "b", "c"]]}
        contents["model_weight"] = _livelier(model).state_dict()
    elif entry == "wav2vec2_local":
        from s3prl.upstream.wav2vec2 import wav2vec2_model

        model = wav2vec2_model.Wav2Vec2Model(wav2vec2_model.Wav2Vec2Config(**config))
        contents = {"model_weight": _livelier(model).state_dict()}
    else:
        from s3prl.upstream.data2vec import data2vec_model

        config.update(pos_conv_depth=3, conv_pos=15)
        model = data2vec_model.Data2VecAudioModel(
            data2vec_model.Data2VecAudioConfig(**config)
        )
        model.remove_pretraining_modules()
        contents = {"model_weight": {**_livelier(model).state_dict(), "_ema": {}}}
    if "model_weight" in contents:
        # Fields that s3prl does not know are in the released checkpoints.
        contents.update(model_cfg={**config, "_name": "x"}, task_cfg=task)
    path = directory / "checkpoint.pt"
    torch.save(contents, path)
    return str(path)


def write_apc(directory):
    from s3prl.upstream.apc.apc import APC

    torch.manual_seed(1)
    paras = dict(num_layers=3, hidden_size=16, dropout=0.1, residual=True)
    audio = dict(feat_type="fbank", feat_dim=20, frame_length=25, frame_shift=10)
    contents = {"config": {"data": {"audio": audio}, "model": {"paras": paras}}}
    contents["model"] = APC(20, **paras).state_dict()
    path = directory / "apc.pt"
    torch.save(contents, path)
    return str(path)


def batch(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(0)
    speech = 0.1 * torch.randn(len(lengths), max(lengths), generator=generator)
    for i, n in enumerate(lengths):
        # Whatever stands in the padding must not matter.
        speech[i, n:] = 5.0
    return speech, torch.tensor(lengths)


def largest_difference(found, expected):
    """Largest difference of a layer, relative to the layer's RMS."""
    return max(
        float((a - b).abs().max() / b.square().mean().sqrt())
        for a, b in zip(found, expected)
    )


@torch.no_grad()
def padding_error(frontend, speech, lengths):
    """The same, of utterances alone and in the padded batch."""
    hidden_states, frames = frontend(speech, lengths)
    assert len(hidden_states) == frontend.num_layers + 1
    largest = 0.0
    for i, n in enumerate(lengths):
        alone, count = frontend(speech[i : i + 1, :n], lengths[i : i + 1])
        assert count[0] == frames[i] == frontend.num_frames(int(n))
        assert alone[0].shape == (1, count[0], frontend.output_size())
        cut = [h[i : i + 1, : count[0]] for h in hidden_states]
        largest = max(largest, largest_difference(cut, alone))
    assert all(torch.isfinite(h).all() for h in hidden_states)
    return largest


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("entry", ENTRIES)
def test_exact_alone_and_in_a_batch_and_as_s3prl(tmp_path, entry, large):
    path = write_checkpoint(tmp_path, entry, large)
    frontend = S3PRLFrontend(entry, path).eval()
    assert (frontend.num_layers, frontend.output_size()) == (3, 32)
    assert frontend.one_by_one is False
    speech, lengths = batch()
    assert padding_error(frontend, speech, lengths) < 1e-4

    reference = S3PRLUpstream(entry, path).eval()
    with torch.no_grad():
        for i, n in enumerate(LENGTHS):
            wave, length = speech[i : i + 1, :n], lengths[i : i + 1]
            expected, _ = reference(wave, length)
            found, count = frontend(wave, length)
            assert len(found) == len(expected) == 4
            cut = [h[:, : count[0]] for h in expected]
            assert largest_difference(found, cut) < 1e-5
            # What s3prl has more are copies of its last frame.
            for h in expected:
                assert h.size(1) == -(-n // 320) > count[0]
                last = h[:, count[0] - 1 : count[0]]
                assert torch.equal(h[:, count[0] :], last.expand_as(h[:, count[0] :]))


@pytest.mark.parametrize("entry", ["wavlm_local", "hubert_local", "data2vec_local"])
def test_s3prl_itself_is_not_exact(tmp_path, entry):
    """The faults that the frontend removes are there without it."""
    reference = S3PRLUpstream(entry, write_checkpoint(tmp_path, entry)).eval()
    speech, lengths = batch()
    with torch.no_grad():
        padded, _ = reference(speech, lengths)
        alone, _ = reference(speech[1:2, :7001], lengths[1:2])
    cut = [h[1:2, :20] for h in padded]
    assert largest_difference(cut, [h[:, :20] for h in alone]) > 1e-2


@pytest.mark.parametrize("entry", ["wavlm_local", "hf_hubert_custom"])
def test_frame_counts_are_the_networks_own(tmp_path, entry):
    frontend = S3PRLFrontend(entry, write_checkpoint(tmp_path, entry)).eval()
    shortest = frontend.minimum_samples
    assert frontend.frame_shift == 320
    # By hand: ((1 - 1) * 8 + 8 - 1) * 8 + 8 frames of 5 samples and a kernel of 10.
    assert shortest == (((8 - 1) * 8 + 8) - 1) * 5 + 10
    for samples in (shortest, shortest + 319, shortest + 320, 5000, 16000):
        with torch.no_grad():
            conv = frontend.model.model.feature_extractor(torch.randn(1, samples))
            hidden_states, frames = frontend(
                torch.randn(1, samples), torch.tensor([samples])
            )
        assert conv.size(-1) == frontend.num_frames(samples) == frames[0]
        assert hidden_states[0].size(1) == frames[0]
    assert frontend.num_frames(shortest - 1) == 0
    with pytest.raises(ValueError, match=f"{shortest - 1} samples.*{shortest}"):
        frontend(torch.randn(1, shortest - 1), torch.tensor([shortest - 1]))


def test_one_by_one_gives_the_same(tmp_path):
    path = write_checkpoint(tmp_path, "wavlm_local")
    together = S3PRLFrontend("wavlm_local", path, one_by_one=False).eval()
    single = S3PRLFrontend("wavlm_local", path, one_by_one=True).eval()
    assert single.resolved_conf()["one_by_one"] is True
    calls = []
    single.model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    speech, lengths = batch()
    mask = torch.zeros(3, together.num_frames(16000), dtype=torch.bool)
    mask[:, 3:7] = True
    with torch.no_grad():
        expected, frames = together(speech, lengths, mask)
        found, found_frames = single(speech, lengths, mask)
    assert calls == [1, 1, 1] and torch.equal(frames, found_frames)
    for i, n in enumerate(frames):
        cut = [h[i, :n] for h in expected]
        assert largest_difference([h[i, :n] for h in found], cut) < 1e-4


def test_what_is_not_exact_in_a_batch_runs_one_by_one_and_says_so_once(caplog):
    frontend = S3PRLFrontend("mel").eval()
    assert frontend.one_by_one is True
    speech, lengths = batch()
    assert padding_error(frontend, speech, lengths) < 1e-6
    assert caplog.text.count("one utterance at a time") == 1
    inexact = S3PRLFrontend("mel", one_by_one=False).eval()
    with pytest.raises(AssertionError):
        assert padding_error(inexact, *batch()) < 1e-1


def test_conformer_runs_one_by_one_on_its_pretrained_statistics(tmp_path, caplog):
    """Its convolutions hear the padding, and it has batch norms."""
    options = dict(layer_type="conformer", attn_type="espnet", pos_enc_type="rel_pos")
    path = write_checkpoint(tmp_path, "wav2vec2_local", **options)
    frontend = S3PRLFrontend("wav2vec2_local", path).eval()
    assert frontend.one_by_one is True and "one utterance at a time" in caplog.text
    assert padding_error(frontend, *batch()) < 1e-6
    before = frontend.fingerprint()
    expected, _ = frontend(*batch())
    found, _ = frontend.train()(*batch())
    assert largest_difference(found, expected) < 1e-5
    assert frontend.fingerprint() == before
    rebuilt = S3PRLFrontend(**frontend.resolved_conf(), load_pretrained=False)
    assert rebuilt.one_by_one is True


def test_features_without_parameters_or_layers():
    frontend = S3PRLFrontend("fbank")
    assert frontend.num_layers == 0 and frontend.output_size() == 240
    assert frontend.frame_shift == 160 and frontend.num_frames(16000) == 98
    assert frontend.one_by_one is False and not frontend.checkpoint_files()
    # Its normalisation over time needs two frames.
    shortest = frontend.minimum_samples
    assert shortest == 400 + 160 and frontend.num_frames(shortest) == 2
    found, _ = frontend(torch.randn(1, shortest), torch.tensor([shortest]))
    assert torch.isfinite(found[0]).all()
    assert padding_error(frontend, *batch()) == 0
    assert frontend.fingerprint() != S3PRLFrontend("mfcc").fingerprint()
    rebuilt = S3PRLFrontend(**frontend.resolved_conf(), load_pretrained=False)
    assert padding_error(rebuilt, *batch()) == 0


def test_wavlm_as_in_transformers(tmp_path):
    frontend = S3PRLFrontend("wavlm", write_checkpoint(tmp_path, "wavlm_local")).eval()
    config = {k: v for k, v in TRANSFORMERS.items()}
    config.update(model_type="wavlm", feat_extract_norm="group", num_buckets=32)
    config.update(max_bucket_distance=80, do_stable_layer_norm=False)
    peer = HFFrontend(upstream_config=config).eval()
    names = [
        ("post_extract_proj", "feature_projection.projection"),
        ("encoder.pos_conv.0.weight_g", "POS.parametrizations.weight.original0"),
        ("encoder.pos_conv.0.weight_v", "POS.parametrizations.weight.original1"),
        ("encoder.pos_conv.0", "POS"),
        ("POS", "encoder.pos_conv_embed.conv"),
        ("self_attn_layer_norm", "layer_NORM"),
        ("self_attn.grep_linear", "attention.gru_rel_pos_linear"),
        ("self_attn.grep_a", "attention.gru_rel_pos_const"),
        ("self_attn.relative_attention_bias", "attention.rel_attn_embed"),
        ("self_attn", "attention"),
        ("fc1", "feed_forward.intermediate_dense"),
        ("fc2", "feed_forward.output_dense"),
        ("mask_emb", "masked_spec_embed"),
        ("NORM", "norm"),
    ]
    states = {}
    for key, value in frontend.model.model.state_dict().items():
        if key.startswith("feature_extractor"):
            key = key.replace(".0.weight", ".conv.weight", 1)
            if key.startswith("feature_extractor.conv_layers.0.conv"):
                key = "feature_extractor.conv_layers.0.conv.weight"
            key = key.replace(".2.weight", ".layer_norm.weight")
            key = key.replace(".2.bias", ".layer_norm.bias")
        elif key.startswith("layer_norm"):
            key = f"feature_projection.{key}"
        for old, new in names:
            key = key.replace(old, new)
        states[key] = value
    # Two convolutions beyond the first are named by their own index.
    for i in (1, 2):
        weight = frontend.model.model.feature_extractor.conv_layers[i][0].weight
        states[f"feature_extractor.conv_layers.{i}.conv.weight"] = weight
    states = {k: v for k, v in states.items() if k in peer.model.state_dict()}
    peer.model.load_state_dict(states, strict=True)
    speech, lengths = batch()
    with torch.no_grad():
        found, frames = frontend(speech, lengths)
        expected, peer_frames = peer(speech, lengths)
    assert torch.equal(frames, peer_frames)
    assert frontend.minimum_samples == peer.minimum_samples
    for i, n in enumerate(frames):
        cut = [h[i, :n] for h in expected]
        assert largest_difference([h[i, :n] for h in found], cut) < 1e-4


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("entry", ENTRIES)
def test_training_keeps_all_layers_and_reaches_all_parameters(tmp_path, entry, large):
    path = write_checkpoint(tmp_path, entry, large)
    frontend = S3PRLFrontend(entry, path)
    speech, lengths = batch()
    expected = frontend.eval()(speech, lengths)[0]
    found = frontend.train()(speech, lengths)[0]
    # No layer is skipped and nothing is masked: dropout is 0 in these networks.
    assert largest_difference(found, expected) < 1e-5
    sum(h.square().mean() for h in found).backward()
    trainable = {n: p for n, p in frontend.named_parameters() if p.requires_grad}
    assert not [n for n, p in trainable.items() if p.grad is None]
    conv = [p for n, p in trainable.items() if "feature_extractor.conv_layers.0" in n]
    assert conv and all(p.grad.abs().sum() > 0 for p in conv)
    assert len(trainable) > 50


@pytest.mark.parametrize("entry", ENTRIES)
def test_audio_does_not_leave_its_device(tmp_path, entry, monkeypatch):
    frontend = S3PRLFrontend(entry, write_checkpoint(tmp_path, entry, True)).train()
    speech, lengths = batch()

    def refuse(self, *args, **kwargs):
        raise AssertionError("A tensor left its device")

    monkeypatch.setattr(torch.Tensor, "numpy", refuse)
    monkeypatch.setattr(torch.Tensor, "cpu", refuse)
    with pytest.raises(AssertionError, match="left its device"):
        speech.cpu()
    hidden_states, _ = frontend(speech, lengths)
    assert hidden_states[-1].requires_grad


@pytest.mark.parametrize("freeze", ["cnn", "all", 0, 2, {"layers": 2}, 3])
@pytest.mark.parametrize("entry", ["wavlm_local", "data2vec_local", "hf_hubert_custom"])
def test_freeze_holds_in_train_mode(tmp_path, entry, freeze):
    path = write_checkpoint(tmp_path, entry)
    frontend = S3PRLFrontend(entry, path, freeze=freeze).eval().train()
    freeze = freeze["layers"] if isinstance(freeze, dict) else freeze
    assert frontend.resolved_conf()["freeze"] == freeze
    before = {k: p.detach().clone() for k, p in frontend.named_parameters()}
    trainable = [p for p in frontend.parameters() if p.requires_grad]
    loss = sum(h.square().mean() for h in frontend(*batch())[0])
    assert loss.requires_grad == bool(trainable)
    if trainable:
        loss.backward()
        assert all(p.grad is not None for p in trainable)
        torch.optim.SGD(trainable, lr=0.1).step()
    moved = {k for k, p in frontend.named_parameters() if not torch.equal(p, before[k])}
    projection = "feature_projection" if "hf_" in entry else "post_extract_proj"
    front = ["feature_extractor", projection, "pos_conv"]
    frozen, moving = {
        "cnn": (front[:1], [projection, "pos_conv", "layers.0."]),
        "all": ([""], []),
        0: (front, ["layers.0.", "layers.2."]),
        2: (front + ["layers.0.", "layers.1."], ["layers.2."]),
        3: (front + ["layers."], []),
    }[freeze]
    assert not [n for n in moved if any(part in n for part in frozen)]
    for part in moving:
        assert any(part in name for name in moved)
    assert not frontend.model.model.feature_extractor.training
    if freeze == 2:
        layers = frontend.model.model.encoder.layers
        assert [layer.training for layer in layers] == [False, False, True]


@pytest.mark.parametrize("freeze", ["everything", 4, True, {"layers": -1}, {}])
def test_impossible_freeze_is_refused(tmp_path, freeze):
    path = write_checkpoint(tmp_path, "hubert_local")
    with pytest.raises(ValueError, match="found frontend_conf.freeze="):
        S3PRLFrontend("hubert_local", path, freeze=freeze)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("entry", ENTRIES)
def test_layer_of_a_parameter_is_the_first_hidden_state_that_feels_it(
    tmp_path, entry, large
):
    frontend = S3PRLFrontend(entry, write_checkpoint(tmp_path, entry, large)).train()
    layer_of = frontend.layer_of_parameters()
    assert set(layer_of) == {name for name, _ in frontend.named_parameters()}
    trained = {k: p for k, p in frontend.named_parameters() if p.requires_grad}
    first = {}
    for number, h in enumerate(frontend(*batch())[0]):
        grads = torch.autograd.grad(
            h.sum(), list(trained.values()), retain_graph=True, allow_unused=True
        )
        for name, grad in zip(trained, grads):
            if grad is not None:
                first.setdefault(name, number)
    assert {name: layer_of[name] for name in trained} == first
    assert set(first.values()) == {0, 1, 2, 3}


def loss_of(hidden_states):
    """Random weights: the square of what a layer norm puts out would be constant."""
    generator = torch.Generator().manual_seed(1)
    return sum(
        (h * torch.randn(h.shape, generator=generator)).mean() for h in hidden_states
    )


SOME = [(entry, entry in ("wavlm_local", "hf_hubert_custom")) for entry in ENTRIES]


@pytest.mark.parametrize("entry,large", SOME + [("wavlm_local", False)])
def test_every_adapter_and_nothing_else_moves(tmp_path, entry, large):
    pytest.importorskip("peft")
    path = write_checkpoint(tmp_path, entry, large)
    options = {"one_by_one": False}
    plain = S3PRLFrontend(entry, path, freeze="all", **options).eval()
    options.update(freeze=1, lora={"rank": 2})
    frontend = S3PRLFrontend(entry, path, **options).eval()
    assert frontend.fingerprint() == plain.fingerprint()
    with torch.no_grad():
        expected = plain(*batch())[0]
        assert largest_difference(frontend(*batch())[0], expected) < 1e-5
    part = "attention" if entry.startswith("hf_") else "self_attn"
    prefix = "model.model.encoder.layers"
    a, b = (
        {
            f"{prefix}.{i}.{part}.{kind}_proj.lora_{x}.default.weight"
            for i in (1, 2)
            for kind in ("q", "k", "v", "out")
        }
        for x in "AB"
    )
    for expected in (b, a | b):
        before = {k: p.detach().clone() for k, p in frontend.named_parameters()}
        frontend.train().zero_grad()
        hidden_states, _ = frontend(*batch())
        loss_of(hidden_states).backward()
        trained = {k: p for k, p in frontend.named_parameters() if p.requires_grad}
        assert set(trained) == a | b
        torch.optim.SGD(trained.values(), lr=1.0).step()
        after = dict(frontend.named_parameters())
        assert {k for k in after if not torch.equal(after[k], before[k])} == expected
        assert all(trained[name].grad.abs().max() > 0 for name in expected)
    assert frontend.fingerprint() != plain.fingerprint()
    assert padding_error(frontend.eval(), *batch()) < 1e-4

    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    rebuilt = S3PRLFrontend(**conf, load_pretrained=False).eval()
    rebuilt.load_state_dict(frontend.state_dict(), strict=True)
    with torch.no_grad():
        for x, y in zip(frontend(*batch())[0], rebuilt(*batch())[0]):
            assert torch.equal(x, y)


@pytest.mark.parametrize("entry,large", SOME)
def test_gradient_checkpointing_changes_no_gradient(tmp_path, entry, large):
    dropout = "hidden_dropout" if entry.startswith("hf_") else "dropout"
    path = write_checkpoint(tmp_path, entry, large, **{dropout: 0.1})
    results = []
    for option in (False, True):
        options = {"gradient_checkpointing": option, "one_by_one": False}
        frontend = S3PRLFrontend(entry, path, **options).train()
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden_states, _ = frontend(*batch())
        loss_of(hidden_states).backward()
        gradients = {k: p.grad for k, p in frontend.named_parameters()}
        results.append((hidden_states, gradients, sum(kept.values())))
    (expected, gradients, kept), (found, same, fewer) = results
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    for name, gradient in gradients.items():
        if gradient is None:
            assert same[name] is None
        else:
            scale = gradient.abs().max().clamp(min=1e-12)
            assert (same[name] - gradient).abs().max() < 1e-6 * scale, name
    assert fewer < 0.6 * kept


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("entry", ENTRIES)
def test_rebuild_without_files(tmp_path, entry, large):
    path = write_checkpoint(tmp_path, entry, large)
    frontend = S3PRLFrontend(entry, path).eval()
    assert frontend.checkpoint_files() == []
    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    for file in sorted(tmp_path.iterdir()):
        file.unlink()
    rebuilt = S3PRLFrontend(**conf, load_pretrained=False).eval()
    assert rebuilt.fingerprint() != frontend.fingerprint()
    rebuilt.load_state_dict(frontend.state_dict(), strict=True)
    assert rebuilt.fingerprint() == frontend.fingerprint()
    assert rebuilt.resolved_conf() == frontend.resolved_conf()
    assert rebuilt.one_by_one is False
    speech, lengths = batch()
    with torch.no_grad():
        for a, b in zip(frontend(speech, lengths)[0], rebuilt(speech, lengths)[0]):
            assert torch.equal(a, b)
    assert all(
        a.requires_grad == b.requires_grad
        for a, b in zip(frontend.parameters(), rebuilt.parameters())
    )


def test_bare_configuration_is_seeded_and_leaves_global_generators_alone(tmp_path):
    path = write_checkpoint(tmp_path, "hubert_local")
    conf = S3PRLFrontend("hubert_local", path).resolved_conf()
    conf.update(path_or_url=None, one_by_one=None)
    torch.manual_seed(1)
    random.seed(1)
    first = S3PRLFrontend(**{**conf, "init_seed": 7})
    after = torch.rand(1), random.random()
    torch.manual_seed(1)
    random.seed(1)
    assert (torch.rand(1), random.random()) == after
    assert (
        first.fingerprint() == S3PRLFrontend(**{**conf, "init_seed": 7}).fingerprint()
    )
    assert (
        first.fingerprint() != S3PRLFrontend(**{**conf, "init_seed": 8}).fingerprint()
    )
    heard = json.loads(json.dumps(conf))
    heard["upstream_config"]["task_cfg"]["normalize"] = True
    heard["init_seed"] = 7
    assert first.fingerprint() != S3PRLFrontend(**heard).fingerprint()


def test_weights_are_fp32_whatever_the_checkpoint_stores(tmp_path):
    path = write_checkpoint(tmp_path, "hf_hubert_custom")
    transformers.HubertModel.from_pretrained(path).half().save_pretrained(path)
    frontend = S3PRLFrontend("hf_hubert_custom", path)
    assert {p.dtype for p in frontend.parameters()} == {torch.float32}
    assert padding_error(frontend.eval(), *batch()) < 1e-4


@pytest.mark.parametrize("entry", ENTRIES)
def test_mask_time_indices_put_in_the_mask_embedding(tmp_path, entry):
    frontend = S3PRLFrontend(entry, write_checkpoint(tmp_path, entry)).eval()
    model = frontend.model.model
    hf = entry.startswith("hf_")
    frames = frontend.num_frames(7001)
    mask = torch.zeros(2, frames, dtype=torch.bool)
    mask[1] = True
    seen = []
    # What the positional convolution hears: (B, T, D) or (B, D, T).
    heard = model.encoder.pos_conv_embed if hf else model.encoder.pos_conv
    heard.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        speech, lengths = batch((7001, 7001))
        plain, _ = frontend(speech, lengths)
        masked, _ = frontend(speech, lengths, mask)
    embedding = model.masked_spec_embed if hf else model.mask_emb
    assert not embedding.requires_grad
    frontend.set_mask_training(True)
    frontend(speech, lengths, mask)[0][-1].square().mean().backward()
    assert embedding.requires_grad and embedding.grad.any()
    found = seen[1][1] if hf else seen[1][1].T
    assert torch.equal(found, embedding.expand(frames, -1))
    assert torch.equal(seen[1][0], seen[0][0])
    assert largest_difference([masked[-1][0]], [plain[-1][0]]) < 1e-4
    assert largest_difference([masked[-1][1]], [plain[-1][1]]) > 1e-2


def test_closed_box_packs_its_checkpoint(tmp_path, caplog):
    path = write_apc(tmp_path)
    frontend = S3PRLFrontend("apc", path)
    assert f"a copy of {path} is kept with the model" in caplog.text
    assert frontend.checkpoint_files() == [path]
    assert frontend.name == "apc" and frontend.frame_shift == 160
    assert padding_error(frontend, *batch()) < 1e-4
    expected, _ = S3PRLUpstream("apc_local", path).eval()(*batch((7001,)))
    found, frames = frontend.train()(*batch((7001,)))
    # Also in train mode: what would be random in there is not known.
    cut = [h[:, : frames[0]] for h in expected]
    assert largest_difference(found, cut) < 1e-5
    sum(h.square().mean() for h in found).backward()
    trainable = [p for p in frontend.parameters() if p.requires_grad]
    assert trainable and all(p.grad is not None for p in trainable)
    frozen = S3PRLFrontend("apc", path, freeze="all").train()
    assert not any(h.requires_grad for h in frozen(*batch())[0])
    for freeze in ("cnn", {"layers": 1}):
        with pytest.raises(ValueError, match="none or all: the parts of apc"):
            S3PRLFrontend("apc", path, freeze=freeze)
    for option, value in (("lora", {}), ("gradient_checkpointing", True)):
        with pytest.raises(ValueError, match=f"{option}, but the parts of apc are not"):
            S3PRLFrontend("apc", path, **{option: value})
    with pytest.raises(ValueError, match="layers of apc.*--upstream_lr_decay"):
        frontend.layer_of_parameters()
    with pytest.raises(ValueError, match="apc has no mask embedding"):
        frontend.set_mask_training(True)
    with pytest.raises(ValueError, match="mask embedding"):
        frontend(*batch(), torch.zeros(3, 98, dtype=torch.bool))

    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    (tmp_path / "packed").mkdir()
    moved = tmp_path / "packed" / "apc.pt"
    (tmp_path / "apc.pt").rename(moved)
    with pytest.raises(OSError, match="no such file.*path_or_url"):
        S3PRLFrontend(**conf, load_pretrained=False)
    (tmp_path / "apc.pt").touch()
    conf = frontend.relocated_conf(str(tmp_path / "packed"))
    assert conf.pop("path_or_url") == str(moved)
    assert conf == {
        k: v for k, v in frontend.resolved_conf().items() if k != "path_or_url"
    }
    caplog.clear()
    rebuilt = S3PRLFrontend(**conf, path_or_url=str(moved), load_pretrained=False)
    assert rebuilt.fingerprint() == frontend.fingerprint() and not caplog.text


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """s3prl's cache with the checkpoint of ``apc_360hr``, by its documented name."""
    from s3prl.util import download

    url = "https://huggingface.co/leo19941227/apc_series/resolve/main/apc_360hr.ckpt"
    cache = tmp_path / "cache"
    cache.mkdir()
    file = cache / f"{hashlib.sha256(url.encode()).hexdigest()}.apc_360hr.ckpt"
    os.rename(write_apc(tmp_path), file)
    monkeypatch.setattr(download, "_download_dir", cache)
    return file


def test_closed_box_packs_what_s3prl_downloaded(tmp_path, downloaded):
    from s3prl.util import download

    frontend = S3PRLFrontend("apc_360hr")
    assert frontend.checkpoint_files() == [str(downloaded)]
    packed = tmp_path / "packed"
    packed.mkdir()
    conf = frontend.relocated_conf(str(packed))
    assert conf["path_or_url"] is None and conf["download_dir"] == str(packed)
    shutil.move(downloaded, packed)
    packed.chmod(0o555)  # s3prl writes locks beside what it looks for
    rebuilt = S3PRLFrontend(**conf, load_pretrained=False)
    assert rebuilt.fingerprint() == frontend.fingerprint()
    assert rebuilt.checkpoint_files() == [str(packed / downloaded.name)]
    assert [p.name for p in packed.iterdir()] == [downloaded.name]
    # s3prl's own settings are as they were.
    assert download._download_dir == tmp_path / "cache"
    assert download._download is download.download
    with pytest.raises(ValueError, match="apc_360hr.*The network was asked"):
        S3PRLFrontend("apc_360hr")


def test_a_recognised_entry_packs_only_further_files(tmp_path):
    path = write_checkpoint(tmp_path, "wavlm_local")
    frontend = S3PRLFrontend("wavlm_local", path)
    assert frontend.relocated_conf("packed") == frontend.resolved_conf()
    assert frontend.resolved_conf()["path_or_url"] == path
    further = tmp_path / "further.yaml"
    further.touch()
    frontend.extra_conf = {"config": str(further), "layer": 3}
    assert frontend.checkpoint_files() == [str(further)]
    conf = frontend.relocated_conf("packed")
    assert conf["extra_conf"] == {"config": "packed/further.yaml", "layer": 3}
    assert conf["path_or_url"] == path and conf["download_dir"] is None


def test_several_rates_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"sizes \[4\] and rates \[320, 640\]"):
        S3PRLFrontend._check_sizes([4, 4], [320, 640])


def test_another_rate_than_s3prl_says_is_refused(tmp_path):
    path = write_checkpoint(tmp_path, "hf_hubert_custom", conv_stride=[5, 8, 4])
    with pytest.raises(ValueError, match="its rate of 320 samples a frame says"):
        S3PRLFrontend("hf_hubert_custom", path)


def test_wrong_names_and_paths_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="'wavlm_locl'.* such as wavlm_local"):
        S3PRLFrontend("wavlm_locl")
    with pytest.raises(ValueError, match="no frontend_conf.path_or_url"):
        S3PRLFrontend("wavlm_local")
    with pytest.raises(OSError, match="nowhere.pt: found no such file"):
        S3PRLFrontend("wavlm_local", str(tmp_path / "nowhere.pt"))
    with pytest.raises(OSError, match="for baseline_local"):
        S3PRLFrontend("fbank", str(tmp_path / "nowhere.pt"))
    (tmp_path / "text.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.pt: found nothing that wavlm_local"):
        S3PRLFrontend("wavlm_local", str(tmp_path / "text.pt"))
    path = write_checkpoint(tmp_path, "wavlm_local")
    with pytest.raises(ValueError, match="nothing that hubert_local.*model_cfg|task"):
        S3PRLFrontend("hubert_local", path)
    with pytest.raises(ValueError, match="family 'bert'"):
        S3PRLFrontend("wavlm_local", upstream_config={"family": "bert"})
    with pytest.raises(ValueError, match="builds no hubert.*'model_cfg'"):
        S3PRLFrontend("hubert_local", upstream_config={"family": "hubert"})
    (tmp_path / "hf").mkdir()
    path = write_checkpoint(tmp_path / "hf", "hf_hubert_custom")
    (tmp_path / "hf" / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match="no preprocessor_config.json"):
        S3PRLFrontend("hf_hubert_custom", path)


def test_imports_without_s3prl_and_says_what_to_install(monkeypatch):
    for name in [n for n in sys.modules if n == "s3prl" or n.startswith("s3prl.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "s3prl", None)
    frontend = runpy.run_path(module.__file__)["S3PRLFrontend"]
    with pytest.raises(ImportError, match="pip install .espnet-s3prl"):
        frontend("wavlm")


class Malicious:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("entry", ["distiller_local", "mockingjay_local"])
def test_a_checkpoint_cannot_run_code(tmp_path, entry):
    """These two entries of s3prl ask for unpickling."""
    path, folder = str(tmp_path / "upstream.ckpt"), str(tmp_path / "was_run")
    torch.save({"Config": Malicious(folder), "Upstream_Config": {}}, path)
    with pytest.raises(ValueError, match=f"upstream.ckpt: found nothing that {entry}"):
        S3PRLFrontend(entry, path)
    assert not os.path.exists(folder)


def test_options_of_argparse_may_stand_in_a_checkpoint(tmp_path):
    path = str(tmp_path / "upstream.ckpt")
    torch.save({"Args": argparse.Namespace(seed=3), "w": torch.ones(2)}, path)
    with _recorded_loads() as loads:
        assert torch.load(path, weights_only=False)["Args"].seed == 3
    assert [f for f, _ in loads] == [path]
