# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""From a student's hidden states to those of its teachers."""

from typing import List, Sequence

import torch


class LayerPredictor(torch.nn.Module):
    """Predicts several targets from one hidden state.

    As DistilHuBERT (arXiv 2110.01900) does: one projection to a vector a target, GELU,
    and one linear map a target from its own vector alone. It is no part of the network
    that is exported.

    Args:
        input_size: D of the hidden state.
        output_sizes: D_n of each target.
    """

    def __init__(self, input_size: int, output_sizes: Sequence[int]):
        super().__init__()
        self.projection = torch.nn.Linear(input_size, input_size * len(output_sizes))
        self.outputs = torch.nn.ModuleList(
            torch.nn.Linear(input_size, size) for size in output_sizes
        )

    def forward(self, state: torch.Tensor) -> List[torch.Tensor]:
        """Hidden state (B, T, D) to predictions (B, T, D_n)."""
        x = torch.nn.functional.gelu(self.projection(state))
        parts = x.chunk(len(self.outputs), dim=-1)
        return [output(part) for output, part in zip(self.outputs, parts)]
