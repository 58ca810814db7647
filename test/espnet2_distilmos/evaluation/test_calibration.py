# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import scipy.stats
from sklearn.isotonic import IsotonicRegression

from espnet2_distilmos.evaluation.calibration import apply_scale, fit_scale


def clips(seed=0, n=30):
    generator = np.random.default_rng(seed)
    pred = generator.uniform(1.5, 4.5, n)
    return pred, 1 + 20 * pred + generator.normal(0, 5, n)


def test_linear_scale_is_linear_regression():
    pred, true = clips()
    # stored as JSON and back
    scale = json.loads(json.dumps(fit_scale(pred, true), allow_nan=False))
    line = scipy.stats.linregress(pred, true)
    assert scale["slope"] == pytest.approx(line.slope)
    assert scale["intercept"] == pytest.approx(line.intercept)
    assert scale["kind"] == "linear" and scale["num_clips"] == 30
    assert scale["pred_range"] == [pred.min(), pred.max()]
    mapped = line.intercept + line.slope * pred
    np.testing.assert_allclose(apply_scale(scale, pred), mapped)
    expected = np.sqrt(np.mean((mapped - true) ** 2))
    assert scale["residual_sd"] == pytest.approx(expected)
    # any shape, beyond the range too
    beyond = apply_scale(scale, [[0.0], [9.0]])
    np.testing.assert_allclose(
        beyond, [[line.intercept], [line.intercept + 9 * line.slope]]
    )


def test_monotone_scale_is_isotonic_regression():
    pred, true = clips(1)
    pred[3] = pred[4]  # equal predictions share their mean
    scale = json.loads(json.dumps(fit_scale(pred, true, "monotone"), allow_nan=False))
    reference = IsotonicRegression(out_of_bounds="clip").fit(pred, true)
    grid = np.linspace(0, 6, 300)
    mapped = apply_scale(scale, grid)
    np.testing.assert_allclose(mapped, reference.predict(grid))
    assert np.diff(mapped).min() >= 0
    assert scale["num_clips"] == 30
    # constant beyond the clips
    assert mapped[0] == scale["y"][0] and mapped[-1] == scale["y"][-1]
    assert np.isnan(apply_scale(scale, [np.nan])[0])


def test_a_curve_is_better_mapped_by_the_monotone_scale():
    generator = np.random.default_rng(2)
    pred = generator.uniform(1, 5, 200)
    true = 1 + 4 / (1 + np.exp(-3 * (pred - 3)))
    errors = [fit_scale(pred, true, k)["residual_sd"] for k in ("linear", "monotone")]
    assert errors[1] < 1e-9 < 0.2 < errors[0]


@pytest.mark.parametrize("kind", ["linear", "monotone"])
def test_what_no_scale_can_be_fitted_to(kind):
    with pytest.raises(
        ValueError, match="predicts 3.2 for all of the 3 labelled clips"
    ):
        fit_scale([3.2, 3.2, 3.2], [1, 2, 3], kind)
    with pytest.raises(ValueError, match="do not rise"):
        fit_scale([1, 2, 3], [3, 2, 1], kind)
    with pytest.raises(ValueError, match="do not rise"):
        fit_scale([1, 2, 3], [2, 2, 2], kind)
    with pytest.raises(ValueError, match="1 labelled clips"):
        fit_scale([1], [2], kind)
    with pytest.raises(ValueError, match="finite"):
        fit_scale([1, 2], [2, np.nan], kind)
    with pytest.raises(ValueError, match="one prediction for every label"):
        fit_scale([1, 2], [2], kind)


def test_only_stored_scales_are_applied():
    with pytest.raises(ValueError, match="the kind is cubic"):
        fit_scale([1, 2], [1, 2], "cubic")
    scale = fit_scale([1, 2], [1, 2])
    with pytest.raises(ValueError, match="expected a stored scale"):
        apply_scale({"slope": 1}, [1])
    with pytest.raises(ValueError, match="expected a stored scale, found novelty"):
        apply_scale({**scale, "what": "novelty"}, [1])
    with pytest.raises(ValueError, match="format 2, .* upgrade"):
        apply_scale({**scale, "format_version": 2}, [1])
