# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Is one model better than another? Paired tests on the same items.

Two models that score the same clips make similar mistakes, so the difference of their
metrics is known far better than either metric: two intervals that overlap say nothing.
Two kinds of test:

- the paired bootstrap, for every metric: both models are evaluated on the same
  resamples (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapter 16);
  clips of one source can be drawn together;
- tests for two dependent correlations that share a variable, the labels: Williams' t,
  which Steiger (Psychol. Bull. 87, 1980) recommends, Steiger's own Z and the Z of Meng,
  Rosenthal & Rubin (Psychol. Bull. 111, 1992). They assume independent items and
  normally distributed scores.

With several models the p-values are adjusted by Holm's method.

How often a true null hypothesis is rejected at 0.05 (simulated: bivariate normal, 1000
samples, two models of one correlation, 400 resamples; 15 items with r = 0.9, 30 with
0.8, 100 with 0.7): Williams' t for LCC 0.05, 0.05, 0.05, but for SRCC 0.11, 0.08, 0.07;
the bootstrap for LCC 0.07, 0.08, 0.06, for SRCC 0.02, 0.03, 0.04, for KTAU the like,
for MSE 0.10, 0.08, 0.07. So: Williams for LCC, the bootstrap for SRCC and KTAU, and few
items (systems!) ask for a smaller p where errors are compared.
"""

import itertools
import math
from typing import (
    Any,
    Callable,
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

from espnet2_distilmos.evaluation.bootstrap import (
    Interval,
    Resampler,
    centre,
    percentile_interval,
)
from espnet2_distilmos.evaluation.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    average_ranks,
    check_metrics,
    evaluate,
    lcc,
    system_means,
)

# Correlations that differ by less are equal but for rounding.
_ROUNDING = 1e-12


class CorrelationTest(NamedTuple):
    """A test of two dependent correlations.

    Attributes:
        statistic: t or z, positive where the first correlation is greater.
        p_value: Two-sided.
        degrees_of_freedom: Of t; None for z.
        reason: Why there is neither statistic nor p-value, or why they are what they
            are without a computation.
    """

    statistic: Optional[float]
    p_value: Optional[float]
    degrees_of_freedom: Optional[int] = None
    reason: Optional[str] = None


def _special_case(
    r_a: float, r_b: float, r_ab: float, num_items: int
) -> Optional[CorrelationTest]:
    """Answer where the formulas divide by zero, or None."""
    for r in (r_a, r_b, r_ab):
        if not -1 - _ROUNDING <= r <= 1 + _ROUNDING:
            raise ValueError(f"a correlation is {r}, expected a value in [-1, 1].")
    if num_items < 4:
        return CorrelationTest(
            None, None, None, f"{num_items} items, at least 4 needed"
        )
    if r_ab >= 1 - _ROUNDING:
        reason = "the two models' predictions are the same but for their scale"
        return CorrelationTest(0.0, 1.0, None, reason)
    return None


def williams_t(r_a: float, r_b: float, r_ab: float, num_items: int) -> CorrelationTest:
    """Williams' test that two dependent correlations are equal.

    t = (r_a - r_b) sqrt( (n - 1)(1 + r_ab)
        / (2 (n - 1) / (n - 3) |R| + (r_a + r_b)^2 / 4 (1 - r_ab)^3) ), with n - 3
    degrees of freedom and |R| = 1 - r_a^2 - r_b^2 - r_ab^2 + 2 r_a r_b r_ab (Williams,
    J. R. Stat. Soc. B 21, 1959; Steiger, Psychol. Bull. 87, 1980, equation 7).

    Args:
        r_a: Correlation of model a with the labels.
        r_b: Correlation of model b with the labels.
        r_ab: Correlation of the two models.
        num_items: Number of items n.

    Returns:
        The test; undefined for n < 4. Models that differ in scale only: t = 0, p = 1.

    Raises:
        ValueError: A correlation is not in [-1, 1].
    """
    from scipy.stats import t as student

    special = _special_case(r_a, r_b, r_ab, num_items)
    if special:
        return special
    n = num_items
    determinant = 1 - r_a**2 - r_b**2 - r_ab**2 + 2 * r_a * r_b * r_ab
    below = 2 * (n - 1) / (n - 3) * max(determinant, 0.0)
    below += (r_a + r_b) ** 2 / 4 * (1 - r_ab) ** 3
    if below <= 0:
        return CorrelationTest(None, None, None, "the correlations leave no variance")
    t = (r_a - r_b) * math.sqrt((n - 1) * max(1 + r_ab, 0.0) / below)
    return CorrelationTest(t, float(2 * student.sf(abs(t), n - 3)), n - 3)


def _normal_test(z: float) -> CorrelationTest:
    return CorrelationTest(z, math.erfc(abs(z) / math.sqrt(2)))


def _fisher(r_a: float, r_b: float) -> Optional[Tuple[float, float]]:
    if max(abs(r_a), abs(r_b)) >= 1 - _ROUNDING:
        return None
    return math.atanh(r_a), math.atanh(r_b)


_PERFECT = CorrelationTest(
    None, None, None, "a correlation is 1 or -1, which Fisher's z cannot express"
)


def steiger_z(r_a: float, r_b: float, r_ab: float, num_items: int) -> CorrelationTest:
    """Steiger's test that two dependent correlations are equal.

    Z = (z_a - z_b) sqrt(n - 3) / sqrt(2 - 2 s), with Fisher's z = artanh r and s the
    covariance of z_a and z_b at the pooled r = (r_a + r_b) / 2:
    s = (r_ab (1 - 2 r^2) - r^2 (1 - 2 r^2 - r_ab^2) / 2) / (1 - r^2)^2
    (Steiger, Psychol. Bull. 87, 1980, equations 10 and 14, after Dunn & Clark, JASA
    64, 1969).

    Args:
        r_a: Correlation of model a with the labels.
        r_b: Correlation of model b with the labels.
        r_ab: Correlation of the two models.
        num_items: Number of items n.

    Returns:
        The test; undefined for n < 4 and perfect correlations. Models that differ in
        scale only: Z = 0, p = 1.

    Raises:
        ValueError: A correlation is not in [-1, 1].
    """
    special = _special_case(r_a, r_b, r_ab, num_items)
    if special:
        return special
    z = _fisher(r_a, r_b)
    if z is None:
        return _PERFECT
    square = ((r_a + r_b) / 2) ** 2
    covariance = r_ab * (1 - 2 * square) - square * (1 - 2 * square - r_ab**2) / 2
    covariance /= (1 - square) ** 2
    if covariance >= 1:
        return CorrelationTest(None, None, None, "the correlations leave no variance")
    return _normal_test(
        (z[0] - z[1]) * math.sqrt((num_items - 3) / (2 - 2 * covariance))
    )


def _meng_error(r_a: float, r_b: float, r_ab: float, num_items: int) -> float:
    """Standard error of the difference of Fisher's z."""
    square = (r_a**2 + r_b**2) / 2
    f = min((1 - r_ab) / (2 * (1 - square)), 1.0)
    h = (1 - f * square) / (1 - square)
    return math.sqrt(2 * (1 - r_ab) * h / (num_items - 3))


