# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy
import math
from operator import attrgetter

import pytest
import torch
import yaml

from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.frontend.hf import HFFrontend, prunable_families
from espnet2_distilmos.mos.frontend.spec_cnn import SpecCNNFrontend
from espnet2_distilmos.mos.head.distilmos import DistilMOSHead
from espnet2_distilmos.mos.pruning import (
    Units,
    choose,
    draw_gates,
    macs_per_second,
    mean_gates,
    open_probability,
    random_importance,
    taylor_importance,
)

from .frontend.tiny_upstreams import (
    FIRST,
    VARIANTS,
    batch,
    in_turn,
    inexactness,
    loss_of,
    noiseless,
    relative_difference,
    states_of,
    tiny,
    trained_of,
)

PRUNABLE = [v for v in VARIANTS if VARIANTS[v]["model_type"] in prunable_families()]
each_variant = pytest.mark.parametrize("variant", in_turn(PRUNABLE))
each_family = pytest.mark.parametrize("model_type", in_turn(prunable_families()))
HEADS, INNER, LAYERS = 4, 48, 3


def upstream(variant, **options):
    name = "num_attention_heads"
    if VARIANTS[FIRST.get(variant, variant)]["model_type"] == "whisper":
        name = "encoder_attention_heads"
    changes = {name: HEADS, **noiseless(variant)}
    frontend = tiny(variant, options, **changes).eval()
    # The biases and gates of WavLM are otherwise small or constant.
    generator = torch.Generator().manual_seed(2)
    for key, p in frontend.named_parameters():
        if "rel_attn_embed" in key or "gru_rel_pos_const" in key:
            p.data.normal_(generator=generator)
    return frontend


def some(units, empty=1):
    """About half of the units, none of the layer ``empty``."""
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(len(units), generator=generator) < 0.5
    parts = units.split(kept)
    parts[2 * empty][:] = parts[2 * empty + 1][:] = False
    return torch.cat(parts)


def masked(frontend, kept):
    """transformers' network, with zeros where a removed unit's output is read."""
    frontend = copy.deepcopy(frontend)
    units = kept.split([HEADS, INNER] * LAYERS)
    names, size = frontend.family.unit_names, frontend.head_size
    for k, layer in enumerate(frontend.family.parts(frontend.model).layers):
        attention = getattr(layer, names.attention)
        assert type(attention).__module__.startswith("transformers")
        heads = units[2 * k].repeat_interleave(size)
        attention.out_proj.weight.data.mul_(heads)
        attrgetter(names.outer)(layer).weight.data.mul_(units[2 * k + 1])
    return frontend


def count(frontend):
    return sum(p.numel() for p in frontend.parameters())


@each_variant
def test_pruned_is_masked(variant):
    frontend = upstream(variant)
    whole = copy.deepcopy(frontend)
    units = Units(frontend)
    kept = some(units)
    expected = states_of(masked(whole, kept))
    left = units.remove(kept)
    found = states_of(frontend)
    frames = frontend(*batch())[1]
    for a, b in zip(found, expected, strict=True):
        for item, n in enumerate(frames):
            assert relative_difference(a[item, :n], b[item, :n]) < 1e-5
    # Something was removed that counts, and as much as was said.
    assert relative_difference(found[-1], states_of(whole)[-1]) > 1e-2
    assert count(whole) - count(frontend) == units.sizes[~kept].sum()
    assert left.total == units.total == units.sizes.sum()
    assert left.kept == pytest.approx(units.sizes[kept].sum() / units.total)
    assert len(left) == kept.sum()
    # As exact as the whole network in padded batches.
    assert inexactness(frontend, *batch((8000, 3210, 5555, 1100))) < 1e-4


