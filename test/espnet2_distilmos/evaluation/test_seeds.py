# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.evaluation.metrics import lcc
from espnet2_distilmos.evaluation.paired import compare_models, holm
from espnet2_distilmos.evaluation.seeds import (
    combine_sets,
    compare_methods,
    compare_values,
    seed_difference,
    summarise_seeds,
)

A = [0.889, 0.893, 0.881, 0.890]
B = [0.880, 0.885, 0.879, 0.884]


def test_summary_against_scipy():
    summary = summarise_seeds(A)
    assert summary.num_runs == 4 and summary.reason is None
    assert summary.mean == pytest.approx(0.88825)
    assert summary.sd == pytest.approx(np.std(A, ddof=1))
    expected = scipy.stats.ttest_1samp(A, 0).confidence_interval(0.95)
    assert summary.interval == pytest.approx(expected)


@pytest.mark.parametrize("paired", [True, False])
def test_difference_against_scipy(paired):
    other = B if paired else B[:2]
    found = seed_difference(A, other, paired)
    test = scipy.stats.ttest_rel(A, other) if paired else None
    test = test or scipy.stats.ttest_ind(A, other, equal_var=False)
    assert found.difference == pytest.approx(np.mean(A) - np.mean(other))
    assert found.p_value == pytest.approx(test.pvalue)
    assert found.degrees_of_freedom == pytest.approx(test.df)
    assert found.interval == pytest.approx(test.confidence_interval())
    # items that do not vary leave the same
    still = [np.repeat(values, 51).reshape(-1, 51) for values in (A, other)]
    crossed = seed_difference(*still, paired, num_units=100)
    assert crossed[:2] == (found[0], pytest.approx(found[1]))
    assert crossed.p_value == pytest.approx(found.p_value)
    with pytest.raises(ValueError, match="4 runs of a and 2 of b"):
        seed_difference(A, B[:2], paired=True)


def test_what_runs_cannot_tell():
    for summary, mean, reason in (
        (summarise_seeds([]), None, "no runs"),
        (summarise_seeds([0.9]), 0.9, "1 run"),
        (summarise_seeds([0.9, None, float("nan")]), None, "2 runs have no value"),
        (summarise_seeds([0.9, 0.9]), 0.9, "differ"),
    ):
        assert summary.mean == mean and summary.interval is None
        assert reason in summary.reason
    for found, difference, reason in (
        (seed_difference([0.9, 0.8], [0.8], False), 0.05, "1 run"),
        (seed_difference([0.9, 0.8], [None, 0.8], True), None, "1 runs have no value"),
        (seed_difference([0.9, 0.8], [0.8, 0.7], True), 0.1, "differ"),
    ):
        assert found.difference == pytest.approx(difference)
        assert found.p_value is None and reason in found.reason


def test_runs_that_do_not_vary_leave_the_bootstrap():
    drawn = np.random.default_rng(0).normal(0.8, 0.02, size=(2, 400))
    drawn[:, :20] = np.nan  # undefined resamples do not count
    half = scipy.stats.t.isf(0.025, 5) * drawn[0, 20:].std(ddof=1) * (6 / 5) ** 0.5
    runs = np.hstack([[[0.8], [0.7]], drawn])
    for number in (1, 3):
        summary = summarise_seeds(runs[[0] * number], num_units=6)
        assert summary.interval == pytest.approx((0.8 - half, 0.8 + half))
    # Unpaired, of one run each: the difference of the resamples.
    found = seed_difference(runs[:1], runs[1:], paired=False, num_units=6)
    error = (drawn[0] - drawn[1])[20:].std(ddof=1) * (6 / 5) ** 0.5
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(0.1 / error, 5))
    few = summarise_seeds(runs, num_units=5)
    assert few.interval is None and "found 5 of the at least 6" in few.reason
    few = seed_difference(runs, 2 * runs, paired=True, num_units=5)
    assert few.p_value is None is few.interval and few.difference is not None
    runs[:, 1:300] = np.nan
    assert "resamples" in summarise_seeds(runs, num_units=6).reason


def test_crossed_intervals_hold_what_runs_and_items_vary():
    # The mean of an array of runs and items, of which each has an effect of its own.
    generator = np.random.default_rng(0)
    covered = {"crossed": 0, "runs": 0, "items": 0}
    for _ in range(500):
        rows = generator.normal(0, 0.3, (4, 1)) + generator.normal(0, 1.5, (1, 30))
        rows = rows + generator.normal(0, 0.5, (4, 30))
        drawn = rows @ generator.multinomial(30, np.full(30, 1 / 30), 200).T / 30
        runs = np.column_stack([rows.mean(1), drawn])
        for name, summary in (
            ("crossed", summarise_seeds(runs, num_units=30)),
            ("runs", summarise_seeds(rows.mean(1))),
            ("items", summarise_seeds(runs[:1], num_units=30)),
        ):
            covered[name] += summary.interval.low <= 0 <= summary.interval.high
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 500, 0.95)
    assert low <= covered["crossed"] <= high
    assert max(covered["runs"], covered["items"]) < low