def meng_z(r_a: float, r_b: float, r_ab: float, num_items: int) -> CorrelationTest:
    """Test of Meng, Rosenthal & Rubin that two dependent correlations are equal.

    Z = (z_a - z_b) sqrt((n - 3) / (2 (1 - r_ab) h)), with Fisher's z = artanh r,
    r^2 = (r_a^2 + r_b^2) / 2, f = min(1, (1 - r_ab) / (2 (1 - r^2))) and
    h = (1 - f r^2) / (1 - r^2) (Psychol. Bull. 111, 1992, equations 1 to 3).

    Args:
        r_a: Correlation of model a with the labels.
        r_b: Correlation of model b with the labels.
        r_ab: Correlation of the two models.
        num_items: Number of items n.

    Returns:
        The test; undefined for n < 4 and perfect correlations. Models that differ in
        scale only: Z = 0, p = 1.

    Raises:
        ValueError: A correlation is not in [-1, 1].
    """
    special = _special_case(r_a, r_b, r_ab, num_items)
    if special:
        return special
    z = _fisher(r_a, r_b)
    if z is None:
        return _PERFECT
    return _normal_test((z[0] - z[1]) / _meng_error(r_a, r_b, r_ab, num_items))


def meng_interval(
    r_a: float, r_b: float, r_ab: float, num_items: int, confidence: float = 0.95
) -> Optional[Interval]:
    """Interval of the difference of Fisher's z of two dependent correlations.

    (z_a - z_b) -+ 1.96 sqrt(2 (1 - r_ab) h / (n - 3)) (Meng, Rosenthal & Rubin,
    Psychol. Bull. 111, 1992, equation 4).

    Args:
        r_a: Correlation of model a with the labels.
        r_b: Correlation of model b with the labels.
        r_ab: Correlation of the two models.
        num_items: Number of items n.
        confidence: Coverage of the interval.

    Returns:
        The interval in units of z; None where ``meng_z`` is not computed.

    Raises:
        ValueError: A correlation is not in [-1, 1].
    """
    from scipy.stats import norm

    z = _fisher(r_a, r_b)
    if _special_case(r_a, r_b, r_ab, num_items) or z is None:
        return None
    half = float(norm.isf((1 - confidence) / 2))
    half *= _meng_error(r_a, r_b, r_ab, num_items)
    return Interval(z[0] - z[1] - half, z[0] - z[1] + half)


