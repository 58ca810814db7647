# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.evaluation.bootstrap import Resampler
from espnet2_distilmos.evaluation.metrics import ALL_METRICS, evaluate
from espnet2_distilmos.evaluation.paired import (
    bootstrap_p_value,
    compare_correlations,
    compare_models,
    holm,
    williams_t,
)


def three_normals(seed, r_a, r_b, r_ab, n):
    """Labels and two models' predictions, normal with the given correlations."""
    matrix = [[1, r_a, r_b], [r_a, 1, r_ab], [r_b, r_ab, 1]]
    generator = np.random.default_rng(seed)
    return np.linalg.cholesky(matrix) @ generator.normal(size=(3, n))


def compare_two(a, b, true, metric, **settings):
    """The row of the utterance level."""
    return compare_models({"A": a, "B": b}, true, metrics=[metric], **settings)[0]


def test_williams():
    # published example: Silver, Hittner & May, Appl. Psychol. Meas. 30, 2006
    t, p, df, reason, detectable = williams_t(0.3, 0.4, 0.5, 100)
    assert round(t, 4) == -1.0767 and round(p, 4) == 0.2843
    assert df == 97 and reason is None
    # t is the difference in standard errors, of which it takes 1.985 + 0.845
    assert detectable == pytest.approx(2.8300 * 0.1 / 1.0767, rel=1e-4)
    there, back = williams_t(0.7, 0.6, 0.5, 60), williams_t(0.6, 0.7, 0.5, 60)
    assert there.statistic == pytest.approx(-back.statistic) and there.statistic > 0
    same = williams_t(0.7, 0.7, 1.0, 60)
    assert same[:2] == (0.0, 1.0) and "scale" in same.reason_correlation
    few = williams_t(0.7, 0.6, 0.5, 5)
    assert few.p_correlation is None and "found 5 of" in few.reason_correlation
    assert williams_t(0.7, 0.6, 0.5, 6).p_correlation is not None
    assert williams_t(1.0, 0.6, 0.6, 50).p_correlation < 1e-6


def test_correlations_of_arrays():
    true, a, b = three_normals(0, 0.8, 0.6, 0.5, 80)
    for name, r in (("lcc", scipy.stats.pearsonr), ("srcc", scipy.stats.spearmanr)):
        expected = williams_t(r(a, true)[0], r(b, true)[0], r(a, b)[0], 80)
        assert compare_correlations(a, b, true, name)[:3] == pytest.approx(expected[:3])
    constant = compare_correlations([1, 2, 3, 4], [2, 2, 2, 2], [1, 2, 3, 5])
    assert constant[1::2] == (
        None,
        "undefined for model b: the predictions are constant",
    )


def test_holm():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04 -> 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5, None]) == [1, 1, None] and holm([]) == []


def test_bootstrap_p_value():
    # 24 of 999 at or below zero, half of them but for rounding
    differences = np.concatenate([-np.ones(12), np.full(12, 1e-16), np.ones(975)])
    assert bootstrap_p_value(differences) == pytest.approx(2 * 25 / 1000)
    assert bootstrap_p_value(-differences) == pytest.approx(2 * 25 / 1000)
    assert bootstrap_p_value(np.zeros(100)) == 1
    half = np.where(np.arange(100) < 49, 1.0, np.nan)
    assert bootstrap_p_value(half) is None


def test_difference_of_errors_matches_the_paired_t_test():
    # the difference of two MSE is a mean of differences of squared errors
    generator = np.random.default_rng(3)
    true = generator.uniform(1, 5, 400)
    a = true + generator.normal(0, 0.60, 400)
    b = a + generator.normal(0, 0.30, 400)
    row = compare_two(a, b, true, "mse", num_resamples=4000)
    items = (a - true) ** 2 - (b - true) ** 2
    expected = scipy.stats.ttest_1samp(items, 0)
    low, high = expected.confidence_interval()
    assert row["difference"] == pytest.approx(items.mean()) and row["reason"] is None
    assert row["interval"] == pytest.approx((low, high), abs=0.05 * (high - low))
    assert row["p_bootstrap"] == pytest.approx(expected.pvalue, abs=2e-3)


