# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import subprocess
import sys

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import sklearn.metrics

from espnet2_distilmos.evaluation.metrics import (
    ALL_METRICS,
    average_ranks,
    evaluate,
    fit_mapping,
    ktau,
    lcc,
    mse,
    pair_accuracy,
    rmse_first_order,
    rmse_third_order,
    srcc,
    system_means,
)


def data(n, tied, seed=0):
    generator = np.random.default_rng(seed)
    true = generator.uniform(1, 5, n)
    pred = true + generator.normal(0, 0.7, n)
    if tied:
        true, pred = np.round(true), np.round(pred * 2) / 2
    return pred, true


@pytest.mark.parametrize("n", [3, 4, 50, 3000])
@pytest.mark.parametrize("tied", [False, True])
def test_against_scipy(n, tied):
    pred, true = data(n, tied, seed=n)
    assert mse(pred, true).value == pytest.approx(np.mean((pred - true) ** 2))
    stats = scipy.stats
    assert lcc(pred, true).value == pytest.approx(stats.pearsonr(pred, true)[0])
    assert srcc(pred, true).value == pytest.approx(stats.spearmanr(pred, true)[0])
    assert ktau(pred, true).value == pytest.approx(stats.kendalltau(pred, true)[0])


def test_closed_forms():
    true = [1, 2, 3, 4, 5]
    pred = [2, 1, 3, 5, 4]
    assert mse(pred, true).value == 4 / 5
    # rank differences 1, 1, 0, 1, 1: 1 - 6 * 4 / (5 * 24)
    assert srcc(pred, true).value == pytest.approx(0.8)
    assert lcc(pred, true).value == pytest.approx(0.8)
    # 2 of 10 pairs discordant
    assert ktau(pred, true).value == pytest.approx(0.6)
    # one tied pair in the predictions: (5 - 0) / sqrt(5 * 6)
    assert ktau([1, 1, 2, 3], [1, 2, 3, 4]).value == pytest.approx(5 / 30**0.5)
    assert srcc([1, 1, 2, 3], [1, 2, 3, 4]).value == pytest.approx(0.9**0.5)


def test_monotonic_but_not_linear():
    true = np.arange(1.0, 20)
    assert srcc(np.exp(true), true).value == pytest.approx(1)
    assert ktau(-np.exp(true), true).value == pytest.approx(-1)
    assert lcc(np.exp(true), true).value < 0.7


@pytest.mark.parametrize("n", [2, 5, 300])
@pytest.mark.parametrize("tied", [False, True])
def test_pairs_are_counted_as_brute_force_counts_them(n, tied):
    pred, true = data(n, tied, seed=n + 7)
    i, j = np.triu_indices(n, 1)
    sign_pred, sign_true = np.sign(pred[i] - pred[j]), np.sign(true[i] - true[j])
    right = (sign_pred * sign_true)[sign_true != 0]
    expected = np.mean((right > 0) + 0.5 * (right == 0))
    assert pair_accuracy(pred, true).value == pytest.approx(expected, abs=1e-15)
    balance = np.sum(sign_pred * sign_true)
    untied = np.count_nonzero(sign_pred) * np.count_nonzero(sign_true)
    # to the last bit: the counts are whole numbers
    assert ktau(pred, true).value == 2 * balance / (4.0 * untied) ** 0.5


def test_pair_accuracy_of_two_classes_is_the_area_under_the_curve():
    generator = np.random.default_rng(0)
    true = generator.integers(0, 2, 200)
    pred = np.round(true + generator.normal(0, 1, 200), 1)
    auc = sklearn.metrics.roc_auc_score(true, pred)
    assert pair_accuracy(pred, true).value == pytest.approx(auc)


def test_pair_accuracy_of_constants():
    assert pair_accuracy([3, 3, 3], [1, 2, 3]).value == 0.5
    assert pair_accuracy([1, 2, 3], [3, 3, 3]) == (None, "the labels are constant")
    assert pair_accuracy([3, 3, 3], [3, 3, 3]) == (None, "the labels are constant")
    assert pair_accuracy([1], [2]).value is None


def test_first_order_mapping_is_linear_regression():
    pred, true = data(40, tied=False)
    line = scipy.stats.linregress(pred, true)
    mapping = fit_mapping(pred, true, 1)
    np.testing.assert_allclose(mapping.coefficients, [line.intercept, line.slope])
    # explained variance: 1 - r^2 of the labels' is left
    r = scipy.stats.pearsonr(pred, true)[0]
    left = np.sum((true - true.mean()) ** 2) * (1 - r**2)
    assert rmse_first_order(pred, true).value == pytest.approx((left / 38) ** 0.5)
    # any other linear scale of the predictions is mended
    again = rmse_first_order(20 * pred - 3, true).value
    assert again == pytest.approx(rmse_first_order(pred, true).value)


