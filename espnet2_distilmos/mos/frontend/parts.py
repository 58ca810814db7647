# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The parts of an upstream: what freezing and layer-wise learning rates refer to."""

import dataclasses
from typing import Any, List, Mapping, Sequence, Union

import torch


@dataclasses.dataclass
class UpstreamParts:
    """Parts of an upstream, in the order in which speech passes them.

    Attributes:
        convolutions: what ``freeze: cnn`` freezes.
        before_layers: all that hidden state 0 depends on, convolutions included.
        layers: the L transformer layers.
        after_layers: what lies between the last layer and the last hidden state.
        lora_targets: linear maps of a layer that get adapters by default.
        blocks: the blocks of the convolutions, for gradient checkpointing.
    """

    convolutions: List[torch.nn.Module]
    before_layers: List[torch.nn.Module]
    layers: Sequence[torch.nn.Module]
    after_layers: List[torch.nn.Module]
    lora_targets: Sequence[str] = ()
    blocks: Sequence[torch.nn.Module] = ()


def read_freeze(freeze: Any) -> Union[str, int]:
    """``frontend_conf.freeze`` in the one spelling that ``resolved_conf`` has.

    Args:
        freeze: ``none``, ``cnn``, ``all``, a number n, or ``{layers: n}``.

    Returns:
        The word or the number.

    Raises:
        ValueError: for anything else.
    """
    found = freeze
    if isinstance(freeze, Mapping) and set(freeze) == {"layers"}:
        found = freeze["layers"]
    elif freeze in ("none", "cnn", "all"):
        return freeze
    if isinstance(found, bool) or not isinstance(found, int):
        raise ValueError(
            f"found frontend_conf.freeze={freeze!r}, expected none, cnn, all or "
            "{layers: n}, n being the number of first transformer layers"
        )
    return found
