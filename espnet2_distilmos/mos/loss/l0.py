# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Learnt gates on attention heads and inner units, of which fewer and fewer are open.

Louizos et al., arXiv 1712.01312 (hard-concrete gates); Wang et al., Structured Pruning
of Large Language Models, arXiv 1910.04732 (the constraint), as DPHuBERT (Peng et al.,
arXiv 2305.17651) has them.
"""

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, MOSPrediction
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss, Target
from espnet2_distilmos.mos.pruning import (
    Units,
    draw_gates,
    mean_gates,
    open_probability,
)


class L0Loss(AbsMOSLoss):
    """``l1 (S - t) + l2 (S - t)^2``, S being the expected sparsity by parameters.

    Gates multiply what the units of the frontend hand on: random ones in training, one
    draw a pass, their test-time values otherwise. The target t rises linearly from the
    sparsity at the start to ``1 - keep``. The multipliers l1 and l2 ascend.
    `distilmos prune --importance l0` trains with it, and removes the units then.

    Args:
        keep: share of the units, before any pruning and by parameters, that is left.
        ramp_steps: training steps until the target is reached.
        head_drop, ffn_drop: p of heads and inner units at the start, where log alpha is
            log((1 - p) / p); DPHuBERT's values.
        learning_rate: of gates and multipliers.
    """

    name = "l0"
    needs = frozenset()

    def __init__(
        self,
        weight: float = 1.0,
        keep: float = 0.3,
        ramp_steps: int = 5000,
        head_drop: float = 0.01,
        ffn_drop: float = 0.5,
        learning_rate: float = 0.02,
    ):
        super().__init__(weight)
        if not (0 < keep <= 1 and ramp_steps >= 1):
            raise ValueError(
                f"found losses.{self.name} with keep={keep} and ramp_steps="
                f"{ramp_steps}, expected a keep in (0, 1] and 1 or more steps"
            )
        self.keep, self.ramp_steps = keep, ramp_steps
        self.head_drop, self.ffn_drop = head_drop, ffn_drop
        self.learning_rate = learning_rate

    def attach(self, frontend: AbsLayerFrontend, head: AbsMOSHead) -> None:
        units = Units(frontend)
        drop = torch.where(units.is_head(), self.head_drop, self.ffn_drop)
        self.log_alpha = torch.nn.Parameter(((1 - drop) / drop).log())
        self.multipliers = torch.nn.Parameter(torch.zeros(2))
        self.register_buffer("steps", torch.tensor(0))
        shares = units.sizes / units.total
        self.register_buffer("shares", shares.float(), persistent=False)
        self._gates = mean_gates(self.log_alpha.detach())
        frontend.register_forward_pre_hook(self._draw)
        units.gate(lambda: self._gates)

    def _draw(self, *args) -> None:
        # Once a pass: gradient checkpointing runs layers again with the same gates.
        draw = draw_gates if self.training else mean_gates
        self._gates = draw(self.log_alpha)

    def sparsity(self) -> torch.Tensor:
        """Expected share of the units, by parameters, that is closed: scalar."""
        return 1.0 - (self.shares * open_probability(self.log_alpha)).sum()

    def forward(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        if self.training:
            self.steps += 1
        start = 1.0 - self.shares.sum()
        progress = (self.steps / self.ramp_steps).clamp(max=1.0)
        target = torch.lerp(start, torch.full_like(start, 1.0 - self.keep), progress)
        missed = self.sparsity() - target
        # Their value, and the opposite of their gradient: descent is ascent.
        first, second = 2 * self.multipliers.detach() - self.multipliers
        return first * missed + second * missed.square()

    def count(self, prediction: MOSPrediction, target: Target) -> torch.Tensor:
        return torch.ones_like(self.steps)
