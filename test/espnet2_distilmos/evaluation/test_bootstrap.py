# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.evaluation.bootstrap import (
    Resampler,
    bootstrap_intervals,
    centre,
    percentile_interval,
)
from espnet2_distilmos.evaluation.metrics import ALL_METRICS, evaluate


def data(n, seed=0):
    generator = np.random.default_rng(seed)
    true = generator.uniform(1, 5, n)
    return true + generator.normal(0, 1.0, n), true


def weights(*args):
    return np.stack(list(Resampler(*args)))


@pytest.mark.parametrize("resample", ["clusters", "within_systems", "systems"])
def test_every_resample_equals_the_metric_of_repeated_items(resample):
    pred, true = data(40)
    systems = [f"s{i % 8}" for i in range(40)]
    resampler = Resampler(40, systems, None, resample, 10, seed=3)
    samples = resampler(pred, true, list(ALL_METRICS))
    assert len(samples) == 2 * len(ALL_METRICS)
    for r, counts in enumerate(resampler):
        again = np.repeat(np.arange(40), counts)
        names = [systems[i] for i in again]
        if resample == "systems":
            # every copy of a system is a system of its own
            again = [i for i in range(40) for _ in range(counts[i])]
            names = [f"{systems[i]}-{c}" for i in range(40) for c in range(counts[i])]
        expected = evaluate(pred[again], true[again], names, list(ALL_METRICS))
        for key, values in samples.items():
            assert values[r] == pytest.approx(expected[key], abs=1e-9)


