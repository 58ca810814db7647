# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import sys

import pytest
import torch
import transformers
import yaml

from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.frontend.lora import plain_name

from .tiny_upstreams import (
    batch,
    each_family,
    inexactness,
    layers_of,
    loss_of,
    noiseless,
    relative_difference,
    states_of,
    tiny,
    trained_of,
)

peft = pytest.importorskip("peft")


def adapted(variant, options=None, lora=None, **changes):
    lora = {"rank": 2, "alpha": 6, **(lora or {})}
    return tiny(variant, dict(options or {}, lora=lora), **changes)


def randomise(frontend):
    """Adapters far from zero, as after much training."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in frontend.named_parameters():
        if plain_name(name) is None:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 0.3 * noise
    return frontend.eval()


def adapters_of(frontend, layers=(0, 1, 2)):
    """Names of A and B that are expected by default, in two sets."""
    kinds = ["q_proj", "k_proj", "v_proj", "out_proj"]
    if frontend.name == "wav2vec2-bert":
        kinds = ["linear_q", "linear_k", "linear_v", "linear_out"]
    prefixes = [
        name
        for name, _ in frontend.named_modules()
        if name.split(".")[-1] in kinds
        and int(name.split("layers.")[1].split(".")[0]) in layers
    ]
    assert len(prefixes) == 4 * len(layers)
    return [{f"{k}.lora_{x}.default.weight" for k in prefixes} for x in "AB"]


def step(frontend, lr=10.0):
    """One step of SGD; the names of what has a gradient, and of what moved."""
    before = {k: p.detach().clone() for k, p in frontend.named_parameters()}
    frontend.train().zero_grad()
    loss_of(*frontend(*batch())).backward()
    torch.optim.SGD(trained_of(frontend).values(), lr=lr).step()
    parameters = dict(frontend.named_parameters())
    moved = {k for k, p in parameters.items() if not torch.equal(p, before[k])}
    return {k for k, p in parameters.items() if p.grad is not None}, moved


@each_family
def test_every_adapter_and_nothing_else_is_trained(model_type):
    """Also WavLM's, whose attention reads the weights without calling the maps."""
    plain = tiny(model_type, **noiseless(model_type)).eval()
    frontend = adapted(model_type, **noiseless(model_type)).eval()
    states = {plain_name(k): v for k, v in frontend.state_dict().items()}
    del states[None]
    assert set(states) == set(plain.state_dict())
    before = states_of(plain)
    for x, y in zip(states_of(frontend), before):
        assert relative_difference(x, y) < 1e-5
    assert frontend.fingerprint() == plain.fingerprint()
    a, b = adapters_of(frontend)
    # B is zero at first, so A gets no gradient in the first step.
    for expected in (b, a | b):
        assert step(frontend) == (a | b, expected)
    for layer, (x, y) in enumerate(zip(before, states_of(frontend.eval()))):
        assert torch.equal(x, y) is (layer == 0)


@each_family
def test_trained_adapters_equal_merged_weights(model_type):
    """W + alpha / rank * B A, for every linear map of every layer."""
    layer = layers_of(tiny(model_type))[0]
    targets = [n for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)]
    frontend = randomise(adapted(model_type, lora={"target_modules": targets})).double()
    states = frontend.state_dict()
    merged = {plain_name(k): v.clone() for k, v in states.items() if plain_name(k)}
    for name, a in states.items():
        if ".lora_A." in name:
            b = states[name.replace(".lora_A.", ".lora_B.")]
            merged[name.split(".lora_A.")[0] + ".weight"] += 6 / 2 * b @ a
    plain = tiny(model_type).eval().double()
    speech, lengths = batch()
    speech = speech.double()
    assert inexactness(frontend, speech, lengths) < 1e-10
    with torch.no_grad():
        plain.load_state_dict(merged, strict=True)
        expected, frames = plain(speech, lengths)
        found, _ = frontend(speech, lengths)
    for x, y in zip(found, expected):
        for i, t in enumerate(frames):
            assert relative_difference(x[i, :t], y[i, :t]) < 1e-9
    assert frontend.fingerprint() != plain.fingerprint()


@each_family
def test_frozen_layers_get_no_adapter(model_type):
    changes = {key: 0.5 for key in noiseless(model_type)}
    frontend = randomise(adapted(model_type, {"freeze": {"layers": 2}}, **changes))
    a, b = adapters_of(frontend, [2])
    assert set(trained_of(frontend)) == a | b
    expected, found = frontend(*batch())[0], frontend.train()(*batch())[0]
    for layer, (x, y) in enumerate(zip(found, expected)):
        # No dropout and no graph below the first adapter.
        assert torch.equal(x, y) is (layer <= 2)
        assert x.requires_grad is (layer > 2)
    layer_of = frontend.layer_of_parameters()
    assert {layer_of[name] for name in a | b} == {3}


