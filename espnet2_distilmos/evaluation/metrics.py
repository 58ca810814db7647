# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Error and correlation of predicted against true MOS.

A metric takes predictions (n,) and labels (n,) and returns a ``Metric``: a number, or
None with the reason why it is undefined (too few items, constant, NaN or infinite
values); arrays of different shapes raise ValueError. Nothing here knows files.
"""

import functools
import itertools
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import scipy  # loads scipy.stats, which takes half a second, where it is first used
from numpy.polynomial import Polynomial
from numpy.polynomial.polynomial import polyvander

# Means of equal scores may differ in the last bit by the order of summation; ties
# between systems are taken at this many decimals.
SYSTEM_DECIMALS = 9
# Below these a cubic follows the noise: two clips a coefficient (our choice; ITU-T
# P.1401 sets no number), and as many different predictions as coefficients.
MINIMUM_CUBIC_ITEMS = 8
MINIMUM_CUBIC_VALUES = 4


class Metric(NamedTuple):
    """A value, or None and the reason why it is undefined.

    A value may have a reason too: why it was computed in another way than asked.
    """

    value: Optional[float]
    reason: Optional[str] = None


MetricFunction = Callable[[Sequence[float], Sequence[float]], Metric]


def as_pair(
    pred: Sequence[float], true: Sequence[float], finite: bool = False
) -> Tuple[np.ndarray, np.ndarray]:
    """Convert predictions and labels (n,) to float64.

    Raises:
        ValueError: The shapes differ or, with ``finite``, a value is not finite.
    """
    pred = np.asarray(pred, dtype=np.float64)
    true = np.asarray(true, dtype=np.float64)
    if pred.ndim != 1 or pred.shape != true.shape:
        raise ValueError(
            f"predictions have the shape {pred.shape} and labels {true.shape}, "
            "expected one prediction for every label."
        )
    if finite and not (np.isfinite(pred).all() and np.isfinite(true).all()):
        raise ValueError("predictions and labels must be finite.")
    return pred, true


def _metric(
    minimum: int, varying: Sequence[str] = ("predictions", "labels")
) -> Callable[[Callable[..., Union[float, Metric]]], MetricFunction]:
    """Wrap a computation, so that undefined cases become None with a reason.

    It needs ``minimum`` items; what ``varying`` names must not be constant.
    """

    def decorate(compute: Callable[..., Union[float, Metric]]) -> MetricFunction:
        @functools.wraps(compute)
        def metric(pred: Sequence[float], true: Sequence[float]) -> Metric:
            pred, true = as_pair(pred, true)
            if len(pred) < minimum:
                return Metric(None, f"{len(pred)} items, at least {minimum} needed")
            for name, values in (("predictions", pred), ("labels", true)):
                if not np.isfinite(values).all():
                    return Metric(None, f"the {name} contain NaN or infinity")
                if name in varying and values.min() == values.max():
                    return Metric(None, f"the {name} are constant")
            with np.errstate(all="ignore"):
                result = compute(pred, true)
            if not isinstance(result, Metric):
                result = Metric(float(result))
            if not np.isfinite(result.value):
                return Metric(None, "the values are too large")
            return result

        return metric

    return decorate


@_metric(minimum=1, varying=())
def mse(pred, true):
    """Mean squared error, (1/n) sum (p_i - t_i)^2, in squared units of the scale."""
    return np.mean((pred - true) ** 2)


@_metric(minimum=2)
def lcc(pred, true):
    """Linear correlation (Pearson, Proc. R. Soc. 58, 1895), in [-1, 1]."""
    # not pearsonr, which is slower and warns where predictions nearly coincide; scaled,
    # so that squares do not overflow
    return np.corrcoef(pred / np.abs(pred).max(), true / np.abs(true).max())[0, 1]


@_metric(minimum=2)
def srcc(pred, true):
    """Rank correlation rho (Spearman, Am. J. Psychol. 15, 1904), in [-1, 1].

    The linear correlation of the ranks, where equal values share their mean rank.

    >>> round(srcc([1, 1, 2, 3], [1, 2, 3, 4]).value, 4)
    0.9487
    >>> srcc([1, 2, 3], [4, 4, 4])
    Metric(value=None, reason='the labels are constant')
    """
    # a third of the time that spearmanr takes for its p-value too
    return np.corrcoef(scipy.stats.rankdata([pred, true], axis=1))[0, 1]


@_metric(minimum=2)
def ktau(pred, true):
    """Rank correlation tau-b (Kendall, Biometrika 33, 1945), in [-1, 1].

    tau_b = (C - D) / sqrt((n_0 - n_p)(n_0 - n_t)), with C and D the concordant and
    discordant pairs, n_0 = n (n - 1) / 2 all pairs, n_p and n_t the pairs with equal
    predictions and equal labels. Time grows with n log n.
    """
    return scipy.stats.kendalltau(pred, true).statistic


def _untied_pairs(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return (len(values) ** 2 - counts @ counts) / 2


@_metric(minimum=2, varying=("labels",))
def pair_accuracy(pred, true):
    """Share of the pairs with different labels that the predictions order right.

    Equal predictions count one half: (1 + Somers' d) / 2 (Somers, Am. Sociol. Rev. 27,
    1962) and, for two different labels, the area under the ROC curve.
    """
    tau = ktau(pred, true).value
    if tau is None:  # constant predictions: every pair is a tie
        return 0.5
    # Somers' d = (C - D) / (n_0 - n_t)
    somers_d = tau * (_untied_pairs(pred) / _untied_pairs(true)) ** 0.5
    return 0.5 + 0.5 * somers_d


# Integrals of the Bernstein polynomials (1 - u)^2, 2 u (1 - u) and u^2, by rows in
# ascending powers of u
RISES = np.array([[0, 1, -1, 1 / 3], [0, 0, 1, -2 / 3], [0, 0, 0, 1 / 3]])
# What (u - r)^2 has of the three Bernstein polynomials: r^2, r^2 - r and (1 - r)^2, by
# rows in ascending powers of r
_SQUARE = np.array([[0, 0, 1], [0, -1, 1], [1, -2, 1]])


def rises_in(c0: np.ndarray, c1: np.ndarray, c2: np.ndarray) -> np.ndarray:
    """Whether c0 (1 - u)^2 + 2 c1 u (1 - u) + c2 u^2 >= 0 for all u in [0, 1]."""
    root = np.sqrt(np.maximum(c0, 0) * np.maximum(c2, 0))
    return (c0 >= 0) & (c2 >= 0) & (c1 >= -root)


def rising_cubic(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares ||design c - target|| (3, 3), (3,) of a slope that is nowhere < 0.

    The slope c0 (1 - u)^2 + 2 c1 u (1 - u) + c2 u^2 is >= 0 in [0, 1] if and only if
    c0, c2 >= 0 and c1 >= -sqrt(c0 c2). Where free least squares leave this cone, its
    convexity puts the optimum on the boundary, where the slope has a zero: at 0, at 1
    or a double one between, k (u - r)^2. The first two are non-negative least
    squares. For the third, the error falls by N(r)^2 / D(r), N quadratic and D
    quartic, which is greatest at a root of 2 N' D - N D'. So the optimum is exact.
    """
    # not solve: predictions that nearly coincide leave the system singular
    free = np.linalg.lstsq(design, target, rcond=None)[0]
    if rises_in(*free):
        return free
    candidates = [
        np.r_[0.0, scipy.optimize.nnls(design[:, 1:], target)[0]],
        np.r_[scipy.optimize.nnls(design[:, :2], target)[0], 0.0],
    ]
    rows = [Polynomial(row) for row in design @ _SQUARE]
    gain = sum(t * row for t, row in zip(target, rows))
    size = sum(row * row for row in rows)
    for root in (2 * gain.deriv() * size - gain * size.deriv()).roots():
        # what is no real root in [0, 1] makes a candidate that loses
        r = float(np.clip(root.real, 0, 1))
        if size(r) > 0:
            k = max(gain(r) / size(r), 0.0)
            candidates.append(k * np.array([r**2, r**2 - r, (1 - r) ** 2]))
    return min(candidates, key=lambda c: float(np.sum((design @ c - target) ** 2)))


