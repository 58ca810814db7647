# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import time

import numpy as np
import pytest

from espnet2_distilmos.mos.evaluation.bootstrap import (
    bootstrap_intervals,
    draw_clusters,
    system_metrics,
    utterance_metrics,
)
from espnet2_distilmos.mos.evaluation.metrics import evaluate


def data(n, seed=0, tied=False):
    generator = np.random.default_rng(seed)
    true = generator.uniform(1, 5, n)
    pred = true + generator.normal(0, 1.0, n)
    if tied:
        true, pred = np.round(true), np.round(pred)
    return pred, true


@pytest.mark.parametrize("tied", [False, True])
def test_every_resample_equals_the_plain_metric_of_repeated_items(tied):
    pred, true = data(40, tied=tied)
    systems = np.array([f"s{i % 7}" for i in range(40)])
    weights = draw_clusters(40, 25, seed=3)
    weights[0] = 1  # the sample itself
    weights[1] = 0  # three systems only
    weights[1, [0, 1, 2, 7, 14]] = [3, 1, 2, 1, 1]
    utt = utterance_metrics(pred, true, weights)
    index = np.arange(40) % 7
    sys = system_metrics(pred, true, index, weights)
    for r, row in enumerate(weights):
        again = np.repeat(np.arange(40), row)
        expected = evaluate(pred[again], true[again], systems[again])
        for name in ("mse", "lcc", "srcc", "ktau"):
            assert utt[name][r] == pytest.approx(expected[f"utt_mos_{name}"], abs=1e-9)
            assert sys[name][r] == pytest.approx(expected[f"sys_mos_{name}"], abs=1e-7)


def test_undefined_resamples_are_nan():
    pred, true = data(6)
    weights = np.array([[6, 0, 0, 0, 0, 0], [3, 0, 0, 3, 0, 0]])
    utt = utterance_metrics(pred, true, weights)
    assert np.isnan([utt["lcc"][0], utt["srcc"][0], utt["ktau"][0]]).all()
    assert abs(utt["lcc"][1]) == pytest.approx(1)
    sys = system_metrics(pred, true, np.array([0, 0, 0, 1, 1, 1]), weights)
    assert np.isnan([sys["lcc"][0], sys["srcc"][0], sys["ktau"][0]]).all()
    assert np.isfinite(sys["mse"]).all()


def test_clusters_are_drawn_whole():
    counts = draw_clusters(10, 200, seed=0)
    assert counts.shape == (200, 10)
    np.testing.assert_array_equal(counts.sum(1), 10)
    # each cluster is drawn once on average, with variance 1 - 1/10
    assert counts.mean() == 1 and abs(counts.var() - 0.9) < 0.1


def test_interval_of_the_mean_matches_theory():
    # MSE is a mean: its interval is about +- 1.96 standard errors
    pred, true = data(400, seed=5)
    error = (pred - true) ** 2
    interval = bootstrap_intervals(pred, true, num_resamples=4000)["utt_mos_mse"]
    half = 1.96 * error.std() / 20
    assert interval.low == pytest.approx(error.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(error.mean() + half, abs=0.15 * half)


def test_copies_within_a_cluster_add_no_certainty():
    pred, true = data(50, seed=1)
    once = bootstrap_intervals(pred, true, clusters=list(range(50)))
    copied = bootstrap_intervals(
        np.tile(pred, 8), np.tile(true, 8), clusters=list(range(50)) * 8
    )
    blind = bootstrap_intervals(np.tile(pred, 8), np.tile(true, 8))
    for key in ("utt_mos_mse", "utt_mos_lcc", "utt_mos_srcc"):
        assert copied[key] == pytest.approx(once[key], abs=1e-9)
        assert blind[key].high - blind[key].low < 0.6 * (once[key].high - once[key].low)


def test_coverage_of_the_true_correlation():
    # bivariate normal with r = 0.8: about 95 of 100 intervals hold it
    covered = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        x = generator.normal(size=200)
        y = 0.8 * x + 0.6 * generator.normal(size=200)
        low, high = bootstrap_intervals(x, y, num_resamples=200)["utt_mos_lcc"]
        covered += low <= 0.8 <= high
    assert 87 <= covered <= 99


def test_seeded():
    pred, true = data(60)
    systems = ["a", "b", "c"] * 20
    first = bootstrap_intervals(pred, true, systems, seed=1)
    assert first == bootstrap_intervals(pred, true, systems, seed=1)
    assert first != bootstrap_intervals(pred, true, systems, seed=2)
    assert all(interval.low < interval.high for interval in first.values())


def test_undefined_intervals():
    assert set(bootstrap_intervals([1.0], [2.0]).values()) == {None}
    one_cluster = bootstrap_intervals([1.0, 2.0], [2.0, 3.0], clusters=["s", "s"])
    assert set(one_cluster.values()) == {None}
    constant = bootstrap_intervals([3.0] * 5, [1, 2, 3, 4, 5])
    assert constant["utt_mos_srcc"] is None and constant["utt_mos_mse"] is not None
    assert bootstrap_intervals([1, 2, 3], [1, 2, 3])["sys_mos_mse"] is None
    with pytest.raises(ValueError, match="finite"):
        bootstrap_intervals([np.nan, 1], [1, 2])
    with pytest.raises(ValueError, match="3 clusters for 2"):
        bootstrap_intervals([1, 2], [1, 2], clusters=[1, 2, 3])


def test_fast_enough_for_the_bvcc_test_set():
    pred, true = data(1066)
    systems = [f"s{i % 187}" for i in range(1066)]
    start = time.perf_counter()
    bootstrap_intervals(pred, true, systems, num_resamples=1000)
    # about a second on an idle core; the bound allows for a loaded machine
    assert time.perf_counter() - start < 20
