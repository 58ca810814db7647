# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""One hidden state out of those of all layers."""

from typing import Dict, List

import torch


class LayerMix(torch.nn.Module):
    """Learned convex combination of layers, or one of them.

    DistilMOS takes p = entmax_1.5(w - mean(w)), which can give a layer no weight at
    all; softmax is SUPERB's choice.

    Args:
        layers: which of the L + 1 hidden states are mixed.
        kind: ``entmax15``, ``softmax`` or ``single`` (then one layer).

    Raises:
        ValueError: for an unknown kind, or several layers with ``single``.
    """

    def __init__(self, layers: List[int], kind: str = "entmax15"):
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
        if self.weights is None:
            return hidden_states[self.layers[0]]
        weights = self.probabilities().to(hidden_states[0].dtype)
        # Summed in turn: a stack of all layers would double the memory.
        mixed = weights[0] * hidden_states[self.layers[0]]
        for weight, layer in zip(weights[1:], self.layers[1:]):
            mixed = mixed + weight * hidden_states[layer]
        return mixed

    def statistics(self) -> Dict[str, torch.Tensor]:
        """The weight of each layer, named ``mix_l<layer>``."""
        if self.weights is None:
            return {}
        weights = self.probabilities().detach()
        return {f"mix_l{layer:02d}": w for layer, w in zip(self.layers, weights)}
