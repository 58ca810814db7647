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
    meng_interval,
    meng_z,
    paired_bootstrap,
    steiger_z,
    williams_t,
)


def three_normals(seed, r_a, r_b, r_ab, n):
    """Labels and two models' predictions, normal with the given correlations."""
    matrix = [[1, r_a, r_b], [r_a, 1, r_ab], [r_b, r_ab, 1]]
    generator = np.random.default_rng(seed)
    return np.linalg.cholesky(matrix) @ generator.normal(size=(3, n))


# Figures that were published with the tests and with programs for them:
# Silver, Hittner & May, Appl. Psychol. Meas. 30, 2006 (DEPCOR)
DEPCOR = (0.3, 0.4, 0.5, 100)


def test_published_example_of_williams():
    t, p, df, reason = williams_t(*DEPCOR)
    assert round(t, 4) == -1.0767 and round(p, 4) == 0.2843
    assert df == 97 and reason is None


def test_published_examples_of_steiger():
    z, p, df, reason = steiger_z(*DEPCOR)
    assert round(z, 4) == -1.0718 and round(p, 4) == 0.2838
    assert df is None and reason is None
    # Steiger, Psychol. Bull. 87, 1980, case A; he rounds the covariance to 0.0042
    z = steiger_z(0.4, 0.5, 0.1, 103).statistic
    assert z == pytest.approx(-0.8913, abs=3e-3)


def test_published_examples_of_meng():
    z, p, _, _ = meng_z(*DEPCOR)
    assert round(z, 4) == -1.0707 and round(p, 4) == 0.2843
    # Meng, Rosenthal & Rubin, Psychol. Bull. 111, 1992: one-sided p
    z, p, _, _ = meng_z(0.63, -0.03, -0.19, 15)
    assert round(z, 2) == 1.68 and round(p / 2, 3) == 0.047
    # theirs ends at 1.671, from rounded steps
    interval = meng_interval(0.63, -0.03, -0.19, 15)
    assert interval == pytest.approx((-0.129, 1.671), abs=1.1e-3)
    # f is at most 1: then h = 1
    z = meng_z(0.9, -0.9, -0.7, 50).statistic
    assert z == pytest.approx(2 * np.arctanh(0.9) * (47 / 3.4) ** 0.5)
    # May & Hittner, Psychol. Rep. 80, 1997, n = 50
    for r_a, r_b, published in (
        (0.5, 0.2, [1.62, 1.70, 1.80, 1.91, 2.06, 2.24, 2.50, 2.87, 3.50]),
        (0.7, 0.4, [2.03, 2.10, 2.20, 2.32, 2.47, 2.66, 2.94, 3.35, 4.05]),
    ):
        for step, expected in enumerate(published):
            z = meng_z(r_a, r_b, step / 10, 50).statistic
            assert z == pytest.approx(expected, abs=6e-3)


@pytest.mark.parametrize("test", [williams_t, steiger_z, meng_z])
def test_symmetry_and_special_cases_of_the_tests(test):
    there, back = test(0.7, 0.6, 0.5, 60), test(0.6, 0.7, 0.5, 60)
    assert there.statistic == pytest.approx(-back.statistic) and there.statistic > 0
    assert there.p_value == pytest.approx(back.p_value)
    assert test(0.7, 0.7, 0.5, 60)[:2] == (0, 1)
    # the more alike the models, the clearer the same difference
    assert test(0.7, 0.6, 0.9, 60).p_value < there.p_value
    same = test(0.7, 0.7, 1.0, 60)
    assert same[:2] == (0.0, 1.0) and "the same but for their scale" in same.reason
    few = test(0.7, 0.6, 0.5, 3)
    assert few.p_value is None and "3 items" in few.reason
    with pytest.raises(ValueError, match="a correlation is 1.2"):
        test(0.7, 1.2, 0.5, 60)


def test_perfect_correlation():
    t, p, _, _ = williams_t(1.0, 0.6, 0.6, 50)
    assert t > 0 and p < 1e-6
    for test in (steiger_z, meng_z):
        value, p, _, reason = test(1.0, 0.6, 0.6, 50)
        assert value is None and p is None and "Fisher" in reason
    assert meng_interval(1.0, 0.6, 0.6, 50) is None