def test_every_metric_is_compared_at_both_levels():
    true, a, b = three_normals(1, 0.8, 0.6, 0.5, 90)
    systems, metrics = [f"s{i % 9}" for i in range(90)], list(ALL_METRICS)
    models = {"A": a, "B": b}
    rows = compare_models(models, true, systems, metrics=metrics, num_resamples=100)
    found = {f"{row['level']}_mos_{row['metric']}": row for row in rows}
    assert len(found) == 2 * len(ALL_METRICS)
    value_a = evaluate(a, true, systems, metrics)
    value_b = evaluate(b, true, systems, metrics)
    for key, row in found.items():
        assert row["difference"] == pytest.approx(value_a[key] - value_b[key])
        low, high = row["interval"]
        # an interval that holds zero is no significant difference, and the reverse
        assert (row["p_bootstrap"] > 0.05) == (low <= 0 <= high)
        wins = "A" if (row["difference"] > 0) != ("mse" in key) else "B"
        assert row["better"] == wins
    assert found["utt_mos_srcc"]["degrees_of_freedom"] == 87
    assert found["sys_mos_srcc"]["degrees_of_freedom"] == 6
    reason = found["utt_mos_mse"]["reason_correlation"]
    assert reason == "for correlations only"


def test_copies_within_a_cluster_add_no_certainty():
    true, a, b = three_normals(2, 0.8, 0.7, 0.6, 60)
    once = compare_two(a, b, true, "lcc")
    copies = [np.tile(v, 9) for v in (a, b, true)]
    same = compare_two(*copies, "lcc", clusters=list(range(60)) * 9)
    blind = compare_two(*copies, "lcc")
    assert same["interval"] == pytest.approx(once["interval"])
    assert same["p_bootstrap"] == once["p_bootstrap"] > 10 * blind["p_bootstrap"]
    # Williams' test takes clips for independent
    assert once["p_correlation"] is not None and same["p_correlation"] is None
    assert "not independent" in same["reason_correlation"]


def test_differences_of_systems_are_centred():
    # b's clips are noisier, and resamples of few clips count that noise twice
    generator = np.random.default_rng(0)
    true = np.repeat(generator.normal(size=40), 3)
    a = true + 0.1 * generator.normal(size=120)
    b = true + 1.5 * generator.normal(size=120)
    systems = np.repeat(np.arange(40), 3).astype(str).tolist()
    settings = {"num_resamples": 500, "seed": 1, "resample": "within_systems"}
    row = compare_models({"a": a, "b": b}, true, systems, None, ["mse"], **settings)[1]
    resampler = Resampler(120, systems, **settings)
    drawn = [resampler(p, true, ["mse"])["sys_mos_mse"] for p in (a, b)]
    plain = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    shift = row["difference"] - np.mean(drawn[0] - drawn[1])
    assert row["interval"] == pytest.approx(plain + shift)
    assert shift > 0.5 * (plain[1] - plain[0])


def test_undefined_differences_have_a_reason():
    constant = compare_two([3.0] * 6, range(6), [1, 2, 3, 4, 5, 5], "srcc")
    assert constant["difference"] is None and constant["p_bootstrap"] is None
    assert constant["reason"] == "undefined for A: the predictions are constant"
    assert constant["reason_correlation"] == constant["reason"]
    same = compare_two([1, 2, 4] * 2, [1, 2, 4] * 2, range(6), "mse", num_resamples=100)
    assert same["interval"] == (0, 0) and same["p_bootstrap"] == 1
    assert same["better"] is same["detectable_bootstrap"] is None
    assert "no smallest difference" in same["reason"]


@pytest.mark.parametrize("metric", ["mse", "lcc", "srcc"])
@pytest.mark.parametrize("by_clusters", [False, True])
def test_below_six_units_no_models_are_told_apart(metric, by_clusters):
    """Two clips gave p = 0.002."""
    true, a, b = three_normals(0, 0.8, 0.6, 0.5, 6)
    a, b = true + 0.01 * a, -b
    settings = {}
    if by_clusters:
        # six clips of five sentences
        settings["clusters"] = list("aabcde")
    else:
        true, a, b = true[:5], a[:5], b[:5]
    rows = [compare_two(a, b, true, metric, **settings)]
    if not by_clusters:
        rows.append(compare_two(a[:2], b[:2], true[:2], metric))
        rows += compare_models({"A": a, "B": b}, true, list("aabbc"), metrics=[metric])
    for row in rows:
        assert row["interval"] is row["p_bootstrap"] is row["p_correlation"] is None
        assert row["p_bootstrap_holm"] is row["p_correlation_holm"] is None
        assert row["detectable_bootstrap"] is row["detectable_correlation"] is None
        assert row["reason"] and row["reason_correlation"]
    assert (
        rows[0]["difference"] is not None and "of the at least 6" in rows[0]["reason"]
    )