def test_compare_methods_against_its_parts():
    generator = np.random.default_rng(3)
    true = generator.normal(size=80)
    systems = [f"s{i % 8}" for i in range(80)]
    noise = {"a": 0.3, "b": 0.9, "c": 0.3}
    by_run = {
        method: {run: true + sd * generator.normal(size=80) for run in "012"}
        for method, sd in noise.items()
    }
    by_run["c"] = {"7": by_run["c"]["0"]}
    settings = {"metrics": ("lcc", "mse"), "baseline": "b", "num_resamples": 200}
    summaries, comparisons = compare_methods(by_run, true, systems, **settings)
    (row,) = [
        r for r in summaries if (r["metric"], r["method"]) == ("utt_mos_lcc", "a")
    ]
    values = [lcc(pred, true).value for pred in by_run["a"].values()]
    assert row["runs"] == pytest.approx(dict(zip("012", values)))
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["interval"][0] < row["mean"] < row["interval"][1]
    assert max(row["interval"][1] for row in summaries if "lcc" in row["metric"]) <= 1
    rows = {(row["metric"], row["method"]): row for row in comparisons}
    assert rows["utt_mos_lcc", "a"]["paired"] and not rows["utt_mos_lcc", "c"]["paired"]
    for metric in ("utt_mos_lcc", "utt_mos_mse"):
        pair = [rows[metric, "a"], rows[metric, "c"]]
        assert [row["better"] for row in pair] == ["a", "c"]
        assert [r["p_holm"] for r in pair] == holm([r["p_value"] for r in pair])
        assert pair[0]["p_value"] < 0.01
    # A pair of runs is a pair of models: the interval is nearly the percentile one.
    one = {method: {"0": by_run[method]["0"]} for method in "ab"}
    _, (row,) = compare_methods(one, true, metrics=("lcc",), baseline="b")
    models = {method: runs["0"] for method, runs in one.items()}
    (expected,) = compare_models(models, true, metrics=("lcc",))
    assert row["difference"] == pytest.approx(expected["difference"])
    assert row["interval"] == pytest.approx(expected["interval"], abs=0.02)
    with pytest.raises(ValueError, match="the baseline d is none of the methods a, b"):
        compare_methods(by_run, true, baseline="d", num_resamples=2)


def test_compare_values_is_about_the_runs_alone():
    key = "utt_mos_srcc"
    values = {
        "a": {str(i): {key: v} for i, v in enumerate(A)},
        "b": {str(i): {key: v} for i, v in reversed(list(enumerate(B)))},
    }
    summaries, (row,) = compare_values(values, "b")
    assert summaries[0]["interval"] == summarise_seeds(A).interval
    # run by run, in whatever order they come
    assert row["p_value"] == seed_difference(A, B, paired=True).p_value
    assert row["paired"] and row["better"] == "a"


def test_mean_over_sets_adds_up_their_variances():
    """Against Welch's interval of the sum of two independent means."""
    generator = np.random.default_rng(5)
    items = [generator.normal(mean, 1, n) for mean, n in ((0.2, 40), (0.6, 25))]

    def resampled(values):
        n = len(values)
        counts = generator.multinomial(n, np.full(n, 1 / n), 4000)
        return np.concatenate([[values.mean()], counts @ values / n])

    sets = [resampled(values) for values in items]
    mean = combine_sets(sets, (0.5, 0.5), (0, 1))
    found = seed_difference([mean], [np.zeros_like(mean)], True, num_units=[40, 25])
    parts = [values.var(ddof=1) / len(values) / 4 for values in items]
    error = sum(parts) ** 0.5
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 39 + parts[1] ** 2 / 24)
    assert found.difference == pytest.approx(np.mean([v.mean() for v in items]))
    assert found.degrees_of_freedom == pytest.approx(freedom, rel=0.05)
    half = scipy.stats.t.isf(0.025, freedom) * error
    assert found.interval[1] - found.difference == pytest.approx(half, rel=0.05)
    both = scipy.stats.t(freedom).ppf([0.975, 0.8]).sum() * error
    assert found.detectable == pytest.approx(both, rel=0.05)
    # Two sets of the same items, resampled together: their errors cancel.
    gap = combine_sets([sets[0] + 0.25, sets[0]], (1, -1), (0, 0))
    assert gap == pytest.approx(0.25) and len(gap) == 4001
    # Few units of each set may be enough of all, but one has no variance.
    kwargs = dict(confidence=0.95)
    assert summarise_seeds([mean], num_units=[4, 3], **kwargs).interval is not None
    few = summarise_seeds([mean], num_units=[3, 3], **kwargs)
    assert "found 5 of the at least 6" in few.reason
    few = summarise_seeds([mean], num_units=[20, 1], **kwargs)
    assert "found 1 of the at least 6" in few.reason
