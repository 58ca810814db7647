# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""One hidden state out of those of all layers."""

from typing import Dict, List, Optional

import torch


class LayerAdapter(torch.nn.Module):
    """A residual bottleneck: x + up(GELU(down(layer_norm(x)))), the identity at first.

    Houlsby et al. 2019; one a layer before the mix, so that a frozen upstream's layers
    are turned towards MOS each by itself.
    """

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.norm = torch.nn.LayerNorm(size)
        self.down = torch.nn.Linear(size, dim)
        self.up = torch.nn.Linear(dim, size)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.up(torch.nn.functional.gelu(self.down(self.norm(x))))


class LayerMix(torch.nn.Module):
    """Learned convex combination of layers, or one of them.

    DistilMOS takes p = entmax_1.5(w - mean(w)), which can give a layer no weight at
    all; softmax is SUPERB's choice.

    Args:
        layers: which of the L + 1 hidden states are mixed.
        kind: ``entmax15``, ``softmax`` or ``single`` (then one layer).
        size: dimension D of the hidden states; read where there is an adapter.
        adapter_dim: bottleneck of the :class:`LayerAdapter` of each layer; None is
            no adapter.

    Raises:
        ValueError: for an unknown kind, or several layers with ``single``.
    """

    def __init__(
        self,
        layers: List[int],
        kind: str = "entmax15",
        size: int = 0,
        adapter_dim: Optional[int] = None,
    ):
        super().__init__()
        if kind not in ("entmax15", "softmax", "single"):
            raise ValueError(
                f"found layer_mix={kind!r}, expected entmax15, softmax or single"
            )
        if kind == "single" and len(layers) != 1:
            raise ValueError(
                f"found layers={layers} with layer_mix=single, expected one layer"
            )
        self.layers = list(layers)
        self.kind = kind
        self.weights = None
        if kind != "single":
            self.weights = torch.nn.Parameter(torch.randn(len(layers)) * 0.02)
        self.adapters = None
        if adapter_dim is not None:
            self.adapters = torch.nn.ModuleList(
                LayerAdapter(size, adapter_dim) for _ in layers
            )

    def probabilities(self) -> torch.Tensor:
        """Weights of the layers, (len(layers),), non-negative, summing to one."""
        logits = self.weights.float()
        if self.kind == "softmax":
            return torch.softmax(logits, dim=0)
        # Where it is used: a bare ESPnet, without entmax, imports this module.
        from entmax import entmax15

        return entmax15(logits - logits.mean(), dim=0)

    def forward(self, hidden_states: List[torch.Tensor]) -> torch.Tensor:
        """Mix L + 1 tensors (B, T, D) into one."""
        states = [hidden_states[layer] for layer in self.layers]
        if self.adapters is not None:
            states = [adapt(x) for adapt, x in zip(self.adapters, states)]
        if self.weights is None:
            return states[0]
        weights = self.probabilities().to(states[0].dtype)
        # Summed in turn: a stack of all layers would double the memory.
        mixed = weights[0] * states[0]
        for weight, x in zip(weights[1:], states[1:]):
            mixed = mixed + weight * x
        return mixed

    def statistics(self) -> Dict[str, torch.Tensor]:
        """The weight of each layer, named ``mix_l<layer>``."""
        if self.weights is None:
            return {}
        weights = self.probabilities().detach()
        return {f"mix_l{layer:02d}": w for layer, w in zip(self.layers, weights)}
