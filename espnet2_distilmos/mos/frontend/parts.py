# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The parts of an upstream: what freezing and layer-wise learning rates refer to."""

import dataclasses
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

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

    def layer_of_parameters(self, module: torch.nn.Module) -> Dict[str, int]:
        """As :meth:`AbsLayerFrontend.layer_of_parameters`, in the names of ``module``.

        What belongs to no part (a mask embedding) enters the first layer.
        """
        layer_of = {}
        for number, layer in enumerate(self.layers, start=1):
            layer_of.update((id(p), number) for p in layer.parameters())
        for part in self.after_layers:
            layer_of.update((id(p), len(self.layers)) for p in part.parameters())
        return {name: layer_of.get(id(p), 0) for name, p in module.named_parameters()}


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


def frozen_modules(
    freeze: Union[str, int],
    model: torch.nn.Module,
    parts: Optional[UpstreamParts],
    name: str,
) -> List[torch.nn.Module]:
    """What is neither trained nor put into training mode.

    Args:
        freeze: as :func:`read_freeze` returns it.
        model: the whole upstream.
        parts: its parts; None where they are not known.
        name: of the upstream, for error messages.

    Raises:
        ValueError: when the upstream has no such parts.
    """
    if freeze in ("none", "all"):
        return [model] if freeze == "all" else []
    if parts is None:
        raise ValueError(
            f"found frontend_conf.freeze={freeze}, expected none or all: the parts of "
            f"{name} are not known here"
        )
    if freeze == "cnn":
        return parts.convolutions
    num_layers = len(parts.layers)
    if not 0 <= freeze <= num_layers:
        raise ValueError(
            f"found frontend_conf.freeze={freeze}, but {name} has {num_layers} "
            "transformer layers"
        )
    after = parts.after_layers if freeze == num_layers else []
    return [*parts.before_layers, *parts.layers[:freeze], *after]
