# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.evaluation.conformal import (
    calibrate,
    conformal_quantile,
    prediction_intervals,
    split_dev,
)

# 100 * 0.55 is a little more than 55 in floating point
LEVELS = [0.1, 0.25, 0.5, 0.55, 0.7, 0.8, 0.9, 0.95]


@pytest.mark.parametrize("n", [9, 10, 19, 20, 99, 1000])
@pytest.mark.parametrize("level", LEVELS)
def test_quantile_is_the_ceiling_of_n_plus_one_times_the_level(n, level):
    scores = np.random.default_rng(n).permutation(n) + 1.0
    # whole numbers: hundredths of the level, rounded up
    rank = -(-(n + 1) * round(100 * level) // 100)
    if rank > n:
        with pytest.raises(ValueError, match=f"{n} residuals are too few"):
            conformal_quantile(scores, level)
    else:
        assert conformal_quantile(scores, level) == rank


def test_too_few_residuals_name_the_number_that_is_enough():
    for level, enough in ((0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)):
        assert conformal_quantile(np.arange(enough), level) == enough - 1
        with pytest.raises(ValueError, match=f"level {level:g}, .* at least {enough};"):
            conformal_quantile(np.arange(enough - 1), level)


def test_quantile_of_clusters_worked_by_hand():
    # masses 1/4 each for a, b, c: a has 1 score, b 2, c 4
    scores = [5.0, 1.0, 6.0, 2.0, 3.0, 4.0, 7.0]
    clusters = ["a", "b", "b", "c", "c", "c", "c"]
    # cumulative in 16ths: 1:2, 2:3, 3:4, 4:5, 5:9, 6:11, 7:12
    for level, expected in ((2 / 16, 1), (5 / 16, 4), (6 / 16, 5), (11.5 / 16, 7)):
        assert conformal_quantile(scores, level, clusters) == expected
    with pytest.raises(ValueError, match="3 clusters of residuals are too few"):
        conformal_quantile(scores, 0.8, clusters)
    # clusters of one clip change nothing
    values = np.random.default_rng(0).normal(size=57) ** 2
    for level in LEVELS:
        assert conformal_quantile(values, level, list(range(57))) == (
            conformal_quantile(values, level)
        )


@pytest.mark.parametrize("n, level", [(19, 0.9), (30, 0.8), (50, 0.95)])
def test_coverage_is_exact(n, level):
    # exchangeable and without ties: ceil((n + 1) level) / (n + 1), any distribution
    generator = np.random.default_rng(n)
    covered = 0
    for _ in range(3000):
        true = generator.exponential(size=n + 1) + 1
        pred = np.full(n + 1, 2.0)
        low, high = prediction_intervals(calibrate(pred[1:], true[1:]), pred[:1], level)
        covered += low[0] <= true[0] <= high[0]
    expected = np.ceil((n + 1) * level) / (n + 1)
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 3000, expected)
    assert low <= covered <= high


def test_coverage_of_clips_of_a_new_cluster():
    generator = np.random.default_rng(1)
    sizes = np.r_[np.full(15, 1), np.full(4, 30)]
    clusters = np.repeat(np.arange(19), sizes).tolist()
    covered = blind = 0
    for _ in range(2000):
        # the errors of a cluster are alike, and the large clusters hold most clips
        scale = generator.exponential(size=20)
        error = np.repeat(scale[:19], sizes) * generator.normal(size=len(clusters))
        new = abs(scale[19] * generator.normal())
        covered += new <= conformal_quantile(np.abs(error), 0.9, clusters)
        blind += new <= conformal_quantile(np.abs(error), 0.9)
    assert covered >= scipy.stats.binom.ppf(0.0005, 2000, 0.9)
    assert blind < scipy.stats.binom.ppf(0.0005, 2000, 0.9)


def test_intervals_are_as_wide_as_the_clip_is_hard():
    generator = np.random.default_rng(2)

    def draw(n):
        hard = generator.uniform(0.1, 1.0, n)
        true = generator.uniform(1, 5, n)
        return true + hard * generator.normal(size=n), true, 7 * hard

    pred, true, difficulty = draw(500)
    stored = json.loads(json.dumps(calibrate(pred, true, difficulty), allow_nan=False))
    plain = calibrate(pred, true)
    pred, true, difficulty = draw(4000)
    low, high = prediction_intervals(stored, pred, 0.9, difficulty)
    inside = (low <= true) & (true <= high)
    # the clips' own noise has the standard deviation difficulty / 7
    np.testing.assert_allclose((high - low) / difficulty * 7 / 2, 1.645, rtol=0.15)
    easy = difficulty < 2.5
    assert inside[easy].mean() == pytest.approx(0.9, abs=0.04)
    assert inside[~easy].mean() == pytest.approx(0.9, abs=0.04)
    low, high = prediction_intervals(plain, pred, 0.9)
    inside = (low <= true) & (true <= high)
    assert inside.mean() == pytest.approx(0.9, abs=0.04)
    assert inside[easy].mean() > 0.99