def test_many_layers_get_the_adapters_that_are_theirs():
    """peft shortens long lists of names; data2vec has other `layers` too."""
    frontend = adapted("data2vec-audio", {"freeze": 1}, num_hidden_layers=11)
    a, b = adapters_of(frontend, range(1, 11))
    assert set(trained_of(frontend)) == a | b


def test_spec_augment_trains_no_mask_embedding():
    frontend = adapted("wavlm", {"spec_augment": True}, mask_time_prob=0.5)
    assert not frontend.model.masked_spec_embed.requires_grad


@each_family
def test_checkpoint_and_rebuild_without_files(tmp_path, model_type):
    config = tiny(model_type).config_dict
    config = transformers.AutoConfig.for_model(**{**config, "decoder_layers": 1})
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    plain = HFFrontend(upstream=str(tmp_path))
    # All targets whose names end so.
    targets = ["linear_q" if model_type == "wav2vec2-bert" else "q_proj"]
    lora = {"rank": 2, "alpha": 6, "dropout": 0.1, "target_modules": targets}
    frontend = HFFrontend(upstream=str(tmp_path), lora=lora, freeze=1)
    assert frontend.fingerprint() == plain.fingerprint()
    assert len(trained_of(frontend)) == 2 * 2
    randomise(frontend)
    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    rebuilt = HFFrontend(**conf, load_pretrained=False).eval()
    assert rebuilt.resolved_conf() == frontend.resolved_conf()
    rebuilt.load_state_dict(frontend.state_dict(), strict=True)
    assert rebuilt.fingerprint() == frontend.fingerprint() != plain.fingerprint()
    for a, b in zip(states_of(frontend), states_of(rebuilt)):
        assert torch.equal(a, b)


def test_seeded_apart_from_the_global_generator():
    matrices, drawn = [], []
    for seed in (7, 7, 8):
        torch.manual_seed(1)
        frontend = adapted("hubert", {"init_seed": seed, "freeze": 2})
        drawn.append(float(torch.rand(1)))
        name = "encoder.layers.2.attention.q_proj.lora_A.default.weight"
        matrices.append(frontend.model.state_dict()[name])
    assert torch.equal(*matrices[:2]) and not torch.equal(*matrices[1:])
    torch.manual_seed(1)
    assert drawn == 3 * [float(torch.rand(1))]


def test_fingerprint_of_trained_adapters():
    frontend = adapted("wavlm")
    start = frontend.fingerprint()
    step(frontend)
    trained = frontend.fingerprint()
    assert trained != start
    # The weights are no others, but what they do is.
    frontend.lora["alpha"] = 7
    assert frontend.fingerprint() != trained
    for name, parameter in frontend.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.zeros_(parameter)
    assert frontend.fingerprint() == start


@pytest.mark.parametrize("model_type", ["wavlm", "hubert"])
def test_dropout_in_front_of_the_adapters(model_type):
    """Off in eval mode; in train mode it leaves the expectation as it is."""
    changes = noiseless(model_type)
    frontend = randomise(adapted(model_type, lora={"dropout": 0.4}, **changes))
    without = states_of(randomise(adapted(model_type, **changes)))
    assert all(torch.equal(a, b) for a, b in zip(states_of(frontend), without))
    assert not torch.equal(states_of(frontend.train())[1], without[1])
    layer = frontend.model.encoder.layers[0].attention.q_proj
    with torch.no_grad():
        drawn = torch.stack([layer.weight for _ in range(1000)])
        error = (drawn.std(dim=0) / 1000**0.5).clamp(min=1e-6)
        assert ((drawn.mean(dim=0) - layer.eval().weight) / error).abs().max() < 6


@pytest.mark.parametrize(
    "options",
    [
        {"lora": True},
        {"lora": {"r": 8}},
        {"lora": {"rank": 0}},
        {"lora": {"alpha": "16"}},
        {"lora": {"target_modules": "q_proj"}},
        {"lora": {"target_modules": ["q_proj", "fc9"]}},
        {"lora": {}, "freeze": "all"},
    ],
)
def test_impossible_adapters_are_refused(options):
    with pytest.raises(ValueError, match="found .*lora") as error:
        tiny(options=options)
    assert "\n" not in str(error.value)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="frontend_conf.lora needs .*pip install"):
        adapted("hubert")
    assert tiny("hubert").lora is None
