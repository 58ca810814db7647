# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import scipy.stats
from sklearn.covariance import LedoitWolf
from sklearn.isotonic import IsotonicRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation.trust import (
    Confidence,
    apply_scale,
    conformal_quantile,
    fit_intervals,
    fit_novelty,
    fit_scale,
    novelty_distance,
    read_calibration,
    read_scale,
    scale_fingerprint,
    split_dev,
    write_calibration,
    write_scale,
)

# Prediction intervals


@pytest.mark.parametrize("n", [9, 19, 99])
# 100 * 0.55 is a little more than 55 in floating point
@pytest.mark.parametrize("level", [0.1, 0.55, 0.9, 0.95])
def test_quantile_is_the_ceiling_of_n_plus_one_times_the_level(n, level):
    residuals = np.random.default_rng(n).permutation(n) + 1.0
    # whole numbers: hundredths of the level, rounded up
    rank = -(-(n + 1) * round(100 * level) // 100)
    if rank > n:
        with pytest.raises(ValueError, match=f"{n} residuals .* at least 19;"):
            conformal_quantile(residuals, level)
    else:
        assert conformal_quantile(residuals, level) == rank
        assert conformal_quantile(residuals, level, list(range(n))) == rank


def test_quantile_of_clusters_worked_by_hand():
    # masses 1/4 each for a, b, c: a has 1 residual, b 2, c 4
    residuals = [5.0, 1.0, 6.0, 2.0, 3.0, 4.0, 7.0]
    clusters = ["a", "b", "b", "c", "c", "c", "c"]
    # cumulative in 16ths: 1:2, 2:3, 3:4, 4:5, 5:9, 6:11, 7:12
    for level, expected in ((2 / 16, 1), (5 / 16, 4), (6 / 16, 5), (11.5 / 16, 7)):
        assert conformal_quantile(residuals, level, clusters) == expected
    with pytest.raises(ValueError, match="3 clusters of residuals are too few"):
        conformal_quantile(residuals, 0.8, clusters)


@pytest.mark.slow
@pytest.mark.parametrize("n, level", [(19, 0.9), (50, 0.95)])
def test_coverage_is_exact(n, level):
    # exchangeable and without ties: ceil((n + 1) level) / (n + 1), any distribution
    generator = np.random.default_rng(n)
    covered = 0
    for _ in range(3000):
        true = generator.exponential(size=n + 1) + 1
        confidence = Confidence("m", calibration(np.full(n, 2.0), true[1:]))
        low, high = confidence.interval(2.0, level)
        covered += low <= true[0] <= high
    expected = np.ceil((n + 1) * level) / (n + 1)
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 3000, expected)
    assert low <= covered <= high


@pytest.mark.slow
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
    least = scipy.stats.binom.ppf(0.0005, 2000, 0.9)
    assert blind < least <= covered


def test_the_dev_set_is_split_by_id_or_cluster_alone():
    ids = [f"utt{i:04d}" for i in range(2000)]
    choosing, calibrating = split_dev(ids, calibration_share=0.2)
    assert sorted(choosing + calibrating) == ids
    assert choosing == sorted(choosing) and calibrating == sorted(calibrating)
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 2000, 0.2)
    assert low <= len(calibrating) <= high
    # other clips and another order change nobody's part
    again = split_dev(ids[1500:100:-1], calibration_share=0.2)
    assert set(again[1]) == set(calibrating) & set(ids[101:1501])
    # fixed for ever: models were calibrated by it. `printf 'calibration\0a' |
    # sha256sum` begins with 30, b 73, c 8a, d 49, e 2c, f 4a: below 80 is half
    assert split_dev(list("abcdef")) == (["c"], ["a", "b", "d", "e", "f"])
    # a cluster goes where an utterance of that name would go
    clusters = {utt_id: f"s{i // 5}" for i, utt_id in enumerate(ids)}
    _, calibrating = split_dev(ids, list(clusters.values()))
    alone = split_dev(sorted(set(clusters.values())))[1]
    assert {clusters[utt_id] for utt_id in calibrating} == set(alone)


