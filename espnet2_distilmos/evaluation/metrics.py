# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Error and correlation of predicted against true MOS.

All functions take arrays of equal length n and return a ``Metric``: a number, or
None with the reason why the metric is undefined. Nothing here knows files.
"""

from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np

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


def _arrays(pred: Sequence[float], true: Sequence[float]):
    pred = np.asarray(pred, dtype=np.float64)
    true = np.asarray(true, dtype=np.float64)
    if pred.ndim != 1 or pred.shape != true.shape:
        raise ValueError(
            f"predictions have the shape {pred.shape} and labels {true.shape}, "
            "expected one prediction for every label."
        )
    return pred, true


def undefined_reason(
    pred: np.ndarray, true: np.ndarray, correlation: bool = True
) -> Optional[str]:
    """Say why a metric of these arrays (n,) is undefined, or None if it is defined."""
    minimum = 2 if correlation else 1
    if len(pred) < minimum:
        return f"{len(pred)} items, at least {minimum} needed"
    for name, values in (("predictions", pred), ("labels", true)):
        if not np.isfinite(values).all():
            return f"the {name} contain NaN or infinity"
        if correlation and values.min() == values.max():
            return f"the {name} are constant"
    return None


def mse(pred: Sequence[float], true: Sequence[float]) -> Metric:
    """Mean squared error, (1/n) sum (p_i - t_i)^2.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).

    Returns:
        A value >= 0 in squared units of the scale; undefined for n = 0.

    Raises:
        ValueError: The shapes differ.
    """
    pred, true = _arrays(pred, true)
    reason = undefined_reason(pred, true, correlation=False)
    return (
        Metric(None, reason) if reason else Metric(float(np.mean((pred - true) ** 2)))
    )


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    x = x - x.mean()
    y = y - y.mean()
    # scaled to unit maximum, so that squares neither overflow nor vanish
    x = x / np.abs(x).max()
    y = y / np.abs(y).max()
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def lcc(pred: Sequence[float], true: Sequence[float]) -> Metric:
    """Linear correlation (Pearson, Proc. R. Soc. 58, 1895).

    r = sum (p_i - mean p)(t_i - mean t)
        / sqrt(sum (p_i - mean p)^2 sum (t_i - mean t)^2)

    Args:
        pred: Predictions (n,).
        true: Labels (n,).

    Returns:
        A value in [-1, 1]; undefined for n < 2 or constant input.

    Raises:
        ValueError: The shapes differ.
    """
    pred, true = _arrays(pred, true)
    reason = undefined_reason(pred, true)
    return Metric(None, reason) if reason else Metric(_pearson(pred, true))


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Rank values (n,) from 1 to n; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def srcc(pred: Sequence[float], true: Sequence[float]) -> Metric:
    """Rank correlation rho (Spearman, Am. J. Psychol. 15, 1904).

    The linear correlation of the ranks, where equal values share the mean of their
    ranks. Without ties: 1 - 6 sum d_i^2 / (n (n^2 - 1)), d_i the rank difference.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).

    Returns:
        A value in [-1, 1]; undefined for n < 2 or constant input.

    Raises:
        ValueError: The shapes differ.
    """
    pred, true = _arrays(pred, true)
    reason = undefined_reason(pred, true)
    if reason:
        return Metric(None, reason)
    return Metric(_pearson(average_ranks(pred), average_ranks(true)))


def _concordance(pred: np.ndarray, true: np.ndarray) -> Tuple[int, int, int]:
    """Count ordered pairs of items in O(n log n): each pair twice.

    Args:
        pred: Predictions (n,), not constant.
        true: Labels (n,), not constant.

    Returns:
        Concordant minus discordant pairs, pairs with different predictions, pairs
        with different labels.
    """
    # here, because training imports this module and scipy.stats takes long to import
    from scipy.stats import kendalltau

    # Ranks instead of values: differences of ranks have exact signs.
    pred, true = average_ranks(pred), average_ranks(true)
    untied = []
    for ranks in (pred, true):
        counts = np.unique(ranks, return_counts=True)[1]
        untied.append(len(ranks) ** 2 - int((counts.astype(np.int64) ** 2).sum()))
    tau = kendalltau(pred, true)[0]
    # The balance is a whole number: rounding removes what the divisions left.
    balance = round(float(tau) * (float(untied[0]) * float(untied[1])) ** 0.5)
    return balance, untied[0], untied[1]


def ktau(pred: Sequence[float], true: Sequence[float]) -> Metric:
    """Rank correlation tau-b (Kendall, Biometrika 33, 1945).

    tau_b = (C - D) / sqrt((n_0 - n_p)(n_0 - n_t)), with C and D the concordant and
    discordant pairs, n_0 = n (n - 1) / 2 all pairs, n_p and n_t the pairs with equal
    predictions and equal labels. Time grows with n log n.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).

    Returns:
        A value in [-1, 1]; undefined for n < 2 or constant input.

    Raises:
        ValueError: The shapes differ.
    """
    pred, true = _arrays(pred, true)
    reason = undefined_reason(pred, true)
    if reason:
        return Metric(None, reason)
    balance, untied_pred, untied_true = _concordance(pred, true)
    return Metric(balance / (float(untied_pred) * float(untied_true)) ** 0.5)


def pair_accuracy(pred: Sequence[float], true: Sequence[float]) -> Metric:
    """Share of the pairs with different labels that the predictions order right.

    acc = (C + T / 2) / (C + D + T), with C and D the concordant and discordant pairs
    and T the pairs with different labels and equal predictions: a tie is a coin's
    toss. Equals (1 + Somers' d) / 2 (Somers, Am. Sociol. Rev. 27, 1962) and, for two
    different labels, the area under the ROC curve.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).

    Returns:
        A value in [0, 1], 0.5 for constant predictions; undefined for n < 2 or
        constant labels.

    Raises:
        ValueError: The shapes differ.
    """
    pred, true = _arrays(pred, true)
    reason = undefined_reason(pred, true)
    if reason == "the predictions are constant":
        # every pair is a tie; the labels still have to differ
        reason = undefined_reason(true, true)
        return Metric(None, "the labels are constant") if reason else Metric(0.5)
    if reason:
        return Metric(None, reason)
    balance, _, untied_true = _concordance(pred, true)
    return Metric(0.5 + 0.5 * balance / untied_true)


class ScoreMapping(NamedTuple):
    """A polynomial from predictions to labels.

    Attributes:
        coefficients: In ascending powers of the prediction (order + 1,).
        order: 1 or 3, of the polynomial that was fitted.
        reason: Why the order is less than was asked for.
    """

    coefficients: np.ndarray
    order: int
    reason: Optional[str] = None

    def __call__(self, pred: Sequence[float]) -> np.ndarray:
        """Map predictions (n,) to the labels' scale (n,)."""
        return np.polynomial.polynomial.polyval(
            np.asarray(pred, dtype=np.float64), self.coefficients
        )


