# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.head.abs_head import MOSPrediction, TokenColumn
from espnet2_distilmos.mos.loss.masked_token import (
    MaskedTokenCrossEntropyLoss,
    split_tokens,
)
from espnet2_distilmos.mos.loss.token import count_tokens, token_accuracy

COLUMNS = [TokenColumn("hubert", 1, 4), TokenColumn("hubert", 2, 6)]


def example(stride=1):
    torch.manual_seed(0)
    logits = [torch.randn(2, 8 // stride, c.num_clusters) for c in COLUMNS]
    for column in logits:
        column.requires_grad_()
    prediction = MOSPrediction(
        utt_mos=None,
        frame_mos=None,
        lengths=torch.tensor([8, 5]) // stride,
        token_logits=logits,
        embedding=torch.zeros(2, 1),
        frame_stride=stride,
    )
    tokens = torch.stack([torch.randint(c.num_clusters, (2, 9)) for c in COLUMNS], -1)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, 2:5] = True
    mask[1, 3:5] = True
    return prediction, {"tokens": tokens, "mask": mask}


def by_hand(prediction, target, chosen):
    """Cross-entropy over the chosen (B, T) frames, mean over the columns."""
    return sum(
        F.cross_entropy(logits[chosen], target["tokens"][:, :8, i][chosen])
        for i, logits in enumerate(prediction.token_logits)
    ) / len(prediction.token_logits)


@pytest.mark.parametrize("alpha", [1.0, 0.7, 0.0, None])
def test_loss_is_the_cross_entropy_of_the_chosen_frames(alpha):
    prediction, target = example()
    valid = torch.arange(8) < prediction.lengths[:, None]
    masked, unmasked = valid & target["mask"], valid & ~target["mask"]
    found = MaskedTokenCrossEntropyLoss(alpha=alpha)(prediction, target)
    if alpha is None:
        expected = by_hand(prediction, target, valid)
    else:
        expected = alpha * by_hand(prediction, target, masked)
        expected = expected + (1 - alpha) * by_hand(prediction, target, unmasked)
    torch.testing.assert_close(found, expected)
    found.backward()
    for logits in prediction.token_logits:
        touched = logits.grad.ne(0).any(dim=-1)
        wanted = {1.0: masked, 0.0: unmasked}.get(alpha, valid)
        assert torch.equal(touched, wanted)


def test_accuracies_of_masked_and_other_frames():
    prediction, target = example()
    target["tokens"][:, :8, 0] = prediction.token_logits[0].argmax(dim=-1)
    target["tokens"][0, 2, 0] = (target["tokens"][0, 2, 0] + 1) % 4  # of 5 masked
    target["tokens"][0, 0, 0] = (target["tokens"][0, 0, 0] + 1) % 4  # of 8 others
    target["tokens"][1, 6, 0] = (target["tokens"][1, 6, 0] + 1) % 4  # padding
    masked, unmasked = split_tokens(target["tokens"], target["mask"])
    for tokens, expected, count in ((masked, 4 / 5, 5), (unmasked, 7 / 8, 8)):
        found = token_accuracy(prediction, tokens, COLUMNS)
        assert found["token_acc_hubert_l01"] == pytest.approx(expected)
        assert count_tokens(prediction, tokens) == count
    # what the loss averages over
    assert MaskedTokenCrossEntropyLoss().count(prediction, target) == 5
    assert MaskedTokenCrossEntropyLoss(alpha=None).count(prediction, target) == 13


def test_masks_are_taken_at_the_heads_stride():
    prediction, target = example(stride=2)
    found = MaskedTokenCrossEntropyLoss()(prediction, target)
    frames = [(0, 1), (0, 2)]  # frames 2, 4 of the first; 4 of the second is padding
    expected = sum(
        F.cross_entropy(logits[b, t], target["tokens"][b, 2 * t, i])
        for i, logits in enumerate(prediction.token_logits)
        for b, t in frames
    )
    torch.testing.assert_close(found, expected / 4)


def test_an_impossible_alpha_is_refused():
    with pytest.raises(ValueError, match="masked_token_ce.alpha=1.5"):
        MaskedTokenCrossEntropyLoss(alpha=1.5)
