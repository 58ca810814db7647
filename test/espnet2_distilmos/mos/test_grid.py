# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import torch

from espnet2_distilmos.mos.grid import aggregate, side_by_side


def test_frames_are_paired_by_their_centres():
    """Seven and nine frames, those of the second upstream a frame ahead."""
    rows = [np.arange(7)[None], 10 + np.arange(9)[None]]
    parts, lengths = [torch.from_numpy(r) for r in rows], [
        torch.tensor([n]) for n in (7, 9)
    ]
    found, valid = side_by_side(parts, lengths, [0, 1])
    assert [part[0].tolist() for part in found] == [[*range(7)], [*range(11, 18)]]
    assert valid.tolist() == [7]
    # On the grid of the second, the first begins a frame late.
    found, valid = side_by_side(parts, lengths, [-1, 0])
    assert found[0][0].tolist() == [0, *range(7)] and valid.tolist() == [8]
    assert found[1][0].tolist() == [*range(10, 18)]


def standardised(x):
    x = x.astype(np.float64)
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)


def test_aggregates_equal_numpy():
    generator = np.random.default_rng(0)
    # Of the sizes of their numbers nothing is left.
    states = [s * generator.normal(size=(2, 5, 8)) + s for s in (1.0, 1e3)]
    tensors = [torch.from_numpy(state) for state in states]
    first, second = (standardised(state) for state in states)
    found = aggregate(tensors, "average").numpy()
    np.testing.assert_allclose(found, (first + second) / 2, rtol=1e-6)
    found = aggregate([tensors[0], tensors[1][..., :3]], "concat").numpy()
    expected = np.concatenate([first, standardised(states[1][..., :3])], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
