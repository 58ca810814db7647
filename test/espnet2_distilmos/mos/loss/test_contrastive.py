# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import math

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.contrastive import ContrastiveLoss


def loss_of(scores, labels, **options):
    scores = torch.tensor(scores, requires_grad=True)
    made = MOSPrediction(scores, None, None, None, None)
    value = ContrastiveLoss(**options)(made, {"mos": torch.tensor(labels)})
    value.backward()
    return value.item(), scores.grad


def test_equals_the_sum_over_pairs_written_as_loops():
    rng = np.random.default_rng(0)
    scores, labels = rng.uniform(1, 5, 7), rng.uniform(1, 5, 7)
    labels[3] = math.nan
    costs = [
        max(0.0, abs((scores[i] - scores[j]) - (labels[i] - labels[j])) - 0.2)
        for i in range(7)
        for j in range(i + 1, 7)
        if 3 not in (i, j)
    ]
    value, gradient = loss_of(scores.tolist(), labels.tolist(), margin=0.2)
    assert value == pytest.approx(np.mean(costs), rel=1e-5)
    assert gradient[3] == 0 and gradient.abs().sum() > 0
    # within the margin, whatever the offset
    assert loss_of([2.0, 3.05], [3.0, 4.0], margin=0.1)[0] == 0


def test_without_corpora_as_ever_to_the_last_bit():
    """By the formula in which every labelled utterance is compared with every other."""
    generator = torch.Generator().manual_seed(0)
    labels = 1 + 4 * torch.rand(16, generator=generator)
    labels[5] = math.nan
    scores = 1 + 4 * torch.rand(16, generator=generator)
    value, gradient = loss_of(scores.tolist(), labels.tolist())
    scores.requires_grad_()
    error = scores[labels.isfinite()] - labels[labels.isfinite()]
    first, second = torch.triu_indices(15, 15, 1)
    expected = torch.relu((error[first] - error[second]).abs() - 0.1).mean()
    expected.backward()
    assert value == expected.item() and torch.equal(gradient, scores.grad)