def _fit_line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares line with slope >= 0: intercept and slope (2,)."""
    mean_x, mean_y = np.average(x, weights=weights), np.average(y, weights=weights)
    slope = (weights * (x - mean_x)) @ (y - mean_y) / (weights @ (x - mean_x) ** 2)
    slope = max(slope, 0.0)
    return np.array([mean_y - slope * mean_x, slope])


# Integrals of the Bernstein polynomials (1 - u)^2, 2 u (1 - u) and u^2, by rows in
# ascending powers of u
_SLOPES = np.array([[0, 1, -1, 1 / 3], [0, 0, 1, -2 / 3], [0, 0, 0, 1 / 3]])


def _fit_cubic(u: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares cubic that does not fall in [0, 1]: coefficients (4,).

    The slope c0 (1 - u)^2 + 2 c1 u (1 - u) + c2 u^2 is >= 0 in [0, 1] if and only if
    c0, c2 >= 0 and c1 >= -sqrt(c0 c2). Where free least squares leave this cone, its
    convexity puts the optimum on the boundary, where the slope has a zero: at 0, at 1
    or a double one between, k (u - r)^2. The first two are non-negative least
    squares. For the third, the error falls by N(r)^2 / D(r), N quadratic and D
    quartic, which is greatest at a root of 2 N' D - N D'. So the optimum is exact.

    Args:
        u: Predictions (n,) in [0, 1], at least 4 different ones.
        y: Labels (n,).
        weights: How often each item occurs (n,), > 0.

    Returns:
        Coefficients in ascending powers of u.
    """
    from numpy.polynomial import Polynomial
    from scipy.optimize import nnls

    root = np.sqrt(weights)[:, None]
    design = np.stack(
        [np.polynomial.polynomial.polyval(u, slope) for slope in _SLOPES], axis=1
    )
    centre = np.average(design, axis=0, weights=weights)
    mean = np.average(y, weights=weights)
    # small triangular system with the same least squares as all the items
    q, design = np.linalg.qr(root * (design - centre))
    target = q.T @ (root[:, 0] * (y - mean))

    # not solve: predictions that nearly coincide leave the system singular
    c = np.linalg.lstsq(design, target, rcond=None)[0]
    if not (c[0] >= 0 and c[2] >= 0 and c[1] >= -np.sqrt(c[0] * c[2])):
        candidates = []
        for free in ([1, 2], [0, 1]):
            c = np.zeros(3)
            c[free] = nnls(design[:, free], target)[0]
            candidates.append(c)
        # (u - r)^2 has c0 = r^2, c1 = r^2 - r, c2 = (1 - r)^2
        square = [Polynomial(p) for p in ([0, 0, 1], [0, -1, 1], [1, -2, 1])]
        rows = [sum(a * p for a, p in zip(row, square)) for row in design]
        gain = sum(t * p for t, p in zip(target, rows))
        size = sum(p * p for p in rows)
        for r in (2 * gain.deriv() * size - gain * size.deriv()).roots():
            # what is no real root in [0, 1] makes a candidate that loses
            r = float(np.clip(r.real, 0, 1))
            if size(r) > 0:
                k = max(gain(r) / size(r), 0.0)
                candidates.append(k * np.array([p(r) for p in square]))
        c = min(candidates, key=lambda c: float(np.sum((design @ c - target) ** 2)))
    result = c @ _SLOPES
    result[0] = mean - centre @ c
    return result