def test_correlations_of_arrays():
    true, a, b = three_normals(0, 0.8, 0.6, 0.5, 80)
    pearson, spearman = scipy.stats.pearsonr, scipy.stats.spearmanr
    for name, r in (("lcc", pearson), ("srcc", spearman)):
        expected = williams_t(r(a, true)[0], r(b, true)[0], r(a, b)[0], 80)
        found = compare_correlations(a, b, true, name)
        assert found.statistic == pytest.approx(expected.statistic)
        assert found.p_value == pytest.approx(expected.p_value)
    found = compare_correlations(a, b, true, "lcc", "meng")
    expected = meng_z(pearson(a, true)[0], pearson(b, true)[0], pearson(a, b)[0], 80)
    assert found == pytest.approx(expected)


def test_undefined_correlations_have_a_reason():
    constant = compare_correlations([1, 2, 3, 4], [2, 2, 2, 2], [1, 2, 3, 5])
    assert constant.p_value is None
    assert constant.reason == "model b: the predictions are constant"
    infinite = compare_correlations([1, np.inf, 3, 4], [1, 2, 3, 4], [1, 2, 3, 5])
    assert infinite.p_value is None and "NaN or infinity" in infinite.reason
    with pytest.raises(ValueError, match="expected lcc or srcc"):
        compare_correlations([1, 2], [1, 2], [1, 2], "ktau")
    with pytest.raises(ValueError, match="the test is t"):
        compare_correlations([1, 2], [1, 2], [1, 2], test="t")


def test_holm_worked_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04 -> 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # capped at 1, ties stay ties, and what was not tested does not count
    assert holm([0.6, 0.5, None]) == [1, 1, None]
    assert holm([0.02, None, 0.02]) == [0.04, None, 0.04]
    assert holm([0.03]) == [0.03] and holm([]) == [] and holm([None]) == [None]
    with pytest.raises(ValueError, match="p-value is 1.5"):
        holm([1.5])


def test_holm_agrees_with_the_step_down_procedure():
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.uniform(size=6) ** 3
        adjusted = np.array(holm(list(p)))
        for alpha in (0.01, 0.05, 0.2):
            # reject the least p while it is at most alpha over the number left
            rejected = np.zeros(6, dtype=bool)
            for left, i in zip(range(6, 0, -1), np.argsort(p)):
                if p[i] > alpha / left:
                    break
                rejected[i] = True
            np.testing.assert_array_equal(adjusted <= alpha, rejected)


def test_bootstrap_p_value():
    # 24 of 999 at or below zero
    differences = np.concatenate([-np.ones(24), np.ones(975)])
    assert bootstrap_p_value(differences) == pytest.approx(2 * 25 / 1000)
    assert bootstrap_p_value(-differences) == pytest.approx(2 * 25 / 1000)
    assert bootstrap_p_value(np.zeros(100)) == 1
    assert bootstrap_p_value(np.ones(99)) == pytest.approx(0.02)
    half = np.where(np.arange(100) < 49, 1.0, np.nan)
    assert bootstrap_p_value(half) is None


def test_difference_of_errors_matches_the_paired_t_test():
    # the difference of two MSE is a mean of differences of squared errors
    generator = np.random.default_rng(3)
    true = generator.uniform(1, 5, 400)
    a = true + generator.normal(0, 0.60, 400)
    b = a + generator.normal(0, 0.30, 400)
    found = paired_bootstrap(a, b, true, metrics=["mse"], num_resamples=4000)
    difference, interval, p, reason = found["utt_mos_mse"]
    items = (a - true) ** 2 - (b - true) ** 2
    assert difference == pytest.approx(items.mean()) and reason is None
    expected = scipy.stats.ttest_1samp(items, 0).confidence_interval()
    width = expected.high - expected.low
    assert interval.low == pytest.approx(expected.low, abs=0.05 * width)
    assert interval.high == pytest.approx(expected.high, abs=0.05 * width)
    assert p == pytest.approx(scipy.stats.ttest_1samp(items, 0).pvalue, abs=2e-3)


def test_every_metric_is_compared_at_both_levels():
    true, a, b = three_normals(1, 0.8, 0.6, 0.5, 90)
    systems = [f"s{i % 9}" for i in range(90)]
    found = paired_bootstrap(
        a, b, true, systems, metrics=list(ALL_METRICS), num_resamples=100
    )
    value_a = evaluate(a, true, systems, list(ALL_METRICS))
    value_b = evaluate(b, true, systems, list(ALL_METRICS))
    assert len(found) == 2 * len(ALL_METRICS)
    for key, paired in found.items():
        assert paired.difference == pytest.approx(value_a[key] - value_b[key])
        assert paired.interval.low < paired.interval.high
        assert 0 < paired.p_value <= 1
        # an interval that holds zero is no significant difference, and the reverse
        assert (paired.p_value > 0.05) == (
            paired.interval.low <= 0 <= paired.interval.high
        )