@each_variant
def test_a_pruned_network_is_rebuilt_of_its_configuration(variant):
    frontend = upstream(variant)
    before = frontend.fingerprint()
    units = Units(frontend)
    assert frontend.fingerprint() == before  # only other modules
    units.remove(some(units))
    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    again = build_frontend("hf", conf, load_pretrained=False).eval()
    again.load_state_dict(frontend.state_dict(), strict=True)
    assert count(again) == count(frontend)
    assert again.fingerprint() == frontend.fingerprint() != before
    for a, b in zip(states_of(again), states_of(frontend), strict=True):
        assert torch.equal(a, b)


@each_family
def test_pruned_in_two_steps_and_trained_between(model_type):
    frontend = upstream(model_type)
    units = Units(frontend)
    first = some(units)
    left = units.remove(first)
    second = some(left, empty=2)
    loss_of(*frontend.train()(*batch())).backward()
    unused = {k for k, p in trained_of(frontend).items() if p.grad is None}
    assert not {k for k in unused if "masked_spec_embed" not in k}
    numbers = frontend.pruned["heads"]
    left.remove(second)
    whole = upstream(model_type)
    both = first.clone()
    both[first] = second
    expected = states_of(masked(whole, both))
    frames = frontend.eval()(*batch())[1]
    for a, b in zip(states_of(frontend), expected, strict=True):
        for item, n in enumerate(frames):
            assert relative_difference(a[item, :n], b[item, :n]) < 1e-5
    for now, before in zip(frontend.pruned["heads"], numbers):
        assert set(now) <= set(before)
    assert frontend.pruned["heads"][1:] == [[], []]
    assert frontend.pruned["ffn"][1:] == [0, 0]


def test_frozen_parts_and_checkpointing_stay():
    options = dict(freeze={"layers": 2}, gradient_checkpointing=True)
    frontend = upstream("hubert", **options)
    units = Units(frontend)
    units.remove(some(units, empty=0))
    frontend.train()
    layers = frontend.model.encoder.layers
    assert not any(p.requires_grad for x in layers[:2] for p in x.parameters())
    assert all(p.requires_grad for p in layers[2].parameters())
    assert not any(m.training for x in layers[:2] for m in x.modules())


@each_family
def test_gates_and_soft_values(model_type):
    frontend = upstream(model_type)
    units = Units(frontend)
    generator = torch.Generator().manual_seed(1)
    kept = some(units)
    gates = torch.rand(len(units), generator=generator) * kept
    plain = states_of(frontend)
    with units.gated(gates):
        expected = states_of(frontend)
    assert all(torch.equal(a, b) for a, b in zip(plain, states_of(frontend)))
    units.remove(kept, gates)
    for a, b in zip(states_of(frontend), expected, strict=True):
        assert relative_difference(a, b) < 1e-5


@each_family
def test_taylor_is_the_slope_of_the_loss(model_type):
    options = {"gradient_checkpointing": model_type == "hubert"}
    frontend = upstream(model_type, **options).double()
    units = Units(frontend)
    batches = [batch((4000, 3000), seed=seed) for seed in (3, 4)]

    def loss(inputs):
        speech, lengths = inputs
        return loss_of(*frontend(speech.double(), lengths))

    found = taylor_importance(loss, units, batches)
    is_head = units.is_head()
    assert is_head.sum() == HEADS * LAYERS
    # Two of each kind in each layer.
    chosen, start = [], 0
    for size in [HEADS, INNER] * LAYERS:
        chosen += [start, start + size - 1]
        start += size
    step = 1e-4
    for unit in chosen:
        expected = 0.0
        for inputs in batches:
            sides = []
            for sign in (1, -1):
                gates = torch.ones(len(units), dtype=torch.float64)
                gates[unit] += sign * step
                with units.gated(gates), torch.no_grad():
                    sides.append(float(loss(inputs)))
            expected += abs(sides[0] - sides[1]) / (2 * step)
        # The gates themselves are in fp32.
        assert float(found[unit]) == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_a_network_cut_to_its_first_layers():
    frontend = upstream("wavlm", num_layers=2)
    units = Units(frontend)
    assert len(units) == 2 * (HEADS + INNER) and units.kept == 1.0
    units.remove(some(units, empty=0))
    conf = frontend.resolved_conf()
    again = build_frontend("hf", conf, load_pretrained=False).eval()
    again.load_state_dict(frontend.state_dict(), strict=True)
    for a, b in zip(states_of(again), states_of(frontend), strict=True):
        assert torch.equal(a, b)


