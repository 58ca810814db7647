# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy

import pytest
import torch

from espnet2_distilmos.mos.frontend.gradient_checkpointing import checkpoint_modules
from espnet2_distilmos.mos.frontend.masked_norm import MaskedGroupNorm

from . import tiny_upstreams as upstreams

FIRST, VARIANTS, batch = upstreams.FIRST, upstreams.VARIANTS, upstreams.batch
loss_of, noiseless, tiny = upstreams.loss_of, upstreams.noiseless, upstreams.tiny


def step(frontend, lengths=(8000, 3210, 5555)):
    """Hidden states and gradients in train mode, and bytes kept for the backward."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)
    frontend.train().zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_states, frames = frontend(*batch(lengths))
    # Another batch before the backward pass, as for a second view: its lengths are
    # not those of the first.
    other = loss_of(*frontend(*batch((4000, 7000), seed=1)))
    (loss_of(hidden_states, frames) + other).backward()
    gradients = {k: p.grad for k, p in frontend.named_parameters()}
    for p in frontend.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    return hidden_states, gradients, sum(kept.values())


PLAIN = [(variant, dropout, {}) for variant in VARIANTS for dropout in (0.0, 0.1)]
FREEZE = [(variant, 0.1, {"freeze": 1}) for variant in FIRST.values()]
LORA = [(variant, 0.1, {"lora": {"dropout": 0.1}}) for variant in FIRST.values()]


@pytest.mark.parametrize("variant,dropout,options", PLAIN + FREEZE + LORA)
def test_same_hidden_states_and_gradients_with_less_kept(variant, dropout, options):
    changes = {key: dropout for key in noiseless(variant)}
    plain = tiny(variant, options, **changes)
    saving = tiny(variant, dict(options, gradient_checkpointing=True), **changes)
    expected, gradients, bytes_kept = step(plain)
    found, found_gradients, fewer_bytes = step(saving)
    assert len(found) == saving.num_layers + 1 == 4
    for a, b in zip(found, expected):
        assert torch.equal(a, b)
    assert set(found_gradients) == set(gradients)
    for name, gradient in gradients.items():
        if gradient is None:
            assert found_gradients[name] is None, name
        else:
            scale = gradient.abs().max().clamp(min=1e-12)
            difference = (found_gradients[name] - gradient).abs().max() / scale
            assert difference < 1e-6, name
    assert fewer_bytes < 0.6 * bytes_kept


@pytest.mark.parametrize("variant", ["hubert base", "whisper"])
def test_nothing_runs_twice_without_gradients(variant):
    frontend = tiny(variant, {"gradient_checkpointing": True})
    runs = []
    first = next(upstreams.layers_of(frontend)[0].children())
    first.register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        frontend.eval()(*batch())
    assert len(runs) == 1
    loss_of(*frontend.train()(*batch())).backward()
    assert len(runs) == 3


def test_frozen_upstream_has_nothing_to_recompute():
    frontend = tiny(options={"gradient_checkpointing": True, "freeze": "all"})
    assert not any("forward" in vars(m) for m in frontend.modules())
    assert frontend.resolved_conf()["gradient_checkpointing"] is True
    assert tiny().resolved_conf()["gradient_checkpointing"] is False


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = MaskedGroupNorm(3)
        self.conv = torch.nn.Conv1d(3, 3, 3, padding=1)

    def forward(self, x, *, scale=1.0):
        return torch.tanh(self.norm(self.conv(x))) * scale


def test_the_lengths_of_the_forward_pass_hold_in_the_backward_pass():
    torch.manual_seed(0)
    plain = Block()
    saving = copy.deepcopy(plain)
    checkpoint_modules([saving])
    x = torch.randn(2, 3, 7)
    for block in (plain, saving):
        block.norm.lengths = torch.tensor([7, 4])
        output = block(x, scale=2.0)
        block.norm.lengths = None
        output.square().sum().backward()
        assert block.norm.lengths is None
    assert torch.equal(plain.conv.weight.grad, saving.conv.weight.grad)
    # Without the lengths the gradient would be another one.
    plain.zero_grad()
    plain(x, scale=2.0).square().sum().backward()
    difference = plain.conv.weight.grad - saving.conv.weight.grad
    assert difference.abs().max() > 1e-3


def test_a_copy_runs_its_own_weights():
    block = Block()
    checkpoint_modules([block])
    other = copy.deepcopy(block)
    torch.nn.init.zeros_(other.norm.weight)
    torch.nn.init.zeros_(other.norm.bias)
    x = torch.randn(1, 3, 5)
    assert not other(x).any() and block(x).any()