def fit_mapping(pred: Sequence[float], true: Sequence[float], order: int) -> Polynomial:
    """Fit the polynomial that maps predictions to the scale of one listening test.

    ITU-T P.1401 (01/2020), 7.3.2: before errors are computed, a model's scale is
    compensated by a first-order or a third-order polynomial, which must rise
    monotonically over the range of the predictions. Here: least squares under the
    constraint that the slope is nowhere negative between the lowest and the highest
    prediction, solved exactly. (So where predictions and labels correlate
    negatively, both are the constant mean: a mapping mends a scale, not a direction.)

    Args:
        pred: Predictions (n,), finite; at least 2 different ones, 4 for a cubic.
        true: Labels (n,), finite.
        order: 1 or 3.

    Returns:
        The mapping; beyond the range of the predictions a cubic may fall.

    Raises:
        ValueError: One of these does not hold or the shapes differ.

    >>> mapping = fit_mapping([1, 2, 3], [2, 4, 6], 1)
    >>> mapping(np.array([1.5, 2.5]))
    array([3., 5.])
    """
    pred, true = as_pair(pred, true, finite=True)
    low, high = pred.min(), pred.max()
    if order not in (1, 3) or low == high:
        raise ValueError("a mapping has the order 1 or 3 and different predictions.")
    u = (pred - low) / (high - low)
    # polynomials that rise in [0, 1], by rows in ascending powers of u
    basis = RISES if order == 3 else np.array([[0.0, 1.0]])
    design = polyvander(u, order) @ basis.T
    centre = design.mean(0)
    # a small triangular system with the same least squares as all the items
    q, design = np.linalg.qr(design - centre)
    target = q.T @ (true - true.mean())
    if order == 3:
        c = rising_cubic(design, target)
    else:
        c = np.maximum(target / design[0], 0.0)
    coefficients = c @ basis
    coefficients[0] = true.mean() - centre @ c
    return Polynomial(coefficients, domain=[low, high], window=[0, 1])