def test_clusters_are_drawn_whole_with_replacement():
    drawn = weights(20, None, [i // 2 for i in range(20)], "clusters", 200)
    np.testing.assert_array_equal(drawn[:, 0::2], drawn[:, 1::2])
    np.testing.assert_array_equal(drawn.sum(1), 20)
    # each cluster is drawn once on average, with variance 1 - 1/10
    assert abs(drawn.var() - 0.9) < 0.1
    np.testing.assert_array_equal(
        drawn, weights(20, None, [i // 2 for i in range(20)], "clusters", 200)
    )


def test_drawing_within_systems_keeps_every_system():
    systems = ["a"] * 5 + [None] * 3 + ["b"] * 10 + ["c"]
    drawn = weights(19, systems, None, "within_systems", 300)
    np.testing.assert_array_equal(drawn[:, :5].sum(1), 4)
    np.testing.assert_array_equal(drawn[:, 5:8].sum(1), 2)
    np.testing.assert_array_equal(drawn[:, 8:18].sum(1), 9)
    np.testing.assert_array_equal(drawn[:, 18], 1)
    assert drawn.std(0)[:18].min() > 0
    # systems are drawn independently of each other
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 8])[0, 1]) < 0.2
    systems, clusters = ["a"] * 6 + ["b"] * 6, [0, 0, 1, 1, 2, 2] * 2
    drawn = weights(12, systems, clusters, "within_systems", 200)
    np.testing.assert_array_equal(drawn[:, 0::2], drawn[:, 1::2])
    np.testing.assert_array_equal(drawn[:, :6].sum(1), 4)
    # the same sentence of two systems is not drawn together
    assert (drawn[:, 0] != drawn[:, 6]).any()


def test_utterances_without_a_system_are_drawn_on_their_own():
    resampler = Resampler(5, ["a", "a", None, None, "b"], None, "systems", 100)
    assert resampler.num_units == 4
    drawn = np.stack(list(resampler))
    np.testing.assert_array_equal(drawn[:, 0], drawn[:, 1])
    assert (drawn[:, 2] != drawn[:, 3]).any()


def test_what_cannot_be_resampled():
    for arguments in (
        {"resample": "systems"},
        {"resample": "within_systems", "systems": [None, None]},
        {"resample": "utts", "systems": ["a", "b"]},
        {"clusters": [1, 2, 3]},
    ):
        with pytest.raises(ValueError, match="needs the system|is utts|3 clusters"):
            bootstrap_intervals([1, 2], [1, 2], **arguments)
    with pytest.raises(ValueError, match="finite"):
        bootstrap_intervals([np.nan, 1], [1, 2])
    one = bootstrap_intervals([1, 2], [1, 2], ["a", "a"], resample="systems")
    assert set(one.values()) == {None}
    assert set(bootstrap_intervals([1.0], [2.0]).values()) == {None}
    constant = bootstrap_intervals([3.0] * 5, [1, 2, 3, 4, 5])
    assert constant["utt_mos_srcc"] is None and constant["utt_mos_mse"] is not None
    assert constant["sys_mos_mse"] is None


def test_interval_of_the_mean_matches_theory():
    # MSE is a mean: its interval is about +- 1.96 standard errors
    pred, true = data(400, seed=5)
    error = (pred - true) ** 2
    interval = bootstrap_intervals(pred, true, num_resamples=4000, metrics=["mse"])
    half = 1.96 * error.std() / 20
    assert interval["utt_mos_mse"] == pytest.approx(
        (error.mean() - half, error.mean() + half), abs=0.15 * half
    )


def test_copies_within_a_cluster_add_no_certainty():
    pred, true = data(50, seed=1)
    settings = {"num_resamples": 200}
    once = bootstrap_intervals(pred, true, clusters=list(range(50)), **settings)
    copies = np.tile(pred, 8), np.tile(true, 8)
    copied = bootstrap_intervals(*copies, clusters=list(range(50)) * 8, **settings)
    blind = bootstrap_intervals(*copies, **settings)
    for key in ("utt_mos_mse", "utt_mos_lcc", "utt_mos_srcc"):
        assert copied[key] == pytest.approx(once[key], abs=1e-9)
        assert blind[key].high - blind[key].low < 0.6 * (once[key].high - once[key].low)


def test_percentile_and_centred_intervals():
    samples = np.arange(1001.0)
    assert percentile_interval(samples) == pytest.approx((25, 975))
    samples[:501] = np.nan
    assert percentile_interval(samples) is None
    samples = np.array([1.0, 2, 3, np.nan, 6])
    np.testing.assert_array_equal(centre(samples, 10.0), [8, 9, 10, np.nan, 13])
    pred, true = data(30, seed=2)
    # a centred interval of a correlation ends at 1
    interval = bootstrap_intervals(
        *(true + 0.01 * pred, true, ["a", "b", "c"] * 10),
        resample="within_systems",
        metrics=["lcc"],
    )["sys_mos_lcc"]
    assert interval.low < interval.high <= 1


def coverage_band(trials, share=0.95):
    """Numbers of hits that 999 of 1000 experiments of this coverage keep to."""
    return scipy.stats.binom.ppf([0.0005, 0.9995], trials, share)


def simulated_systems(generator, quality, bias, clips):
    """Clips of systems: labels and predictions around the systems' own levels."""
    true = quality[:, None] + 0.5 * generator.normal(size=(len(quality), clips))
    pred = 0.7 * quality[:, None] + 0.3 * true + bias[:, None]
    pred = pred + 0.4 * generator.normal(size=pred.shape)
    return pred.ravel(), true.ravel()


def count_hits(draw, systems, expected, resample, clusters=None):
    """In how many of 200 samples the intervals hold the expected values."""
    hits = dict.fromkeys(expected, 0)
    for seed in range(200):
        intervals = bootstrap_intervals(
            *(*draw(), systems, clusters),
            num_resamples=200,
            seed=seed,
            resample=resample,
            metrics=["lcc", "mse"],
        )
        for key, value in expected.items():
            hits[key] += intervals[key].low <= value <= intervals[key].high
    return hits


@pytest.mark.slow
def test_coverage_of_other_clips_of_the_same_systems():
    generator = np.random.default_rng(5)
    quality, bias = generator.normal(size=30), 0.4 * generator.normal(size=30)
    systems = np.repeat(np.arange(30), 6).astype(str).tolist()

    def draw():
        return simulated_systems(generator, quality, bias, 6)

    many = [evaluate(*draw(), systems, ["lcc", "mse"]) for _ in range(400)]
    keys = ["utt_mos_lcc", "utt_mos_mse", "sys_mos_lcc", "sys_mos_mse"]
    expected = {key: np.mean([result[key] for result in many]) for key in keys}
    low, high = coverage_band(200)
    hits = count_hits(draw, systems, expected, "within_systems")
    assert all(low <= count <= high for count in hits.values()), hits


@pytest.mark.slow
def test_coverage_of_other_systems():
    generator = np.random.default_rng(6)

    def draw(num_systems=60):
        quality = generator.normal(size=num_systems)
        bias = 0.4 * generator.normal(size=num_systems)
        return simulated_systems(generator, quality, bias, 4)

    names = np.repeat(np.arange(20000), 4).astype(str).tolist()
    population = evaluate(*draw(20000), names, ["lcc", "mse"])
    keys = ["utt_mos_lcc", "sys_mos_lcc", "sys_mos_mse"]
    expected = {key: population[key] for key in keys}
    # 60 systems and 200 resamples: a share of 0.93 is what such intervals reach
    low, high = coverage_band(200, 0.93)
    hits = count_hits(draw, names[:240], expected, "systems")
    assert all(low <= count <= high for count in hits.values()), hits
    # intervals for these systems say too little about others
    blind = count_hits(draw, names[:240], expected, "within_systems")
    assert max(blind["utt_mos_lcc"], blind["sys_mos_lcc"]) < low


@pytest.mark.slow
def test_coverage_of_clustered_clips():
    generator = np.random.default_rng(7)

    def draw():
        # the errors of one sentence share their larger part: E[error^2] = 1
        error = 0.8**0.5 * generator.normal(size=(60, 1))
        error = error + 0.2**0.5 * generator.normal(size=(60, 8))
        true = generator.uniform(1, 5, 480)
        return true + error.ravel(), true

    clusters = np.repeat(np.arange(60), 8).tolist()
    low, high = coverage_band(200, 0.93)
    expected = {"utt_mos_mse": 1}
    hits = count_hits(draw, None, expected, "clusters", clusters)
    assert low <= hits["utt_mos_mse"] <= high
    assert count_hits(draw, None, expected, "clusters")["utt_mos_mse"] < 0.75 * 200