# Scale


@pytest.mark.parametrize("kind", ["linear", "monotone"])
def test_scales_are_those_of_scipy_and_sklearn(tmp_path, kind):
    generator = np.random.default_rng(0)
    pred = generator.uniform(1.5, 4.5, 30)
    true = 1 + 20 * pred + generator.normal(0, 5, 30)
    pred[3] = pred[4]  # equal predictions share their mean
    path = str(tmp_path / "new" / "scale.json")
    write_scale(path, fit_scale(pred, true, kind))
    scale = read_scale(path)
    grid = np.linspace(0, 6, 301)
    if kind == "linear":
        line = scipy.stats.linregress(pred, true)
        expected, on_clips = [line.intercept + line.slope * x for x in (grid, pred)]
    else:
        reference = IsotonicRegression(out_of_bounds="clip").fit(pred, true)
        expected, on_clips = reference.predict(grid), reference.predict(pred)
    np.testing.assert_allclose(apply_scale(scale, grid), expected)
    assert apply_scale(scale, [[2.0], [np.nan]]).shape == (2, 1)
    assert scale["pred_range"] == [pred.min(), pred.max()]
    error = np.sqrt(np.mean((on_clips - true) ** 2))
    assert scale["residual_sd"] == pytest.approx(error)
    assert scale_fingerprint({**scale, "num_clips": 7}) == scale_fingerprint(scale)
    other = fit_scale(pred, true + 1, kind)
    assert scale_fingerprint(other) != scale_fingerprint(scale)


# Novelty


def embeddings(n, seed, shift=0.0):
    """Correlated embeddings in 12 dimensions, not centred."""
    generator = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(12, 12))
    return generator.normal(size=(n, 12)) @ mix + 2 + shift


@pytest.mark.parametrize("method", ["mahalanobis", "knn"])
def test_distances_are_those_of_sklearn(method):
    train, dev, new = embeddings(40, 0), embeddings(100, 1), embeddings(600, 2, shift=3)

    def expected(x):
        if method == "mahalanobis":
            return LedoitWolf().fit(train).mahalanobis(x) ** 0.5
        fitted = NearestNeighbors(n_neighbors=10).fit(normalize(train))
        return fitted.kneighbors(normalize(x))[0][:, 9]

    novelty = fit_novelty(train, dev, 0.95, method)
    found = novelty_distance(novelty, new)
    np.testing.assert_allclose(found, expected(new), atol=1e-5)
    np.testing.assert_allclose(novelty_distance(novelty, new[:1]), found[:1])
    assert float(novelty["threshold"]) == pytest.approx(np.sort(expected(dev))[94])
    assert (novelty_distance(novelty, dev) > novelty["threshold"]).sum() == 5


def test_fewer_clips_than_dimensions_and_dead_units():
    generator = np.random.default_rng(0)
    train = generator.normal(size=(20, 64))
    train[:, 5] = 1.0
    novelty = fit_novelty(train, generator.normal(size=(10, 64)))
    assert np.isfinite(novelty_distance(novelty, train)).all()
    # nothing to shrink: a unit that never moved, then does
    train = np.c_[generator.normal(size=(500, 1)), np.ones((500, 1))]
    still, moved = novelty_distance(fit_novelty(train, train), [[0.0, 1], [0.0, 2]])
    assert still < 1 and moved > 10


# All of one model

RESIDUALS = np.arange(1, 20) / 10  # the 90 % quantile of 19 is the 18th, 1.8


def calibration(pred=np.zeros(19), true=RESIDUALS, **changed):
    intervals = fit_intervals(pred, true)
    return {
        **{"model": "m", "scale": None, "intervals": intervals, "novelty": None},
        **changed,
    }


def linear(slope=20.0, intercept=-20.0, **more):
    x = np.array([1.5, 2.0, 4.5])
    return {**fit_scale(x, intercept + slope * x), **more}


