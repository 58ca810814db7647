# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.windows import WindowPlan, blend

PLAN = WindowPlan(limit=100, window=60, hop=30, grid=10)


def split(plan, num_samples, block):
    wave = torch.arange(num_samples)
    blocks = (wave[i : i + block] for i in range(0, num_samples, block))
    return [(start, samples.tolist()) for start, samples in plan.split(blocks)]


def expected_starts(plan, num_samples):
    """From the definition: multiples of the hop, and one that ends at the end."""
    if num_samples <= plan.limit:
        return [0]
    last = (num_samples - plan.window) // plan.grid * plan.grid
    return [s for s in range(0, num_samples, plan.hop) if s < last] + [last]


@pytest.mark.parametrize("block", [1, 7, 30, 1000])
def test_windows_lie_where_the_definition_says(block):
    for num_samples in [1, 99, 100, 101, 109, 110, 119, 120, 121, 130, 187, 190, 500]:
        found = split(PLAN, num_samples, block)
        assert [start for start, _ in found] == expected_starts(PLAN, num_samples)
        for start, samples in found:
            # they are what stands there in the waveform
            assert samples == list(range(start, start + len(samples)))
            assert start % PLAN.grid == 0
        assert found[-1][1][-1] == num_samples - 1
        if len(found) > 1:
            assert all(len(samples) == PLAN.window for _, samples in found[:-1])
            assert PLAN.window <= len(found[-1][1]) < PLAN.window + PLAN.grid


def test_nothing_gives_one_empty_window():
    ((start, samples),) = PLAN.split([])
    assert start == 0 and len(samples) == 0


def test_no_more_is_held_than_a_window_and_a_hop():
    held = []

    def blocks():
        for i in range(1000):
            held.append(i * 10)
            yield torch.zeros(10)

    most = 0
    for start, samples in PLAN.split(blocks()):
        most = max(most, held[-1] + 10 - start)
    assert most <= PLAN.limit + PLAN.window


@pytest.mark.parametrize("limit", [3, 25, 100, 101, 480159])
@pytest.mark.parametrize("grid", [1, 3, 320])
def test_made_plans_keep_their_promises(limit, grid):
    minimum = grid + grid // 2
    if limit < 3 * grid:
        with pytest.raises(ValueError, match="expected at least"):
            WindowPlan.make(limit, 320000, grid, minimum)
        return
    plan = WindowPlan.make(limit, 320000, grid, minimum)
    assert minimum <= plan.window <= 320000 and plan.window + grid <= limit
    assert plan.window % grid == plan.hop % grid == 0
    assert 0 < plan.hop <= max(plan.window // 2, grid)
    for num_samples in (limit, limit + 1, 3 * limit + 5):
        sizes = [len(w) for _, w in plan.split([torch.zeros(num_samples)])]
        assert max(sizes) <= limit
    with pytest.raises(ValueError, match="expected at least"):
        WindowPlan.make(limit, 320000, grid, limit)


def test_blending_half_overlapping_windows_is_a_linear_fade():
    first, second = torch.full((6,), 2.0), torch.full((6,), 5.0)
    found, shares = blend([first, second], [0, 3])
    # weights 3 2 1 of the first and 1 2 3 of the second in the overlap
    np.testing.assert_allclose(found, [2, 2, 2, 2.75, 3.5, 4.25, 5, 5, 5])
    np.testing.assert_allclose(shares, [0.5, 0.5])


def test_shares_are_how_much_a_window_counts():
    """The derivative of the mean of the joint track by a constant of the window."""
    starts, lengths = [0, 4, 7], [8, 8, 9]
    offsets = torch.zeros(3, requires_grad=True)
    tracks = [torch.zeros(n) + offset for n, offset in zip(lengths, offsets)]
    found, shares = blend(tracks, starts)
    (expected,) = torch.autograd.grad(found.mean(), offsets)
    np.testing.assert_allclose(shares.detach(), expected, rtol=1e-6)
