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
    each_variant,
    inexactness,
    layers_of,
    loss_of,
    noiseless,
    relative_difference,
    tiny,
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


def states_of(frontend):
    with torch.no_grad():
        return frontend(*batch())[0]


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
    """One step of SGD: the gradients, and the names of what moved."""
    before = {k: p.detach().clone() for k, p in frontend.named_parameters()}
    frontend.train().zero_grad()
    loss_of(*frontend(*batch())).backward()
    trained = [p for p in frontend.parameters() if p.requires_grad]
    torch.optim.SGD(trained, lr=lr).step()
    moved = {k for k, p in frontend.named_parameters() if not torch.equal(p, before[k])}
    return {k: p.grad for k, p in frontend.named_parameters()}, moved


@each_variant
def test_nothing_is_changed_at_the_start(variant):
    plain, frontend = tiny(variant).eval(), adapted(variant).eval()
    for a, b in zip(plain(*batch())[0], frontend(*batch())[0]):
        assert torch.equal(a, b)
    assert frontend.fingerprint() == plain.fingerprint()
    states = {plain_name(k): v for k, v in frontend.state_dict().items()}
    del states[None]
    assert set(states) == set(plain.state_dict())
    for key, value in plain.state_dict().items():
        assert torch.equal(states[key], value), key


@each_variant
def test_every_adapter_and_nothing_else_is_trained(variant):
    """Also WavLM's, whose attention reads the weights without calling the maps."""
    frontend = adapted(variant, **noiseless(variant))
    a, b = adapters_of(frontend)
    before = states_of(frontend.eval())
    # B is zero at first, so A gets no gradient in the first step.
    for expected in (b, a | b):
        gradients, moved = step(frontend)
        assert moved == expected
        assert {k for k, grad in gradients.items() if grad is not None} == a | b
        assert all(gradients[name].abs().max() > 0 for name in expected)
    for layer, (x, y) in enumerate(zip(before, states_of(frontend.eval()))):
        assert torch.equal(x, y) is (layer == 0)


@each_variant
def test_trained_adapters_equal_merged_weights(variant):
    """W + alpha / rank * B A, for every linear map of every layer."""
    layer = layers_of(tiny(variant))[0]
    targets = [n for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)]
    frontend = randomise(adapted(variant, lora={"target_modules": targets})).double()
    states = frontend.state_dict()
    merged = {plain_name(k): v.clone() for k, v in states.items() if plain_name(k)}
    for name, a in states.items():
        if ".lora_A." in name:
            b = states[name.replace(".lora_A.", ".lora_B.")]
            merged[name.split(".lora_A.")[0] + ".weight"] += 6 / 2 * b @ a
    plain = tiny(variant).eval().double()
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
@pytest.mark.parametrize("freeze", ["cnn", {"layers": 2}])
def test_frozen_layers_get_no_adapter(model_type, freeze):
    changes = {key: 0.5 for key in noiseless(model_type)}
    frontend = randomise(adapted(model_type, {"freeze": freeze}, **changes))
    n = 2 if freeze == {"layers": 2} else 0
    a, b = adapters_of(frontend, range(n, 3))
    assert {k for k, p in frontend.named_parameters() if p.requires_grad} == a | b
    expected, _ = frontend(*batch())
    found, _ = frontend.train()(*batch())
    for layer, (x, y) in enumerate(zip(found, expected)):
        # No dropout and no graph below the first adapter.
        assert torch.equal(x, y) is (layer <= n)
        assert x.requires_grad is (layer > n)
    depth = {layer for k, layer in frontend.layer_of_parameters().items() if k in a | b}
    assert depth == set(range(n + 1, 4))


def test_many_layers_get_the_adapters_that_are_theirs():
    """peft shortens long lists of names; data2vec has other `layers` too."""
    frontend = adapted("data2vec-audio", {"freeze": 1}, num_hidden_layers=11)
    a, b = adapters_of(frontend, range(1, 11))
    assert {k for k, p in frontend.named_parameters() if p.requires_grad} == a | b


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
    assert len([p for p in frontend.parameters() if p.requires_grad]) == 2 * 2
    randomise(frontend)
    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    rebuilt = HFFrontend(**conf, load_pretrained=False).eval()
    assert rebuilt.resolved_conf() == frontend.resolved_conf()
    rebuilt.load_state_dict(frontend.state_dict(), strict=True)
    assert rebuilt.fingerprint() == frontend.fingerprint() != plain.fingerprint()
    for a, b in zip(states_of(frontend), states_of(rebuilt)):
        assert torch.equal(a, b)


def test_seeded_apart_from_the_global_generator():
    def matrices(seed):
        frontend = adapted("hubert", {"init_seed": seed})
        return [v for k, v in frontend.state_dict().items() if ".lora_A." in k]

    torch.manual_seed(1)
    first = matrices(7)
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(a, b) for a, b in zip(first, matrices(7)))
    assert not any(torch.equal(a, b) for a, b in zip(first, matrices(8)))


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


@pytest.mark.parametrize("variant", ["wavlm base", "hubert base"])
def test_dropout_in_front_of_the_adapters(variant):
    """Off in eval mode; in train mode it leaves the expectation as it is."""
    frontend = randomise(adapted(variant, lora={"dropout": 0.4}, **noiseless(variant)))
    without = states_of(randomise(adapted(variant, **noiseless(variant))))
    assert all(torch.equal(a, b) for a, b in zip(states_of(frontend), without))
    assert not torch.equal(states_of(frontend.train())[1], without[1])
    layer = frontend.model.encoder.layers[0].attention.q_proj
    with torch.no_grad():
        drawn = torch.stack([layer.weight for _ in range(4000)])
        error = (drawn.std(dim=0) / 4000**0.5).clamp(min=1e-6)
        assert ((drawn.mean(dim=0) - layer.eval().weight) / error).abs().max() < 6


@pytest.mark.parametrize(
    "options",
    [{"lora": lora} for lora in ({"rank": 0}, {"rank": True}, {"alpha": "16"})]
    + [{"lora": lora} for lora in ({"dropout": 1}, {"target_modules": []}, True)]
    + [{"lora": lora} for lora in ({"r": 8}, {"target_modules": "q_proj"})]
    + [{"lora": {"target_modules": ["q_proj", "fc9"]}}]
    + [{"lora": {}, "freeze": freeze} for freeze in ("all", 3)],
)
def test_impossible_adapters_are_refused(options):
    with pytest.raises(ValueError, match=r"found .*frontend_conf.lora") as error:
        tiny(options=options)
    assert "\n" not in str(error.value)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="frontend_conf.lora needs .*pip install"):
        adapted("hubert")
    assert tiny("hubert").lora is None
