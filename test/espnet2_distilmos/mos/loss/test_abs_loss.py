# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import math

import torch

from espnet2_distilmos.mos.loss.abs_loss import labelled_mean


def test_labelled_mean():
    values = torch.tensor([1.0, 5.0, math.nan])
    assert float(labelled_mean(values, torch.tensor([True, True, False]))) == 3
    assert float(labelled_mean(values, torch.tensor([False] * 3))) == 0
