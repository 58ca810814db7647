# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)


import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.evaluation.bootstrap import (
    Resampler,
    bootstrap_intervals,
    centre,
    draw_clusters,
    percentile_interval,
    system_metrics,
    utterance_metrics,
)
from espnet2_distilmos.evaluation.metrics import ALL_METRICS, METRICS, evaluate


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
    utt = utterance_metrics(pred, true, weights, list(ALL_METRICS))
    index = np.arange(40) % 7
    sys = system_metrics(pred, true, index, weights, list(ALL_METRICS))
    assert list(utt) == list(sys) == list(ALL_METRICS)
    for r, row in enumerate(weights):
        again = np.repeat(np.arange(40), row)
        expected = evaluate(pred[again], true[again], systems[again], list(ALL_METRICS))
        for name in ALL_METRICS:
            assert utt[name][r] == pytest.approx(expected[f"utt_mos_{name}"], abs=1e-9)
            assert sys[name][r] == pytest.approx(expected[f"sys_mos_{name}"], abs=1e-7)


def test_only_what_is_asked_for_is_computed():
    pred, true = data(30)
    systems = [f"s{i % 4}" for i in range(30)]
    every = bootstrap_intervals(pred, true, systems, num_resamples=50)
    for name in METRICS:
        one = bootstrap_intervals(pred, true, systems, num_resamples=50, metrics=[name])
        assert set(one) == {f"utt_mos_{name}", f"sys_mos_{name}"}
        assert all(one[key] == every[key] for key in one)
    with pytest.raises(ValueError, match="metric pcc is unknown"):
        bootstrap_intervals(pred, true, metrics=["pcc"])


def test_drawing_within_systems_keeps_every_system():
    systems = ["a"] * 5 + [None] * 3 + ["b"] * 10 + ["c"]
    weights = Resampler(19, systems, None, "within_systems", 300).weights
    np.testing.assert_array_equal(weights[:, :5].sum(1), 4)
    np.testing.assert_array_equal(weights[:, 5:8].sum(1), 2)
    np.testing.assert_array_equal(weights[:, 8:18].sum(1), 9)
    np.testing.assert_array_equal(weights[:, 18], 1)
    # a clip of m is drawn (m - 1) / m times on average
    assert weights[:, 8:18].mean() == pytest.approx(0.9)
    assert weights.std(0)[:18].min() > 0
    # systems are drawn independently of each other
    assert abs(np.corrcoef(weights[:, 0], weights[:, 8])[0, 1]) < 0.2


def test_clusters_within_systems_are_drawn_whole():
    systems = ["a"] * 6 + ["b"] * 6
    clusters = [0, 0, 1, 1, 2, 2] * 2
    resampler = Resampler(12, systems, clusters, "within_systems", 200)
    assert resampler.num_units == 6
    weights = resampler.weights
    np.testing.assert_array_equal(weights[:, 0::2], weights[:, 1::2])
    np.testing.assert_array_equal(weights[:, :6].sum(1), 4)
    # the same sentence of two systems is not drawn together
    assert (weights[:, 0] != weights[:, 6]).any()


def test_systems_are_drawn_whole_and_count_as_often_as_they_are_drawn():
    pred, true = data(40, seed=4)
    systems = [f"s{i % 8}" for i in range(40)]
    resampler = Resampler(40, systems, None, "systems", 20)
    samples = resampler(pred, true, list(ALL_METRICS))
    for r, row in enumerate(resampler.weights):
        counts = row[:8]
        np.testing.assert_array_equal(row, np.tile(counts, 5))
        # every copy of a system is a system of its own
        copies = [(s, c) for s in range(8) for c in range(counts[s])]
        items = [(i, (s, c)) for s, c in copies for i in range(s, 40, 8)]
        again = [i for i, _ in items]
        names = [str(copy) for _, copy in items]
        expected = evaluate(pred[again], true[again], names, list(ALL_METRICS))
        for key, values in samples.items():
            assert values[r] == pytest.approx(expected[key], abs=1e-9)


def test_utterances_without_a_system_are_drawn_on_their_own():
    systems = ["a", "a", None, None, "b"]
    resampler = Resampler(5, systems, None, "systems", 100)
    assert resampler.num_units == 4
    weights = resampler.weights
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    assert (weights[:, 2] != weights[:, 3]).any()


def test_resampling_needs_systems():
    with pytest.raises(ValueError, match="needs the system"):
        bootstrap_intervals([1, 2], [1, 2], resample="systems")
    with pytest.raises(ValueError, match="needs the system"):
        bootstrap_intervals([1, 2], [1, 2], [None, None], resample="within_systems")
    with pytest.raises(ValueError, match="resample is utts"):
        bootstrap_intervals([1, 2], [1, 2], ["a", "b"], resample="utts")
    one = bootstrap_intervals([1, 2], [1, 2], ["a", "a"], resample="systems")
    assert set(one.values()) == {None}


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


def coverage_band(trials, share=0.95):
    """Numbers of hits that 999 of 1000 experiments of this coverage keep to."""
    return scipy.stats.binom.ppf([0.0005, 0.9995], trials, share)