def test_copies_within_a_cluster_add_no_certainty():
    true, a, b = three_normals(2, 0.8, 0.7, 0.6, 60)
    once = paired_bootstrap(a, b, true, metrics=["lcc"])["utt_mos_lcc"]
    copies = [np.tile(v, 9) for v in (a, b, true)]
    clusters = list(range(60)) * 9
    settings = {"metrics": ["lcc"]}
    same = paired_bootstrap(*copies, clusters=clusters, **settings)["utt_mos_lcc"]
    blind = paired_bootstrap(*copies, **settings)["utt_mos_lcc"]
    assert same.interval == pytest.approx(once.interval)
    assert same.p_value == once.p_value > 10 * blind.p_value


def test_same_model_twice_is_no_difference():
    true, a, _ = three_normals(3, 0.8, 0.7, 0.6, 50)
    for paired in paired_bootstrap(a, a, true, num_resamples=50).values():
        assert paired == (0, (0, 0), 1, None)


def test_differences_of_systems_are_centred():
    # b's clips are noisier, and resamples of few clips count that noise twice
    generator = np.random.default_rng(0)
    true = np.repeat(generator.normal(size=40), 3)
    a = true + 0.1 * generator.normal(size=120)
    b = true + 1.5 * generator.normal(size=120)
    systems = np.repeat(np.arange(40), 3).astype(str).tolist()
    key, settings = "sys_mos_mse", {"num_resamples": 500, "seed": 1}
    difference, interval, _, _ = paired_bootstrap(
        *(a, b, true, systems, None, ["mse"]), resample="within_systems", **settings
    )[key]
    resampler = Resampler(120, systems, None, "within_systems", **settings)
    samples = [resampler(p, true, ["mse"])[key] for p in (a, b)]
    plain = np.percentile(samples[0] - samples[1], [2.5, 97.5])
    shift = difference - np.mean(samples[0] - samples[1])
    assert interval == pytest.approx(plain + shift)
    assert shift > 0.5 * (plain[1] - plain[0])


def test_undefined_differences_have_a_reason():
    found = paired_bootstrap([3.0] * 6, [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 5])
    assert found["utt_mos_srcc"] == (None, None, None, "undefined for a model")
    assert found["utt_mos_mse"].p_value is not None
    one = paired_bootstrap([1, 2, 3], [1, 3, 2], [1, 2, 3], clusters=["s"] * 3)
    difference, interval, p, reason = one["utt_mos_lcc"]
    assert difference == pytest.approx(0.5) and interval is None and p is None
    assert "fewer than 2 independent units" in reason


def size_band(trials, alpha):
    """Rejections that 999 of 1000 experiments of a test of this size keep to."""
    return scipy.stats.binom.ppf([0.0005, 0.9995], trials, alpha)


def test_size_and_power_of_the_tests_of_correlations():
    low, high = size_band(1000, 0.05)
    for test in ("williams", "steiger", "meng"):
        rejected = [
            compare_correlations(*data[[1, 2, 0]], test=test).p_value <= 0.05
            for data in (three_normals(s, 0.8, 0.8, 0.8, 30) for s in range(1000))
        ]
        assert low <= sum(rejected) <= high, test
    better = [
        compare_correlations(*data[[1, 2, 0]]).p_value <= 0.05
        for data in (three_normals(s, 0.85, 0.7, 0.8, 60) for s in range(100))
    ]
    assert sum(better) > 80


def test_size_of_the_paired_bootstrap():
    rejected = {"mse": 0, "lcc": 0}
    blind = 0
    for seed in range(300):
        # four clips a sentence, which share the larger part of everything
        shared = three_normals(seed, 0.8, 0.8, 0.7, 50)
        true, a, b = np.repeat(shared, 4, axis=1) + 0.3 * np.random.default_rng(
            seed + 1000
        ).normal(size=(3, 200))
        clusters = np.repeat(np.arange(50), 4).tolist()
        settings = {"num_resamples": 199, "seed": seed}
        found = paired_bootstrap(
            *(a, b, true), clusters=clusters, metrics=list(rejected), **settings
        )
        for name in rejected:
            rejected[name] += found[f"utt_mos_{name}"].p_value <= 0.05
        found = paired_bootstrap(a, b, true, metrics=["lcc"], **settings)
        blind += found["utt_mos_lcc"].p_value <= 0.05
    low, high = size_band(300, 0.05)
    assert all(low <= count <= high for count in rejected.values()), rejected
    assert blind > 2 * high


