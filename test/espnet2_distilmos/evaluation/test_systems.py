# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_1samp, ttest_ind

from espnet2_distilmos.evaluation.metrics import pair_accuracy
from espnet2_distilmos.evaluation.paired import holm
from espnet2_distilmos.evaluation.systems import (
    mean_interval,
    reliability,
    significant_pair_accuracy,
    significant_pairs,
    system_table,
)


def test_interval_of_a_mean():
    values = np.random.default_rng(0).normal(3, 1, 25)
    mean, interval, reason = mean_interval(values, confidence=0.99)
    expected = ttest_1samp(values, 0).confidence_interval(0.99)
    assert mean == pytest.approx(values.mean()) and reason is None
    assert interval == pytest.approx(expected)
    few = mean_interval(range(5))
    assert few[:2] == (2, None) and "found 5 of the at least 6 clips" in few.reason
    few = mean_interval(range(7), list("aabbcde"))
    assert few[:2] == (3, None) and "found 5 of the at least 6 clus" in few.reason
    assert mean_interval(range(7), list("aabcdef")).interval is not None
    assert mean_interval([3.0] * 6).interval == (3, 3)


def test_interval_of_clusters_of_equal_size_is_that_of_their_means():
    generator = np.random.default_rng(1)
    values = generator.normal(3, 1, (12, 1)) + generator.normal(0, 0.3, (12, 5))
    expected = mean_interval(values.mean(1)).interval
    # in whatever order
    order = generator.permutation(60)
    clusters = np.repeat(np.arange(12), 5)[order].tolist()
    found = mean_interval(values.ravel()[order], clusters).interval
    assert found == pytest.approx(expected)


def test_table_of_systems():
    true = [4, 5] * 3 + [1, 2] * 3 + [3, 3, 9]
    pred = [2, 3] * 3 + [2, 2] * 3 + [4, 5, 9]
    systems = ["A"] * 6 + ["B"] * 6 + ["C", "C", None]
    rows = system_table(pred, true, systems)
    assert [row.system for row in rows] == ["A", "C", "B"]
    assert [row.num_clips for row in rows] == [6, 2, 6]
    assert [row.label.mean for row in rows] == [4.5, 3, 1.5]
    assert [row.pred.mean for row in rows] == [2.5, 4.5, 2]
    assert [row.label_rank for row in rows] == [1, 2, 3]
    assert [row.pred_rank for row in rows] == [2, 1, 3]
    assert [row.rank_difference for row in rows] == [1, -1, 0]
    # t_5 = 2.571, s / sqrt(6) = sqrt(0.3 / 6)
    assert rows[0].label.interval == pytest.approx((4.5 - 0.575, 4.5 + 0.575), abs=1e-3)
    assert rows[1].label.interval is None and "2 of the at" in rows[1].label.reason


def test_table_shares_ranks_of_equal_systems_and_takes_clusters():
    true = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 5.0]
    systems = ["a"] * 3 + ["b"] * 3 + ["c"]
    clusters = ["x", "x", "y", "x", "y", "z", "x"]
    rows = system_table(true[::-1], true, systems, clusters)
    ranks = [(row.system, row.label_rank, row.pred_rank) for row in rows]
    assert ranks == [("c", 1, 3), ("a", 2.5, 1), ("b", 2.5, 2)]
    assert rows[1].label == mean_interval(true[:3], clusters[:3])
    assert "found 2 of the at least 6 clusters" in rows[1].label.reason
    assert system_table([1, 2], [1, 2], [None, None]) == []
    for bad in ([1, 2], [1, 2], ["a"]), ([1, np.nan], [1, 2], ["a", "b"]):
        with pytest.raises(ValueError, match="1 systems for 2|finite"):
            system_table(*bad)


