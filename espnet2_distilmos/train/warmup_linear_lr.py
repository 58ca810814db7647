# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Learning-rate schedules that ESPnet does not have."""

from typing import List

import torch
from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler
from torch.optim.lr_scheduler import LRScheduler


class WarmupLinearLR(LRScheduler, AbsBatchStepScheduler):
    """Linear rise to each group's own rate, then linear fall to zero.

    Args:
        optimizer: with one rate a group.
        warmup_steps: steps until the full rate.
        total_steps: steps until zero; the rate stays there afterwards.

    Raises:
        ValueError: unless 0 <= warmup_steps < total_steps.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        warmup_steps: int = 500,
        total_steps: int = 10000,
        last_epoch: int = -1,
    ):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"found warmup_steps={warmup_steps} and total_steps={total_steps}, "
                "expected 0 <= warmup_steps < total_steps"
            )
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> List[float]:
        # +1: the first step already moves, the last one still does.
        step = self.last_epoch + 1
        if step <= self.warmup_steps:
            scale = step / self.warmup_steps
        else:
            left = self.total_steps + 1 - step
            scale = max(0.0, left / (self.total_steps + 1 - self.warmup_steps))
        return [lr * scale for lr in self.base_lrs]