def test_other_importances():
    frontend = upstream("hubert")
    units = Units(frontend)
    layer = frontend.model.encoder.layers[1]
    magnitudes = units.split(units.magnitudes())
    head = slice(8, 16)
    projections = [getattr(layer.attention, f"{x}_proj") for x in "qkv"]
    expected = sum(float(p.weight[head].square().sum()) for p in projections)
    expected += sum(float(p.bias[head].square().sum()) for p in projections)
    expected += float(layer.attention.out_proj.weight[:, head].square().sum())
    assert float(magnitudes[2][1]) == pytest.approx(expected)
    inner, outer = (
        layer.feed_forward.intermediate_dense,
        layer.feed_forward.output_dense,
    )
    expected = inner.weight[7].square().sum() + outer.weight[:, 7].square().sum()
    expected += inner.bias[7].square()
    assert float(magnitudes[3][7]) == pytest.approx(float(expected))
    drawn = [random_importance(units, seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    # Of each kind the same share is kept.
    shares = []
    for seed in range(200):
        kept = choose(random_importance(units, seed), units.sizes, units.total / 2)
        shares.append([kept[units.is_head()].double().mean(), kept.double().mean()])
    heads, all_units = torch.tensor(shares).mean(0)
    assert heads == pytest.approx(0.5, abs=0.05) and all_units == pytest.approx(
        0.5, abs=0.05
    )


def test_choose():
    importance = torch.tensor([9.0, 4.0, 3.0, 2.0, 2.0])
    sizes = torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0])
    cases = {0: [], 1: [1], 3.5: [1, 2, 3], 4: [0, 1], 5: [0, 1, 2], 7: range(5)}
    for budget, expected in cases.items():
        # 3.5: what is next where the large one does not fit.
        kept = choose(importance, sizes, budget).nonzero().flatten().tolist()
        assert kept == list(expected), budget


# Hard-concrete gates


def test_hard_concrete_gates_against_sampling():
    log_alpha = torch.tensor([-4.0, -1.6, -0.5, 0.0, 1.0, 4.6], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = 200000
    u = torch.rand(draws, 6, generator=generator, dtype=torch.float64)
    gates = draw_gates(log_alpha.expand(draws, 6), u)
    assert gates.min() == 0 and gates.max() == 1
    is_open = (gates > 0).double().mean(0)
    assert torch.allclose(is_open, open_probability(log_alpha), atol=5e-3)
    # By the quantile function: open where u > sigmoid(beta log(.1 / 1.1) - log alpha).
    edge = torch.sigmoid(2 / 3 * math.log(0.1 / 1.1) - log_alpha)
    assert torch.allclose(open_probability(log_alpha), 1 - edge)
    assert torch.equal(mean_gates(torch.tensor([-9.0, 9.0])), torch.tensor([0.0, 1.0]))
    middle = mean_gates(log_alpha)
    assert (middle.diff() > 0).all() or middle[0] == 0
    # The gradient of a draw, by differences.
    value = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a: draw_gates(a, torch.tensor([0.4], dtype=torch.float64)), value
    )


# Costs


