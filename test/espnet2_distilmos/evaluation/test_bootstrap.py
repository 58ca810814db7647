# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.evaluation.bootstrap import (
    RESAMPLES,
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


def test_what_is_drawn():
    systems = ["a"] * 4 + [None] * 2 + ["b"] * 6
    clusters = [i // 2 for i in range(12)]
    drawn = {
        resample: np.stack(list(Resampler(12, systems, clusters, resample, 300)))
        for resample in RESAMPLES
    }
    for resample in ("clusters", "within_systems"):
        np.testing.assert_array_equal(drawn[resample][:, ::2], drawn[resample][:, 1::2])
    np.testing.assert_array_equal(drawn["clusters"].sum(1), 12)
    # each of 6 is drawn once on average, with variance 1 - 1/6
    assert abs(drawn["clusters"].var() - 5 / 6) < 0.1
    # a cluster less than there are of each system, independently of each other
    for part, total in ((slice(0, 4), 2), (slice(4, 6), 2), (slice(6, 12), 4)):
        np.testing.assert_array_equal(drawn["within_systems"][:, part].sum(1), total)
    correlation = np.corrcoef(drawn["within_systems"][:, [0, 6]].T)[0, 1]
    assert abs(correlation) < 0.2 and drawn["within_systems"].std(0)[[0, 6]].min() > 0
    # systems are drawn whole; an utterance without one is drawn on its own
    whole = drawn["systems"]
    assert (whole[:, :4] == whole[:, :1]).all() and (whole[:, 4] != whole[:, 5]).any()
    np.testing.assert_array_equal(whole[:, [0, 4, 5, 6]].sum(1), 4)


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
    constant = bootstrap_intervals([3.0] * 6, [1, 2, 3, 4, 5, 5])
    assert constant["utt_mos_srcc"] is None and constant["utt_mos_mse"] is not None
    assert constant["sys_mos_mse"] is None


@pytest.mark.parametrize(
    "settings, name",
    [
        ({}, "6 utterances that"),
        ({"clusters": list("aabbccddeef")}, "6 clusters of utterances that"),
        ({"systems": list("aabbccddeef"), "resample": "systems"}, "6 systems that"),
        # a clip alone in its system is in every resample: f is no unit
        (
            {"systems": list("aaaaa") + list("bcdefg"), "resample": "within_systems"},
            "6 utterances in systems that have several that",
        ),
    ],
)
def test_below_six_units_there_is_no_interval(settings, name):
    pred, true = data(11)
    units = {"clusters": 6, "systems": 6, "within_systems": 5}
    resample = settings.get("resample", "clusters")
    for num_items in (10, 11) if settings else (5, 6):
        given = {
            k: v[:num_items] if k != "resample" else v for k, v in settings.items()
        }
        resampler = Resampler(num_items, **given)
        found = bootstrap_intervals(pred[:num_items], true[:num_items], **given)
        few = resample == "within_systems" or num_items in (5, 10)
        assert resampler.num_units == (5 if few else units[resample])
        assert (found["utt_mos_mse"] is None) == few
        assert (resampler.too_few is not None) == few
        if few:
            assert f"found 5 of the at least {name}" in resampler.too_few
            assert set(found.values()) == {None}


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
    samples = np.arange(1002.0)
    samples[1001:] = np.nan
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


def simulated_systems(generator, quality, bias):
    """Six clips a system: labels and predictions around the systems' own levels."""
    true = quality[:, None] + 0.5 * generator.normal(size=(len(quality), 6))
    pred = 0.7 * quality[:, None] + 0.3 * true + bias[:, None]
    pred = pred + 0.4 * generator.normal(size=pred.shape)
    return pred.ravel(), true.ravel()


@pytest.mark.slow
@pytest.mark.parametrize("resample", ["within_systems", "systems"])
def test_coverage_of_other_clips_and_of_other_systems(resample):
    generator = np.random.default_rng(5)

    def draw(num_systems=60):
        bias = 0.4 * generator.normal(size=num_systems)
        return generator.normal(size=num_systems), bias

    def names(num_systems=60):
        return np.repeat(np.arange(num_systems), 6).astype(str).tolist()

    fixed = draw()
    if resample == "systems":
        many = [(simulated_systems(generator, *draw(20000)), names(20000))]
    else:
        many = [(simulated_systems(generator, *fixed), names()) for _ in range(400)]
    many = [evaluate(*pair, systems, ["lcc", "mse"]) for pair, systems in many]
    keys = ["utt_mos_lcc", "sys_mos_lcc", "sys_mos_mse"]
    expected = {key: np.mean([result[key] for result in many]) for key in keys}
    hits = dict.fromkeys(keys, 0)
    for seed in range(200):
        levels = draw() if resample == "systems" else fixed
        intervals = bootstrap_intervals(
            *(*simulated_systems(generator, *levels), names()),
            num_resamples=200,
            seed=seed,
            resample=resample,
            metrics=["lcc", "mse"],
        )
        for key in keys:
            hits[key] += intervals[key].low <= expected[key] <= intervals[key].high
    # a share of 0.93 to 0.95 is what percentile intervals reach
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 200, [0.93, 0.95])
    assert all(low <= count <= high for count in hits.values()), hits
