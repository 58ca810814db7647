# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction, TokenColumn
from espnet2_distilmos.mos.loss.token import TokenCrossEntropyLoss, token_accuracy

COLUMNS = [TokenColumn("wavlm", 1, 4), TokenColumn("wavlm", 2, 6)]


def make_prediction(frames, lengths, stride=1):
    torch.manual_seed(0)
    logits = [
        torch.randn(len(lengths), frames, column.num_clusters, requires_grad=True)
        for column in COLUMNS
    ]
    return MOSPrediction(None, None, torch.tensor(lengths), logits, None, stride)


def make_tokens(frames, lengths):
    rng = np.random.default_rng(1)
    tokens = np.full((len(lengths), frames, 2), -1)
    for i, n in enumerate(lengths):
        for s, column in enumerate(COLUMNS):
            tokens[i, :n, s] = rng.integers(0, column.num_clusters, n)
    return torch.from_numpy(tokens)


def by_hand(made, tokens):
    """Costs -log p(token) and hits, (columns, frames that have a token)."""
    costs, hits = [], []
    for s, logits in enumerate(made.token_logits):
        logits, count = logits.detach().double().numpy(), made.frame_stride
        rows = [
            (logits[i, t], int(tokens[i, t * count, s]))
            for i, length in enumerate(made.lengths.tolist())
            for t in range(length)
            if t * count < tokens.shape[1] and tokens[i, t * count, s] >= 0
        ]
        costs.append([np.log(np.exp(row).sum()) - row[token] for row, token in rows])
        hits.append([row.argmax() == token for row, token in rows])
    return np.array(costs), np.array(hits)


@pytest.mark.parametrize(
    "frames, lengths, token_frames, token_lengths, stride",
    [
        (9, [9, 5], 10, [10, 6], 1),  # tokens one frame longer
        (9, [9, 5], 8, [8, 0], 1),  # one shorter, and an utterance without tokens
        (5, [5, 3], 10, [10, 6], 2),  # a head that downsamples
    ],
)
def test_equals_the_loops(frames, lengths, token_frames, token_lengths, stride):
    made = make_prediction(frames, lengths, stride)
    tokens = make_tokens(token_frames, token_lengths)
    costs, hits = by_hand(made, tokens)
    loss = TokenCrossEntropyLoss(normalise=False)
    value = loss(made, {"tokens": tokens})
    assert float(value) == pytest.approx(costs.mean(), rel=1e-5)
    assert loss.count(made, {"tokens": tokens}) == costs.shape[1]
    accuracy, count = token_accuracy(made, tokens)
    assert count == costs.shape[1]
    assert accuracy.tolist() == pytest.approx(hits.mean(axis=1).tolist())
    value.backward()
    # neither padded frames nor frames without a token have a gradient
    assert not made.token_logits[0].grad[1, lengths[1] :].any()


def test_columns_of_other_sizes_count_alike():
    """CE / ln K: guessing costs 1 in each; of one size nothing changes."""
    made = make_prediction(9, [9, 5])
    tokens = make_tokens(9, [9, 5])
    costs, _ = by_hand(made, tokens)
    each = costs.mean(axis=1) / np.log([4, 6])
    loss = TokenCrossEntropyLoss()
    assert float(loss(made, {"tokens": tokens})) == pytest.approx(each.mean(), rel=1e-5)
    assert TokenCrossEntropyLoss(normalise=False)(
        made, {"tokens": tokens}
    ).item() == pytest.approx(costs.mean(), rel=1e-5)
    made.token_logits = [torch.zeros_like(logits) for logits in made.token_logits]
    assert float(loss(made, {"tokens": tokens})) == pytest.approx(1, rel=1e-6)
    # Of one size, or of one column.
    made, tokens = make_prediction(9, [9, 5]), tokens[..., :1]
    made.token_logits = made.token_logits[:1]
    cost = torch.nn.functional.cross_entropy(
        made.token_logits[0].transpose(1, 2), tokens[..., 0], ignore_index=-1
    )
    assert float(loss(made, {"tokens": tokens})) == pytest.approx(float(cost), rel=1e-6)
    value = TokenCrossEntropyLoss(normalise=True)(made, {"tokens": tokens})
    assert float(value) == pytest.approx(float(cost) / np.log(4), rel=1e-6)
    with pytest.raises(ValueError, match="token_ce.normalise='yes'"):
        TokenCrossEntropyLoss(normalise="yes")


def test_no_tokens_is_a_zero_with_a_gradient_of_zero():
    made = make_prediction(4, [4, 4])
    value = TokenCrossEntropyLoss()(made, {"tokens": make_tokens(4, [0, 0])})
    value.backward()
    assert float(value) == 0
    assert not any(logits.grad.any() for logits in made.token_logits)


def test_columns_are_chosen_by_id():
    assert TokenCrossEntropyLoss().select(COLUMNS) == [0, 1]
    assert TokenCrossEntropyLoss(columns=["wavlm_l02"]).select(COLUMNS) == [1]
    with pytest.raises(ValueError, match="wavlm_l03.*wavlm_l01"):
        TokenCrossEntropyLoss(columns=["wavlm_l03"]).select(COLUMNS)
    with pytest.raises(ValueError, match="--token_info"):
        TokenCrossEntropyLoss().select([])
