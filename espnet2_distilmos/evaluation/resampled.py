# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The metrics of many resamples at once, from how often each item is in them.

``metrics`` defines the metrics; here are the same numbers for a block of B resamples,
given as counts (n, B), without a copy or a sort for each: the errors and the linear
correlation are functions of sums, ranks come from cumulated counts in an order found
once, and discordant pairs are counted bit by bit of a rank. A resample of which sums
say too little (nearly coinciding values, nearly perfect fits) is left to ``metrics``.
Where not the counts but the values differ between the resamples, as means of systems
do, they are columns (S, B).
"""

from functools import cached_property
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.evaluation.metrics import (
    ALL_METRICS,
    MINIMUM_CUBIC_ITEMS,
    RISES,
    rises_in,
    rising_cubic,
)

# What sums have lost: relative to these, their rounding is below 1e-10.
_LOST = 1e-6
# More systems than these take the metric's own O(n log n).
_MOST_PAIRED = 256
_PAIRS = {"ktau", "pair_accuracy"}
_SUMS = {"lcc", "rmse_first_order", "rmse_third_order"}

# Value of a metric, by its name and the number of the resample; NaN where undefined.
Exact = Callable[[str, int], float]


class Values:
    """Predictions or labels (n,), finite, the same in every resample.

    Attributes:
        values: (n,).
        unit, scale: The values less their mean (n,), in the unit ``scale``, their
            standard deviation.
        different: The different values, ascending (G,).
        group: Each value's number among these (n,).
    """

    def __init__(self, values: np.ndarray):
        self.values = values
        self.different, self.group = np.unique(values, return_inverse=True)
        deviation = float(values.std())
        self.scale = deviation if 0 < deviation < np.inf else 1.0
        self.unit = (values - values.mean()) / self.scale
        self._order = np.argsort(self.group, kind="stable")
        self._ends = np.cumsum(np.bincount(self.group)) - 1

    def sizes(self, counts: np.ndarray) -> np.ndarray:
        """Items of each different value in the resamples, counts (n, B) -> (G, B)."""
        return _sizes(counts.take(self._order, axis=0), self._ends)


class Drawn:
    """A block of resamples of items with labels: counts (n, B), int64."""

    def __init__(self, true: Values, counts: np.ndarray):
        # whole numbers are cumulated at three times the speed of floating point
        self.true, self.counts, self.weights = true, counts, counts.astype(np.float64)
        self.number = self.weights.sum(0)

    @cached_property
    def true_sizes(self) -> np.ndarray:
        return self.true.sizes(self.counts)

    @cached_property
    def true_ranks(self) -> Tuple[np.ndarray, np.ndarray]:
        """The labels' ranks times the counts (n, B), and the ranks' square sum (B,)."""
        ranks = _centred_ranks(self.true_sizes)
        square = np.einsum("gb,gb,gb->b", self.true_sizes, ranks, ranks)
        return self.weights * ranks.take(self.true.group, axis=0), square


def _sizes(counts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums of the runs of counts (n, B) that end at ends (G,) -> (G, B), float64."""
    cumulated = np.cumsum(counts, axis=0).take(ends, axis=0)
    return np.diff(cumulated, axis=0, prepend=0).astype(np.float64)


def _centred_ranks(sizes: np.ndarray) -> np.ndarray:
    """Mean ranks of the groups of equal values, less (N + 1) / 2; sizes (G, B)."""
    ends = np.cumsum(sizes, axis=0)
    return ends - sizes / 2 - ends[-1:] / 2


def _num_pairs(sizes: np.ndarray) -> np.ndarray:
    """Pairs within groups of the given sizes (G, B) -> (B,)."""
    return np.einsum("gb,gb->b", sizes, sizes - 1) / 2