def test_intervals_worked_by_hand():
    confidence = Confidence("m", calibration(), score_range=[1, 5])
    assert confidence.half_width(0.9) == RESIDUALS[17]
    assert confidence.interval(3.0) == pytest.approx((1.2, 4.8))
    assert confidence.interval(4.0) == pytest.approx((2.2, 5.0))
    assert confidence.interval(1.5, 0.5) == pytest.approx((1.0, 2.5))
    assert Confidence("m", calibration()).interval(4.0) == pytest.approx((2.2, 5.8))
    assert confidence.coverage_is_known and not confidence.has_novelty
    assert confidence.novelty(np.zeros(4)) is None
    for level, words in ((0.99, "too few"), (1.5, "between 0 and 1")):
        with pytest.raises(ValueError, match=words):
            confidence.interval(3.0, level)
    nothing = Confidence("m")
    with pytest.raises(ValueError, match="no calibration"):
        nothing.interval(3.0)
    assert nothing.fingerprint is None and not nothing.coverage_is_known


def test_coverage_is_unknown_on_another_listening_tests_scale():
    scale = linear(score_range=[0, 100])
    confidence = Confidence("m", calibration(), scale, score_range=[1, 5])
    assert confidence.rescale(3.0) == pytest.approx(40.0)
    # ends in the model's scale, cut there, then mapped
    assert confidence.interval(3.0) == pytest.approx((4.0, 76.0))
    assert confidence.interval(4.0) == pytest.approx((24.0, 80.0))
    assert not confidence.coverage_is_known
    assert [confidence.is_extrapolated(s) for s in (1.4, 1.5, 4.6)] == [True, False, 1]
    # residuals on that scale itself
    own = calibration(scale=scale_fingerprint(scale))
    confidence = Confidence("m", own, scale, score_range=[1, 5])
    assert confidence.interval(3.0) == pytest.approx((38.2, 41.8))
    assert confidence.interval(5.95) == pytest.approx((97.2, 100.0))
    assert confidence.coverage_is_known


def test_a_stored_calibration_gives_the_same(tmp_path):
    generator = np.random.default_rng(3)
    true, clusters = generator.uniform(1, 5, 99), [f"s{i % 33}" for i in range(99)]
    pred = true + generator.normal(size=99)
    train, dev = embeddings(300, 0), embeddings(100, 1)
    stored = calibration(
        intervals=fit_intervals(pred, true, clusters),
        novelty=fit_novelty(train, dev, 0.95),
        labels="dev é",
    )
    path = str(tmp_path / "new" / "calibration.npz")
    write_calibration(path, stored)
    first, again = Confidence("m", stored), Confidence("m", read_calibration(path))
    expected = conformal_quantile(np.abs(pred - true), 0.9, clusters)
    assert again.half_width(0.9) == first.half_width(0.9) == expected
    assert again.novelty(dev[0]) == first.novelty(dev[0])
    found = np.array([again.novelty(e) for e in dev])
    np.testing.assert_allclose(
        found, novelty_distance(stored["novelty"], dev) / stored["novelty"]["threshold"]
    )
    assert again.fingerprint == first.fingerprint
    wider = {**stored, "intervals": fit_intervals(2 * pred, 2 * true)}
    other = {**stored, "novelty": fit_novelty(train, dev, 0.9)}
    assert len({Confidence("m", c).fingerprint for c in (stored, wider, other)}) == 3
    # names of the dev set are not given away; NumPy reads it and nothing is unpickled
    assert "s1" not in json.dumps(stored["intervals"])
    with np.load(path, allow_pickle=False) as file:
        assert str(file["what"]) == "calibration" and int(file["format_version"]) == 1


def test_a_scale_of_version_0_1_opens(tmp_path):
    """test_v0_1.py opens its calibration."""
    fitted = {"num_clips": 3, "pred_range": [2.0, 4.0], "residual_sd": 0.5}
    old = {"what": "scale", "format_version": 1, "kind": "linear", **fitted}
    old.update(intercept=-20.0, slope=20.0)
    (tmp_path / "scale.json").write_text(json.dumps(old))
    scale = read_scale(str(tmp_path / "scale.json"))
    confidence = Confidence("m", calibration(), scale)
    assert confidence.rescale(3.0) == 40.0 and confidence.is_extrapolated(5.0)


