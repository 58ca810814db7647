# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Losses on pairs against sums over pairs written as loops, of two corpora."""

import itertools
import math

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.build import LOSSES
from espnet2_distilmos.mos.head.abs_head import MOSPrediction

RNG = np.random.default_rng(0)
SCORES = RNG.uniform(1, 5, 9)
EMBEDDING = RNG.normal(size=(9, 4))
# One has no label; two have the same one; the second corpus is on another scale.
LABELS = [1.0, 4.5, math.nan, 3.0, 3.0, 10.0, 95.0, 40.0, 60.0]
CORPUS = [0, 0, 0, 0, 0, 1, 1, 1, 1]
ERRORS = [0.3, math.nan, 0.1, 0.4, 0.2, 9.0, 1.0, 20.0, 8.0]
NAMES = ["contrastive", "bradley_terry", "prs", "triplet"]


def make(name, **options):
    return LOSSES[name](**options).eval()


def predicted(scores=SCORES, embedding=EMBEDDING):
    scores = torch.tensor(scores, requires_grad=True)
    embedding = torch.tensor(embedding, requires_grad=True)
    return MOSPrediction(scores, None, None, None, embedding)


def given(labels=LABELS, corpus=CORPUS, errors=None):
    target = {"mos": torch.tensor(labels, dtype=torch.float64)}
    if corpus is not None:
        target["corpus"] = torch.tensor(corpus)
    if errors is not None:
        target["mos_se"] = torch.tensor(errors, dtype=torch.float64)
    return target


def ordered_pairs(corpora=CORPUS, labels=LABELS):
    return [
        (i, j)
        for i, j in itertools.permutations(range(len(labels)), 2)
        if corpora[i] == corpora[j]
        and math.isfinite(labels[i])
        and math.isfinite(labels[j])
    ]


def contrastive(pairs):
    gaps = [abs(SCORES[i] - SCORES[j] - LABELS[i] + LABELS[j]) for i, j in pairs]
    return [max(0.0, gap - 0.1) for gap in gaps]


def bradley_terry(pairs):
    return [
        -math.log(1 / (1 + math.exp(SCORES[j] - SCORES[i])))
        for i, j in pairs
        if LABELS[i] > LABELS[j]
    ]


def prs(pairs):
    costs = []
    for i, j in pairs:
        ids = sorted({b for a, b in pairs if a == i} | {i})
        g, p = (
            (values[i] - values[j]) / (max(values[ids]) - min(values[ids]))
            for values in (np.array(LABELS), SCORES)
        )
        costs.append((0.1 if g * p > 0 else 1.0) * abs(g - p))
    return costs


def triplet(pairs):
    x = EMBEDDING / np.linalg.norm(EMBEDDING, axis=1, keepdims=True)
    costs = []
    for (i, j), (other, k) in itertools.product(pairs, pairs):
        near, far = abs(LABELS[i] - LABELS[j]), abs(LABELS[i] - LABELS[k])
        if other == i and near < far:
            labels = [LABELS[b] for a, b in pairs if a == i] + [LABELS[i]]
            margin = (far - near) / (max(labels) - min(labels))
            gap = np.linalg.norm(x[i] - x[j]) - np.linalg.norm(x[i] - x[k])
            costs.append(max(0.0, gap + margin))
    return costs