def _mapped_rmse(pred: np.ndarray, true: np.ndarray, order: int) -> float:
    error = fit_mapping(pred, true, order)(pred) - true
    return np.sqrt(error @ error / (len(pred) - order - 1))


@_metric(minimum=3)
def rmse_first_order(pred, true):
    """Root mean squared error after linear mapping (ITU-T P.1401, 7.5.1).

    sqrt(sum_i (f(p_i) - t_i)^2 / (n - d)), f as in ``fit_mapping`` with order 1 and
    d = 2 its coefficients. (P.1401 divides by n - d so that more flexible mappings
    gain nothing; some peers take d = 1 here or divide by n.) In units of the labels.
    """
    return _mapped_rmse(pred, true, 1)


@_metric(minimum=3)
def rmse_third_order(pred, true):
    """Root mean squared error after monotonic cubic mapping (ITU-T P.1401, 7.5.1).

    sqrt(sum_i (f(p_i) - t_i)^2 / (n - d)), f as in ``fit_mapping`` with order 3 and
    d = 4 its coefficients. With too few items for a cubic it is ``rmse_first_order``
    and the reason.
    """
    for found, minimum, what in (
        (len(pred), MINIMUM_CUBIC_ITEMS, "items"),
        (len(np.unique(pred)), MINIMUM_CUBIC_VALUES, "different predictions"),
    ):
        if found < minimum:
            reason = f"{found} {what}, at least {minimum} needed"
            return Metric(
                float(_mapped_rmse(pred, true, 1)),
                f"mapped linearly instead of by third order: {reason}",
            )
    return _mapped_rmse(pred, true, 3)


METRICS: Dict[str, MetricFunction] = {
    "mse": mse,
    "lcc": lcc,
    "srcc": srcc,
    "ktau": ktau,
}
# The four above are what every peer reports; these come on request.
ALL_METRICS: Dict[str, MetricFunction] = {
    **METRICS,
    "rmse_first_order": rmse_first_order,
    "rmse_third_order": rmse_third_order,
    "pair_accuracy": pair_accuracy,
}
# Errors; of all the others more is better.
LOWER_IS_BETTER = frozenset(["mse", "rmse_first_order", "rmse_third_order"])
CORRELATIONS = frozenset(["lcc", "srcc", "ktau"])
# Of predictions in units of the labels; the other errors are those of a mapping.
UNMAPPED_ERRORS = frozenset(["mse"])
METRIC_RANGE: Dict[str, Tuple[float, float]] = {
    **dict.fromkeys(LOWER_IS_BETTER, (0.0, np.inf)),
    **dict.fromkeys(CORRELATIONS, (-1.0, 1.0)),
    "pair_accuracy": (0.0, 1.0),
}


def differ_in_scale(
    pred: Sequence[float],
    true: Sequence[float],
    true_range: Optional[Sequence[float]] = None,
) -> bool:
    """Whether predictions and labels are plainly on two scales, such as 1-5 and 0-100.

    With q the magnitude that 95 % of the values keep to, the one q must be at least 4
    times the other, and a bound between scales must lie between them: at most 10 (five
    to ten points, either sign) and above it (percentages, decibels); or below 1 for the
    labels (shares) and not for the predictions. A bias, a constant or untrained model
    and single outliers do not fire it on any five- or ten-point scale; scales that
    differ by less (1-5 and 1-7) are not told.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        true_range: Lowest and highest label of the test's scale where it is known.
    """
    if not len(pred):
        return False
    of_pred, of_true = (
        float(np.percentile(np.abs(values), 95))
        for values in (pred, true if true_range is None else true_range)
    )
    low, high = sorted((of_pred, of_true))
    return high >= 4 * low and (low <= 10 < high or low == of_true < 1)


