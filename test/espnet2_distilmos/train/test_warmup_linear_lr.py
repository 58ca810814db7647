# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch
from espnet2.schedulers.abs_scheduler import AbsBatchStepScheduler

from espnet2_distilmos.train.warmup_linear_lr import WarmupLinearLR


def rates(warmup_steps, total_steps, steps):
    """The rates of two groups that each of the steps uses, (steps, groups)."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    groups[0]["lr"] = 1e-4
    optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.9)
    scheduler = WarmupLinearLR(optimizer, warmup_steps, total_steps)
    assert isinstance(scheduler, AbsBatchStepScheduler)
    used = []
    for _ in range(steps):
        used.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return torch.tensor(used)


def test_rates_rise_and_fall():
    # up in steps of 1/4, down in steps of 1/7, zero after ten steps
    scale = torch.tensor([1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7])
    scale = torch.cat([scale, torch.tensor([1 / 7, 0, 0])])
    expected = scale[:, None] * torch.tensor([1e-4, 1e-2])
    torch.testing.assert_close(rates(4, 10, 12), expected)
    expected = torch.tensor([0.8, 0.6, 0.4, 0.2, 0])
    torch.testing.assert_close(rates(0, 4, 5)[:, 1] / 1e-2, expected)


def test_impossible_steps_are_refused():
    with pytest.raises(ValueError, match="warmup_steps < total_steps"):
        rates(5, 5, 1)