def simulated_systems(generator, quality, bias, clips):
    """Clips of systems: labels and predictions around the systems' own levels."""
    true = quality[:, None] + 0.5 * generator.normal(size=(len(quality), clips))
    pred = 0.7 * quality[:, None] + 0.3 * true + bias[:, None]
    pred = pred + 0.4 * generator.normal(size=pred.shape)
    return pred.ravel(), true.ravel()


def test_coverage_of_other_clips_of_the_same_systems():
    generator = np.random.default_rng(5)
    quality, bias = generator.normal(size=30), 0.4 * generator.normal(size=30)
    systems = np.repeat(np.arange(30), 6).astype(str)
    keys = ["utt_mos_lcc", "utt_mos_mse", "sys_mos_lcc", "sys_mos_mse"]
    many = [
        evaluate(
            *simulated_systems(generator, quality, bias, 6), systems, ["lcc", "mse"]
        )
        for _ in range(400)
    ]
    expected = {key: np.mean([result[key] for result in many]) for key in keys}
    covered = dict.fromkeys(keys, 0)
    plain = dict.fromkeys(keys, 0)
    for seed in range(200):
        pred, true = simulated_systems(generator, quality, bias, 6)
        for hits, centred in ((covered, None), (plain, False)):
            intervals = bootstrap_intervals(
                *(pred, true, systems),
                num_resamples=200,
                seed=seed,
                resample="within_systems",
                metrics=["lcc", "mse"],
                centred=centred,
            )
            for key in keys:
                low, high = intervals[key]
                hits[key] += low <= expected[key] <= high
    low, high = coverage_band(200)
    assert all(low <= hits <= high for hits in covered.values()), covered
    # the noise of the means, counted twice, is what centring is for
    assert plain["sys_mos_mse"] < low


def test_coverage_of_other_systems():
    generator = np.random.default_rng(6)

    def draw(num_systems):
        quality = generator.normal(size=num_systems)
        bias = 0.4 * generator.normal(size=num_systems)
        return simulated_systems(generator, quality, bias, 4)

    names = np.repeat(np.arange(20000), 4).astype(str)
    population = evaluate(*draw(20000), names, ["lcc", "mse"])
    keys = ["utt_mos_lcc", "sys_mos_lcc", "sys_mos_mse"]
    covered, blind = dict.fromkeys(keys, 0), dict.fromkeys(keys, 0)
    for seed in range(200):
        pred, true = draw(60)
        for hits, resample in ((covered, "systems"), (blind, "within_systems")):
            intervals = bootstrap_intervals(
                *(pred, true, names[:240]),
                num_resamples=200,
                seed=seed,
                resample=resample,
                metrics=["lcc", "mse"],
            )
            for key in keys:
                low, high = intervals[key]
                hits[key] += low <= population[key] <= high
    # 60 systems and 200 resamples: a share of 0.93 is what such intervals reach
    low, high = coverage_band(200, 0.93)
    assert all(low <= hits <= high for hits in covered.values()), covered
    # intervals for these systems say too little about others
    assert max(blind["utt_mos_lcc"], blind["sys_mos_lcc"]) < low


def test_coverage_of_clustered_clips():
    generator = np.random.default_rng(7)
    covered = blind = 0
    for seed in range(200):
        # the errors of one sentence share their larger part: E[error^2] = 1
        error = 0.8**0.5 * generator.normal(size=(60, 1))
        error = error + 0.2**0.5 * generator.normal(size=(60, 8))
        true = generator.uniform(1, 5, 480)
        pred = true + error.ravel()
        settings = {"num_resamples": 200, "seed": seed, "metrics": ["mse"]}
        clusters = np.repeat(np.arange(60), 8).tolist()
        low, high = bootstrap_intervals(pred, true, clusters=clusters, **settings)[
            "utt_mos_mse"
        ]
        covered += low <= 1 <= high
        low, high = bootstrap_intervals(pred, true, **settings)["utt_mos_mse"]
        blind += low <= 1 <= high
    low, high = coverage_band(200, 0.93)
    assert low <= covered <= high
    assert blind < 0.75 * 200


def test_centred_intervals():
    samples = np.array([1.0, 2, 3, np.nan, 6])
    np.testing.assert_array_equal(centre(samples, 10.0), [8, 9, 10, np.nan, 13])
    pred, true = data(30, seed=2)
    # a centred interval of a correlation ends at 1
    interval = bootstrap_intervals(
        *(true + 0.01 * pred, true, ["a", "b", "c"] * 10),
        resample="within_systems",
        metrics=["lcc"],
    )["sys_mos_lcc"]
    assert interval.high <= 1


def test_percentile_interval():
    samples = np.arange(1001.0)
    assert percentile_interval(samples) == pytest.approx((25, 975))
    assert percentile_interval(samples, 0.5) == (250, 750)
    samples[:501] = np.nan
    assert percentile_interval(samples) is None
    assert percentile_interval(np.array([])) is None


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
