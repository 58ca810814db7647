# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import sys

import pytest
import torch
import transformers
import yaml

from espnet2_distilmos.mos.frontend import lora as module
from espnet2_distilmos.mos.frontend.hf import FAMILIES, HFFrontend
from espnet2_distilmos.mos.frontend.lora import active_states, plain_name, read_lora

from . import tiny_upstreams as upstreams

peft = pytest.importorskip("peft")

FIRST, VARIANTS, batch = upstreams.FIRST, upstreams.VARIANTS, upstreams.batch
inexactness, loss_of, tiny = upstreams.inexactness, upstreams.loss_of, upstreams.tiny
layers_of, noiseless = upstreams.layers_of, upstreams.noiseless
relative_difference = upstreams.relative_difference
LORA = {"rank": 2, "alpha": 6}
ATTENTION = {
    "wav2vec2-bert": ["linear_q", "linear_k", "linear_v", "linear_out"],
    "others": ["q_proj", "k_proj", "v_proj", "out_proj"],
}


def adapted(variant, options=None, lora=None, **changes):
    options = dict(options or {}, lora={**LORA, **(lora or {})})
    return tiny(variant, options, **changes)


def randomise(frontend):
    """Adapters far from zero, as after much training."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in frontend.named_parameters():
        if plain_name(name) is None:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 0.3 * noise
    return frontend.eval()


def linear_maps(variant):
    """Every linear map of a layer."""
    layer = layers_of(tiny(variant))[0]
    return [n for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)]


def adapters_of(frontend, layers=(0, 1, 2)):
    """Names of A and B that are expected by default, in two sets."""
    maps = ATTENTION.get(frontend.name, ATTENTION["others"])
    found = [k for k, _ in frontend.named_modules()]
    prefixes = [
        k
        for k in found
        if k.split(".")[-1] in maps
        and int(k.split("layers.")[1].split(".")[0]) in layers
    ]
    assert len(prefixes) == len(maps) * len(layers)
    return [{f"{k}.lora_{x}.default.weight" for k in prefixes} for x in "AB"]


def step(frontend, lr):
    """One step of SGD: the gradients, and the names of what moved."""
    before = {k: p.detach().clone() for k, p in frontend.named_parameters()}
    frontend.train().zero_grad()
    loss_of(*frontend(*batch())).backward()
    trained = {k: p for k, p in frontend.named_parameters() if p.requires_grad}
    torch.optim.SGD(trained.values(), lr=lr).step()
    moved = {k for k, p in frontend.named_parameters() if not torch.equal(p, before[k])}
    return {k: p.grad for k, p in frontend.named_parameters()}, moved


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_changed_at_the_start(variant):
    plain, frontend = tiny(variant).eval(), adapted(variant).eval()
    for a, b in zip(plain(*batch())[0], frontend(*batch())[0]):
        assert torch.equal(a, b)
    # What is not trained may go another way through torch, with other rounding.
    frozen = tiny(variant, {"freeze": "all"}).eval()
    with torch.no_grad():
        for a, b in zip(frozen(*batch())[0], frontend(*batch())[0]):
            assert torch.equal(a, b)
    assert frontend.fingerprint() == plain.fingerprint()
    states = {plain_name(k): v for k, v in frontend.state_dict().items()}
    del states[None]
    assert set(states) == set(plain.state_dict())
    for key, value in plain.state_dict().items():
        assert torch.equal(states[key], value), key


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_adapter_and_nothing_else_moves(variant):
    frontend = adapted(variant, **noiseless(variant))
    a, b = adapters_of(frontend)
    before, _ = frontend.eval()(*batch())
    gradients, moved = step(frontend, lr=10.0)
    # B is zero at first, so A gets no gradient in the first step.
    assert moved == b
    assert {k for k, grad in gradients.items() if grad is not None} == a | b
    after, _ = frontend.eval()(*batch())
    for layer, (x, y) in enumerate(zip(before, after)):
        assert torch.equal(x, y) is (layer == 0)
    gradients, moved = step(frontend, lr=10.0)
    assert moved == a | b
    assert all(gradients[name].abs().max() > 0 for name in a | b)
    assert {k for k, grad in gradients.items() if grad is not None} == a | b


def test_the_package_alone_would_not_move_wavlm(monkeypatch):
    """WavLM reads the weights; the fault is there without the class made for it."""
    monkeypatch.setattr(module, "_adapted_linear", lambda: peft.tuners.lora.Linear)
    hidden_states, _ = adapted("wavlm").train()(*batch())
    assert not any(h.requires_grad for h in hidden_states)
    hidden_states, _ = adapted("hubert").train()(*batch())
    assert all(h.requires_grad for h in hidden_states[1:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_trained_adapters_equal_merged_weights(variant):
    """W + alpha / rank * B A, for every linear map of every layer."""
    targets = linear_maps(variant)
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
    with torch.no_grad():
        unadapted, _ = plain(speech, lengths)
        plain.load_state_dict(merged, strict=True)
        expected, frames = plain(speech, lengths)
        found, _ = frontend(speech, lengths)
    for layer, (x, y) in enumerate(zip(found, expected)):
        for i, t in enumerate(frames):
            assert relative_difference(x[i, :t], y[i, :t]) < 1e-9
            if layer > 0:
                assert relative_difference(unadapted[layer][i, :t], y[i, :t]) > 1e-2
    assert frontend.fingerprint() != plain.fingerprint()


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_exact_with_trained_adapters(variant):
    assert inexactness(randomise(adapted(variant)), *batch()) < 1e-4


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("freeze", ["none", "cnn", 0, {"layers": 2}])
def test_frozen_layers_get_no_adapter(model_type, freeze):
    variant = FIRST[model_type]
    changes = {key: 0.5 for key in noiseless(variant)}
    frontend = randomise(adapted(variant, {"freeze": freeze}, **changes))
    n = 2 if freeze == {"layers": 2} else 0
    a, b = adapters_of(frontend, range(n, 3))
    assert {k for k, p in frontend.named_parameters() if p.requires_grad} == a | b
    assert frontend.resolved_conf()["freeze"] == (2 if n else freeze)
    expected, _ = frontend(*batch())
    found, _ = frontend.train()(*batch())
    for layer, (x, y) in enumerate(zip(found, expected)):
        # No dropout and no graph below the first adapter.
        assert torch.equal(x, y) is (layer <= n)
        assert x.requires_grad is (layer > n)
    modes = [layer.training for layer in layers_of(frontend)]
    assert modes == [False] * n + [True] * (3 - n)
    depth = {layer for k, layer in frontend.layer_of_parameters().items() if k in a | b}
    assert depth == set(range(n + 1, 4))


@pytest.mark.parametrize("freeze", ["all", 3, {"layers": 3}])
def test_nothing_left_to_adapt_is_refused(freeze):
    with pytest.raises(ValueError, match="lora with freeze=(all|3), .* freeze fewer"):
        adapted("hubert", {"freeze": freeze})


def test_many_layers_get_the_adapters_that_are_theirs():
    """peft shortens long lists of names; data2vec has other `layers` too."""
    frontend = adapted("data2vec-audio", {"freeze": 1}, num_hidden_layers=11)
    a, b = adapters_of(frontend, range(1, 11))
    assert len(a) == 40
    assert {k for k, p in frontend.named_parameters() if p.requires_grad} == a | b


def test_targets_by_their_last_part():
    frontend = adapted("wavlm", lora={"target_modules": ["q_proj", "output_dense"]})
    names = {k for k, p in frontend.named_parameters() if p.requires_grad}
    expected = ["attention.q_proj", "feed_forward.output_dense"]
    assert names == {
        f"model.encoder.layers.{i}.{target}.lora_{x}.default.weight"
        for i in range(3)
        for target in expected
        for x in "AB"
    }
    gradients, moved = step(frontend, lr=1.0)
    assert len(moved) == 6
    with pytest.raises(ValueError, match="found fc9 in .*attention.q_proj, "):
        adapted("wavlm", lora={"target_modules": ["q_proj", "fc9"]})


def test_size_of_the_adapters():
    frontend = adapted("hubert", lora={"rank": 3})
    count = sum(p.numel() for p in frontend.parameters() if p.requires_grad)
    assert count == 3 * 4 * 3 * (32 + 32)


def test_spec_augment_trains_no_mask_embedding():
    frontend = adapted("wavlm", {"spec_augment": True}, mask_time_prob=0.5)
    assert not frontend.model.masked_spec_embed.requires_grad


@pytest.mark.parametrize("model_type", FAMILIES)
def test_rebuild_without_files(model_type):
    frontend = randomise(adapted(model_type, {"freeze": 1}, {"dropout": 0.1}))
    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    kind = "linear_q" if model_type == "wav2vec2-bert" else "q_proj"
    assert conf["lora"]["rank"] == 2 and conf["lora"]["alpha"] == 6
    assert any(t.endswith(kind) for t in conf["lora"]["target_modules"])
    rebuilt = HFFrontend(**conf, load_pretrained=False).eval()
    assert rebuilt.resolved_conf() == frontend.resolved_conf()
    assert rebuilt.fingerprint() != frontend.fingerprint()
    rebuilt.load_state_dict(frontend.state_dict(), strict=True)
    assert rebuilt.fingerprint() == frontend.fingerprint()
    with torch.no_grad():
        for a, b in zip(frontend(*batch())[0], rebuilt(*batch())[0]):
            assert torch.equal(a, b)


@pytest.mark.parametrize("model_type", ["wavlm", "whisper"])
def test_adapters_of_a_checkpoint(tmp_path, model_type):
    config = dict(VARIANTS[FIRST[model_type]])
    config = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    plain = HFFrontend(upstream=str(tmp_path))
    frontend = HFFrontend(upstream=str(tmp_path), lora=LORA)
    assert frontend.fingerprint() == plain.fingerprint()
    _, b = adapters_of(frontend)
    assert step(frontend, lr=10.0)[1] == b


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
    step(frontend, lr=10.0)
    trained = frontend.fingerprint()
    assert trained != start
    # The weights are no others, but what they do is.
    frontend.lora["alpha"] = 7
    assert frontend.fingerprint() != trained
    for name, parameter in frontend.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.zeros_(parameter)
    assert frontend.fingerprint() == start


def test_active_states():
    one, zero = torch.ones(2, 2), torch.zeros(2, 2)
    states = {
        "q.base_layer.weight": one,
        "q.lora_A.default.weight": one,
        "q.lora_B.default.weight": zero,
        "k.base_layer.weight": one,
        "k.lora_A.default.weight": one,
        "k.lora_B.default.weight": one,
        "norm.weight": one,
    }
    assert list(active_states(states)) == [
        "q.weight",
        "k.weight",
        "k.lora_A.default.weight",
        "k.lora_B.default.weight",
        "norm.weight",
    ]


@pytest.mark.parametrize("variant", ["wavlm base", "hubert base"])
def test_dropout_in_front_of_the_adapters(variant):
    """Off in eval mode; in train mode it leaves the expectation as it is."""
    frontend = randomise(adapted(variant, lora={"dropout": 0.4}, **noiseless(variant)))
    without = randomise(adapted(variant, **noiseless(variant)))
    with torch.no_grad():
        expected, _ = without(*batch())
        for a, b in zip(frontend(*batch())[0], expected):
            assert torch.equal(a, b)
        found, _ = frontend.train()(*batch())
        assert torch.equal(found[0], expected[0])
        assert relative_difference(found[1], expected[1]) > 1e-2
        layer = frontend.model.encoder.layers[0].attention.q_proj
        drawn = torch.stack([layer.weight for _ in range(4000)])
        mean = drawn.mean(dim=0)
        error = (drawn.std(dim=0) / 4000**0.5).clamp(min=1e-6)
        assert ((mean - layer.eval().weight) / error).abs().max() < 6


@pytest.mark.parametrize(
    "lora,message",
    [
        ({"rank": 0}, "lora.rank=0, expected 1 or more"),
        ({"rank": 2.0}, "lora.rank=2.0"),
        ({"rank": True}, "lora.rank=True"),
        ({"alpha": 0}, "lora.alpha=0, expected more than 0"),
        ({"alpha": "16"}, "lora.alpha='16'"),
        ({"dropout": 1}, "lora.dropout=1, expected "),
        ({"target_modules": "q_proj"}, "lora.target_modules='q_proj', expected a list"),
        ({"target_modules": []}, "lora.target_modules=..,"),
        ({"target_modules": [1]}, "lora.target_modules=.1.,"),
        ({"r": 8}, "lora=.'r': 8., expected null or a mapping with rank, alpha"),
        (True, "lora=True, expected null"),
    ],
)
def test_impossible_adapters_are_refused(lora, message):
    with pytest.raises(ValueError, match=f"found frontend_conf.{message}"):
        tiny(options=dict(lora=lora))


def test_defaults():
    assert read_lora(None) is None
    defaults = {"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": None}
    assert read_lora({}) == defaults
    assert read_lora({"rank": 4}) == {**defaults, "rank": 4}


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        ImportError, match="frontend_conf.lora needs .*pip install peft"
    ):
        adapted("hubert")
    tiny("hubert")
