# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""How far the scores of one trained model can be trusted.

Brings together what was fitted to the model: the conformal intervals (``conformal``),
the distance from its training set (``novelty``) and the scale of another listening test
(``calibration``). A calibration is a dict:

- ``model``: fingerprint of the model whose residuals these are;
- ``scale``: fingerprint of the scale that the residuals are on, None for the model's;
- ``intervals``: as ``conformal.calibrate`` returns them;
- ``novelty``: as ``novelty.fit_novelty`` returns it, or None;
- ``labels``, ``train``: base names of what it was fitted to, for the reader.

A scale is a dict as ``calibration.fit_scale`` returns it, which may also have ``model``
and ``score_range``, the lowest and highest label of the other listening test.
"""

import hashlib
import json
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.evaluation import calibration as scales
from espnet2_distilmos.evaluation import conformal, novelty
from espnet2_distilmos.evaluation.calibration import check_format

_SCALE_PARTS = ("kind", "intercept", "slope", "x", "y")


def scale_fingerprint(scale: Optional[Mapping[str, Any]]) -> Optional[str]:
    """Identify the map that a scale is; None for none.

    Returns:
        12 hexadecimal digits.
    """
    if scale is None:
        return None
    parts = [scale.get(name) for name in _SCALE_PARTS]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


class Confidence:
    """Intervals and novelty of one model's scores, and their scale.

    Args:
        model: Fingerprint of the model.
        calibration: Of this model, or None.
        scale: The scale that scores are given on, or None for the model's own.
        score_range: Lowest and highest label on the model's own scale, or None.
        missing: Why there is no calibration, one sentence.

    Raises:
        ValueError: The calibration or the scale is of another model, the calibration is
            on another scale, or one of them is something else or of a newer format.
    """

    def __init__(
        self,
        model: str,
        calibration: Optional[Mapping[str, Any]] = None,
        scale: Optional[Mapping[str, Any]] = None,
        score_range: Optional[Sequence[float]] = None,
        missing: str = "the model has no calibration, run `distilmos calibrate`.",
    ):
        self.scale = scale
        self.score_range = score_range
        self.missing = missing
        self.calibration = calibration
        self._half_widths: Dict[float, float] = {}
        if scale is not None:
            check_format(scale, "scale", scales.FORMAT_VERSION)
            if scale.get("model", model) != model:
                raise ValueError(
                    f"the scale was fitted to the scores of the model "
                    f"{scale['model']} and this is the model {model}, expected one of "
                    "this; fit it again (`distilmos calibrate --fit-scale`)."
                )
        if calibration is None:
            return
        check_format(
            calibration.get("intervals") or {},
            "prediction intervals",
            conformal.FORMAT_VERSION,
        )
        if calibration.get("novelty") is not None:
            check_format(calibration["novelty"], "novelty", novelty.FORMAT_VERSION)
        if calibration.get("model") != model:
            raise ValueError(
                f"the calibration is of the model {calibration.get('model')} and this "
                f"is the model {model}, expected one of this, as the errors of another "
                "checkpoint say nothing; run `distilmos calibrate` for it."
            )
        if calibration.get("scale") not in (None, scale_fingerprint(scale)):
            raise ValueError(
                "the calibration was made on another listening test's scale, expected "
                "the scale that it was made with; give it with --scale, or calibrate "
                "with this one."
            )

    @property
    def coverage_is_known(self) -> bool:
        """Whether the labels that calibrated were on the scale of the scores."""
        return self.calibration is not None and (
            self.calibration.get("scale") == scale_fingerprint(self.scale)
        )

    @property
    def has_novelty(self) -> bool:
        """Whether the calibration knows the training set."""
        return (self.calibration or {}).get("novelty") is not None

    @property
    def fingerprint(self) -> Optional[str]:
        """Identify intervals and novelty; None without a calibration."""
        if self.calibration is None:
            return None
        arrays = self.calibration.get("novelty") or {}
        text = json.dumps([self.calibration["intervals"], sorted(arrays)])
        digest = hashlib.sha256(text.encode())
        for name in sorted(arrays):
            digest.update(np.asarray(arrays[name]).tobytes())
        return digest.hexdigest()[:12]

    def rescale(self, scores: Any) -> np.ndarray:
        """Bring scores of any shape from the model's scale to that of the results."""
        if self.scale is None:
            return np.asarray(scores)
        return scales.apply_scale(self.scale, scores)

    def is_extrapolated(self, score: float) -> bool:
        """Whether a score of the model is beyond those that the scale was fitted to."""
        if self.scale is None:
            return False
        low, high = self.scale["pred_range"]
        return not low <= score <= high

    def half_width(self, level: float) -> float:
        """Half the width of the intervals, on the scale that the labels were on.

        Raises:
            ValueError: There is no calibration, it has too few clips for the level, or
                the level is not in (0, 1).
        """
        if self.calibration is None:
            raise ValueError(self.missing)
        if level not in self._half_widths:
            stored = self.calibration["intervals"]
            _, high = conformal.prediction_intervals(stored, [0.0], level)
            self._half_widths[level] = float(high[0])
        return self._half_widths[level]

    def interval(self, score: float, level: float = 0.9) -> Tuple[float, float]:
        """Interval that holds a clip's label with the probability ``level``.

        ``conformal`` says what that probability is about. A calibration on the model's
        own scale gives intervals there, whose ends are brought to the scale of the
        results; that they have their coverage in another listening test is not known
        (``coverage_is_known``). Ends are cut at the lowest and highest label.

        Args:
            score: The model's own, before any scale.
            level: In (0, 1).

        Returns:
            Lower and upper end, on the scale of the results.

        Raises:
            ValueError: As ``half_width``.
        """
        half = self.half_width(level)
        if self.calibration.get("scale") is None:
            ends = np.array([score - half, score + half])
            if self.score_range is not None:
                ends = np.clip(ends, *self.score_range)
            ends = self.rescale(ends)
        else:
            middle = float(self.rescale(score))
            ends = np.array([middle - half, middle + half])
        if self.scale is not None and self.scale.get("score_range"):
            ends = np.clip(ends, *self.scale["score_range"])
        return float(ends[0]), float(ends[1])

    def novelty(self, embedding: Any) -> Optional[float]:
        """Distance of a clip from the training set, in thresholds.

        Args:
            embedding: The clip's, (D,).

        Returns:
            Above 1 the score is not to be trusted; None where the calibration has no
            training set.

        Raises:
            ValueError: As ``novelty.distance``.
        """
        if not self.has_novelty:
            return None
        stored = self.calibration["novelty"]
        found = novelty.distance(stored, np.asarray(embedding)[None])[0]
        return float(found / stored["threshold"])