CORRELATION_TESTS: Dict[str, Callable[..., CorrelationTest]] = {
    "williams": williams_t,
    "steiger": steiger_z,
    "meng": meng_z,
}


def compare_correlations(
    pred_a: Sequence[float],
    pred_b: Sequence[float],
    true: Sequence[float],
    correlation: str = "lcc",
    test: str = "williams",
) -> CorrelationTest:
    """Test whether two models correlate with the same labels equally well.

    The tests are derived for the linear correlation of independent, normally
    distributed items. With ``srcc`` the ranks take their place, as is usual; but the
    variance of a rank correlation is greater than that of a linear one (Fieller,
    Hartley & Pearson, Biometrika 44, 1957), so the p-values are too small (see above):
    where the paired bootstrap says otherwise, trust the bootstrap. None of these tests
    knows clips that share a source.

    Args:
        pred_a: Predictions of model a (n,).
        pred_b: Predictions of model b (n,).
        true: Labels (n,).
        correlation: ``lcc`` or ``srcc``.
        test: A key of ``CORRELATION_TESTS``.

    Returns:
        The test; undefined for n < 4, constant or non-finite input.

    Raises:
        ValueError: The shapes differ, or the correlation or the test is unknown.
    """
    if correlation not in ("lcc", "srcc"):
        raise ValueError(f"the correlation is {correlation}, expected lcc or srcc.")
    if test not in CORRELATION_TESTS:
        raise ValueError(
            f"the test is {test}, expected one of {', '.join(CORRELATION_TESTS)}."
        )
    arrays = [np.asarray(v, dtype=np.float64) for v in (pred_a, pred_b, true)]
    if correlation == "srcc" and all(np.isfinite(v).all() for v in arrays):
        arrays = [average_ranks(v) for v in arrays]
    a, b, t = arrays
    r = {"a": lcc(a, t), "b": lcc(b, t), "ab": lcc(a, b)}
    for key, metric in r.items():
        if metric.value is None:
            model = "" if key == "ab" else f"model {key}: "
            return CorrelationTest(None, None, None, f"{model}{metric.reason}")
    values = [r[key].value for key in ("a", "b", "ab")]
    return CORRELATION_TESTS[test](*values, len(t))


