# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.mos.evaluation.metrics import (
    average_ranks,
    evaluate,
    ktau,
    lcc,
    mse,
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


def test_evaluation_imports_neither_task_nor_files():
    code = (
        "import sys, espnet2_distilmos.mos.evaluation.metrics, "
        "espnet2_distilmos.mos.evaluation.bootstrap;"
        "bad = [m for m in sys.modules if m.startswith(('espnet2.', 'torch', "
        "'espnet2_distilmos.fileio', 'espnet2_distilmos.tasks', 'soundfile'))];"
        "sys.exit(' '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
