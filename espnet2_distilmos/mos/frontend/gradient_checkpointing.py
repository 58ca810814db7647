# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Gradient checkpointing: activations are computed again in the backward pass.

Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
"""

import functools
from typing import Iterable, Sequence

import torch
from torch.utils.checkpoint import checkpoint

from espnet2_distilmos.mos.frontend.masked_norm import MaskedGroupNorm


def checkpoint_modules(modules: Iterable[torch.nn.Module]) -> None:
    """Let each module keep its input alone and run again in the backward pass.

    What transformers has for this is not used: it knows neither the valid lengths of
    :class:`MaskedGroupNorm` nor the networks of s3prl. Dropout is the same both times.
    Modules without trained parameters stay as they are.
    """
    for module in modules:
        if any(p.requires_grad for p in module.parameters()):
            norms = [m for m in module.modules() if isinstance(m, MaskedGroupNorm)]
            # A partial of a bound method, unlike a closure, follows a deep copy.
            module.forward = functools.partial(_forward, module.forward, norms)


def _forward(forward, norms: Sequence[MaskedGroupNorm], *args, **kwargs):
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    lengths = [norm.lengths for norm in norms]

    def run(*args, **kwargs):
        # In the backward pass the norms have the lengths of another batch, or none.
        now = [norm.lengths for norm in norms]
        try:
            for norm, value in zip(norms, lengths):
                norm.lengths = value
            return forward(*args, **kwargs)
        finally:
            for norm, value in zip(norms, now):
                norm.lengths = value

    return checkpoint(run, *args, use_reentrant=False, **kwargs)
