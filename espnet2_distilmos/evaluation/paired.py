# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Is one model better than another? Paired tests on the same items.

Two models that score the same clips make similar mistakes, so the difference of their
metrics is known far better than either metric. There are two tests, and Holm's method
for the p-values of several models:

- the paired bootstrap, for every metric: both models are evaluated on the same
  resamples (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16);
- Williams' t for two dependent correlations that share a variable, the labels, which
  Steiger (Psychol. Bull. 87, 1980) recommends. It assumes independent items and
  normally distributed scores.

How often a true null hypothesis is rejected at 0.05 (simulated: two models of one
correlation; 15, 30 and 100 items): Williams' t for LCC 0.05, 0.05, 0.05, but for SRCC
0.11, 0.08, 0.07; the bootstrap for LCC 0.07, 0.08, 0.06, for SRCC and KTAU 0.02, 0.03,
0.04, for MSE 0.10, 0.08, 0.07. So: Williams for LCC, the bootstrap for SRCC and KTAU,
and few items (systems!) ask for a smaller p where errors are compared. Below
``bootstrap.MINIMUM_UNITS`` there is neither, and below ``MINIMUM_RESAMPLES`` no
bootstrap.

What a test could have found at all is the other half of "not significant": the smallest
detectable difference is the true difference that is found significant with probability
``POWER`` at the level ``ALPHA``, two-sided, (z_{1 - ALPHA / 2} + z_POWER) SE = 2.80 SE
(Cohen, Statistical Power Analysis, 1988), with SE the standard error of the difference
that the test itself estimated: the deviation of the resampled differences, or the
denominator of Williams' t. It is of a single test, before Holm's correction.
"""

import itertools
import math
import statistics
from typing import (
    Any,
    Dict,
    Hashable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import scipy

from espnet2_distilmos.evaluation.bootstrap import (
    UNDEFINED_RESAMPLES,
    Resampler,
    centre,
    percentile_interval,
    too_few,
)
from espnet2_distilmos.evaluation.metrics import (
    ALL_METRICS,
    LOWER_IS_BETTER,
    METRICS,
    as_pair,
    evaluate,
    system_means,
)

ALPHA = 0.05
POWER = 0.8
# Below these the ends of a 95 % interval are all but the extreme resamples, and p is
# never below 0.02.
MINIMUM_RESAMPLES = 100


class CorrelationTest(NamedTuple):
    """t, positive where the first correlation is greater, and its two-sided p-value.

    ``detectable_correlation`` is the smallest difference that it could find.

    The reason says why they are None, or what they are without a computation.
    """

    statistic: Optional[float] = None
    p_correlation: Optional[float] = None
    degrees_of_freedom: Optional[int] = None
    reason_correlation: Optional[str] = None
    detectable_correlation: Optional[float] = None


def smallest_detectable(
    standard_error: float, degrees_of_freedom: Optional[float] = None
) -> float:
    """Difference that a test with this standard error finds with the power ``POWER``.

    With degrees of freedom it is a t test, and its quantiles take the place of z.

    >>> round(smallest_detectable(0.1), 3), round(smallest_detectable(0.1, 5), 3)
    (0.28, 0.349)
    """
    quantile = statistics.NormalDist().inv_cdf
    if degrees_of_freedom is not None:
        quantile = scipy.stats.t(degrees_of_freedom).ppf
    return float(quantile(1 - ALPHA / 2) + quantile(POWER)) * standard_error


def williams_t(r_a: float, r_b: float, r_ab: float, num_items: int) -> CorrelationTest:
    """Williams' test that two dependent correlations are equal.

    t = (r_a - r_b) sqrt( (n - 1)(1 + r_ab)
        / (2 (n - 1) / (n - 3) |R| + (r_a + r_b)^2 / 4 (1 - r_ab)^3) ), with n - 3
    degrees of freedom and |R| = 1 - r_a^2 - r_b^2 - r_ab^2 + 2 r_a r_b r_ab (Williams,
    J. R. Stat. Soc. B 21, 1959; Steiger, Psychol. Bull. 87, 1980, equation 7).

    r_a and r_b are the models' correlations with the labels, r_ab that of the models.

    >>> round(williams_t(0.3, 0.4, 0.5, 100).p_correlation, 4)
    0.2843
    """
    n = num_items
    if reason := too_few(n, "items"):
        return CorrelationTest(reason_correlation=reason)
    if r_ab >= 1 - 1e-12:
        reason = "the two models' predictions are the same but for their scale"
        return CorrelationTest(0.0, 1.0, None, reason)
    determinant = 1 - r_a**2 - r_b**2 - r_ab**2 + 2 * r_a * r_b * r_ab
    below = 2 * (n - 1) / (n - 3) * max(determinant, 0.0)
    below += (r_a + r_b) ** 2 / 4 * (1 - r_ab) ** 3
    above = (n - 1) * max(1 + r_ab, 0.0)
    if below <= 0:
        return CorrelationTest(reason_correlation="the correlations leave no variance")
    t = (r_a - r_b) * math.sqrt(above / below)
    test = CorrelationTest(t, float(2 * scipy.stats.t.sf(abs(t), n - 3)), n - 3)
    if r_ab <= 1e-12 - 1:
        return test._replace(
            reason_correlation="no smallest difference, as the models are opposite"
        )
    error = math.sqrt(below / above)
    return test._replace(detectable_correlation=smallest_detectable(error, n - 3))


def compare_correlations(
    pred_a: np.ndarray,
    pred_b: np.ndarray,
    true: np.ndarray,
    metric: str = "lcc",
    names: Tuple[str, str] = ("model a", "model b"),
) -> CorrelationTest:
    """Test by Williams' t whether two models correlate equally well with the labels.

    Predictions and labels are (n,); ``names`` are the models' in reasons. With the
    metric ``srcc`` the ranks take the place of the values, but the variance of a rank
    correlation is greater than that of a linear one (Fieller, Hartley & Pearson,
    Biometrika 44, 1957), so the p-values are too small: where the paired bootstrap says
    otherwise, trust the bootstrap.
    """
    if metric not in ("lcc", "srcc"):
        return CorrelationTest(reason_correlation="for correlations only")
    pairs = {
        f"undefined for {names[0]}: ": (pred_a, true),
        f"undefined for {names[1]}: ": (pred_b, true),
        "": (pred_a, pred_b),
    }
    found = {name: ALL_METRICS[metric](*pair) for name, pair in pairs.items()}
    for name, correlation in found.items():
        if correlation.value is None:
            return CorrelationTest(reason_correlation=f"{name}{correlation.reason}")
    return williams_t(*(correlation.value for correlation in found.values()), len(true))


def holm(p_values: Sequence[Optional[float]]) -> List[Optional[float]]:
    """Adjust p-values for multiple comparisons (Holm, Scand. J. Stat. 6, 1979).

    With p_(1) <= ... <= p_(m), the adjusted p_(i) is the greatest of
    min(1, (m - j + 1) p_(j)) over j <= i. Rejecting where it is at most alpha keeps the
    probability of any false rejection at alpha, however the tests depend on each other.
    None is no test: it stays None and does not count in m.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    tested = [i for i, p in enumerate(p_values) if p is not None]
    adjusted: List[Optional[float]] = [None] * len(p_values)
    greatest = 0.0
    for rank, i in enumerate(sorted(tested, key=lambda i: p_values[i])):
        greatest = max(greatest, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = greatest
    return adjusted


def bootstrap_p_value(differences: np.ndarray) -> Optional[float]:
    """Two-sided p-value of resampled differences (R,), None if most are NaN.

    p = 2 min(#{d <= 0} + 1, #{d >= 0} + 1) / (R + 1), at most 1: the level at which the
    percentile interval begins to hold zero. The ones make it a valid p-value, never
    zero (Davison & Hinkley, Bootstrap Methods and their Application, 1997, 4.2).

    >>> bootstrap_p_value(np.ones(99))
    0.02
    """
    # two models that order a resample alike differ by rounding only
    finite = np.round(differences[np.isfinite(differences)], 12)
    if not 2 * len(finite) >= len(differences) > 0:
        return None
    smaller = min(np.count_nonzero(finite <= 0), np.count_nonzero(finite >= 0))
    return float(min(1.0, 2 * (smaller + 1) / (len(finite) + 1)))


def better_of(
    metric: str, difference: Optional[float], first: str, second: str
) -> Optional[str]:
    """Name the better of two by the first's metric minus the second's.

    >>> better_of("mse", -0.1, "a", "b"), better_of("srcc", 0.0, "a", "b")
    ('a', None)
    """
    if not difference:
        return None
    return first if (difference > 0) != (metric in LOWER_IS_BETTER) else second


def _bootstrap_test(
    values: Tuple[Optional[float], Optional[float]],
    samples: Optional[Tuple[np.ndarray, np.ndarray]],
    reason: Optional[str],
    confidence: float,
    centred: bool,
) -> Dict[str, Any]:
    """Difference of two models' values, with interval and p-value from resamples.

    ``reason`` says why a value or the samples are None.
    """
    difference = interval = p_value = detectable = None
    if None not in values:
        difference = values[0] - values[1]
        if samples is not None:
            drawn = samples[0] - samples[1]
            drawn = centre(drawn, difference) if centred else drawn
            interval = percentile_interval(drawn, confidence)
            p_value = bootstrap_p_value(drawn)
            if interval is None:
                reason = UNDEFINED_RESAMPLES
            elif (deviation := float(np.nanstd(drawn))) > 1e-12:  # not by rounding
                detectable = smallest_detectable(deviation)
            else:
                reason = "no smallest difference, as no resample has another difference"
    return {
        "value_a": values[0],
        "value_b": values[1],
        "difference": difference,
        "interval": interval,
        "p_bootstrap": p_value,
        "detectable_bootstrap": detectable,
        "reason": reason,
    }


def compare_models(
    predictions: Mapping[str, Sequence[float]],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    clusters: Optional[Sequence[Hashable]] = None,
    metrics: Sequence[str] = tuple(METRICS),
    baseline: Optional[str] = None,
    num_resamples: Optional[int] = None,
    confidence: float = 0.95,
    seed: int = 0,
    resample: str = "clusters",
    two_scales: Optional[Mapping[str, Optional[str]]] = None,
) -> List[Dict[str, Any]]:
    """Compare every two of several models on the same items.

    All comparisons of one metric at one level are one family for Holm's method. Where
    ``clusters`` hold several clips, Williams' test is not done at utterance level,
    since it assumes independent items.

    Args:
        predictions: Predictions (n,), finite, by the name of the model; at least 2.
        true: Labels (n,), finite.
        systems, clusters, seed: See ``Resampler``.
        metrics: Names from ``metrics.ALL_METRICS``.
        baseline: Compare the others with this model only, not all with all.
        num_resamples: Number of resamples R; p-values are multiples of 2 / (R + 1).
            Below ``MINIMUM_RESAMPLES`` nothing comes from the bootstrap.
            None takes 1000, or 200 a comparison where that is more: Holm multiplies
            the least p-value by the number of comparisons.
        confidence: Coverage of the intervals, not adjusted for their number.
        resample: See ``Resampler``; it says what the verdict is about: other clips
            (of the same systems), or other systems.
        two_scales: By model, see ``metrics.evaluate``.

    Returns:
        A JSON-ready dict for each level (``utt`` and, with systems, ``sys``), metric
        and pair of models: ``level``, ``metric``, ``model_a``, ``model_b``,
        ``value_a``, ``value_b``, ``difference`` (a minus b), ``interval``, ``better``
        (the name of the model with the better value, None where they are equal),
        ``p_bootstrap`` and ``p_correlation``, both also as ``…_holm``, ``test``,
        ``statistic``, ``degrees_of_freedom`` (of Williams' test),
        ``detectable_bootstrap`` and ``detectable_correlation`` (the smallest detectable
        differences), and ``reason`` and ``reason_correlation`` for what is None.

    Raises:
        ValueError: There is one model or none, the baseline or a metric is unknown, a
            value is not finite, or see ``Resampler``.
    """
    if len(predictions) < 2:
        raise ValueError(
            f"{len(predictions)} models, at least 2 are compared: give one more."
        )
    if baseline is None:
        pairs = list(itertools.combinations(predictions, 2))
    elif baseline in predictions:
        pairs = [(name, baseline) for name in predictions if name != baseline]
    else:
        raise ValueError(
            f"the baseline {baseline} is none of the models {', '.join(predictions)}."
        )
    if num_resamples is None:
        num_resamples = max(1000, 200 * len(pairs))
    resampler = Resampler(len(true), systems, clusters, resample, num_resamples, seed)
    # predictions and labels by level and model
    scores = {"utt": {m: as_pair(p, true, finite=True) for m, p in predictions.items()}}
    items = scores["utt"].items()
    if resampler.systems is not None:
        scores["sys"] = {m: system_means(*s, resampler.systems)[:2] for m, s in items}
    values = {
        m: evaluate(*s, resampler.systems, metrics, (two_scales or {}).get(m))
        for m, s in items
    }
    samples, not_drawn = None, resampler.too_few
    if not not_drawn and num_resamples < MINIMUM_RESAMPLES:
        not_drawn = (
            f"found {num_resamples} of the at least {MINIMUM_RESAMPLES} resamples that "
            "the bootstrap's intervals and p-values need; draw more (--bootstrap)"
        )
    if not not_drawn:
        samples = resampler.of_models(predictions, true, metrics)
    dependent = clusters is not None and len(set(clusters)) < len(true)

    rows = []
    for level, metric in itertools.product(scores, metrics):
        key = f"{level}_mos_{metric}"
        family = []
        for a, b in pairs:
            reason = resampler.too_few
            if level == "utt" and dependent and not reason:
                reason = "clips of one cluster are not independent, see p_bootstrap"
            if reason and metric in ("lcc", "srcc"):
                williams = CorrelationTest(reason_correlation=reason)
            else:
                (pred_a, labels), (pred_b, _) = scores[level][a], scores[level][b]
                williams = compare_correlations(pred_a, pred_b, labels, metric, (a, b))
            missing = [
                f"undefined for {model}: {values[model]['undefined'][key]}"
                for model in (a, b)
                if values[model][key] is None
            ]
            tested = _bootstrap_test(
                (values[a][key], values[b][key]),
                samples and (samples[a][key], samples[b][key]),
                "; ".join(missing) or not_drawn,
                confidence,
                centred=resample == "within_systems",
            )
            row = {
                "level": level,
                "metric": metric,
                "model_a": a,
                "model_b": b,
                "better": better_of(metric, tested["difference"], a, b),
                **tested,
                "test": "williams",
                **williams._asdict(),
            }
            family.append(row)
        for name in ("p_bootstrap", "p_correlation"):
            for row, p in zip(family, holm([row[name] for row in family])):
                row[f"{name}_holm"] = p
        rows += family
    return rows