def test_any_level_from_one_calibration():
    generator = np.random.default_rng(3)
    true = generator.uniform(1, 5, 99)
    pred = true + generator.normal(size=99)
    clusters = [f"s{i % 33}" for i in range(99)]
    stored = json.loads(json.dumps(calibrate(pred, true, clusters=clusters)))
    assert (stored["num_clips"], stored["num_clusters"]) == (99, 33)
    assert "s1" not in json.dumps(stored)
    for level in (0.5, 0.9):
        low, high = prediction_intervals(stored, [3.0, 4.0], level)
        half = conformal_quantile(np.abs(pred - true), level, clusters)
        np.testing.assert_allclose(low, [3 - half, 4 - half])
        np.testing.assert_allclose(high, [3 + half, 4 + half])
    low, high = prediction_intervals(stored, [1.2, 4.9], 0.9, score_range=(1, 5))
    assert low[0] == 1 and high[1] == 5 and high[0] < 5


def test_what_cannot_be_calibrated():
    with pytest.raises(ValueError, match="one prediction for every label"):
        calibrate([1, 2], [1])
    with pytest.raises(ValueError, match="at least one"):
        calibrate([], [])
    with pytest.raises(ValueError, match="finite"):
        calibrate([1, 2], [1, np.nan])
    with pytest.raises(ValueError, match="greater than 0"):
        calibrate([1, 2], [1, 2], [0, 1])
    with pytest.raises(ValueError, match="1 clusters for 2"):
        calibrate([1, 2], [1, 2], clusters=["a"])
    for level in (0, 1, 90):
        with pytest.raises(ValueError, match="between 0 and 1"):
            conformal_quantile([1, 2, 3], level)
    stored = calibrate([1, 2, 3], [1, 2, 4])
    with pytest.raises(ValueError, match="without difficulties"):
        prediction_intervals(stored, [1], 0.5, [1])
    with pytest.raises(ValueError, match="with difficulties"):
        prediction_intervals(calibrate([1, 2], [1, 2], [1, 1]), [1], 0.5)
    with pytest.raises(ValueError, match="expected a stored prediction intervals"):
        prediction_intervals({"what": "scale"}, [1], 0.5)
    with pytest.raises(ValueError, match="3 residuals are too few"):
        prediction_intervals(stored, [1], 0.9)


def test_dev_is_split_by_id_alone():
    ids = [f"utt{i:04d}" for i in range(2000)]
    choosing, calibrating = split_dev(ids)
    assert sorted(choosing + calibrating) == ids
    # in the order given, half and half
    assert choosing == sorted(choosing) and calibrating == sorted(calibrating)
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 2000, 0.5)
    assert low <= len(calibrating) <= high
    # other clips and another order change nobody's part
    again = split_dev(ids[1500:100:-1])
    assert set(again[1]) == set(calibrating) & set(ids[101:1501])
    # fixed for ever: models were calibrated by it
    assert split_dev(["a", "b", "c", "d", "e", "f"]) == EXPECTED_SPLIT
    share = len(split_dev(ids, calibration_share=0.2)[1])
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 2000, 0.2)
    assert low <= share <= high
    assert split_dev(ids, salt="other")[1] != calibrating


# printf 'calibration\0a' | sha256sum begins with 30, b 73, c 8a, d 49, e 2c, f 4a:
# below 80 is the lower half
EXPECTED_SPLIT = (["c"], ["a", "b", "d", "e", "f"])


def test_clusters_stay_together():
    ids = [f"utt{i}" for i in range(100)]
    clusters = [f"s{i // 5}" for i in range(100)]
    choosing, calibrating = split_dev(ids, clusters)
    of = dict(zip(ids, clusters))
    assert not {of[u] for u in choosing} & {of[u] for u in calibrating}
    # a cluster goes where an utterance of that name would go
    alone = split_dev(sorted(set(clusters)))[1]
    assert {of[u] for u in calibrating} == set(alone)


def test_what_cannot_be_split():
    with pytest.raises(ValueError, match="share is 1.5"):
        split_dev(["a", "b"], calibration_share=1.5)
    with pytest.raises(ValueError, match="1 clusters for 2"):
        split_dev(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="1 utterances leave one part"):
        split_dev(["a"])
