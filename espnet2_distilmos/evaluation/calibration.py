# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Bring a model's scores to the scale of another listening test.

Listening tests differ in their anchors and listeners: the same clip gets 4.2 in one and
3.5 in the next, and a model speaks the scale of its training test. A few labelled clips
of the new test are enough to map one scale to the other. Either map keeps the order of
the clips, so rank correlations stay what they are (but for the ties that the monotone
one makes).
"""

from typing import Any, Dict, Mapping, Sequence

import numpy as np

FORMAT_VERSION = 1
SCALES = ("linear", "monotone")


def check_format(stored: Mapping[str, Any], what: str, version: int) -> None:
    """Check that a dict was stored by the function that is about to use it.

    Args:
        stored: A dict with ``what`` and ``format_version``.
        what: What it has to be.
        version: The newest format that is known.

    Raises:
        ValueError: It is something else or of a newer format.
    """
    found = stored.get("what")
    if found is None or str(found) != what:
        raise ValueError(
            f"expected a stored {what}, found {found or 'something else'}."
        )
    found = int(stored.get("format_version", 0))
    if not 1 <= found <= version:
        raise ValueError(
            f"the stored {what} has the format {found}, this version knows up to "
            f"{version}; upgrade espnet2_distilmos or fit it again."
        )


def fit_scale(
    pred: Sequence[float], true: Sequence[float], kind: str = "linear"
) -> Dict[str, Any]:
    """Fit the map from a model's scores to a listening test's scale.

    Args:
        pred: Predictions of the labelled clips (n,), finite.
        true: Their labels in the new test (n,), finite.
        kind: ``linear``: least squares a + b p with b > 0, from about 10 clips on.
            ``monotone``: isotonic regression (Barlow et al., Statistical Inference
            under Order Restrictions, 1972), linear between its steps and constant
            beyond the lowest and the highest prediction; it follows any curve and so
            needs clips on the whole scale, about 50.

    Returns:
        A JSON-ready dict: ``what``, ``format_version``, ``kind``, ``num_clips`` n,
        ``pred_range`` (predictions outside it are extrapolated), ``residual_sd`` (root
        mean squared error on the clips; the fit has seen them), and ``intercept`` and
        ``slope``, or ``x`` and ``y``, the corners of the monotone map.

    Raises:
        ValueError: The lengths differ, a value is not finite, the kind is unknown,
            there are fewer than 2 clips, the predictions are constant, or the labels do
            not rise with the predictions.
    """
    if kind not in SCALES:
        raise ValueError(f"the kind is {kind}, expected one of {', '.join(SCALES)}.")
    x = np.asarray(pred, dtype=np.float64)
    y = np.asarray(true, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"predictions have the shape {x.shape} and labels {y.shape}, expected one "
            "prediction for every label."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("predictions and labels must be finite.")
    if len(x) < 2:
        raise ValueError(
            f"a scale cannot be fitted to {len(x)} labelled clips, expected at least "
            "2, better 10; label more clips."
        )
    if x.min() == x.max():
        raise ValueError(
            f"the model predicts {x[0]:g} for all of the {len(x)} labelled clips, "
            "which tells nothing about its scale; label clips of different quality."
        )
    stored: Dict[str, Any] = {
        "what": "scale",
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "num_clips": len(x),
        "pred_range": [float(x.min()), float(x.max())],
    }
    if kind == "linear":
        centred = x - x.mean()
        slope = float(centred @ (y - y.mean()) / (centred @ centred))
        rises = slope > 0
        stored["intercept"] = float(y.mean() - slope * x.mean())
        stored["slope"] = slope
    else:
        from sklearn.isotonic import IsotonicRegression

        isotonic = IsotonicRegression(increasing=True, out_of_bounds="clip").fit(x, y)
        stored["x"] = isotonic.X_thresholds_.astype(float).tolist()
        stored["y"] = isotonic.y_thresholds_.astype(float).tolist()
        rises = stored["y"][0] < stored["y"][-1]
    if not rises:
        raise ValueError(
            f"the labels of the {len(x)} clips do not rise with the model's "
            "predictions, so no scale can mend them; check that both belong to the "
            "same clips, or label more clips."
        )
    error = apply_scale(stored, x) - y
    stored["residual_sd"] = float(np.sqrt(np.mean(error**2)))
    return stored


def apply_scale(scale: Mapping[str, Any], pred: Sequence[float]) -> np.ndarray:
    """Map scores to the scale of another listening test.

    The ends of an interval are mapped like scores; that the interval keeps its coverage
    in the other test is not known.

    Args:
        scale: As ``fit_scale`` returns it.
        pred: Predictions of any shape; NaN stays NaN.

    Returns:
        Float64 array of the same shape.

    Raises:
        ValueError: ``scale`` is not a stored scale or of a newer format.
    """
    check_format(scale, "scale", FORMAT_VERSION)
    x = np.asarray(pred, dtype=np.float64)
    if scale["kind"] == "linear":
        return scale["intercept"] + scale["slope"] * x
    return np.interp(x, scale["x"], scale["y"])