class Pair:
    """Predictions of a model beside the labels; what all resamples have in common."""

    def __init__(self, pred: Values, true: Values, metrics: Sequence[str]):
        self.pred, self.true, self.metrics = pred, true, metrics
        self._cubic = "rmse_third_order" in metrics
        self._powers = np.stack(list(_powers(pred.unit, true.unit, self._cubic)))

    def __call__(self, drawn: Drawn) -> Dict[str, np.ndarray]:
        """The metrics of the resamples by their name, each (B,)."""
        counts, weights, number = drawn.counts, drawn.weights, drawn.number
        if not {"srcc", "rmse_third_order", *_PAIRS}.isdisjoint(self.metrics):
            sizes = self.pred.sizes(counts)
        found: Dict[str, np.ndarray] = {}
        if "mse" in self.metrics:
            found["mse"] = (self.pred.values - self.true.values) ** 2 @ weights / number
        if "srcc" in self.metrics:
            ranks, (of_true, square) = _centred_ranks(sizes), drawn.true_ranks
            product = np.einsum(
                "nb,nb->b", ranks.take(self.pred.group, axis=0), of_true
            )
            square = square * np.einsum("gb,gb,gb->b", sizes, ranks, ranks)
            found["srcc"] = product / np.sqrt(square)
        if not _PAIRS.isdisjoint(self.metrics):
            every = number * (number - 1) / 2
            of_pred = every - _num_pairs(sizes)
            of_true = every - _num_pairs(drawn.true_sizes)
            discordant, equal = self._discordance(counts)
            score = of_pred + of_true - every + equal - 2 * discordant
            found.update(_of_pairs(score, of_pred, of_true))
        bounds = None
        if self._cubic:
            unit = (self.pred.different - self.pred.values.mean()) / self.pred.scale
            last = len(unit) - 1 - np.argmax(sizes[::-1] > 0, axis=0)
            bounds = unit[np.argmax(sizes > 0, axis=0)], unit[last]

        def exact(name: str, b: int) -> float:
            items = np.repeat(np.arange(len(counts)), counts[:, b])
            return _value(name, self.pred.values[items], self.true.values[items])

        if not _SUMS.isdisjoint(self.metrics):
            sums = self._powers @ weights
            found.update(_of_sums(self.metrics, sums, self.true.scale, bounds, exact))
        return _finish(self.metrics, found, len(number), exact)

    @cached_property
    def _discordance(self) -> "_Discordance":
        return _Discordance(self.pred, self.true)


class Columns:
    """Values of S systems that differ between the resamples (S, B).

    Attributes:
        values: (S, B).
        drawn: 1 where the system is in the resample, else 0, (S, B).
        unit, scale: As of ``Values``, in each resample (S, B), (B,).
    """

    def __init__(self, values: np.ndarray, drawn: np.ndarray):
        self.values, self.drawn = values, drawn
        self.number = drawn.sum(0)
        mean = np.einsum("sb,sb->b", values, drawn) / self.number
        self.unit = (values - mean) * drawn
        self.scale = np.sqrt(np.einsum("sb,sb->b", self.unit, self.unit) / self.number)
        self.scale[~(self.scale > 0)] = 1.0
        self.unit /= self.scale

    @cached_property
    def ranks(self) -> np.ndarray:
        """Mean ranks less their mean, 0 where not drawn, (S, B)."""
        values = np.where(self.drawn > 0, self.values, np.inf)
        order = np.argsort(values, axis=0, kind="stable")
        values = np.take_along_axis(values, order, axis=0)
        place = np.arange(len(values), dtype=np.float64)[:, None]
        differ = np.diff(values, axis=0) != 0
        edge = np.ones((1, values.shape[1]), dtype=bool)
        first = np.where(np.concatenate([edge, differ]), place, 0)
        last = np.where(np.concatenate([differ, edge]), place, len(values))
        first = np.maximum.accumulate(first, axis=0)
        last = np.minimum.accumulate(last[::-1], axis=0)[::-1]
        ranks = np.empty_like(values)
        np.put_along_axis(ranks, order, (first + last) / 2, axis=0)
        return (ranks - (self.number - 1) / 2) * self.drawn


def of_columns(
    pred: Columns, true: Columns, metrics: Sequence[str]
) -> Dict[str, np.ndarray]:
    """The metrics of every resample, each (B,), of columns with the same ``drawn``."""
    drawn, number = pred.drawn, pred.number

    def exact(name: str, b: int) -> float:
        items = drawn[:, b] > 0
        return _value(name, pred.values[items, b], true.values[items, b])

    found: Dict[str, np.ndarray] = {}
    if "mse" in metrics:
        error = (pred.values - true.values) * drawn
        found["mse"] = np.einsum("sb,sb->b", error, error) / number
    if "srcc" in metrics:
        a, b = pred.ranks, true.ranks
        square = np.einsum("sb,sb->b", a, a) * np.einsum("sb,sb->b", b, b)
        found["srcc"] = np.einsum("sb,sb->b", a, b) / np.sqrt(square)
    if not _PAIRS.isdisjoint(metrics) and len(drawn) <= _MOST_PAIRED:
        score, of_pred, of_true = np.zeros((3, len(number)))
        for i in range(len(drawn) - 1):
            both = drawn[i] * drawn[i + 1 :]
            a = np.sign(pred.values[i + 1 :] - pred.values[i]) * both
            b = np.sign(true.values[i + 1 :] - true.values[i]) * both
            score += np.einsum("sb,sb->b", a, b)
            of_pred += np.einsum("sb,sb->b", a, a)
            of_true += np.einsum("sb,sb->b", b, b)
        found.update(_of_pairs(score, of_pred, of_true))
    cubic = "rmse_third_order" in metrics
    sums = np.stack(
        [np.einsum("sb,sb->b", p, drawn) for p in _powers(pred.unit, true.unit, cubic)]
    )
    # where nothing is drawn the unit is 0, the mean, which is within the bounds
    bounds = pred.unit.min(0), pred.unit.max(0)
    found.update(_of_sums(metrics, sums, true.scale, bounds, exact))
    return _finish(metrics, found, len(number), exact)