def fit_mapping(
    pred: Sequence[float],
    true: Sequence[float],
    order: int,
    weights: Optional[Sequence[float]] = None,
) -> ScoreMapping:
    """Fit the polynomial that maps predictions to the scale of one listening test.

    ITU-T P.1401 (01/2020), 7.3.2: before errors are computed, a model's scale is
    compensated by a first-order or a third-order polynomial, which must rise
    monotonically over the range of the predictions. Here: least squares under the
    constraint that the slope is nowhere negative between the lowest and the highest
    prediction, solved exactly. (So where predictions and labels correlate
    negatively, both are the constant mean: a mapping mends a scale, not a direction.)

    Args:
        pred: Predictions (n,), finite, not constant.
        true: Labels (n,), finite.
        order: 1 or 3. With fewer than ``MINIMUM_CUBIC_ITEMS`` items or
            ``MINIMUM_CUBIC_VALUES`` different predictions 3 becomes 1, with a reason.
        weights: How often each item occurs (n,), >= 0; None: once.

    Returns:
        The mapping; beyond the range of the predictions a cubic may fall.

    Raises:
        ValueError: The shapes differ, the order is neither 1 nor 3, or the input is
            constant or not finite.
    """
    x, y = _arrays(pred, true)
    if order not in (1, 3):
        raise ValueError(f"the mapping's order is {order}, expected 1 or 3.")
    counts = np.ones(len(x)) if weights is None else np.asarray(weights, np.float64)
    if counts.shape != x.shape:
        raise ValueError(f"{counts.shape} weights for {x.shape} predictions.")
    drawn = counts > 0
    x, y, counts = x[drawn], y[drawn], counts[drawn]
    if len(x) < 2 or not np.isfinite(x).all() or x.min() == x.max():
        raise ValueError(
            "a mapping needs at least 2 different predictions and finite ones."
        )
    if not np.isfinite(y).all():
        raise ValueError("the labels contain NaN or infinity.")
    num_items, num_values = int(counts.sum()), len(np.unique(x))
    reason = None
    if order == 3 and num_items < MINIMUM_CUBIC_ITEMS:
        reason = f"{num_items} items, at least {MINIMUM_CUBIC_ITEMS} needed"
    elif order == 3 and num_values < MINIMUM_CUBIC_VALUES:
        reason = (
            f"{num_values} different predictions, at least {MINIMUM_CUBIC_VALUES} "
            "needed"
        )
    if order == 1 or reason:
        if reason:
            reason = f"mapped linearly instead of by third order: {reason}"
        return ScoreMapping(_fit_line(x, y, counts), 1, reason)
    low, width = x.min(), x.max() - x.min()
    in_u = _fit_cubic((x - low) / width, y, counts)
    line = np.polynomial.Polynomial([-low / width, 1 / width])
    in_x = np.polynomial.Polynomial(in_u)(line).coef
    coefficients = np.zeros(4)
    coefficients[: len(in_x)] = in_x
    return ScoreMapping(coefficients, 3)