def test_mappings_do_not_mend_the_direction():
    pred, true = data(40, tied=False)
    for order in (1, 3):
        mapping = fit_mapping(-pred, true, order)
        np.testing.assert_allclose(mapping(-pred), true.mean(), atol=1e-9)


def test_third_order_mapping_that_rises_anyway_is_least_squares():
    generator = np.random.default_rng(0)
    pred = generator.uniform(1, 5, 60)
    true = 3 + np.sinh(pred - 3) / 2 + generator.normal(0, 0.1, 60)
    mapping = fit_mapping(pred, true, 3)
    assert mapping.order == 3 and mapping.reason is None
    np.testing.assert_allclose(mapping.coefficients[::-1], np.polyfit(pred, true, 3))
    error = np.sum((np.polyval(np.polyfit(pred, true, 3), pred) - true) ** 2)
    assert rmse_third_order(pred, true).value == pytest.approx((error / 56) ** 0.5)
    assert rmse_third_order(pred, true).value < rmse_first_order(pred, true).value


CURVES = [
    lambda x: 0 * x,
    lambda x: -x,
    lambda x: np.sin(2 * x),
    lambda x: (x - 3) ** 2,
    lambda x: -((x - 3) ** 2),
    lambda x: (x - 3) ** 3 - (x - 3),
]


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_third_order_mapping_is_the_best_that_never_falls(curve, seed):
    generator = np.random.default_rng(seed)
    pred = generator.uniform(1, 5, 50)
    true = curve(pred) + generator.normal(0, 0.3, 50)
    mapping = fit_mapping(pred, true, 3)
    grid = np.linspace(pred.min(), pred.max(), 2000)
    assert np.diff(mapping(grid)).min() > -1e-9
    # The slopes that are nowhere negative in [0, 1] are the sums of (u - r)^2 and
    # u (1 - u) with weights >= 0: non-negative least squares over many r.
    u = (pred - pred.min()) / (pred.max() - pred.min())
    rises = [(u - r) ** 3 / 3 for r in np.linspace(0, 1, 201)]
    rises = np.stack(rises + [u**2 / 2 - u**3 / 3], axis=1)
    _, norm = scipy.optimize.nnls(rises - rises.mean(0), true - true.mean())
    error = np.sum((mapping(pred) - true) ** 2)
    assert error <= norm**2 + 1e-9 and error == pytest.approx(norm**2, rel=1e-3)


def test_weights_of_the_mapping_are_repetitions():
    pred, true = data(30, tied=False)
    counts = np.random.default_rng(0).integers(0, 4, 30)
    for order in (1, 3):
        weighted = fit_mapping(pred, true, order, counts).coefficients
        repeated = fit_mapping(np.repeat(pred, counts), np.repeat(true, counts), order)
        np.testing.assert_allclose(weighted, repeated.coefficients, rtol=1e-6)


def test_too_few_points_for_a_cubic_are_mapped_linearly_with_a_reason():
    pred, true = data(7, tied=False)
    value, reason = rmse_third_order(pred, true)
    assert value == rmse_first_order(pred, true).value
    assert "linearly" in reason and "7 items, at least 8" in reason
    steps = np.tile([1.0, 2.0, 3.0], 10)
    value, reason = rmse_third_order(steps, np.arange(30))
    assert value is not None and "3 different predictions" in reason
    assert rmse_third_order([1, 2], [1, 2]) == (None, "2 items, at least 3 needed")
    assert rmse_first_order([2, 2, 2], [1, 2, 3]).reason == (
        "the predictions are constant"
    )
    assert rmse_first_order([1, 2, 3], [2, 2, 2]).reason == "the labels are constant"


def test_mapping_refuses_what_it_cannot_fit():
    with pytest.raises(ValueError, match="order is 2"):
        fit_mapping([1, 2, 3], [1, 2, 3], 2)
    with pytest.raises(ValueError, match="2 different predictions"):
        fit_mapping([1, 1, 2], [1, 2, 3], 1, [1, 1, 0])
    with pytest.raises(ValueError, match="the labels contain NaN"):
        fit_mapping([1, 2, 3], [1, np.nan, 3], 1)