BY_LOOPS = dict(zip(NAMES, (contrastive, bradley_terry, prs, triplet)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("across", [False, True])
def test_equals_the_sum_over_pairs_of_one_corpus(name, across):
    loss, made = make(name, across_corpora=across), predicted()
    value = loss(made, given())
    value.backward()
    pairs = ordered_pairs([0] * 9 if across else CORPUS)
    costs = BY_LOOPS[name](pairs)
    assert value.item() == pytest.approx(np.mean(costs), rel=1e-6)
    gradient = made.embedding.grad if name == "triplet" else made.utt_mos.grad
    assert not gradient[2].any() and gradient.isfinite().all() and gradient.any()
    # What the mean over an epoch is weighed by.
    expected = 8 if name == "contrastive" else len(costs)
    assert loss.count(made, given()) == expected
    # Without names of corpora all of it is one.
    alone = make(name)(made, given(corpus=None))
    assert torch.equal(alone, make(name, across_corpora=True)(made, given()))


@pytest.mark.parametrize("name", ["bradley_terry", "prs", "triplet"])
def test_a_scale_does_not_matter(name):
    stretched = [y if k < 5 else 3 * y - 7 for k, y in enumerate(LABELS)]
    values = [make(name)(predicted(), given(y)).item() for y in (LABELS, stretched)]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "labels,corpus",
    [
        ([3.0], None),
        ([3.0, math.nan], None),
        ([3.0, 4.0, 2.0], [0, 1, 2]),
        ([3.0, 3.0, 3.0], None),
    ],
)
def test_no_pair_is_a_zero_with_a_gradient_of_zero(name, labels, corpus):
    size = len(labels)
    made = predicted([1.0] * size, np.ones((size, 4)))
    value = make(name)(made, given(labels, corpus))
    value.backward()
    assert value == 0
    for tensor in (made.utt_mos, made.embedding):
        assert tensor.grad is None or not tensor.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_equal_predictions_have_finite_gradients(name):
    made = predicted(np.ones(9), np.ones((9, 4)))
    make(name)(made, given()).backward()
    for tensor in (made.utt_mos, made.embedding):
        assert tensor.grad is None or tensor.grad.isfinite().all()


def test_pairs_that_the_listeners_did_not_tell_apart_are_left_out():
    pairs = [(i, j) for i, j in ordered_pairs() if LABELS[i] > LABELS[j]]
    squares = np.nan_to_num(np.array(ERRORS)) ** 2
    for margin in (1.0, 2.0):
        told = [
            (i, j)
            for i, j in pairs
            if LABELS[i] - LABELS[j] > margin * math.sqrt(squares[i] + squares[j])
        ]
        assert 0 < len(told) < len(pairs)
        loss, target = make("bradley_terry", margin=margin), given(errors=ERRORS)
        value = loss(predicted(), target).item()
        assert value == pytest.approx(np.mean(bradley_terry(told)))
        assert loss.count(predicted(), target) == len(told)
    value = make("bradley_terry", scale=2.0)(predicted(), given()).item()
    costs = [math.log(1 + math.exp(2 * (SCORES[j] - SCORES[i]))) for i, j in pairs]
    assert value == pytest.approx(np.mean(costs))


def test_prs_compares_with_the_past_of_the_corpus():
    """Batches of two corpora, whose queues hold two utterances each."""
    loss = LOSSES["prs"](queue=2)
    loss.train()
    generator = np.random.default_rng(1)
    past = {0: [], 1: []}
    for corpus in (0, 1, 0, 0, 1):
        scores, labels = generator.uniform(1, 5, (2, 3))
        made = predicted(scores)
        target = given(labels.tolist(), [corpus] * 3)
        value = loss(made, target)
        everything = np.array([*zip(scores, labels), *past[corpus]])
        position = (everything - everything.min(0)) / np.ptp(everything, axis=0)
        costs = []
        for i, j in itertools.product(range(3), range(len(everything))):
            p, g = position[i] - position[j]
            if i != j:
                costs.append((0.1 if p * g > 0 else 1.0) * abs(p - g))
        assert value.item() == pytest.approx(np.mean(costs))
        assert loss.count(made, target) == len(costs)
        past[corpus] = [*past[corpus], *zip(scores, labels)][-2:]
    # A validation neither reads nor writes, and an epoch begins anew.
    made, target = predicted(), given()
    alone = make("prs")(made, target)
    assert not torch.equal(loss(made, target), alone)
    assert torch.equal(loss.eval()(made, target), alone)
    assert torch.equal(loss.train()(made, target), alone)
    assert not loss.state_dict()


def test_prs_queues_no_score_that_is_no_number():
    """The step with it is skipped; the next one is as if the others had come alone."""
    labels = [1.0, 2.0, 3.0]
    losses = [LOSSES["prs"]().train() for _ in range(2)]
    assert losses[0](predicted([1.0, np.nan, 3.5]), given(labels, None)).isnan()
    losses[1](predicted([1.0, 3.5]), given([1.0, 3.0], None))
    made = predicted([1.0, 2.5, 3.0])
    first, second = (loss(made, given(labels, None)) for loss in losses)
    assert first.isfinite() and torch.equal(first, second)


@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_prs_of_scores_that_hardly_differ_has_a_bounded_gradient(factor):
    """Of 3 + noise of 1e-4: each score is in 2 (B - 1) of B (B - 1) pairs."""
    generator = np.random.default_rng(2)
    scores = 3 + 1e-4 * generator.uniform(size=8)
    labels = (factor * generator.uniform(1, 5, 8)).tolist()
    made = predicted(scores, np.ones((8, 4)))
    make("prs", concordant=1.0)(made, given(labels, None)).backward()
    assert 0 < made.utt_mos.grad.abs().sum() <= 2 / 0.1


def test_prs_keeps_labels_of_a_small_range():
    values = []
    for factor in (1.0, 1e-3):
        labels = [factor * y for y in (1.0, 4.5, 3.0)]
        made = predicted(SCORES[:3], EMBEDDING[:3])
        values.append(make("prs")(made, given(labels, None)).item())
    assert values[0] == pytest.approx(values[1], rel=1e-9)