@pytest.mark.parametrize("number", [1, 99])
def test_a_handful_of_resamples_is_no_bootstrap(number):
    """Of one, the interval was a point; Williams' test needs none."""
    true, a, b = three_normals(0, 0.8, 0.6, 0.5, 60)
    row = compare_two(a, b, true, "lcc", num_resamples=number)
    assert row["difference"] is not None
    assert row["interval"] is row["p_bootstrap"] is row["detectable_bootstrap"] is None
    assert f"found {number} of the at least 100 resamples" in row["reason"]
    assert row["p_correlation"] == compare_correlations(a, b, true).p_correlation
    row = compare_two(a, b, true, "lcc", num_resamples=100)
    assert None not in (
        row["interval"],
        row["p_bootstrap"],
        row["detectable_bootstrap"],
    )
    few = compare_two(a[:5], b[:5], true[:5], "lcc", num_resamples=number)
    assert "of the at least 6 utterances" in few["reason"]


def test_six_units_are_enough():
    true, a, b = three_normals(0, 0.8, 0.6, 0.5, 6)
    row = compare_two(true + 0.01 * a, -b, true, "lcc")
    assert row["interval"] is not None and row["p_bootstrap"] < 0.05
    assert row["p_correlation"] is not None and row["reason"] is None


def test_models_of_another_scale_have_no_difference_of_errors():
    true, a, b = three_normals(1, 0.8, 0.6, 0.5, 30)
    models, metrics = {"A": a, "B": b, "C": 50 * b}, ["mse", "srcc"]
    options = {"metrics": metrics, "num_resamples": 100}
    rows = compare_models(models, true, two_scales={"C": "C is large"}, **options)
    rows = {(r["metric"], r["model_a"], r["model_b"]): r for r in rows}
    for a, b in (("A", "C"), ("B", "C")):
        row = rows["mse", a, b]
        assert row["value_b"] is row["difference"] is row["p_bootstrap_holm"] is None
        assert row["reason"] == "undefined for C: C is large"
        assert rows["srcc", a, b]["p_bootstrap"] is not None
    # nor do they count in the family
    assert (
        rows["mse", "A", "B"]["p_bootstrap_holm"]
        == rows["mse", "A", "B"]["p_bootstrap"]
    )


def test_smallest_detectable_difference_by_closed_form():
    """Of two MSE: 2.80 standard errors of the mean of their items' differences."""
    generator = np.random.default_rng(3)
    true = generator.uniform(1, 5, 200)
    a, b = (true + generator.normal(0, sd, 200) for sd in (0.6, 0.7))
    row = compare_two(a, b, true, "mse", num_resamples=4000)
    items = (a - true) ** 2 - (b - true) ** 2
    expected = 2.8016 * items.std() / 200**0.5
    assert row["detectable_bootstrap"] == pytest.approx(expected, rel=0.04)


def test_williams_finds_the_smallest_detectable_difference_in_eight_of_ten():
    n, r_a, r_ab = 80, 0.8, 0.7
    # the r_b whose distance from r_a is what can be found there
    distances = [
        r_a - r - williams_t(r_a, r, r_ab, n).detectable_correlation
        for r in np.arange(0.5, 0.8, 0.001)
    ]
    r_b = 0.5 + 0.001 * np.argmin(np.abs(distances))
    found, told = 0, []
    for seed in range(1500):
        true, a, b = three_normals(seed, r_a, r_b, r_ab, n)
        test = compare_correlations(a, b, true)
        found += test.p_correlation <= 0.05
        told.append(test.detectable_correlation)
    assert found / 1500 == pytest.approx(0.8, abs=0.04)
    assert np.mean(told) == pytest.approx(r_a - r_b, rel=0.05)


