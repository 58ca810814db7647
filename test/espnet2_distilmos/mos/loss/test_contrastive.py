# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import math

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.contrastive import ContrastiveLoss


def _loss(scores, labels, **options):
    scores = torch.tensor(scores, requires_grad=True)
    n = len(labels)
    made = MOSPrediction(
        scores, scores[:, None], torch.ones(n), None, torch.zeros(n, 1)
    )
    return ContrastiveLoss(**options)(made, {"mos": torch.tensor(labels)}), scores


def test_equals_the_sum_over_pairs_written_as_loops():
    rng = np.random.default_rng(0)
    scores, labels = rng.uniform(1, 5, 7), rng.uniform(1, 5, 7)
    labels[3] = math.nan
    costs = []
    for i in range(7):
        for j in range(i + 1, 7):
            if 3 in (i, j):
                continue
            gap = abs((scores[i] - scores[j]) - (labels[i] - labels[j]))
            costs.append(max(0.0, gap - 0.2))
    value, leaf = _loss(scores.tolist(), labels.tolist(), margin=0.2)
    assert float(value) == pytest.approx(np.mean(costs), rel=1e-5)
    value.backward()
    assert leaf.grad[3] == 0 and leaf.grad.abs().sum() > 0


def test_differences_within_the_margin_are_free_whatever_the_offset():
    value, _ = _loss([2.0, 3.05], [3.0, 4.0], margin=0.1)
    assert float(value) == 0


@pytest.mark.parametrize("labels", [[3.0], [3.0, math.nan], [math.nan, math.nan]])
def test_no_pair_is_a_zero_with_a_gradient_of_zero(labels):
    value, leaf = _loss([1.0] * len(labels), labels)
    value.backward()
    assert float(value) == 0 and (leaf.grad == 0).all()


def test_negative_margin_is_refused():
    with pytest.raises(ValueError, match="contrastive.margin"):
        ContrastiveLoss(margin=-0.1)
