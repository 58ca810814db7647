# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import argparse
import hashlib
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
from espnet2_distilmos.mos.frontend.s3prl import S3PRLFrontend, _write_checkpoint

from . import tiny_upstreams
from .test_gradient_checkpointing import check_equal_gradients
from .tiny_upstreams import (
    WAVEFORM,
    check_layer_of_parameters,
    inexactness,
    loss_of,
    relative_difference,
    trained_of,
)

pytest.importorskip("s3prl")
from s3prl.nn import S3PRLUpstream  # noqa: E402

FAIRSEQ = dict(
    # The product of the strides is s3prl's 320.
    conv_feature_layers=str([(16, 10, 5), (24, 8, 8), (24, 8, 8)]),
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
    # Fields that s3prl does not know are in the released checkpoints.
    _name="x",
)
TRANSFORMERS = dict(
    WAVEFORM,
    conv_kernel=[10, 8, 8],
    layerdrop=0.9,
    mask_time_prob=0.9,
    mask_time_length=2,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    activation_dropout=0.0,
    feat_proj_dropout=0.0,
)
FAMILIES = ("wavlm", "hubert", "unispeech_sat", "wav2vec2", "data2vec")
FAMILIES += ("hf_hubert", "hf_wav2vec2")
slow = pytest.mark.slow
each_family = pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f == "wavlm" else slow) for f in FAMILIES]
)
each_network = pytest.mark.parametrize(
    "family,large",
    [
        pytest.param(f, large, marks=() if (f, large) == ("wavlm", False) else slow)
        for f in FAMILIES
        for large in (False, True)
    ],
)
LENGTHS = (16000, 7001, 12345)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("The network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def config_of(family, large=False, **changes):
    """A network's configuration, as version 0.1 wrote it into ``config.yaml``."""
    if family.startswith("hf_"):
        config = dict(TRANSFORMERS, model_type=family[3:], do_stable_layer_norm=large)
        config.update(feat_extract_norm="layer" if large else "group", **changes)
        return {"family": family, "model_cfg": config, "do_normalize": large}
    config = dict(FAIRSEQ, extractor_mode="layer_norm" if large else "default")
    config.update(layer_norm_first=large, conv_bias=large)
    if family == "wavlm":
        config.update(relative_position_embedding=True, gru_rel_pos=True)
        config.update(num_buckets=32, max_distance=80)
    if family in ("wavlm", "unispeech_sat"):
        return {"family": family, "model_cfg": {**config, "normalize": large}}
    if family == "hubert":
        config.update(label_rate=50.0, final_dim=16)
    elif family == "data2vec":
        config.update(pos_conv_depth=3, conv_pos=15)
    conf = {"family": family, "model_cfg": {**config, **changes}}
    return {**conf, "task_cfg": {"normalize": large}, "dictionary_sizes": [3]}


def livelier(states):
    """Larger weights than the initial ones, so that a leak of padding shows."""
    for name, value in states.items():
        if isinstance(value, torch.Tensor) and value.dim() > 1:
            value.mul_(1 if "weight_g" in name else 2)


def write(folder, family, large=False, **changes):
    """A checkpoint of random weights: the entry that loads it, and its path."""
    torch.manual_seed(1)
    entry, path = _write_checkpoint(config_of(family, large, **changes), str(folder))
    if family.startswith("hf_"):
        model = transformers.AutoModel.from_pretrained(path)
        livelier(model.state_dict())
        model.save_pretrained(path)
    else:
        contents = torch.load(path)
        livelier(contents["model_weight"])
        torch.save({**contents, "model": contents["model_weight"]}, path)
    return entry, path


def write_apc(folder):
    from s3prl.upstream.apc.apc import APC

    torch.manual_seed(1)
    paras = dict(num_layers=3, hidden_size=16, dropout=0.1, residual=True)
    audio = dict(feat_type="fbank", feat_dim=20, frame_length=25, frame_shift=10)
    contents = {"config": {"data": {"audio": audio}, "model": {"paras": paras}}}
    contents["model"] = APC(20, **paras).state_dict()
    path = folder / "apc.pt"
    torch.save(contents, path)
    return str(path)


def batch(lengths=LENGTHS):
    speech, lengths = tiny_upstreams.batch(lengths)
    for i, n in enumerate(lengths):
        # Whatever the padding is must not matter.
        speech[i, n:] = 5.0
    return speech, lengths


def states_of(frontend, *inputs):
    return tiny_upstreams.states_of(frontend, *(inputs or batch()))


# Exactness and frames


@each_network
def test_exact_alone_and_in_a_batch_and_as_s3prl(tmp_path, family, large):
    entry, path = write(tmp_path, family, large)
    frontend = S3PRLFrontend(entry, path).eval()
    assert (frontend.num_layers, frontend.output_size()) == (3, 32)
    assert frontend.one_by_one is False and frontend.name == family
    # By hand: 8 frames of the second convolution, 64 of the first, of 10 samples.
    assert frontend.minimum_samples == (8 * 8 - 1) * 5 + 10
    speech, lengths = batch()
    assert inexactness(frontend, speech, lengths) < 1e-4
    reference = S3PRLUpstream(entry, path).eval()
    for i, n in enumerate(LENGTHS):
        wave, length = speech[i : i + 1, :n], lengths[i : i + 1]
        frames = frontend.num_frames(n)
        expected = states_of(reference, wave, length)
        for a, b in zip(states_of(frontend, wave, length), expected, strict=True):
            assert relative_difference(a, b[:, :frames]) < 1e-5
            # What s3prl has more are copies of its last frame.
            assert b.size(1) == -(-n // 320) > frames
    if not large:
        # The fault that the frontend removes is there without it.
        cut = states_of(reference, speech, lengths)[-1][2:, :frames]
        assert relative_difference(cut, expected[-1][:, :frames]) > 1e-3


def test_one_by_one_gives_the_same(tmp_path):
    arguments = write(tmp_path, "wavlm")
    together = S3PRLFrontend(*arguments, one_by_one=False).eval()
    single = S3PRLFrontend(*arguments, one_by_one=True).eval()
    assert single.resolved_conf()["one_by_one"] is True
    calls = []
    single.model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    mask = torch.zeros(3, together.num_frames(16000), dtype=torch.bool)
    mask[:, 3:7] = True
    expected, found = (states_of(f, *batch(), mask) for f in (together, single))
    assert calls == [1, 1, 1]
    for a, b in zip(found, expected, strict=True):
        for i, n in enumerate(LENGTHS):
            t = single.num_frames(n)
            assert relative_difference(a[i, :t], b[i, :t]) < 1e-4


@slow
def test_conformer_runs_one_by_one_on_its_pretrained_statistics(tmp_path):
    """Its convolutions depend on the padding, and it has batch norms."""
    options = dict(layer_type="conformer", attn_type="espnet", pos_enc_type="rel_pos")
    frontend = S3PRLFrontend(*write(tmp_path, "wav2vec2", **options)).eval()
    assert frontend.one_by_one is True
    assert inexactness(frontend, *batch()) < 1e-6
    before = frontend.fingerprint()
    expected = states_of(frontend)
    for a, b in zip(states_of(frontend.train()), expected):
        assert relative_difference(a, b) < 1e-5
    assert frontend.fingerprint() == before


def test_features_without_parameters_or_layers():
    frontend = S3PRLFrontend("fbank")
    assert frontend.num_layers == 0 and frontend.output_size() == 240
    assert frontend.frame_shift == 160 and frontend.num_frames(16000) == 98
    assert frontend.one_by_one is True and not frontend.checkpoint_files()
    # Its normalisation over time needs two frames.
    shortest = frontend.minimum_samples
    assert shortest == 400 + 160 and frontend.num_frames(shortest) == 2
    assert inexactness(frontend, *batch()) == 0
    rebuilt = S3PRLFrontend(**frontend.resolved_conf(), load_pretrained=False)
    assert rebuilt.fingerprint() == frontend.fingerprint()
    assert frontend.fingerprint() != S3PRLFrontend("mfcc").fingerprint()
    # Padding would change this one.
    assert inexactness(S3PRLFrontend("mel").eval(), *batch()) < 1e-6
    assert inexactness(S3PRLFrontend("mel", one_by_one=False).eval(), *batch()) > 0.1


@pytest.mark.parametrize("rates", [[320] * 4, [160, 320, 320, 320]])
def test_rates_that_do_not_fit_are_refused(tmp_path, monkeypatch, rates):
    arguments = write(tmp_path, "hf_hubert", conv_stride=[5, 8, 4])
    monkeypatch.setattr(S3PRLUpstream, "downsample_rates", rates)
    with pytest.raises(ValueError, match="a rate of|its rate of|one rate"):
        S3PRLFrontend(*arguments)


# Training


@each_network
def test_train_mode_reaches_every_trained_parameter(tmp_path, family, large):
    """No layer is skipped and nothing is masked: dropout is 0 in these networks."""
    frontend = S3PRLFrontend(*write(tmp_path, family, large))
    expected = states_of(frontend.eval())
    hidden_states, _ = frontend.train()(*batch())
    for a, b in zip(hidden_states, expected):
        assert relative_difference(a, b) < 1e-5
    check_layer_of_parameters(frontend)
    names = trained_of(frontend)
    assert any("feature_extractor.conv_layers.0" in name for name in names)


@pytest.mark.parametrize("freeze", ["cnn", "all", {"layers": 2}, 3])
@each_family
def test_freeze_holds_in_train_mode(tmp_path, family, freeze):
    arguments = write(tmp_path, family)
    frontend = S3PRLFrontend(*arguments, freeze=freeze).eval().train()
    n = freeze["layers"] if isinstance(freeze, dict) else freeze
    assert frontend.resolved_conf()["freeze"] == n
    frozen = {"cnn": -1, "all": 3}.get(n, n)
    layer_of = frontend.layer_of_parameters()
    extractor = "model.model.feature_extractor."
    assert set(trained_of(frontend)) == {
        name
        for name in trained_of(S3PRLFrontend(*arguments))
        if layer_of[name] > frozen and not name.startswith(extractor)
    }
    model = frontend.model.model
    modes = [m.training for m in (model.feature_extractor, *model.encoder.layers)]
    assert modes == [False] + [number > frozen for number in (1, 2, 3)]


@each_network
def test_every_adapter_and_nothing_else_is_trained(tmp_path, family, large):
    pytest.importorskip("peft")
    arguments = write(tmp_path, family, large)
    plain = S3PRLFrontend(*arguments, freeze="all", one_by_one=False).eval()
    options = dict(freeze=1, lora={"rank": 2}, one_by_one=False)
    frontend = S3PRLFrontend(*arguments, **options).eval()
    assert frontend.fingerprint() == plain.fingerprint()
    trained = trained_of(frontend.train())
    # Two layers, four maps, A and B.
    assert len(trained) == 16 and all(".lora_" in name for name in trained)
    for step in range(2):
        frontend.zero_grad()
        loss_of(*frontend(*batch())).backward()
        # B is zero at first, so A gets no gradient in the first step.
        moving = [k for k, p in trained.items() if p.grad.any()]
        assert len(moving) == 8 + 8 * step
        torch.optim.SGD(trained.values(), lr=1.0).step()
    assert frontend.fingerprint() != plain.fingerprint()
    assert inexactness(frontend.eval(), *batch()) < 1e-4


@each_network
def test_gradient_checkpointing_changes_no_gradient(tmp_path, family, large):
    arguments = write(tmp_path, family, large)
    results = []
    for option in (False, True):
        frontend = S3PRLFrontend(*arguments, gradient_checkpointing=option).train()
        loss_of(*frontend(*batch())).backward()
        results.append({k: p.grad for k, p in frontend.named_parameters()})
    check_equal_gradients(*reversed(results))


@each_family
def test_mask_time_indices_put_in_the_mask_embedding(tmp_path, family):
    frontend = S3PRLFrontend(*write(tmp_path, family)).eval()
    model = frontend.model.model
    is_hf = family.startswith("hf_")
    inputs = batch((7001, 7001))
    frames = frontend.num_frames(7001)
    mask = torch.zeros(2, frames, dtype=torch.bool)
    mask[1] = True
    seen = []
    # Input of the positional convolution: (B, T, D) or (B, D, T).
    positions = model.encoder.pos_conv_embed if is_hf else model.encoder.pos_conv
    positions.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    plain, masked = states_of(frontend, *inputs), states_of(frontend, *inputs, mask)
    embedding = model.masked_spec_embed if is_hf else model.mask_emb
    found = seen[1][1] if is_hf else seen[1][1].T
    assert torch.equal(found, embedding.expand(frames, -1))
    assert relative_difference(masked[-1][0], plain[-1][0]) < 1e-4
    assert relative_difference(masked[-1][1], plain[-1][1]) > 1e-2
    assert not embedding.requires_grad
    frontend.set_mask_training(True)
    frontend(*inputs, mask)[0][-1].square().mean().backward()
    assert embedding.grad.any()


def test_a_closed_box_is_deterministic_and_trained_as_a_whole(tmp_path):
    path = write_apc(tmp_path)
    frontend = S3PRLFrontend("apc", path).train()
    assert inexactness(frontend, *batch()) < 1e-4
    expected = states_of(S3PRLUpstream("apc_local", path).eval(), *batch((7001,)))
    found, frames = frontend(*batch((7001,)))
    for a, b in zip(found, expected, strict=True):
        assert relative_difference(a, b[:, : frames[0]]) < 1e-5
    sum(h.square().mean() for h in found).backward()
    assert trained_of(frontend)
    assert all(p.grad is not None for p in trained_of(frontend).values())
    mask = torch.zeros(3, 98, dtype=torch.bool)
    for impossible in (
        lambda: S3PRLFrontend("apc", path, freeze="cnn"),
        lambda: S3PRLFrontend("apc", path, freeze=1),
        lambda: S3PRLFrontend("apc", path, lora={}),
        lambda: S3PRLFrontend("apc", path, gradient_checkpointing=True),
        lambda: frontend.layer_of_parameters(),
        lambda: frontend.set_mask_training(True),
        lambda: frontend(*batch(), mask),
    ):
        with pytest.raises(ValueError, match="known here"):
            impossible()


# The upstream's own files


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


@pytest.mark.parametrize(
    "kind",
    ["wavlm", "apc", "apc_360hr"] + [pytest.param(f, marks=slow) for f in FAMILIES[1:]],
)
def test_rebuilt_from_the_kept_files_alone(tmp_path, downloaded, kind):
    from s3prl.util import download

    (tmp_path / "source").mkdir()
    arguments = {"apc_360hr": ("apc_360hr",), "apc": ("apc", str(downloaded))}
    if kind in FAMILIES:
        arguments[kind] = write(tmp_path / "source", kind, True)
    frontend = S3PRLFrontend(*arguments[kind]).eval()
    kept = tmp_path / "upstream_files"
    kept.mkdir()
    conf = frontend.relocated_conf("upstream_files")
    for file in frontend.checkpoint_files():
        shutil.move(file, kept)
    # s3prl's own settings are as they were.
    assert download._download is download.download
    assert download._download_dir == tmp_path / "cache"
    if kind == "apc_360hr":
        with pytest.raises(ValueError, match="apc_360hr.*The network was asked"):
            S3PRLFrontend("apc_360hr")
    names = sorted(os.listdir(kept))
    paths = {k: conf[k] for k in ("path_or_url", "download_dir") if conf[k]}
    (value,) = paths.values()
    assert value in ("upstream_files", f"upstream_files/{names[0]}")
    conf = yaml.safe_load(yaml.safe_dump(conf))
    conf.update({k: str(tmp_path / v) for k, v in paths.items()})
    rebuilt = S3PRLFrontend(**conf, load_pretrained=False).eval()
    assert rebuilt.fingerprint() == frontend.fingerprint()
    for a, b in zip(states_of(frontend), states_of(rebuilt), strict=True):
        assert torch.equal(a, b)
    assert sorted(os.listdir(kept)) == names


@each_network
def test_models_of_version_0_1_kept_a_configuration_in_place_of_the_file(
    tmp_path, family, large
):
    entry, path = write(tmp_path, family, large)
    frontend = S3PRLFrontend(entry, path, freeze="cnn").eval()
    conf = frontend.resolved_conf()
    conf.update(upstream_config=config_of(family, large), path_or_url="/gone/x.pt")
    rebuilt = S3PRLFrontend(**conf, load_pretrained=False).eval()
    rebuilt.load_state_dict(frontend.state_dict(), strict=True)
    for a, b in zip(states_of(frontend), states_of(rebuilt), strict=True):
        assert torch.equal(a, b)
    assert rebuilt.fingerprint() == frontend.fingerprint()
    assert list(trained_of(rebuilt)) == list(trained_of(frontend))
    # What is trained from it needs no file either.
    assert rebuilt.checkpoint_files() == []
    assert rebuilt.relocated_conf("x") == rebuilt.resolved_conf() == conf
    # Tokens of version 0.1 have fingerprints with these settings.
    place = {"wavlm": 2, "unispeech_sat": 2, "hf_hubert": 0, "hf_wav2vec2": 0}
    normalize = [None] * 3
    normalize[place.get(family, 1)] = large
    settings = f"{family}:320:{tuple(normalize)}:{{}}"
    assert rebuilt._fingerprint_settings() == settings


def test_random_weights_are_seeded_and_global_generators_left_alone():
    config = config_of("hubert")
    states = torch.get_rng_state(), random.getstate()
    first, same, other = (
        S3PRLFrontend("hubert_local", None, config, init_seed=seed).fingerprint()
        for seed in (7, 7, 8)
    )
    assert first == same != other
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


@pytest.mark.parametrize(
    "conf,found",
    [
        ({"upstream": "wavlm_locl"}, "wavlm_locl"),
        ({"upstream": "wavlm_local"}, "ckpt"),
        ({"upstream": "wavlm_local", "path_or_url": "nowhere.pt"}, "nowhere.pt"),
        ({"upstream": "wavlm_local", "path_or_url": __file__}, "test_s3prl.py"),
        ({"upstream": "hf_hubert_custom", "path_or_url": "/"}, "preprocessor_config"),
        ({"upstream": "x_local", "upstream_config": {"family": "bert"}}, "model_cfg"),
    ],
)
def test_wrong_names_and_paths_are_refused(conf, found):
    with pytest.raises((ValueError, OSError), match=found) as error:
        S3PRLFrontend(**conf)
    assert "\n" not in str(error.value) and "frontend_conf" in str(error.value)


def test_imports_without_s3prl_and_says_what_to_install(monkeypatch):
    for name in [n for n in sys.modules if n == "s3prl" or n.startswith("s3prl.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "s3prl", None)
    frontend = runpy.run_path(module.__file__)["S3PRLFrontend"]
    with pytest.raises(ImportError, match="pip install .espnet-s3prl"):
        frontend("wavlm")


class Malicious:
    """Pickled, it makes a folder when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("was_run",)


def test_a_checkpoint_cannot_run_code(tmp_path, monkeypatch):
    """This entry of s3prl asks for unpickling."""
    monkeypatch.chdir(tmp_path)
    torch.save({"Config": Malicious(), "Upstream_Config": {}}, "upstream.ckpt")
    with pytest.raises(ValueError, match="upstream.ckpt: .* as distiller_local"):
        S3PRLFrontend("distiller_local", "upstream.ckpt")
    assert not os.path.exists("was_run")
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_options_of_argparse_may_be_in_a_checkpoint(tmp_path):
    path = write_apc(tmp_path)
    torch.save({**torch.load(path), "Args": argparse.Namespace(seed=3)}, path)
    assert S3PRLFrontend("apc", path).num_layers == 2