def test_significant_pairs_against_scipy():
    generator = np.random.default_rng(0)
    ratings = {
        f"s{i}": generator.integers(1 + i // 4, 4 + i // 4, n)
        for i, n in enumerate(generator.integers(5, 30, 8))
    }
    both = list(itertools.combinations(ratings, 2))
    tests = [ttest_ind(ratings[a], ratings[b], equal_var=False) for a, b in both]
    p_values = holm([test.pvalue for test in tests])
    # in the order of the pairs, the better first
    signs = [np.sign(test.statistic) for test in tests]
    expected = {
        pair[:: int(sign)]: p
        for pair, sign, p in zip(both, signs, p_values)
        if p <= 0.05
    }
    pairs, num_tested = significant_pairs(ratings)
    assert num_tested == len(both) == 28
    found = {(p.better, p.worse): p.p_value for p in pairs}
    assert 0 < len(expected) < 28 and found == pytest.approx(expected)
    with pytest.raises(ValueError, match="ratings of a"):
        significant_pairs({"a": [1, np.nan], "b": [1, 2]})


def test_systems_that_everybody_rates_alike():
    ratings = {"a": [5] * 8, "b": [3.1] * 8, "c": [3.1] * 7, "d": [4], "e": []}
    pairs, num_tested = significant_pairs(ratings)
    # one vote is no sample, and two votes each are too few for a p-value
    assert significant_pairs({"a": [5, 5], "b": [1, 1]}) == ([], 0)
    assert num_tested == 3
    assert [(p.better, p.worse) for p in pairs] == [("a", "b"), ("a", "c")]


def test_accuracy_over_the_significant_pairs():
    ratings = {"a": [5, 5, 4, 5] * 5, "b": [3, 3, 3, 4] * 5, "c": [3, 3, 4, 3] * 5}
    ratings["d"] = [1, 1, 2, 1] * 5
    # b and c are open; of the other five pairs a-b is a tie and d is above c
    sys_pred = {"a": 4.0, "b": 4.0, "c": 2.0, "d": 2.5, "unrated": 1.0}
    metric, significant, tested = significant_pair_accuracy(sys_pred, ratings)
    assert (significant, tested) == (5, 6)
    # right: a-c, a-d, b-d
    assert metric.value == pytest.approx(3.5 / 5)
    # with every pair significant it is the accuracy over all pairs
    apart = {s: [i, i + 0.01, i - 0.01] for i, s in enumerate("abcd")}
    metric, significant, tested = significant_pair_accuracy(sys_pred, apart)
    assert significant == tested == 6
    every = pair_accuracy([sys_pred[s] for s in "abcd"], [0, 1, 2, 3])
    assert metric.value == pytest.approx(every.value)


def test_accuracy_without_pairs_has_a_reason():
    same = {"a": [1, 2, 3], "b": [3, 2, 1]}
    metric, *counts = significant_pair_accuracy({"a": 1, "b": 2}, same)
    assert metric.value is None and counts == [0, 1] and "none of 1" in metric.reason
    metric, *counts = significant_pair_accuracy({"a": 1}, same)
    assert metric.value is None and counts == [0, 0] and "no two sys" in metric.reason


def test_reliability_of_two_listeners_by_closed_form():
    """There is one way to halve them: 2 r / (1 + r) of their correlation r."""
    generator = np.random.default_rng(0)
    true = generator.normal(size=40)
    pair = true + generator.normal(0, 0.7, (2, 40))
    votes = [[("a", x), ("b", y)] for x, y in pair.T]
    r = spearmanr(*pair).statistic
    assert reliability(votes).value == pytest.approx(2 * r / (1 + r))
    # Clips that one half did not rate say nothing of both; strictness costs nothing.
    lopsided = [[("a", x + 9), ("b", y)] for x, y in pair.T] + [[("a", 0.0)], []]
    assert reliability(lopsided).value == pytest.approx(2 * r / (1 + r))
    systems = [i % 8 for i in range(40)]
    means = [[p[k::8].mean() for k in range(8)] for p in pair]
    r = spearmanr(*means).statistic
    assert reliability(votes, systems).value == pytest.approx(2 * r / (1 + r))


def test_reliability_tells_the_correlation_with_the_truth():
    generator = np.random.default_rng(1)
    true = generator.normal(size=400)
    ratings = true + generator.normal(0, 2, (16, 400))
    found = reliability([list(enumerate(clip)) for clip in ratings.T]).value
    ceiling = spearmanr(ratings.mean(0), true).statistic
    assert found**0.5 == pytest.approx(ceiling, abs=0.02)


@pytest.mark.parametrize(
    "votes, reason",
    [
        ([[], []], "no votes of two"),
        ([[("a", 1), ("a", 2)], [("a", 3)]], "no votes of two"),
        ([[("a", 1), ("b", 2)], [("a", 1), ("b", 3)]], "no correlation"),
        ([[("a", 1), ("b", 4)], [("a", 2), ("b", 3)]], "the correlation -1.00"),
    ],
)
def test_votes_without_reliability_have_a_reason(votes, reason):
    value, found = reliability(votes)
    assert value is None and reason in found
