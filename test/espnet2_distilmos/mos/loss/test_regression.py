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

ALL = [UtteranceL1Loss, UtteranceMSELoss, FrameL1Loss, FrameMSELoss]


def prediction(frame_mos, lengths):
    frame_mos = torch.tensor(frame_mos, requires_grad=True)
    lengths = torch.tensor(lengths)
    utt = torch.stack([frame_mos[i, :n].mean() for i, n in enumerate(lengths)])
    made = MOSPrediction(utt, frame_mos, lengths, None, torch.zeros(len(lengths), 1))
    return made, frame_mos


def target(*mos):
    return {"mos": torch.tensor(mos)}


FRAMES = [[3.0, 3.2, 5.0], [1.0, 2.0, 99.0], [4.0, 4.0, 4.0]]
LENGTHS = [3, 2, 3]
MOS = (3.1, 2.0, math.nan)
# Worked out by hand: utterance means 3.7333, 1.5; the third has no label.
EXPECTED = {
    UtteranceL1Loss: ((3.1 - 11.2 / 3) * -1 + 0.5) / 2,
    UtteranceMSELoss: ((11.2 / 3 - 3.1) ** 2 + 0.25) / 2,
    # tau 0.25: only 5.0 (error 1.9) in the first, 1.0 (error 1) in the second.
    FrameL1Loss: (1.9 / 3 + 1.0 / 2) / 2,
    FrameMSELoss: (1.9**2 / 3 + 1.0 / 2) / 2,
}


@pytest.mark.parametrize("loss", ALL)
def test_closed_form_with_padding_and_a_missing_label(loss):
    made, frames = prediction(FRAMES, LENGTHS)
    value = loss()(made, target(*MOS))
    assert float(value) == pytest.approx(EXPECTED[loss], abs=1e-6)
    value.backward()
    assert torch.isfinite(frames.grad).all()
    assert frames.grad[1, 2] == 0 and (frames.grad[2] == 0).all()
    assert frames.grad[0].abs().sum() > 0


@pytest.mark.parametrize("loss", ALL)
def test_no_label_at_all_is_a_zero_with_a_gradient_of_zero(loss):
    made, frames = prediction(FRAMES, LENGTHS)
    value = loss()(made, target(math.nan, math.nan, math.nan))
    value.backward()
    assert float(value) == 0 and (frames.grad == 0).all()


@pytest.mark.parametrize("loss", ALL)
def test_padding_of_the_batch_does_not_change_the_loss(loss):
    made, _ = prediction([[2.0, 3.0], [4.0, 1.0]], [2, 1])
    longer, _ = prediction([[2.0, 3.0, 7.0], [4.0, 1.0, 8.0]], [2, 1])
    labels = target(1.0, 5.0)
    assert torch.allclose(loss()(made, labels), loss()(longer, labels))


def test_tau_zero_is_the_unclipped_error():
    made, _ = prediction([[2.0, 3.0]], [2])
    assert float(FrameL1Loss(tau=0.0)(made, target(2.2))) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="frame_mse.tau"):
        FrameMSELoss(tau=-1)


def test_negative_weight_is_refused():
    with pytest.raises(ValueError, match="losses.mos_l1.weight=-1"):
        UtteranceL1Loss(weight=-1)
