# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest

from espnet2_distilmos.evaluation.calibration import fit_scale
from espnet2_distilmos.evaluation.confidence import Confidence, scale_fingerprint
from espnet2_distilmos.evaluation.conformal import calibrate
from espnet2_distilmos.evaluation.novelty import distance, fit_novelty

RESIDUALS = np.arange(1, 20) / 10  # the 90 % quantile of 19 is the 18th, 1.8


def calibration(**changed):
    return {
        "model": "m",
        "scale": None,
        "intervals": calibrate(np.zeros(19), RESIDUALS),
        "novelty": None,
        **changed,
    }


@pytest.fixture(scope="module")
def embeddings():
    generator = np.random.default_rng(0)
    return generator.normal(size=(300, 4)), generator.normal(size=(100, 4))


def linear(slope=20.0, intercept=-20.0, **more):
    x = np.array([1.5, 2.0, 4.5])
    return {**fit_scale(x, intercept + slope * x), **more}


def test_intervals_worked_by_hand():
    confidence = Confidence("m", calibration(), score_range=[1, 5])
    assert confidence.half_width(0.9) == RESIDUALS[17]
    assert confidence.interval(3.0) == pytest.approx((1.2, 4.8))
    assert confidence.interval(4.0) == pytest.approx((2.2, 5.0))
    assert confidence.interval(1.5, 0.5) == pytest.approx((1.0, 2.5))
    assert confidence.interval(9.0) == pytest.approx((5.0, 5.0))
    free = Confidence("m", calibration())
    assert free.interval(4.0) == pytest.approx((2.2, 5.8))
    assert free.coverage_is_known


def test_a_level_of_too_few_clips_and_no_calibration():
    confidence = Confidence("m", calibration())
    for level, words in ((0.99, "too few"), (1.5, "between 0 and 1")):
        with pytest.raises(ValueError, match=words):
            confidence.interval(3.0, level)
    nothing = Confidence("m", missing="calibrate it.")
    with pytest.raises(ValueError, match="calibrate it"):
        nothing.interval(3.0)
    assert nothing.novelty(np.zeros(4)) is None and nothing.fingerprint is None
    assert not nothing.coverage_is_known and not nothing.has_novelty


def test_novelty_is_the_distance_in_thresholds(embeddings):
    train, dev = embeddings
    stored = fit_novelty(train, dev, quantile=0.95)
    confidence = Confidence("m", calibration(novelty=stored))
    found = np.array([confidence.novelty(e) for e in dev])
    np.testing.assert_allclose(found, distance(stored, dev) / stored["threshold"])
    assert (found > 1).sum() == 5
    assert confidence.novelty(train[0] + 100) > 10
    assert Confidence("m", calibration()).novelty(dev[0]) is None


def test_another_listening_tests_scale():
    scale = linear(score_range=[0, 100])
    confidence = Confidence("m", calibration(), scale, score_range=[1, 5])
    assert confidence.rescale(3.0) == pytest.approx(40.0)
    # ends in the model's scale, cut there, then mapped
    assert confidence.interval(3.0) == pytest.approx((4.0, 76.0))
    assert confidence.interval(4.0) == pytest.approx((24.0, 80.0))
    assert not confidence.coverage_is_known
    assert [confidence.is_extrapolated(s) for s in (1.4, 1.5, 4.5, 4.6)] == (
        [True, False, False, True]
    )
    # residuals on that scale itself
    own = calibration(scale=scale_fingerprint(scale))
    confidence = Confidence("m", own, scale, score_range=[1, 5])
    assert confidence.interval(3.0) == pytest.approx((38.2, 41.8))
    assert confidence.interval(5.95) == pytest.approx((97.2, 100.0))
    assert confidence.coverage_is_known


def test_what_does_not_belong_together_is_refused():
    scale, other = linear(), linear(slope=21.0)
    assert scale_fingerprint(scale) != scale_fingerprint(other)
    assert scale_fingerprint({**scale, "num_clips": 7}) == scale_fingerprint(scale)
    own = calibration(scale=scale_fingerprint(scale))
    Confidence("m", own, scale)
    for found in (None, other):
        with pytest.raises(ValueError, match="another listening test's scale"):
            Confidence("m", own, found)
    with pytest.raises(ValueError, match="calibration is of the model m .* model n,"):
        Confidence("n", calibration())
    with pytest.raises(ValueError, match="scores of the model m and this is the"):
        Confidence("n", scale={**scale, "model": "m"})
    with pytest.raises(ValueError, match="expected a stored scale"):
        Confidence("m", scale={"slope": 1})
    with pytest.raises(ValueError, match="expected a stored prediction intervals"):
        Confidence("m", {"model": "m"})
    newer = calibration()
    newer["intervals"]["format_version"] = 99
    with pytest.raises(ValueError, match="has the format 99"):
        Confidence("m", newer)


def test_the_fingerprint_follows_all_that_makes_the_columns(embeddings):
    train, dev = embeddings
    first = calibration(novelty=fit_novelty(train, dev))
    other = calibration(novelty=fit_novelty(train, dev, quantile=0.9))
    wider = calibration(intervals=calibrate(np.zeros(19), 2 * RESIDUALS))
    found = [Confidence("m", c) for c in (first, other, wider, calibration())]
    assert len({c.fingerprint for c in found}) == 4
    assert found[0].fingerprint == Confidence("m", dict(first)).fingerprint
