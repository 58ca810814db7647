# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import argparse

import pytest
import torch

from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.loss.l0 import L0Loss
from espnet2_distilmos.mos.pruning import draw_gates, mean_gates

UPSTREAM = {
    "model_type": "hubert",
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def build(losses, pruned=None):
    torch.manual_seed(0)
    conf = {"upstream_config": UPSTREAM, "pruned": pruned}
    config = {"frontend": "hf", "frontend_conf": conf, "head": "distilmos"}
    config.update(head_conf={"hidden_dim": 16}, losses=losses)
    return build_model(config, load_pretrained=True)


def batch():
    generator = torch.Generator().manual_seed(0)
    speech = 0.1 * torch.randn(3, 4000, generator=generator)
    mos = torch.tensor([2.0, 3.0, 4.0])
    lengths = torch.tensor([4000, 3900, 3000])
    return dict(speech=speech, speech_lengths=lengths, mos=mos)


def test_gates_are_drawn_in_training_alone():
    model = build({"mos_l1": {}, "l0": {"keep": 0.5}})
    loss = model.losses["l0"]
    heads, ffn = loss.log_alpha[:4], loss.log_alpha[4:28]
    assert torch.allclose(heads, torch.tensor(99.0).log())
    assert torch.equal(ffn, torch.zeros(24))
    model.eval()
    alike = [float(model(**batch())["loss"]) for _ in range(2)]
    assert alike[0] == alike[1]
    assert torch.equal(loss._gates, mean_gates(loss.log_alpha))
    # Another draw in each pass.
    model.train()
    model(**batch())
    first = loss._gates
    model(**batch())
    assert not torch.equal(first, loss._gates)
    torch.manual_seed(5)
    model.frontend(batch()["speech"], batch()["speech_lengths"])
    torch.manual_seed(5)
    assert torch.equal(loss._gates, draw_gates(loss.log_alpha))


def test_a_closed_gate_is_a_removed_unit():
    model = build({"mos_l1": {}, "l0": {"keep": 0.5}}).eval()
    loss = model.losses["l0"]
    kept = torch.arange(len(loss.log_alpha)) % 3 > 0
    loss.log_alpha.data = torch.where(kept, 9.0, -9.0)
    gated = model.inference(batch()["speech"], batch()["speech_lengths"]).utt_mos
    plain = build({"mos_l1": {}}).eval()
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert set(missing.unexpected_keys) == {
        f"losses.l0.{name}" for name in ("log_alpha", "multipliers", "steps")
    }
    for k, layer in enumerate(plain.frontend.model.encoder.layers):
        own = kept[28 * k : 28 * (k + 1)]
        heads = own[:4].repeat_interleave(4)
        layer.attention.out_proj.weight.data.mul_(heads)
        layer.feed_forward.output_dense.weight.data.mul_(own[4:])
    expected = plain.inference(batch()["speech"], batch()["speech_lengths"]).utt_mos
    assert torch.allclose(gated, expected, atol=1e-5)


def test_expected_sparsity_and_its_target():
    options = {"keep": 0.25, "ramp_steps": 4}
    model = build({"mos_l1": {}, "l0": options}).train()
    loss = model.losses["l0"]
    sizes = torch.tensor([4 * (4 * 16 + 3.0)] * 4 + [33.0] * 24).repeat(2)
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(20000, 56, generator=generator)
    is_open = draw_gates(loss.log_alpha.detach().expand(20000, 56), u) > 0
    expected = 1 - (is_open * sizes).sum(1).mean() / sizes.sum()
    assert float(loss.sparsity()) == pytest.approx(float(expected), abs=2e-3)
    loss.multipliers.data = torch.tensor([0.7, 3.0])
    for step in range(1, 7):
        missed = float(loss.sparsity()) - 0.75 * min(step / 4, 1)
        found = model(**batch())["stats"]["l0"]
        assert float(found) == pytest.approx(0.7 * missed + 3 * missed**2, abs=1e-5)
    # A validation does not move the target.
    model.eval()(**batch())
    assert int(loss.steps) == 6
    # Multipliers ascend where gates descend.
    model.zero_grad()
    loss(None, None).backward()
    missed = float(loss.sparsity()) - 0.75
    assert torch.allclose(loss.multipliers.grad, -torch.tensor([missed, missed**2]))
    slope = 0.7 + 2 * 3.0 * missed
    p = torch.sigmoid(loss.log_alpha + 2 / 3 * torch.tensor(11.0).log())
    by_hand = -slope * sizes / sizes.sum() * p * (1 - p)
    assert torch.allclose(loss.log_alpha.grad, by_hand.detach(), rtol=1e-4, atol=1e-7)


def test_it_starts_from_the_sparsity_of_a_pruned_network():
    left = {"heads": [[0, 3], [1]], "ffn": [12, 0]}
    model = build({"mos_l1": {}, "l0": {"keep": 0.1, "ramp_steps": 10**9}}, left)
    loss = model.losses["l0"]
    total = 2 * (4 * 268 + 24 * 33)
    assert float(loss.shares.sum()) == pytest.approx((3 * 268 + 12 * 33) / total)
    loss.multipliers.data = torch.tensor([1.0, 0.0])
    missed = float(loss(None, None))
    assert missed == pytest.approx(float(loss.sparsity() - 1 + loss.shares.sum()))


def test_the_share_is_reached_by_descent():
    """The gates close until about the share is left, whatever they do to the score."""
    model = build({"mos_l1": {}, "l0": {"keep": 0.4, "ramp_steps": 100}}).train()
    loss = model.losses["l0"]
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        loss(None, None).backward()
        optimizer.step()
    assert float(loss.sparsity()) == pytest.approx(0.6, abs=0.05)


def test_its_parameters_have_a_rate_of_their_own():
    from espnet2_distilmos.tasks.mos import MOSTask

    model = build({"mos_l1": {}, "l0": {"keep": 0.5, "learning_rate": 0.03}})
    options = {"lr": 1e-3, "weight_decay": 0.1}
    args = argparse.Namespace(optim="adamw", optim_conf=options, upstream_lr=1e-4)
    args.upstream_lr_decay = None
    (optimizer,) = MOSTask.build_optimizers(args, model)
    own = {id(p) for p in model.losses["l0"].parameters()}
    groups = optimizer.param_groups
    assert [group["lr"] for group in groups] == [1e-4, 0.03, 1e-3]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1]
    assert {id(p) for p in groups[1]["params"]} == own
    sizes = [len(group["params"]) for group in groups]
    assert sum(sizes) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("options", [{"keep": 0}, {"keep": 1.1}, {"ramp_steps": 0}])
def test_impossible_options(options):
    with pytest.raises(ValueError, match="losses.l0"):
        L0Loss(**options)