def holm(p_values: Sequence[Optional[float]]) -> List[Optional[float]]:
    """Adjust p-values for multiple comparisons (Holm, Scand. J. Stat. 6, 1979).

    With p_(1) <= ... <= p_(m), the adjusted p_(i) is the greatest of
    min(1, (m - j + 1) p_(j)) over j <= i. Rejecting where it is at most alpha keeps the
    probability of any false rejection at alpha, however the tests depend on each other.

    Args:
        p_values: p-values in [0, 1]; None is no test and does not count in m.

    Returns:
        The adjusted p-values in the same order, None where there is none.

    Raises:
        ValueError: A p-value is not in [0, 1].
    """
    tested = [i for i, p in enumerate(p_values) if p is not None]
    for i in tested:
        if not 0 <= p_values[i] <= 1:
            raise ValueError(f"a p-value is {p_values[i]}, expected one in [0, 1].")
    adjusted: List[Optional[float]] = [None] * len(p_values)
    greatest = 0.0
    for rank, i in enumerate(sorted(tested, key=lambda i: p_values[i])):
        greatest = max(greatest, min(1.0, (len(tested) - rank) * p_values[i]))
        adjusted[i] = greatest
    return adjusted


def bootstrap_p_value(differences: np.ndarray) -> Optional[float]:
    """Two-sided p-value of resampled differences (R,).

    p = 2 min(#{d <= 0} + 1, #{d >= 0} + 1) / (R + 1), at most 1: the level at which the
    percentile interval begins to hold zero. The ones make it a valid p-value, never
    zero (Davison & Hinkley, Bootstrap Methods and their Application, 1997, 4.2).

    Args:
        differences: Values, NaN where a resample left the metric undefined.

    Returns:
        The p-value; None where fewer than half of the values are finite.
    """
    finite = differences[np.isfinite(differences)]
    if not 2 * len(finite) >= len(differences) > 0:
        return None
    smaller = min(np.count_nonzero(finite <= 0), np.count_nonzero(finite >= 0))
    return float(min(1.0, 2 * (smaller + 1) / (len(finite) + 1)))


class PairedDifference(NamedTuple):
    """The difference of a metric between two models on the same items.

    Attributes:
        difference: Metric of model a minus metric of model b.
        interval: Percentile interval of the difference.
        p_value: Two-sided, of no difference.
        reason: Why something is None.
    """

    difference: Optional[float]
    interval: Optional[Interval]
    p_value: Optional[float]
    reason: Optional[str] = None


def _paired_difference(
    value_a: Optional[float],
    value_b: Optional[float],
    samples_a: Optional[np.ndarray],
    samples_b: Optional[np.ndarray],
    confidence: float,
    centred: bool,
) -> PairedDifference:
    if value_a is None or value_b is None:
        return PairedDifference(None, None, None, "undefined for a model")
    difference = value_a - value_b
    if samples_a is None or samples_b is None:
        reason = "fewer than 2 independent units to resample"
        return PairedDifference(difference, None, None, reason)
    differences = samples_a - samples_b
    if centred:
        differences = centre(differences, difference)
    interval = percentile_interval(differences, confidence)
    if interval is None:
        reason = "undefined in more than half of the resamples"
        return PairedDifference(difference, None, None, reason)
    return PairedDifference(difference, interval, bootstrap_p_value(differences))