def test_what_does_not_belong_together_is_refused():
    scale, other = linear(), linear(slope=21.0)
    own = calibration(scale=scale_fingerprint(scale))
    newer = calibration()
    newer["intervals"]["format_version"] = 99
    for model, stored, given, words in (
        ("m", own, None, "another listening test's scale"),
        ("m", own, other, "another listening test's scale"),
        ("n", calibration(), None, "calibration is of the model m .* model n,"),
        ("n", None, {**scale, "model": "m"}, "scale is of the model m .* model n,"),
        ("m", None, {"slope": 1}, "expected scale"),
        ("m", {"model": "m"}, None, "expected prediction intervals"),
        ("m", newer, None, "of the format 99"),
        ("m", calibration(novelty={"what": "scale"}), None, "expected novelty"),
    ):
        with pytest.raises(ValueError, match=words):
            Confidence(model, stored, given)


@pytest.mark.parametrize(
    "function, arguments, words",
    [
        (split_dev, (["a", "b"], None, 1.5), "share is 1.5"),
        (split_dev, (["a"],), "one part"),
        (conformal_quantile, ([1, 2, np.nan], 0.5), "NaN"),
        (fit_intervals, ([1, 2], [1]), r"labels have the shape \(1,\), expected 2"),
        (fit_intervals, ([], []), "1 or more"),
        (fit_intervals, ([1, 2], [1, 2], ["a"]), "1 clusters for 2"),
        (fit_scale, ([1, 2], [1, 2], "cubic"), "found cubic"),
        (fit_scale, ([3.2, 3.2], [1, 2]), "do not rise .* 3.2 to 3.2"),
        (fit_scale, ([3.2, 3.2], [1, 2], "monotone"), "do not rise"),
        (fit_scale, ([1, 2, 3], [3, 2, 1]), "do not rise"),
        (fit_novelty, (np.ones((30, 2)), np.ones((2, 2)), 1), "quantile is 1"),
        (fit_novelty, (np.ones((30, 2)), np.ones((2, 2))), "all the same"),
        (fit_novelty, (np.eye(9), np.eye(9), 0.9, "knn"), "9 training .* at least 10"),
        (fit_novelty, (np.eye(9), np.eye(9)[:, :3]), r"dev .* \(9, 3\)"),
        (novelty_distance, ({"what": "scale"}, np.eye(9)), "found scale"),
        (apply_scale, ({**linear(), "format_version": 2}, [1]), "format 2, .*upgrade"),
    ],
)
def test_what_cannot_be_fitted_or_used(function, arguments, words):
    with pytest.raises(ValueError, match=words):
        function(*arguments)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "calibration.npz"
    write_calibration(str(path), calibration(novelty={"what": np.array("novelty")}))
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[whole.index(b"i\0\0\0n\0\0\0t\0\0\0")] ^= 1  # the CRC knows
    np.savez(path, what=np.array({"an": "object"}))
    pickled = path.read_bytes()
    np.savez(path, what="calibration", format_version=2, info="{}")
    newer = path.read_bytes()
    for content in (b"", b"text", whole[:-100], bytes(changed), pickled, newer):
        path.write_bytes(content)
        with pytest.raises(DataError, match="calibration.npz is no readable") as error:
            read_calibration(str(path))
        assert "\n" not in str(error.value) and "pickle" not in str(error.value)
    for content in ("[1]", "{", '{"what": "novelty", "format_version": 1}'):
        (tmp_path / "scale.json").write_text(content)
        with pytest.raises(DataError, match="scale.json is no readable scale"):
            read_scale(str(tmp_path / "scale.json"))
    with pytest.raises(DataError, match="none.npz is no readable"):
        read_calibration(str(tmp_path / "none.npz"))
