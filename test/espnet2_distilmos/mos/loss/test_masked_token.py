# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.head.abs_head import MOSPrediction
from espnet2_distilmos.mos.loss.masked_token import (
    MaskedTokenCrossEntropyLoss,
    split_tokens,
)
from espnet2_distilmos.mos.loss.token import token_accuracy


def example(stride=1):
    torch.manual_seed(0)
    logits = [torch.randn(2, 8 // stride, k, requires_grad=True) for k in (4, 6)]
    lengths = torch.tensor([8, 5]) // stride
    prediction = MOSPrediction(None, None, lengths, logits, None, stride)
    tokens = torch.stack([torch.randint(k, (2, 9)) for k in (4, 6)], -1)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, 2:5] = mask[1, 3:5] = True
    return prediction, {"tokens": tokens, "mask": mask}


def by_hand(prediction, target, chosen):
    """Cross-entropy over the chosen (B, T) frames, mean over the columns."""
    stride = prediction.frame_stride
    tokens = target["tokens"][:, :8:stride]
    costs = [
        F.cross_entropy(logits[chosen], tokens[..., i][chosen])
        for i, logits in enumerate(prediction.token_logits)
    ]
    return sum(costs) / len(costs)


@pytest.mark.parametrize("alpha", [1.0, 0.7, 0.0, None])
def test_loss_is_the_cross_entropy_of_the_chosen_frames(alpha):
    prediction, target = example()
    valid = torch.arange(8) < prediction.lengths[:, None]
    masked, unmasked = valid & target["mask"], valid & ~target["mask"]
    loss = MaskedTokenCrossEntropyLoss(alpha=alpha, normalise=False)
    found = loss(prediction, target)
    if alpha is None:
        expected = by_hand(prediction, target, valid)
    else:
        expected = alpha * by_hand(prediction, target, masked)
        expected = expected + (1 - alpha) * by_hand(prediction, target, unmasked)
    torch.testing.assert_close(found, expected)
    assert loss.count(prediction, target) == (5 if alpha == 1 else 13)
    found.backward()
    wanted = {1.0: masked, 0.0: unmasked}.get(alpha, valid)
    for logits in prediction.token_logits:
        assert torch.equal(logits.grad.ne(0).any(dim=-1), wanted)


def test_accuracies_of_masked_and_other_frames():
    prediction, target = example()
    tokens = target["tokens"]
    tokens[:, :8, 0] = prediction.token_logits[0].argmax(dim=-1)
    for place in ((0, 2), (0, 0), (1, 6)):  # masked, another, padding
        tokens[place][0] = (tokens[place][0] + 1) % 4
    masked, unmasked = split_tokens(tokens, target["mask"])
    for part, expected, count in ((masked, 4 / 5, 5), (unmasked, 7 / 8, 8)):
        found = token_accuracy(prediction, part)
        assert found[0][0] == pytest.approx(expected) and found[1] == count


def test_masks_are_taken_at_the_stride_of_the_head():
    prediction, target = example(stride=2)
    found = MaskedTokenCrossEntropyLoss(normalise=False)(prediction, target)
    chosen = torch.zeros(2, 4, dtype=torch.bool)
    # frames 2 and 4 of the first; frame 4 of the second is padding
    chosen[0, 1] = chosen[0, 2] = True
    torch.testing.assert_close(found, by_hand(prediction, target, chosen))