def _mapped_rmse(pred: Sequence[float], true: Sequence[float], order: int) -> Metric:
    pred, true = _arrays(pred, true)
    reason = undefined_reason(pred, true)
    if reason is None and len(pred) < 3:
        reason = f"{len(pred)} items, at least 3 needed"
    if reason:
        return Metric(None, reason)
    mapping = fit_mapping(pred, true, order)
    error = mapping(pred) - true
    freedom = len(pred) - len(mapping.coefficients)
    return Metric(float(np.sqrt(error @ error / freedom)), mapping.reason)


def rmse_first_order(pred: Sequence[float], true: Sequence[float]) -> Metric:
    """Root mean squared error after linear mapping (ITU-T P.1401, 7.5.1).

    sqrt(sum_i (f(p_i) - t_i)^2 / (n - d)), f as in ``fit_mapping`` with order 1 and
    d = 2 its coefficients. (P.1401 divides by n - d so that more flexible mappings
    gain nothing; some peers take d = 1 here or divide by n.)

    Args:
        pred: Predictions (n,).
        true: Labels (n,).

    Returns:
        A value >= 0 in units of the labels; undefined for n < 3 or constant input.

    Raises:
        ValueError: The shapes differ.
    """
    return _mapped_rmse(pred, true, 1)


def rmse_third_order(pred: Sequence[float], true: Sequence[float]) -> Metric:
    """Root mean squared error after monotonic cubic mapping (ITU-T P.1401, 7.5.1).

    sqrt(sum_i (f(p_i) - t_i)^2 / (n - d)), f as in ``fit_mapping`` with order 3 and
    d = 4 its coefficients.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).

    Returns:
        A value >= 0 in units of the labels; undefined for n < 3 or constant input.
        With too few items for a cubic it is ``rmse_first_order`` and the reason.

    Raises:
        ValueError: The shapes differ.
    """
    return _mapped_rmse(pred, true, 3)


