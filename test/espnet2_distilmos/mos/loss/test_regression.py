# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import math

import pytest
import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.regression import (
    FrameL1Loss,
    FrameMSELoss,
    UtteranceL1Loss,
    UtteranceMSELoss,
)


def prediction(frame_mos, lengths):
    frame_mos = torch.tensor(frame_mos, requires_grad=True)
    utt = torch.stack([frame_mos[i, :n].mean() for i, n in enumerate(lengths)])
    return MOSPrediction(utt, frame_mos, torch.tensor(lengths), None, None), frame_mos


# Worked out by hand: utterance means 3.7333, 1.5; the third has no label.
# tau 0.25: only 5.0 (error 1.9) in the first, 1.0 (error 1) in the second.
EXPECTED = {
    UtteranceL1Loss: ((11.2 / 3 - 3.1) + 0.5) / 2,
    UtteranceMSELoss: ((11.2 / 3 - 3.1) ** 2 + 0.25) / 2,
    FrameL1Loss: (1.9 / 3 + 1.0 / 2) / 2,
    FrameMSELoss: (1.9**2 / 3 + 1.0 / 2) / 2,
}


@pytest.mark.parametrize("loss", EXPECTED)
def test_closed_form_with_padding_and_a_missing_label(loss):
    frames = [[3.0, 3.2, 5.0], [1.0, 2.0, 99.0], [4.0, 4.0, 4.0]]
    made, leaf = prediction(frames, [3, 2, 3])
    target = {"mos": torch.tensor([3.1, 2.0, math.nan])}
    value = loss()(made, target)
    assert float(value) == pytest.approx(EXPECTED[loss], abs=1e-6)
    assert loss().count(made, target) == 2
    value.backward()
    assert torch.isfinite(leaf.grad).all()
    assert leaf.grad[1, 2] == 0 and not leaf.grad[2].any() and leaf.grad[0].any()
    # nothing labelled: a zero with a gradient of zero
    made, leaf = prediction(frames, [3, 2, 3])
    value = loss()(made, {"mos": torch.full((3,), math.nan)})
    value.backward()
    assert float(value) == 0 and not leaf.grad.any()


def test_tau():
    made, _ = prediction([[2.0, 3.0]], [2])
    value = FrameL1Loss(tau=0.0)(made, {"mos": torch.tensor([2.2])})
    assert float(value) == pytest.approx(0.5)