def paired_bootstrap(
    pred_a: Sequence[float],
    pred_b: Sequence[float],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    clusters: Optional[Sequence[Hashable]] = None,
    metrics: Sequence[str] = tuple(METRICS),
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    resample: str = "clusters",
) -> Dict[str, PairedDifference]:
    """Compare two models on the same items by the paired bootstrap.

    Args:
        pred_a: Predictions of model a (n,), finite.
        pred_b: Predictions of model b (n,), finite.
        true: Labels (n,), finite.
        systems: System of each utterance (n,), None where it has none; or None.
        clusters: Cluster of each utterance (n,), such as its sentence; None takes
            every utterance for a cluster of its own.
        metrics: Names from ``metrics.ALL_METRICS``.
        num_resamples: Number of resamples R; p-values are multiples of 2 / (R + 1).
        confidence: Coverage of the intervals.
        seed: Seed of the resampling; one seed always gives the same result.
        resample: What is drawn, one of ``bootstrap.RESAMPLES``; the choice says what
            the verdict is about: other clips (of the same systems), or other systems.

    Returns:
        The differences by the keys of ``evaluate``.

    Raises:
        ValueError: The lengths differ, a value is not finite, or ``resample`` needs
            systems and there are none.
    """
    compared = compare_models(
        {"a": pred_a, "b": pred_b},
        true,
        *(systems, clusters, metrics),
        num_resamples=num_resamples,
        confidence=confidence,
        seed=seed,
        resample=resample,
    )
    return {
        f"{row['level']}_mos_{row['metric']}": PairedDifference(
            row["difference"], row["interval"], row["p_bootstrap"], row["reason"]
        )
        for row in compared
    }


def _correlation_tests(
    predictions: Mapping[str, np.ndarray],
    true: np.ndarray,
    pair: Tuple[str, str],
    metric: str,
    test: str,
    reason: Optional[str],
) -> CorrelationTest:
    if metric not in ("lcc", "srcc"):
        return CorrelationTest(None, None, None, "for correlations only")
    if reason:
        return CorrelationTest(None, None, None, reason)
    a, b = (predictions[name] for name in pair)
    return compare_correlations(a, b, true, metric, test)