def test_compare_models_all_with_all():
    true, a, b = three_normals(4, 0.9, 0.6, 0.5, 120)
    c = a + 0.01 * b
    systems = [f"s{i % 12}" for i in range(120)]
    models = {"A": a, "B": b, "C": c}
    rows = compare_models(models, true, systems, num_resamples=200)
    assert len(rows) == 2 * 4 * 3
    # valid JSON without NaN
    json.dumps(rows, allow_nan=False)
    of_lcc = [r for r in rows if (r["level"], r["metric"]) == ("utt", "lcc")]
    pairs = [(r["model_a"], r["model_b"]) for r in of_lcc]
    assert pairs == [("A", "B"), ("A", "C"), ("B", "C")]
    assert [r["better"] for r in of_lcc[::2]] == ["A", "C"]
    for name in ("p_bootstrap", "p_correlation"):
        assert [r[f"{name}_holm"] for r in of_lcc] == holm([r[name] for r in of_lcc])
    direct = compare_correlations(a, b, true)
    assert of_lcc[0]["p_correlation"] == direct.p_value
    assert of_lcc[0]["degrees_of_freedom"] == 117
    # the same resamples as two models alone have
    alone = paired_bootstrap(a, b, true, systems, num_resamples=200)
    assert of_lcc[0]["p_bootstrap"] == alone["utt_mos_lcc"].p_value
    assert of_lcc[0]["interval"] == alone["utt_mos_lcc"].interval
    # an error is better where it is less
    of_mse = [r for r in rows if (r["level"], r["metric"]) == ("utt", "mse")][0]
    assert of_mse["better"] == ("A" if of_mse["difference"] < 0 else "B")
    assert of_mse["p_correlation"] is None
    assert of_mse["reason_correlation"] == "for correlations only"
    by_system = [r for r in rows if (r["level"], r["metric"]) == ("sys", "srcc")][0]
    assert by_system["degrees_of_freedom"] == 9


def test_compare_models_with_a_baseline():
    true, a, b = three_normals(5, 0.9, 0.6, 0.5, 40)
    models = {"A": a, "base": b, "C": a - b}
    rows = compare_models(models, true, metrics=["lcc"], baseline="base")
    assert [(r["model_a"], r["model_b"]) for r in rows] == [
        ("A", "base"),
        ("C", "base"),
    ]
    assert {r["level"] for r in rows} == {"utt"}


def test_tests_of_correlations_are_not_done_on_dependent_clips():
    true, a, b = three_normals(6, 0.9, 0.6, 0.5, 40)
    clusters = [i // 2 for i in range(40)]
    systems = [f"s{i % 10}" for i in range(40)]
    rows = compare_models(
        {"A": a, "B": b}, true, systems, clusters, ["lcc"], num_resamples=50
    )
    assert rows[0]["p_correlation"] is None
    assert "not independent" in rows[0]["reason_correlation"]
    assert rows[0]["p_bootstrap"] is not None
    assert rows[1]["level"] == "sys" and rows[1]["p_correlation"] is not None
    # clusters of one clip each are independent clips
    rows = compare_models(
        {"A": a, "B": b}, true, None, list(range(40)), ["lcc"], num_resamples=50
    )
    assert rows[0]["p_correlation"] is not None


def test_many_models_get_resamples_enough_for_holm():
    generator = np.random.default_rng(0)
    true = generator.normal(size=100)
    models = {f"m{i}": true + i * generator.normal(size=100) for i in range(5)}
    rows = compare_models(models, true, metrics=["lcc"])
    # 10 comparisons: 2000 resamples, so that the least adjusted p is 20 / 2001
    least = min(r["p_bootstrap_holm"] for r in rows)
    assert least == pytest.approx(10 * 2 / 2001)


def test_what_cannot_be_compared():
    with pytest.raises(ValueError, match="1 models"):
        compare_models({"A": [1, 2]}, [1, 2])
    with pytest.raises(ValueError, match="baseline C"):
        compare_models({"A": [1, 2], "B": [1, 2]}, [1, 2], baseline="C")
    with pytest.raises(ValueError, match="predictions of B have the shape"):
        compare_models({"A": [1, 2], "B": [1, 2, 3]}, [1, 2])
    with pytest.raises(ValueError, match="predictions of B .* not finite"):
        compare_models({"A": [1, 2], "B": [1, np.nan]}, [1, 2])
    with pytest.raises(ValueError, match="metric pcc"):
        compare_models({"A": [1, 2], "B": [1, 2]}, [1, 2], metrics=["pcc"])
    with pytest.raises(ValueError, match="the test is t"):
        compare_models({"A": [1, 2], "B": [1, 2]}, [1, 2], test="t")
