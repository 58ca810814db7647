# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.head.abs_head import MOSPrediction, TokenColumn
from espnet2_distilmos.mos.loss.token import TokenCrossEntropyLoss, token_accuracy

COLUMNS = [TokenColumn("wavlm", 1, 4), TokenColumn("wavlm", 2, 6)]


def _prediction(frames, lengths, stride=1, seed=0):
    torch.manual_seed(seed)
    n = len(lengths)
    logits = [
        torch.randn(n, frames, column.num_clusters, requires_grad=True)
        for column in COLUMNS
    ]
    return MOSPrediction(
        utt_mos=torch.zeros(n),
        frame_mos=torch.zeros(n, frames),
        lengths=torch.tensor(lengths),
        token_logits=logits,
        embedding=torch.zeros(n, 1),
        frame_stride=stride,
    )


def _tokens(frames, lengths, seed=1):
    rng = np.random.default_rng(seed)
    tokens = np.full((len(lengths), frames, 2), -1)
    for i, n in enumerate(lengths):
        for s, column in enumerate(COLUMNS):
            tokens[i, :n, s] = rng.integers(0, column.num_clusters, n)
    return torch.from_numpy(tokens)


def _by_hand(made, tokens, frames, stride=1):
    """Mean over columns of the mean over valid frames of -log p(token)."""
    means, accuracies = [], []
    for s, logits in enumerate(made.token_logits):
        logits = logits.detach().double().numpy()
        costs, hits = [], []
        for i in range(len(logits)):
            for t in range(min(frames, logits.shape[1], int(made.lengths[i]))):
                if t * stride >= tokens.shape[1]:
                    break
                token = int(tokens[i, t * stride, s])
                if token < 0:
                    continue
                row = logits[i, t]
                costs.append(np.log(np.exp(row).sum()) - row[token])
                hits.append(row.argmax() == token)
        means.append(np.mean(costs))
        accuracies.append(np.mean(hits))
    return np.mean(means), accuracies


@pytest.mark.parametrize(
    "frames, token_frames, token_lengths",
    [
        (9, 9, [9, 5]),
        (9, 10, [10, 6]),  # tokens one frame longer
        (9, 8, [8, 4]),  # tokens one frame shorter
        (9, 9, [9, 0]),  # an utterance without tokens
    ],
)
def test_equals_the_loops(frames, token_frames, token_lengths):
    made = _prediction(frames, [9, 5])
    tokens = _tokens(token_frames, token_lengths)
    expected, accuracies = _by_hand(made, tokens, min(frames, token_frames))
    value = TokenCrossEntropyLoss()(made, {"tokens": tokens})
    assert float(value) == pytest.approx(expected, rel=1e-5)
    found = token_accuracy(made, tokens, COLUMNS)
    assert list(found) == ["token_acc_wavlm_l01", "token_acc_wavlm_l02"]
    assert [float(v) for v in found.values()] == pytest.approx(accuracies)
    value.backward()
    # Neither padded frames of the audio nor frames without a token have a gradient.
    assert (made.token_logits[0].grad[1, 5:] == 0).all()


def test_downsampled_head_reads_every_other_token():
    made = _prediction(5, [5, 3], stride=2)
    tokens = _tokens(10, [10, 6])
    expected, _ = _by_hand(made, tokens, 5, stride=2)
    value = TokenCrossEntropyLoss()(made, {"tokens": tokens})
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_no_tokens_is_a_zero_with_a_gradient_of_zero():
    made = _prediction(4, [4, 4])
    value = TokenCrossEntropyLoss()(made, {"tokens": _tokens(4, [0, 0])})
    value.backward()
    assert float(value) == 0
    assert all((logits.grad == 0).all() for logits in made.token_logits)


def test_uniform_logits_cost_ln_k():
    made = _prediction(3, [3])
    made.token_logits = [torch.zeros_like(logits) for logits in made.token_logits]
    value = TokenCrossEntropyLoss()(made, {"tokens": _tokens(3, [3])})
    assert float(value) == pytest.approx((np.log(4) + np.log(6)) / 2, rel=1e-6)


def test_columns_are_chosen_by_id():
    assert TokenCrossEntropyLoss().select(COLUMNS) == [0, 1]
    assert TokenCrossEntropyLoss(columns=["wavlm_l02"]).select(COLUMNS) == [1]
    with pytest.raises(ValueError, match="no token column wavlm_l03.*wavlm_l01"):
        TokenCrossEntropyLoss(columns=["wavlm_l03"]).select(COLUMNS)
    with pytest.raises(ValueError, match="no tokens: give --token_info"):
        TokenCrossEntropyLoss().select([])