def _value(name: str, pred: np.ndarray, true: np.ndarray) -> float:
    value = ALL_METRICS[name](pred, true).value
    return np.nan if value is None else value


def _finish(
    metrics: Sequence[str],
    found: Dict[str, np.ndarray],
    num_resamples: int,
    exact: Exact,
) -> Dict[str, np.ndarray]:
    """Add the metrics that are not found; NaN where they are undefined."""
    result = {}
    for name in metrics:
        if name not in found:
            found[name] = np.array([exact(name, b) for b in range(num_resamples)])
        result[name] = np.where(np.isfinite(found[name]), found[name], np.nan)
    return result


class _Discordance:
    """Counts discordant pairs of two variables over the same items.

    In the order of the first, a pair is discordant if the second's rank falls. Ranks
    that differ do so first in one bit, so for every bit, from the highest: among the
    items whose higher bits agree, the pairs of a one before a zero. It takes
    O(n log G), with G the number of different ranks.
    """

    def __init__(self, first: Values, second: Values):
        if len(first.different) < len(second.different):
            # the same pairs, with fewer bits
            first, second = second, first
        self._order = np.lexsort((second.group, first.group))
        ranks = second.group[self._order]
        # ends of the runs that agree in both
        change = np.diff(first.group[self._order]) != 0
        change |= np.diff(ranks) != 0
        self._both = np.append(np.flatnonzero(change), len(ranks) - 1)
        # by bit: which are ones, the first item whose higher bits are the same, and the
        # order of the next bit
        self._levels: List[Tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for bit in range(int(ranks.max(initial=0)).bit_length() - 1, -1, -1):
            starts = np.flatnonzero(np.diff(ranks >> bit + 1, prepend=-1))
            lengths = np.diff(starts, append=len(ranks))
            order = np.argsort(ranks >> bit, kind="stable")
            ones = (ranks >> bit & 1)[:, None]
            self._levels.append((ones, np.repeat(starts, lengths), order))
            ranks = ranks[order]

    def __call__(self, counts: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Discordant pairs, and those equal in both, of counts (n, B) -> (B,), (B,)."""
        counts = counts.take(self._order, axis=0)
        equal = _num_pairs(_sizes(counts, self._both))
        discordant = np.zeros(counts.shape[1], dtype=np.int64)
        for is_one, first, order in self._levels:
            ones = counts * is_one
            zeros = counts - ones
            before = np.cumsum(ones, axis=0)
            discordant += np.einsum("nb,nb->b", zeros, before)
            # less the ones before the first item of the same higher bits
            later = slice(np.searchsorted(first, 1), None)
            outside = before.take(first[later] - 1, axis=0)
            discordant -= np.einsum("nb,nb->b", zeros[later], outside)
            counts = counts.take(order, axis=0)
        return discordant, equal


def _of_pairs(
    score: np.ndarray, of_pred: np.ndarray, of_true: np.ndarray
) -> Dict[str, np.ndarray]:
    """tau-b and the accuracy of pairs, from numbers of pairs, all (B,).

    Args:
        score: Concordant less discordant pairs.
        of_pred, of_true: Pairs with different predictions, and different labels.
    """
    tau = score / np.sqrt(of_pred) / np.sqrt(of_true)
    return {
        "ktau": np.clip(tau, -1, 1),
        "pair_accuracy": 0.5 + 0.5 * score / of_true,
    }


def _of_sums(
    metrics: Sequence[str],
    sums: np.ndarray,
    scale: float,
    bounds: Optional[Tuple[np.ndarray, np.ndarray]],
    exact: Exact,
) -> Dict[str, np.ndarray]:
    """Linear correlation and errors after a mapping, from sums over the resamples.

    Args:
        metrics: Those asked for.
        sums: (12, B), of 1, u ... u^6, t, u t, u^2 t, u^3 t, t^2 with u and t the
            predictions and labels in units of their own. Without a mapping of third
            order those that it needs may be missing, see ``_powers``.
        scale: A unit of the labels.
        bounds: Lowest and highest u of each resample (B,), for the third order.
        exact: For the resamples that are left.
    """
    full = len(sums) == 12
    number = sums[0]
    mean = sums / number
    if full:
        u, uu, t, ut, tt = mean[[1, 2, 7, 8, 11]]
    else:
        u, uu, t, ut, tt = mean[1:]
    var_u, var_t, cov = uu - u * u, tt - t * t, ut - u * t
    poor = ~((var_u > _LOST * uu) & (var_t > _LOST * tt))
    r = np.clip(cov / np.sqrt(var_u * var_t), -1, 1)
    found: Dict[str, np.ndarray] = {}

    def keep(name: str, values: np.ndarray, left: np.ndarray) -> None:
        for b in np.flatnonzero(left):
            values[b] = exact(name, b)
        found[name] = values

    rest = 1 - np.maximum(r, 0) ** 2
    if "lcc" in metrics:
        keep("lcc", r.copy(), poor)
    if "rmse_first_order" in metrics:
        values = scale * np.sqrt(var_t * rest * number / (number - 2))
        keep("rmse_first_order", values, poor | ~(rest > _LOST) | (number < 3))
    if "rmse_third_order" in metrics:
        error, left = _cubic_error(mean, *bounds)
        values = scale * np.sqrt(error * number / (number - 4))
        left |= poor | ~(error > _LOST * var_t) | (number < MINIMUM_CUBIC_ITEMS)
        keep("rmse_third_order", values, left)
    return found


def _powers(u: np.ndarray, t: np.ndarray, cubic: bool) -> Iterator[np.ndarray]:
    """What ``_of_sums`` sums, of u and t of one shape."""
    yield np.ones_like(u)
    power = u
    for _ in range(6 if cubic else 2):
        yield power
        power = power * u
    yield t
    product = u * t
    for _ in range(3 if cubic else 1):
        yield product
        product = product * u
    yield t * t


def _cubic_error(
    mean: np.ndarray, low: np.ndarray, high: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Mean squared error after a rising cubic, and where it is not known well.

    Args:
        mean: Means of what ``_of_sums`` sums, (12, B).
        low, high: Range of u in each resample (B,).
    """
    power = np.arange(1, 4)
    # covariances of u, u^2, u^3, (B, 3, 3), and with the labels, (B, 3)
    gram = mean[power[:, None] + power] - mean[power, None] * mean[power]
    gram = np.moveaxis(gram, 2, 0)
    with_true = (mean[7 + power] - mean[power] * mean[7]).T
    var_t = mean[11] - mean[7] ** 2
    size = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    scaled = gram / (size[:, :, None] * size[:, None, :])
    left = ~np.isfinite(scaled).all((1, 2)) | ~(high > low)
    left |= ~(size**2 > _LOST * mean[2 * power].T).all(1)
    scaled[left] = np.eye(3)
    left |= np.linalg.eigvalsh(scaled)[:, 0] < _LOST
    scaled[left] = np.eye(3)
    target = with_true / size
    free = np.linalg.solve(scaled, target[:, :, None])[:, :, 0]
    error = var_t - np.einsum("bi,bi->b", target, free)
    # the slope's Bernstein coefficients over the range, from those of u, u^2, u^3
    a, b, c = (free / size).T
    h = high - low
    first = h * (a + 2 * b * low + 3 * c * low**2)
    last = h * (a + 2 * b * high + 3 * c * high**2)
    middle = first + h**2 * (b + 3 * c * low)
    for i in np.flatnonzero(~(rises_in(first, middle, last) | left)):
        # the basis of rising cubics in powers of (u - low) / h, and of u
        shift = -low[i] / h[i]
        powers = np.zeros((3, 3))
        powers[0, 0], powers[1, :2] = 1, (2 * shift, 1)
        powers[2] = 3 * shift**2, 3 * shift, 1
        basis = RISES[:, 1:] @ (powers / h[i] ** power)
        lower = np.linalg.cholesky(basis @ gram[i] @ basis.T)
        goal = np.linalg.solve(lower, basis @ with_true[i])
        rest = lower.T @ rising_cubic(lower.T, goal) - goal
        error[i] = var_t[i] - goal @ goal + rest @ rest
    return error, left