METRICS: Dict[str, Callable[[Sequence[float], Sequence[float]], Metric]] = {
    "mse": mse,
    "lcc": lcc,
    "srcc": srcc,
    "ktau": ktau,
}
# The four above are what every peer reports; these come on request.
ALL_METRICS: Dict[str, Callable[[Sequence[float], Sequence[float]], Metric]] = {
    **METRICS,
    "rmse_first_order": rmse_first_order,
    "rmse_third_order": rmse_third_order,
    "pair_accuracy": pair_accuracy,
}
# Errors; of all the others more is better.
LOWER_IS_BETTER = frozenset(["mse", "rmse_first_order", "rmse_third_order"])
METRIC_RANGE: Dict[str, Tuple[float, float]] = {
    "mse": (0.0, np.inf),
    "lcc": (-1.0, 1.0),
    "srcc": (-1.0, 1.0),
    "ktau": (-1.0, 1.0),
    "rmse_first_order": (0.0, np.inf),
    "rmse_third_order": (0.0, np.inf),
    "pair_accuracy": (0.0, 1.0),
}


def check_metrics(names: Sequence[str]) -> None:
    """Raise ValueError for a name that is not in ``ALL_METRICS``."""
    for name in names:
        if name not in ALL_METRICS:
            raise ValueError(
                f"the metric {name} is unknown, expected one of "
                f"{', '.join(ALL_METRICS)}."
            )


def system_means(
    pred: Sequence[float],
    true: Sequence[float],
    systems: Sequence[Optional[str]],
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average predictions and labels over the utterances of each system.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        systems: System of each utterance (n,); None leaves the utterance out.

    Returns:
        Mean predictions (S,), mean labels (S,), both rounded to ``SYSTEM_DECIMALS``
        decimals, and the sorted system names (S,).

    Raises:
        ValueError: The shapes differ.
    """
    pred, true = _arrays(pred, true)
    if len(systems) != len(pred):
        raise ValueError(
            f"{len(systems)} systems for {len(pred)} utterances, expected one for each."
        )
    known = np.array([system is not None for system in systems], dtype=bool)
    names, index = np.unique(
        np.array([s for s in systems if s is not None], dtype=str), return_inverse=True
    )
    counts = np.bincount(index, minlength=len(names))
    means = [
        np.round(
            np.bincount(index, weights=v[known], minlength=len(names)) / counts,
            SYSTEM_DECIMALS,
        )
        for v in (pred, true)
    ]
    return means[0], means[1], names


def evaluate(
    pred: Sequence[float],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    metrics: Sequence[str] = tuple(METRICS),
) -> dict:
    """Compute all metrics at utterance and system level.

    A system's score is the mean over its utterances, of predictions and of labels.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        systems: System of each utterance (n,), None where it has none; or None.
        metrics: Names from ``ALL_METRICS``.

    Returns:
        ``utt_mos_{mse,lcc,srcc,ktau}`` and ``sys_mos_{mse,lcc,srcc,ktau}`` (or the
        ``metrics`` asked for), each a number or None; ``undefined``, the reason for
        each None by its key; ``num_utts`` and ``num_systems``. Where a value was
        computed in another way than asked, ``remarks`` has the reason by its key.

    Raises:
        ValueError: The shapes differ or a metric is unknown.
    """
    pred, true = _arrays(pred, true)
    check_metrics(metrics)
    result: dict = {"num_utts": len(pred), "num_systems": 0}
    values = {f"utt_mos_{name}": ALL_METRICS[name](pred, true) for name in metrics}
    if systems is None:
        missing = Metric(None, "no utterance has a system")
        values.update({f"sys_mos_{name}": missing for name in metrics})
    else:
        sys_pred, sys_true, names = system_means(pred, true, systems)
        result["num_systems"] = len(names)
        for name in metrics:
            values[f"sys_mos_{name}"] = ALL_METRICS[name](sys_pred, sys_true)
    result.update({key: metric.value for key, metric in values.items()})
    result["undefined"] = {
        key: metric.reason for key, metric in values.items() if metric.value is None
    }
    remarks = {
        key: metric.reason
        for key, metric in values.items()
        if metric.value is not None and metric.reason
    }
    if remarks:
        result["remarks"] = remarks
    return result