def test_average_ranks():
    np.testing.assert_array_equal(
        average_ranks(np.array([5.0, 1, 5, 0, 5])), [4, 2, 4, 1, 4]
    )


@pytest.mark.parametrize("metric", [lcc, srcc, ktau])
@pytest.mark.parametrize(
    "pred, true, reason",
    [
        ([], [], "0 items"),
        ([1.0], [2.0], "1 items"),
        ([3.1, 3.1, 3.1], [1, 2, 3], "the predictions are constant"),
        ([1, 2, 3], [4, 4, 4], "the labels are constant"),
        ([1, np.nan, 3], [1, 2, 3], "the predictions contain NaN"),
    ],
)
def test_undefined_has_a_reason(metric, pred, true, reason):
    value, text = metric(pred, true)
    assert value is None and reason in text


def test_mse_is_defined_for_one_item_and_constants():
    assert mse([2.0], [3.0]).value == 1
    assert mse([2.0, 2.0], [3.0, 3.0]).value == 1
    assert mse([], []).value is None
    assert mse([np.inf], [1.0]).value is None


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one prediction for every label"):
        srcc([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="1 systems for 2"):
        system_means([1, 2], [1, 2], ["a"])


def test_systems_are_means_over_their_own_utterances():
    pred = [1, 3, 5, 2, 9]
    true = [1, 2, 4, 4, 9]
    systems = ["b", "b", "a", "c", None]
    sys_pred, sys_true, names = system_means(pred, true, systems)
    assert list(names) == ["a", "b", "c"]
    np.testing.assert_allclose(sys_pred, [5, 2, 2])
    np.testing.assert_allclose(sys_true, [4, 1.5, 4])
    result = evaluate(pred, true, systems)
    assert result["num_utts"] == 5 and result["num_systems"] == 3
    assert result["sys_mos_mse"] == pytest.approx((1 + 0.25 + 4) / 3)
    assert result["sys_mos_ktau"] == pytest.approx(
        scipy.stats.kendalltau([5, 2, 2], [4, 1.5, 4])[0]
    )
    assert result["utt_mos_srcc"] == pytest.approx(scipy.stats.spearmanr(pred, true)[0])
    assert result["undefined"] == {}


def test_equal_means_are_ties_whatever_the_order_of_summation():
    # 0.1 + 0.2 + 0.3 differs from 0.3 + 0.2 + 0.1 in the last bit
    values = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 5.0]
    sys_pred, _, _ = system_means(values, values, ["a"] * 3 + ["b"] * 3 + ["c"])
    assert sys_pred[0] == sys_pred[1]


def test_evaluate_without_systems():
    result = evaluate([1, 2, 3], [1, 3, 2])
    assert result["num_systems"] == 0 and result["sys_mos_srcc"] is None
    assert result["undefined"]["sys_mos_srcc"] == "no utterance has a system"
    result = evaluate([1, 2], [1, 2], ["a", "a"])
    assert result["sys_mos_lcc"] is None and result["sys_mos_mse"] == 0
    assert "1 items" in result["undefined"]["sys_mos_lcc"]


def test_evaluate_computes_what_it_is_asked_for():
    pred, true = data(50, tied=False)
    systems = [f"s{i % 5}" for i in range(50)]
    result = evaluate(pred, true, systems, list(ALL_METRICS))
    for name, metric in ALL_METRICS.items():
        assert result[f"utt_mos_{name}"] == metric(pred, true).value
    assert "5 items" in result["remarks"]["sys_mos_rmse_third_order"]
    usual = evaluate(pred, true, systems)
    assert "utt_mos_pair_accuracy" not in usual and "remarks" not in usual
    with pytest.raises(ValueError, match="metric pcc is unknown"):
        evaluate(pred, true, metrics=["pcc"])


def test_evaluation_imports_neither_task_nor_files():
    code = (
        "import sys, importlib, pkgutil, espnet2_distilmos.evaluation as package;"
        "names = [m.name for m in pkgutil.iter_modules(package.__path__)];"
        "[importlib.import_module(package.__name__ + '.' + name) for name in names];"
        "bad = [m for m in sys.modules if m.startswith(('espnet2.', 'torch', "
        "'espnet2_distilmos.mos', 'espnet2_distilmos.tasks', 'soundfile', "
        "'sklearn'))];"
        "sys.exit(' '.join(bad) or 0 if len(names) > 7 else 'modules are missing')"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