def compare_models(
    predictions: Mapping[str, Sequence[float]],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    clusters: Optional[Sequence[Hashable]] = None,
    metrics: Sequence[str] = tuple(METRICS),
    baseline: Optional[str] = None,
    test: str = "williams",
    num_resamples: Optional[int] = None,
    confidence: float = 0.95,
    seed: int = 0,
    resample: str = "clusters",
) -> List[Dict[str, Any]]:
    """Compare every two of several models on the same items.

    All comparisons of one metric at one level are one family for Holm's method. Where
    ``clusters`` hold several clips, the tests of correlations are not done at utterance
    level, since they assume independent items.

    Args:
        predictions: Predictions (n,), finite, by the name of the model; at least 2.
        true: Labels (n,), finite.
        systems: System of each utterance (n,), None where it has none; or None.
        clusters: Cluster of each utterance (n,), such as its sentence; None takes
            every utterance for a cluster of its own.
        metrics: Names from ``metrics.ALL_METRICS``.
        baseline: Compare the others with this model only, not all with all.
        test: Test of the correlations, a key of ``CORRELATION_TESTS``.
        num_resamples: Number of resamples; None takes 1000, or 200 a comparison where
            that is more: Holm multiplies the least p-value, 2 / (R + 1), by the number
            of comparisons.
        confidence: Coverage of the intervals, not adjusted for their number.
        seed: Seed of the resampling; one seed always gives the same result.
        resample: What is drawn, one of ``bootstrap.RESAMPLES``.

    Returns:
        A JSON-ready dict for each level (``utt``, ``sys``), metric and pair of models:
        ``level``, ``metric``, ``model_a``, ``model_b``, ``value_a``, ``value_b``,
        ``difference`` (a minus b), ``interval``, ``better`` (the name of the model with
        the better value, None where they are equal), ``p_bootstrap`` and
        ``p_correlation`` (of ``test``), both also as ``…_holm``, ``test``,
        ``statistic``, ``degrees_of_freedom``, and ``reason`` and ``reason_correlation``
        for what is None. The system level is left out without systems.

    Raises:
        ValueError: There is one model or none, the baseline or a metric is unknown, the
            lengths differ, a value is not finite, or ``resample`` needs systems and
            there are none.
    """
    check_metrics(metrics)
    if test not in CORRELATION_TESTS:
        raise ValueError(
            f"the test is {test}, expected one of {', '.join(CORRELATION_TESTS)}."
        )
    if len(predictions) < 2:
        raise ValueError(f"{len(predictions)} models, at least 2 are compared.")
    if baseline is not None and baseline not in predictions:
        raise ValueError(
            f"the baseline {baseline} is none of the models {', '.join(predictions)}."
        )
    if baseline is None:
        pairs = list(itertools.combinations(predictions, 2))
    else:
        pairs = [(name, baseline) for name in predictions if name != baseline]
    if num_resamples is None:
        num_resamples = max(1000, 200 * len(pairs))

    labels = np.asarray(true, dtype=np.float64)
    scores = {m: np.asarray(p, dtype=np.float64) for m, p in predictions.items()}
    for name, values in scores.items():
        if values.shape != labels.shape or labels.ndim != 1:
            raise ValueError(
                f"the predictions of {name} have the shape {values.shape} and the "
                f"labels {labels.shape}, expected one prediction for every label."
            )
        if not (np.isfinite(values).all() and np.isfinite(labels).all()):
            raise ValueError(f"the predictions of {name} or the labels are not finite.")
    resampler = Resampler(len(labels), systems, clusters, resample, num_resamples, seed)
    systems = resampler.systems
    values = {name: evaluate(p, labels, systems, metrics) for name, p in scores.items()}
    samples: Dict[str, Dict[str, np.ndarray]] = {name: {} for name in scores}
    if resampler.num_units >= 2:
        samples = {name: resampler(p, labels, metrics) for name, p in scores.items()}

    levels = {"utt": (scores, labels)}
    if systems is not None:
        means = {name: system_means(p, labels, systems) for name, p in scores.items()}
        sys_scores = {name: mean[0] for name, mean in means.items()}
        levels["sys"] = (sys_scores, next(iter(means.values()))[1])
    dependent = None
    if clusters is not None and len(set(clusters)) < len(labels):
        dependent = "clips of one cluster are not independent, see p_bootstrap"

    rows = []
    for level, (level_scores, level_labels) in levels.items():
        for metric in metrics:
            key = f"{level}_mos_{metric}"
            family = []
            for pair in pairs:
                value_a, value_b = (values[name][key] for name in pair)
                paired = _paired_difference(
                    *(value_a, value_b),
                    *(samples[name].get(key) for name in pair),
                    confidence,
                    resample == "within_systems",
                )
                tested = _correlation_tests(
                    *(level_scores, level_labels, pair, metric, test),
                    dependent if level == "utt" else None,
                )
                better = None
                if paired.difference:
                    a_wins = (paired.difference > 0) != (metric in LOWER_IS_BETTER)
                    better = pair[0] if a_wins else pair[1]
                family.append(
                    {
                        "level": level,
                        "metric": metric,
                        "model_a": pair[0],
                        "model_b": pair[1],
                        "value_a": value_a,
                        "value_b": value_b,
                        "difference": paired.difference,
                        "interval": paired.interval,
                        "better": better,
                        "p_bootstrap": paired.p_value,
                        "reason": paired.reason,
                        "test": test,
                        "statistic": tested.statistic,
                        "degrees_of_freedom": tested.degrees_of_freedom,
                        "p_correlation": tested.p_value,
                        "reason_correlation": tested.reason,
                    }
                )
            for name in ("p_bootstrap", "p_correlation"):
                adjusted = holm([row[name] for row in family])
                for row, p in zip(family, adjusted):
                    row[f"{name}_holm"] = p
            rows += family
    return rows
