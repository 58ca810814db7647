# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.stats import kendalltau, linregress, spearmanr

from espnet2_distilmos.evaluation.metrics import (
    ALL_METRICS,
    differ_in_scale,
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


@pytest.mark.parametrize("n", [2, 5, 300])
@pytest.mark.parametrize("tied", [False, True])
def test_ranks_and_pairs_by_other_ways(n, tied):
    pred, true = data(n, tied, seed=n + 7)
    i, j = np.triu_indices(n, 1)
    sign_pred, sign_true = np.sign(pred[i] - pred[j]), np.sign(true[i] - true[j])
    assert srcc(pred, true).value == pytest.approx(spearmanr(pred, true).statistic)
    right = (sign_pred * sign_true)[sign_true != 0]
    expected = np.mean((right > 0) + 0.5 * (right == 0))
    assert pair_accuracy(pred, true).value == pytest.approx(expected)
    untied = np.count_nonzero(sign_pred) * np.count_nonzero(sign_true)
    expected = np.sum(sign_pred * sign_true) / untied**0.5
    assert ktau(pred, true).value == pytest.approx(expected)


def test_first_order_mapping_is_linear_regression():
    pred, true = data(40, tied=False)
    line = linregress(pred, true)
    mapping = fit_mapping(pred, true, 1)
    np.testing.assert_allclose(mapping(pred), line.intercept + line.slope * pred)
    # explained variance: 1 - r^2 of the labels' is left
    left = np.sum((true - true.mean()) ** 2) * (1 - line.rvalue**2)
    assert rmse_first_order(pred, true).value == pytest.approx((left / 38) ** 0.5)
    # a mapping mends the scale, not the direction
    for order in (1, 3):
        mapping = fit_mapping(-pred, true, order)
        np.testing.assert_allclose(mapping(-pred), true.mean(), atol=1e-9)


CURVES = [
    np.sinh,
    lambda x: np.sin(2 * x),
    lambda x: (x - 3) ** 2,
    lambda x: -((x - 3) ** 2),
    lambda x: (x - 3) ** 3 - (x - 3),
]


@pytest.mark.parametrize("curve", CURVES)
def test_third_order_mapping_is_the_best_that_never_falls(curve):
    generator = np.random.default_rng(1)
    pred = generator.uniform(1, 5, 50)
    true = curve(pred) + generator.normal(0, 0.3, 50)
    mapping = fit_mapping(pred, true, 3)
    assert np.diff(mapping(np.linspace(pred.min(), pred.max(), 2000))).min() > -1e-9
    # The slopes that are nowhere negative in [0, 1] are the sums of (u - r)^2 and
    # u (1 - u) with weights >= 0: non-negative least squares over many r.
    u = (pred - pred.min()) / (pred.max() - pred.min())
    rises = [(u - r) ** 3 / 3 for r in np.linspace(0, 1, 201)]
    rises = np.stack(rises + [u**2 / 2 - u**3 / 3], axis=1)
    _, norm = nnls(rises - rises.mean(0), true - true.mean())
    error = np.sum((mapping(pred) - true) ** 2)
    assert error <= norm**2 + 1e-9 and error == pytest.approx(norm**2, rel=1e-3)
    assert rmse_third_order(pred, true).value == pytest.approx((error / 46) ** 0.5)
    if curve is np.sinh:  # rises anyway
        assert error == pytest.approx(np.polyfit(pred, true, 3, full=True)[1][0])


def test_too_few_points_for_a_cubic_are_mapped_linearly_with_a_reason():
    pred, true = data(7, tied=False)
    value, reason = rmse_third_order(pred, true)
    assert value == rmse_first_order(pred, true).value and "7 items" in reason
    _, reason = rmse_third_order(np.tile([1.0, 2.0, 3.0], 10), np.arange(30))
    assert "3 different predictions" in reason
    for pair in (([1, 1, 1], [1, 2, 3], 1), ([1, 2, 3], [1, 2, 3], 2)):
        with pytest.raises(ValueError, match="order 1 or 3 and different"):
            fit_mapping(*pair)


CORRELATIONS = ("lcc", "srcc", "ktau", "pair_accuracy")


@pytest.mark.parametrize(
    "pred, true, reason, defined",
    [
        ([], [], "0 items", ()),
        ([1.0], [2.0], "1 items", ("mse",)),
        ([3.1] * 3, [1, 2, 3], "predictions are constant", ("mse", "pair_accuracy")),
        ([1, 2, 3], [4, 4, 4], "the labels are constant", ("mse",)),
        ([1, np.nan, 3], [1, 2, 3], "the predictions contain NaN", ()),
        ([1, 2, 4], [1e200, -1e200, 3], "too large", CORRELATIONS),
    ],
)
def test_undefined_has_a_reason(pred, true, reason, defined):
    for name, metric in ALL_METRICS.items():
        value, text = metric(pred, true)
        if name in defined:
            assert np.isfinite(value) and text is None
        else:
            assert value is None and reason in text, name


CLIPS = np.random.default_rng(0)
ACR = CLIPS.uniform(1, 5, 60)
MUSHRA = CLIPS.uniform(0, 100, 60)


@pytest.mark.parametrize(
    "pred, true, differ",
    [
        (ACR, MUSHRA, True),
        (MUSHRA, ACR, True),
        (ACR, MUSHRA / 4, True),  # a test of bad clips
        (ACR, MUSHRA - 20, True),  # decibels
        (ACR, MUSHRA / 100, True),  # shares
        (MUSHRA, MUSHRA / 100, True),
        # one scale: noise, bias, constant, untrained, the worst clips, an outlier
        (ACR[::-1], ACR, False),
        (ACR[::-1] / 4 + 4.5, ACR / 4 + 0.75, False),
        (np.full(60, 3.0), ACR, False),
        (ACR / 100, ACR, False),
        (ACR, np.where(ACR > 4.9, 1.5, 1.0), False),
        (np.r_[ACR[1:], 900.0], ACR, False),
        (-ACR, ACR, False),
        (MUSHRA[::-1], MUSHRA, False),
        (MUSHRA[::-1], MUSHRA / 4, False),
        (MUSHRA[::-1] / 100, MUSHRA / 100, False),
        (ACR / 100, MUSHRA / 100, False),
        # no telling by the values
        (ACR, MUSHRA / 10, False),
    ],
)
def test_scales_that_plainly_differ(pred, true, differ):
    assert differ_in_scale(pred, true) == differ


def test_a_known_range_of_the_labels_counts_more_than_those_that_are_there():
    assert not differ_in_scale(ACR, MUSHRA / 15)
    assert differ_in_scale(ACR, MUSHRA / 15, (0, 100))
    assert not differ_in_scale(ACR, ACR, (1, 5)) and not differ_in_scale([], [])


def test_two_scales_leave_the_mapped_errors_and_the_ranks():
    names, metrics = ["a", "b", "c"] * 20, list(ALL_METRICS)
    same = evaluate(ACR[::-1], ACR, names, metrics)
    result = evaluate(ACR[::-1], ACR, names, metrics, two_scales="because")
    for key in (f"{level}_mos_{name}" for level in ("utt", "sys") for name in metrics):
        assert result[key] == (None if "mse" == key[8:] else same[key]), key
    assert result["undefined"] == {f"{x}_mos_mse": "because" for x in ("utt", "sys")}


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one prediction for every label"):
        srcc([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="1 systems for 2"):
        system_means([1, 2], [1, 2], ["a"])
    with pytest.raises(ValueError, match="metric pcc is unknown"):
        evaluate([1, 2], [1, 2], metrics=["pcc"])


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
    expected = kendalltau([5, 2, 2], [4, 1.5, 4])[0]
    assert result["sys_mos_ktau"] == pytest.approx(expected)
    assert result["undefined"] == {} and "remarks" not in result
    # 0.1 + 0.2 + 0.3 differs from 0.3 + 0.2 + 0.1 in the last bit
    values = [0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 5.0]
    sys_pred, _, _ = system_means(values, values, ["a"] * 3 + ["b"] * 3 + ["c"])
    assert sys_pred[0] == sys_pred[1]


def test_evaluate_computes_what_it_is_asked_for():
    pred, true = data(50, tied=False)
    systems = [f"s{i % 5}" for i in range(50)]
    result = evaluate(pred, true, systems, list(ALL_METRICS))
    for name, metric in ALL_METRICS.items():
        assert result[f"utt_mos_{name}"] == metric(pred, true).value
    assert "5 items" in result["remarks"]["sys_mos_rmse_third_order"]
    result = evaluate([1, 2, 3], [1, 3, 2], metrics=["srcc"])
    assert result["num_systems"] == 0 and "utt_mos_mse" not in result
    assert result["undefined"] == {"sys_mos_srcc": "no utterance has a system"}


def test_two_items_have_no_correlation():
    """Of utterances or systems: it would be 1 or -1 whatever they are."""
    for systems, level in ((None, "utt"), (["a", "a", "b", "b"], "sys")):
        n = 2 if systems is None else 4
        result = evaluate([1.0, 2, 3, 5][:n], [2, 3, 3, 4][:n], systems)
        assert result[f"{level}_mos_mse"] is not None
        for name in ("lcc", "srcc", "ktau"):
            assert result[f"{level}_mos_{name}"] is None
            reason = result["undefined"][f"{level}_mos_{name}"]
            assert reason == "2 items, at least 3 needed"


def test_evaluation_imports_neither_task_nor_files():
    code = (
        "import sys, importlib, pkgutil, espnet2_distilmos.evaluation as package;"
        "importlib.import_module(package.__name__ + '.metrics');"
        "assert 'scipy.stats' not in sys.modules;"
        "names = [m.name for m in pkgutil.iter_modules(package.__path__)];"
        "[importlib.import_module(package.__name__ + '.' + name) for name in names];"
        "bad = [m for m in sys.modules if m.startswith(('espnet2.', 'torch', "
        "'espnet2_distilmos.mos', 'espnet2_distilmos.tasks', 'soundfile', "
        "'sklearn'))];"
        "sys.exit(' '.join(bad) or 0 if len(names) > 7 else 'modules are missing')"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