def _of_level(name: str, pred: np.ndarray, true: np.ndarray) -> Metric:
    """A metric as a result: two points are too few for a correlation.

    It is 1 or -1, whatever they are. (So it is in the rare resample of two systems.)
    """
    if len(pred) == 2 and name in CORRELATIONS:
        return Metric(None, "2 items, at least 3 needed")
    return ALL_METRICS[name](pred, true)


def group_means(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Average values (n,) of each group that occurs, by its number (n,), -1 for none.

    Rounded to ``SYSTEM_DECIMALS`` decimals.
    """
    values, group = values[group >= 0], group[group >= 0]
    counts = np.bincount(group)
    sums = np.bincount(group, weights=values)
    return np.round(sums[counts > 0] / counts[counts > 0], SYSTEM_DECIMALS)


def number_systems(
    systems: Sequence[Optional[str]],
) -> Tuple[List[str], np.ndarray]:
    """Sorted names (S,) of systems (n,) and each one's number (n,), -1 for None."""
    names = sorted({system for system in systems if system is not None})
    number = {name: i for i, name in enumerate(names)}
    return names, np.array([number.get(s, -1) for s in systems], dtype=np.int64)


def system_means(
    pred: Sequence[float],
    true: Sequence[float],
    systems: Sequence[Optional[str]],
) -> Tuple[np.ndarray, np.ndarray, List[str]]:
    """Average predictions and labels (n,) over the utterances of each system.

    Utterances with the system None are left out.

    Returns:
        Mean predictions (S,), mean labels (S,), both rounded to ``SYSTEM_DECIMALS``
        decimals, and the sorted system names (S,).

    Raises:
        ValueError: The shapes differ.

    >>> system_means([1, 3, 5], [2, 2, 4], ["b", "b", "a"])[0]
    array([5., 2.])
    """
    pred, true = as_pair(pred, true)
    if len(systems) != len(pred):
        raise ValueError(f"{len(systems)} systems for {len(pred)} predictions.")
    names, number = number_systems(systems)
    return group_means(pred, number), group_means(true, number), names


def evaluate(
    pred: Sequence[float],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    metrics: Sequence[str] = tuple(METRICS),
    two_scales: Optional[str] = None,
) -> dict:
    """Compute all metrics at utterance and system level.

    A system's score is the mean over its utterances, of predictions and of labels.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        systems: System of each utterance (n,), None where it has none; or None.
        metrics: Names from ``ALL_METRICS``.
        two_scales: Why predictions and labels are on different scales, which leaves
            ``UNMAPPED_ERRORS`` undefined; None where they are on one.

    Returns:
        ``utt_mos_{mse,lcc,srcc,ktau}`` and ``sys_mos_{mse,lcc,srcc,ktau}`` (or the
        ``metrics`` asked for), each a number or None; ``undefined``, the reason for
        each None by its key; ``num_utts`` and ``num_systems``. Where a value was
        computed in another way than asked, ``remarks`` has the reason by its key.

    Raises:
        ValueError: The shapes differ or a metric is unknown.
    """
    pred, true = as_pair(pred, true)
    unknown = set(metrics) - set(ALL_METRICS)
    if unknown:
        raise ValueError(
            f"the metric {unknown.pop()} is unknown, expected one of "
            f"{', '.join(ALL_METRICS)}."
        )
    result: dict = {"num_utts": len(pred), "num_systems": 0}
    values = {f"utt_mos_{name}": _of_level(name, pred, true) for name in metrics}
    if systems is None:
        missing = Metric(None, "no utterance has a system")
        values.update({f"sys_mos_{name}": missing for name in metrics})
    else:
        sys_pred, sys_true, names = system_means(pred, true, systems)
        result["num_systems"] = len(names)
        for name in metrics:
            values[f"sys_mos_{name}"] = _of_level(name, sys_pred, sys_true)
    if two_scales is not None:
        for level, name in itertools.product(("utt", "sys"), UNMAPPED_ERRORS):
            if values.get(f"{level}_mos_{name}", Metric(None)).value is not None:
                values[f"{level}_mos_{name}"] = Metric(None, two_scales)
    result.update({key: metric.value for key, metric in values.items()})
    reasons = {key: metric.reason for key, metric in values.items() if metric.reason}
    result["undefined"] = {k: r for k, r in reasons.items() if result[k] is None}
    remarks = {k: r for k, r in reasons.items() if result[k] is not None}
    if remarks:
        result["remarks"] = remarks
    return result