def counted_macs(frontend, head, seconds, monkeypatch):
    """By hooks on all modules with weights, and on the attention function."""
    total = {"upstream": 0, "head": 0}

    def hook(module, inputs, output, part):
        output = output[0] if isinstance(output, tuple) else output
        if isinstance(module, torch.nn.LSTM):
            weights = [p for k, p in module.named_parameters() if "weight" in k]
            total[part] += sum(w.numel() for w in weights) * output.size(1)
        else:
            channels = module.weight.size(0)
            positions = output.numel() // channels if channels else 0
            total[part] += module.weight.numel() * positions

    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.LSTM)
    for part, whole in (("upstream", frontend), ("head", head)):
        for module in whole.modules():
            if isinstance(module, kinds):
                module.register_forward_hook(
                    lambda *args, part=part: hook(*args, part=part)
                )
    plain = torch.nn.functional.scaled_dot_product_attention

    def attend(query, key, value, **options):
        total["upstream"] += query[..., 0].numel() * key.size(-2) * query.size(-1)
        total["upstream"] += query[..., 0].numel() * key.size(-2) * value.size(-1)
        return plain(query, key, value, **options)

    name = "scaled_dot_product_attention"
    monkeypatch.setattr(torch.nn.functional, name, attend)
    samples = int(16000 * seconds)
    with torch.no_grad():
        states, lengths = frontend(torch.randn(1, samples), torch.tensor([samples]))
        head(states, lengths)
    return {part: macs / seconds for part, macs in total.items()}


@each_variant
@pytest.mark.parametrize("seconds", [0.7, 3])
def test_macs_against_counting(variant, seconds, monkeypatch):
    frontend = upstream(variant)
    units = Units(frontend)  # transformers' WavLM hands its weights to torch
    head = DistilMOSHead(32, LAYERS, hidden_dim=16).eval()
    whole = macs_per_second(frontend, head, seconds)
    units.remove(some(units))
    found = macs_per_second(frontend, head, seconds)
    assert found["head"] == whole["head"] and found["upstream"] < whole["upstream"]
    assert found == pytest.approx(counted_macs(frontend, head, seconds, monkeypatch))


@pytest.mark.parametrize("seconds", [0.7, 3.013])
def test_macs_of_a_network_from_scratch(seconds, monkeypatch):
    frontend = SpecCNNFrontend(channels=[3, 4, 5], hidden_size=12, num_layers=2)
    head = DistilMOSHead(12, 2, hidden_dim=16).eval()
    found = macs_per_second(frontend.eval(), head, seconds)
    assert found == pytest.approx(counted_macs(frontend, head, seconds, monkeypatch))
    with pytest.raises(ValueError, match="not known, expected spec_cnn or one of"):
        macs_per_second(build_frontend("mfcc", {}))


# Bad input


def test_families_without_a_plan_name_those_with_one():
    for frontend in (tiny("wav2vec2-bert"), build_frontend("mfcc", {})):
        with pytest.raises(ValueError, match="no unit is known.*wavlm, whisper"):
            Units(frontend)


def test_adapters_are_refused():
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match="adapters"):
        Units(upstream("hubert", lora={"rank": 2}))


FULL = {"heads": [[0, 1, 2, 3]] * 3, "ffn": [48] * 3}


@pytest.mark.parametrize(
    "pruned",
    [
        {"heads": [[0]] * 3},
        {"heads": [[0]] * 2, "ffn": [4, 4]},
        {"heads": [[0], [1], [4]], "ffn": [4, 4, 4]},
        {"heads": [[0], [1], [3, 1]], "ffn": [4, 4, 4]},
        {"heads": [[0], [1], [1]], "ffn": [4, 49, 4]},
        {"heads": [[0], [1], [1]], "ffn": [4, -1, 4]},
        {"heads": [1, 1, 1], "ffn": [4, 4, 4]},
        {"heads": [[0]] * 3, "ffn": [4] * 3, "more": 1},
        "half",
    ],
)
def test_what_is_no_selection_of_units(pruned):
    assert upstream("hubert", pruned=FULL).pruned == FULL
    with pytest.raises(ValueError, match="frontend_conf.pruned=.*48 inner units"):
        upstream("hubert", pruned=pruned)


def test_a_checkpoint_of_the_whole_network_is_not_cut(tmp_path):
    frontend = upstream("hubert")
    frontend.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="--init_model"):
        HFFrontend(upstream=str(tmp_path), pruned=FULL)
