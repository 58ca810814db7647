# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.evaluation.metrics import lcc
from espnet2_distilmos.evaluation.paired import holm, paired_bootstrap
from espnet2_distilmos.evaluation.seeds import (
    compare_methods,
    crossed_difference,
    crossed_summary,
    seed_difference,
    summarise_seeds,
)

A = [0.889, 0.893, 0.881, 0.890]
B = [0.880, 0.885, 0.879, 0.884]


def test_summary_against_scipy():
    summary = summarise_seeds(A)
    assert summary.num_seeds == 4 and summary.reason is None
    assert summary.mean == pytest.approx(0.88825)
    # squared deviations 0.5625, 22.5625, 52.5625 and 3.0625e-6 over 3
    assert summary.sd == pytest.approx((78.75e-6 / 3) ** 0.5)
    expected = scipy.stats.ttest_1samp(A, 0).confidence_interval(0.95)
    assert summary.interval == pytest.approx(expected)
    wider = summarise_seeds(A, 0.99).interval
    assert wider == pytest.approx(
        scipy.stats.ttest_1samp(A, 0).confidence_interval(0.99)
    )


@pytest.mark.parametrize("paired", [True, False])
def test_difference_against_scipy(paired):
    found = seed_difference(A, B, paired)
    test = (
        scipy.stats.ttest_rel(A, B)
        if paired
        else scipy.stats.ttest_ind(A, B, equal_var=False)
    )
    assert found.difference == pytest.approx(np.mean(A) - np.mean(B))
    assert found.p_value == pytest.approx(test.pvalue)
    assert found.degrees_of_freedom == pytest.approx(test.df)
    assert found.interval == pytest.approx(test.confidence_interval())
    assert found.reason is None
    # the interval holds zero if and only if p > 0.05
    assert (found.p_value > 0.05) == (found.interval.low <= 0 <= found.interval.high)


def test_unpaired_methods_may_have_different_numbers_of_runs():
    found = seed_difference(A, B[:2], paired=False)
    test = scipy.stats.ttest_ind(A, B[:2], equal_var=False)
    assert found.p_value == pytest.approx(test.pvalue)
    with pytest.raises(ValueError, match="4 runs of a and 2 of b"):
        seed_difference(A, B[:2], paired=True)


def test_what_one_run_cannot_tell():
    summary = summarise_seeds([0.9])
    assert summary[:4] == (1, 0.9, None, None) and "at least 2" in summary.reason
    for paired in (True, False):
        found = seed_difference([0.9], [0.8], paired)
        assert found.difference == pytest.approx(0.1)
        assert found.interval is None and found.p_value is None
        assert "at least 2" in found.reason
    assert seed_difference([0.9, 0.8], [0.8], paired=False).interval is None


def test_runs_without_a_value_or_without_differences():
    summary = summarise_seeds([0.9, None, 0.8, float("nan")])
    assert summary.mean is None and summary.num_seeds == 4
    assert summary.reason == "2 of 4 runs have no value"
    assert summarise_seeds([]).reason == "there are no runs"
    found = seed_difference([0.9, 0.8], [None, 0.8], paired=True)
    assert found.difference is None and "1 of 2 runs of b" in found.reason
    same = summarise_seeds([0.9, 0.9])
    assert same.sd == 0 and same.interval is None and "do not differ" in same.reason
    shifted = seed_difference([0.9, 0.8], [0.8, 0.7], paired=True)
    assert shifted.difference == pytest.approx(0.1) and shifted.p_value is None
    assert seed_difference([1.0, 1.0], [2.0, 2.0], False).p_value is None


def test_coverage_of_the_intervals_of_three_runs():
    generator = np.random.default_rng(0)
    covered = {"mean": 0, "paired": 0, "unpaired": 0}
    for _ in range(1000):
        shared = generator.normal(0, 1, 3)
        a = 0.5 + shared + generator.normal(0, 0.5, 3)
        b = shared + generator.normal(0, 0.5, 3)
        low, high = summarise_seeds(a).interval
        covered["mean"] += low <= 0.5 <= high
        low, high = seed_difference(a, b, paired=True).interval
        covered["paired"] += low <= 0.5 <= high
        a, b = generator.normal(0.5, 1, 3), generator.normal(0, 1, 3)
        low, high = seed_difference(a, b, paired=False).interval
        covered["unpaired"] += low <= 0.5 <= high
    # Welch's t is a little cautious
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 1000, 0.95)
    assert low <= covered["mean"] <= high and low <= covered["paired"] <= high
    assert low <= covered["unpaired"] <= high + 15


def runs(generator, true, noise, number):
    return [true + noise * generator.normal(size=len(true)) for _ in range(number)]


