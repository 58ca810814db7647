# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy

import pytest
import torch

from espnet2_distilmos.mos.frontend.gradient_checkpointing import checkpoint_modules

from .tiny_upstreams import batch, each_family, layers_of, loss_of, noiseless, tiny


def step(frontend):
    """Hidden states and gradients in train mode, and bytes kept for the backward."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_states, frames = frontend.train()(*batch())
    # Another batch before the backward pass, as for a second view: its lengths are
    # not those of the first.
    other = loss_of(*frontend(*batch((4000, 7000), seed=1)))
    (loss_of(hidden_states, frames) + other).backward()
    gradients = {k: p.grad for k, p in frontend.named_parameters()}
    for p in frontend.parameters():
        kept.pop(p.untyped_storage().data_ptr(), None)
    return hidden_states, gradients, sum(kept.values())


def check_equal_gradients(found, expected):
    for name, gradient in expected.items():
        if gradient is None:
            assert found[name] is None, name
        else:
            scale = gradient.abs().max().clamp(min=1e-12)
            assert (found[name] - gradient).abs().max() < 1e-6 * scale, name


@each_family
@pytest.mark.parametrize("options", [{}, {"freeze": 1}, {"lora": {"dropout": 0.1}}])
def test_same_hidden_states_and_gradients_with_less_kept(model_type, options):
    changes = {key: 0.1 for key in noiseless(model_type)}
    saving = tiny(model_type, dict(options, gradient_checkpointing=True), **changes)
    expected, gradients, bytes_kept = step(tiny(model_type, options, **changes))
    found, found_gradients, fewer_bytes = step(saving)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    check_equal_gradients(found_gradients, gradients)
    assert fewer_bytes < 0.6 * bytes_kept


def test_nothing_runs_twice_without_gradients():
    frontend = tiny(options={"gradient_checkpointing": True})
    runs = []
    first = next(layers_of(frontend)[0].children())
    first.register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        frontend.eval()(*batch())
    assert len(runs) == 1
    loss_of(*frontend.train()(*batch())).backward()
    assert len(runs) == 3


def test_a_copy_runs_its_own_weights():
    block = torch.nn.Sequential(torch.nn.Linear(3, 3))
    checkpoint_modules([block])
    other = copy.deepcopy(block)
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    assert not other(torch.ones(1, 3)).any() and block(torch.ones(1, 3)).any()