def test_several_models():
    true, a, b = three_normals(4, 0.9, 0.6, 0.5, 120)
    models = {"A": a, "B": b, "C": a + 0.01 * b, "D": b - a, "E": -a}
    rows = compare_models(models, true, metrics=["lcc"])
    json.dumps(rows, allow_nan=False)
    assert [(r["model_a"], r["model_b"]) for r in rows[:2]] == [("A", "B"), ("A", "C")]
    for name in ("p_bootstrap", "p_correlation"):
        assert [r[f"{name}_holm"] for r in rows] == holm([r[name] for r in rows])
    # 10 comparisons: 2000 resamples, so that the least adjusted p is 20 / 2001
    assert min(r["p_bootstrap_holm"] for r in rows) == pytest.approx(20 / 2001)
    # the same resamples as two models alone have
    alone = compare_two(a, b, true, "lcc", num_resamples=2000)
    assert rows[0]["interval"] == alone["interval"]
    rows = compare_models(models, true, metrics=["lcc"], baseline="B", num_resamples=50)
    pairs = [(r["model_a"], r["model_b"]) for r in rows]
    assert pairs == [("A", "B"), ("C", "B"), ("D", "B"), ("E", "B")]


@pytest.mark.parametrize(
    "models, arguments, message",
    [
        ({"A": [1, 2]}, {}, "1 models"),
        ({"A": [1, 2], "B": [1, 2]}, {"baseline": "C"}, "baseline C"),
        ({"A": [1, 2], "B": [1, 2, 3]}, {}, "have the shape"),
        ({"A": [1, 2], "B": [1, np.nan]}, {}, "finite"),
        ({"A": [1, 2], "B": [1, 2]}, {"metrics": ["pcc"]}, "metric pcc"),
    ],
)
def test_what_cannot_be_compared(models, arguments, message):
    with pytest.raises(ValueError, match=message):
        compare_models(models, [1, 2], **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["mse", "srcc"])
def test_bootstrap_finds_the_smallest_detectable_difference_in_eight_of_ten(metric):
    def draw(seed, worse):
        generator = np.random.default_rng(seed)
        true, shared = generator.normal(size=(2, 80))
        errors = 0.4 * shared + 0.4 * generator.normal(size=(2, 80))
        return true + errors[0], true + worse * errors[1], true

    def differences(worse, num):
        pairs = [draw(10**6 + seed, worse) for seed in range(num)]
        metric_of = ALL_METRICS[metric]
        return [metric_of(a, t).value - metric_of(b, t).value for a, b, t in pairs]

    # how much worse b has to be for 2.80 standard errors
    worse = 1.0
    while abs(np.mean(drawn := differences(worse, 400))) < 2.8016 * np.std(drawn):
        worse += 0.02
    found, told = 0, []
    for seed in range(300):
        a, b, true = draw(seed, worse)
        row = compare_two(a, b, true, metric, num_resamples=199, seed=seed)
        found += row["p_bootstrap"] <= 0.05
        told.append(row["detectable_bootstrap"])
    assert found / 300 == pytest.approx(0.8, abs=0.08)
    assert np.mean(told) == pytest.approx(abs(np.mean(drawn)), rel=0.1)


@pytest.mark.slow
def test_size_of_the_tests():
    rejected = {"clusters": 0, "clips": 0, "williams": 0}
    for seed in range(300):
        shared = three_normals(seed, 0.8, 0.8, 0.7, 50)
        rejected["williams"] += (
            compare_correlations(*shared[[1, 2, 0]]).p_correlation <= 0.05
        )
        # four clips a sentence, which share the larger part of everything
        noise = 0.3 * np.random.default_rng(seed + 1000).normal(size=(3, 200))
        true, a, b = np.repeat(shared, 4, axis=1) + noise
        clusters = np.repeat(np.arange(50), 4).tolist()
        for name, of_clips in (("clusters", clusters), ("clips", None)):
            settings = {"num_resamples": 199, "seed": seed, "clusters": of_clips}
            row = compare_two(a, b, true, "lcc", **settings)
            rejected[name] += row["p_bootstrap"] <= 0.05
    # 999 of 1000 experiments of a test of this size keep to these
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 300, 0.05)
    assert low <= rejected["clusters"] <= high and low <= rejected["williams"] <= high
    assert rejected["clips"] > 2 * high