@pytest.mark.parametrize("paired", [True, False])
def test_items_that_do_not_vary_leave_the_t_test(paired):
    still = np.repeat(np.array([A, B])[..., None], 50, 2)
    found = crossed_difference(A, B, *still, 100, paired)
    expected = seed_difference(A, B, paired)
    for one, other in zip(found[:4], expected):
        assert one == pytest.approx(other)
    for one, other in zip(crossed_summary(A, still[0], 100)[:4], summarise_seeds(A)):
        assert one == pytest.approx(other)
    with pytest.raises(ValueError, match="4 runs of a and 2 of b"):
        crossed_difference(A, B[:2], still[0], still[1, :2], 100, True)


def test_runs_that_do_not_vary_leave_the_bootstrap():
    drawn = np.random.default_rng(0).normal(0.8, 0.02, size=(2, 400))
    drawn[:, :20] = np.nan  # undefined resamples do not count
    half = scipy.stats.t.isf(0.025, 5) * drawn[0, 20:].std(ddof=1) * (6 / 5) ** 0.5
    for number in (1, 3):
        summary = crossed_summary([0.8] * number, drawn[[0] * number], 6)
        assert summary.interval == pytest.approx((0.8 - half, 0.8 + half))
    assert summary.sd == pytest.approx(0)
    assert crossed_summary([0.8], drawn[:1], 6).sd is None
    # Unpaired, of one run each: the difference of the resamples.
    found = crossed_difference([0.8], [0.7], drawn[:1], drawn[1:], 6, False)
    error = (drawn[0] - drawn[1])[20:].std(ddof=1) * (6 / 5) ** 0.5
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(0.1 / error, 5))
    drawn[:, :300] = np.nan
    assert "half of the resamples" in crossed_summary([0.8], drawn[:1], 6).reason
    assert "2 units" in crossed_summary([0.8], drawn[:1], 1).reason


def test_crossed_intervals_hold_what_runs_and_items_vary():
    # The mean of an array of runs and items, of which each has an effect of its own.
    generator = np.random.default_rng(0)
    covered = {"crossed": 0, "runs": 0, "items": 0}
    for _ in range(500):
        rows = generator.normal(0, 0.3, (4, 1)) + generator.normal(0, 1.5, (1, 30))
        rows = rows + generator.normal(0, 0.5, (4, 30))
        drawn = rows @ generator.multinomial(30, np.full(30, 1 / 30), 200).T / 30
        low, high = crossed_summary(rows.mean(1), drawn, 30).interval
        covered["crossed"] += low <= 0 <= high
        low, high = summarise_seeds(rows.mean(1)).interval
        covered["runs"] += low <= 0 <= high
        low, high = crossed_summary(rows.mean(1)[:1], drawn[:1], 30).interval
        covered["items"] += low <= 0 <= high
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 500, 0.95)
    assert low <= covered["crossed"] <= high
    assert max(covered["runs"], covered["items"]) < low


def test_compare_methods_against_its_parts():
    generator = np.random.default_rng(3)
    true = generator.normal(size=80)
    systems = [f"s{i % 8}" for i in range(80)]
    noise = {"a": 0.3, "b": 0.9, "c": 0.3}
    by_run = {
        method: dict(zip("012", runs(generator, true, sd, 3)))
        for method, sd in noise.items()
    }
    by_run["c"] = {"7": by_run["c"]["0"]}
    summaries, comparisons = compare_methods(
        by_run, true, systems, metrics=("lcc", "mse"), baseline="b", num_resamples=200
    )
    found = {(row["metric"], row["method"]): row for row in summaries}
    assert len(found) == 4 * 3
    values = [lcc(pred, true).value for pred in by_run["a"].values()]
    row = found["utt_mos_lcc", "a"]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))
    assert row["runs"] == pytest.approx(dict(zip("012", values)))
    assert row["interval"][0] < row["mean"] < row["interval"][1]
    assert max(row["interval"][1] for row in summaries if "lcc" in row["metric"]) <= 1
    rows = {(row["metric"], row["method"]): row for row in comparisons}
    assert {method for _, method in rows} == {"a", "c"}
    assert rows["utt_mos_lcc", "a"]["paired"] and not rows["utt_mos_lcc", "c"]["paired"]
    for metric in ("utt_mos_lcc", "utt_mos_mse"):
        pair = [rows[metric, "a"], rows[metric, "c"]]
        assert [row["better"] for row in pair] == ["a", "c"]
        assert [r["p_holm"] for r in pair] == holm([r["p_value"] for r in pair])
        assert pair[0]["p_value"] < 0.01
    # A pair of runs is a pair of models: the interval is nearly the percentile one.
    one = {method: {"0": by_run[method]["0"]} for method in "ab"}
    _, ((row),) = compare_methods(one, true, metrics=("lcc",), baseline="b")
    expected = paired_bootstrap(
        one["a"]["0"], one["b"]["0"], true, metrics=("lcc",), num_resamples=1000
    )["utt_mos_lcc"]
    assert row["difference"] == pytest.approx(expected.difference)
    assert row["interval"] == pytest.approx(expected.interval, abs=0.02)
    with pytest.raises(ValueError, match="the baseline d is none of the methods a, b"):
        compare_methods(by_run, true, baseline="d")
