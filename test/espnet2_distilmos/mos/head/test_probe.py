# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The linear probe against scikit-learn on features computed one by one."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from espnet2_distilmos.mos.head.distilmos import DistilMOSHead
from espnet2_distilmos.mos.head.probe import PENALTIES, Probe, ProbeHead

D, L = 6, 4


def utterances(count=40, seed=0):
    """Hidden states of utterances, each L + 1 tensors (T, D), and labels."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    states = [
        [3 * draw(5 + i % 7, D) + draw(D) for _ in range(L + 1)] for i in range(count)
    ]
    labels = torch.stack([s[3].mean() + s[3].std() for s in states]) + 0.1 * draw(count)
    return states, labels


def batch(states):
    lengths = torch.tensor([len(s[0]) for s in states])
    layers = [
        torch.nn.utils.rnn.pad_sequence(layer, batch_first=True, padding_value=9.0)
        for layer in zip(*states)
    ]
    return layers, lengths


def by_hand(states, layers=(3,)):
    rows = []
    for s in states:
        x = torch.cat([s[layer] for layer in layers], dim=1).double().numpy()
        rows.append(np.concatenate([x.mean(0), x.std(0)]))
    return np.stack(rows)


@pytest.mark.parametrize("layers", [None, [1, 4]])
def test_it_starts_from_ridge_regression(layers):
    states, labels = utterances()
    used = layers or [3, 4]
    expected = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    expected.fit(by_hand(states[:30], used), labels[:30].double().numpy())
    for head in (
        ProbeHead(D, L, layers=layers),
        DistilMOSHead(D, L, hidden_dim=8, probe={"layers": layers}),
    ):
        head.eval().requires_grad_(False)
        penalty = head.probe.fit(head.probe.features(*batch(states[:30])), labels[:30])
        assert penalty == pytest.approx(expected[-1].alpha_)
        prediction = head(*batch(states[30:]))
        wanted = expected.predict(by_hand(states[30:], used))
        np.testing.assert_allclose(prediction.utt_mos.detach(), wanted, atol=1e-4)
        for i, item in enumerate(states[30:]):  # alone, and as the mean of its frames
            alone = head(*batch([item]))
            assert float(alone.utt_mos) == pytest.approx(wanted[i], abs=1e-4)
            assert float(alone.frame_mos.mean()) == pytest.approx(wanted[i], abs=1e-4)


@pytest.mark.parametrize("given", [False, True])
def test_corpora_count_alike_and_only_within(given):
    """Against dummy variables for the corpora, and each corpus left out by hand."""
    states, labels = utterances(60)
    corpora = torch.tensor([0] * 30 + [1] * 20 + [2] * 10)
    labels = (
        labels
        / torch.stack([labels[corpora == g].std(unbiased=False) for g in range(3)])[
            corpora
        ]
    )
    probe = Probe(D, L, layers=[3])
    features = probe.features(*batch(states))
    shifted = features + 100.0 * corpora[:, None]
    # What a corpus counts, each alike unless told.
    counts = np.array([1.0, 3.0, 0.5] if given else [1.0, 1.0, 1.0])
    shares = None
    if given:
        shares = torch.tensor(counts / np.bincount(corpora))[corpora]
    penalty = probe.fit(shifted, labels + 50.0 * corpora, corpora, shares)
    x, y, g = features.double().numpy(), labels.double().numpy(), corpora.numpy()
    weights = len(g) / counts.sum() * (counts / np.bincount(g))[g]
    x = x - np.stack([x[g == k].mean(0) for k in range(3)])[g]
    x = x / np.sqrt(np.average(x**2, axis=0, weights=weights))
    y = y - np.array([y[g == k].mean() for k in range(3)])[g]

    def coefficients(value, rows):
        a = x[rows].T * weights[rows]
        return np.linalg.solve(a @ x[rows] + value * np.eye(x.shape[1]), a @ y[rows])

    def quality(value):
        return sum(
            spearmanr(x[g == k] @ coefficients(value, g != k), y[g == k])[0]
            for k in range(3)
        )

    assert quality(penalty) == pytest.approx(max(map(quality, PENALTIES)))
    expected = coefficients(penalty, slice(None))
    found = probe.linear.weight[0].detach().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_attention_starts_as_the_mean_and_padding_does_not_matter():
    states, labels = utterances()
    probe = Probe(D, L, layers=[3], pooling=["mean", "attention"])
    features = probe.features(*batch(states))
    assert torch.allclose(features[:, :D], features[:, D:], atol=1e-5)
    torch.nn.init.normal_(probe.statistics.query)
    features = probe.features(*batch(states))
    for i, item in enumerate(states):
        x = item[3]
        weights = torch.softmax(x @ probe.statistics.query, dim=0)
        assert torch.allclose(features[i, D:], weights @ x, atol=1e-5)


def test_a_dimension_that_is_constant_in_training_counts_nothing():
    states, labels = utterances()
    for item in states[:30]:
        item[3][:, 2] = 1.0
    probe = Probe(D, L, pooling=["mean"])
    probe.fit(probe.features(*batch(states[:30])), labels[:30])
    before = probe(*batch(states[30:]))
    for item in states[30:]:
        item[3][:, 2] = 1e3
    assert torch.equal(probe(*batch(states[30:])), before)


@pytest.mark.parametrize("constant", ["labels", "labels of each corpus", "features"])
def test_where_nothing_can_be_learnt_the_score_is_constant(constant):
    states, labels = utterances()
    corpora = torch.arange(len(labels)) % 2 if "corpus" in constant else None
    if constant == "features":
        states = [[torch.ones(5, D)] * (L + 1) for _ in states]
    else:
        labels = torch.full_like(labels, 3.0)
        if corpora is not None:
            labels += corpora
    probe = Probe(D, L)
    probe.fit(probe.features(*batch(states)), labels, corpora)
    scores = probe(*batch(states))
    expected = labels.mean().item()
    torch.testing.assert_close(scores, torch.full_like(scores, expected))


@pytest.mark.parametrize(
    "conf, found",
    [
        ({"layers": [5]}, "between 0 and 4"),
        ({"layers": []}, "between 0 and 4"),
        ({"pooling": ["sd"]}, "a list of mean and"),
        ({"pooling": ["mean", "max"]}, "'max'"),
        ({"pooling": "mean"}, "a list of mean and"),
        ({"pooling": [["mean"]]}, "a list of mean and"),
        ({"penalty": -1.0}, "penalty=-1.0"),
    ],
)
def test_impossible_options(conf, found):
    with pytest.raises(ValueError, match=found):
        ProbeHead(D, L, **conf)


def test_too_few_labels():
    with pytest.raises(ValueError, match="found 2 labelled"):
        Probe(D, L).fit(torch.zeros(2, 2 * D), torch.zeros(2))
