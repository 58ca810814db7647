# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Bootstrap intervals of the metrics, all resamples at once.

Which intervals answer which question (``resample``):

- ``clusters``: clips are drawn, or whole clusters of clips. Clips that share a
  sentence or a source recording are not independent: an interval that resamples
  single clips is too narrow, so whole clusters are drawn with replacement (Efron &
  Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13).
- ``within_systems``: the same in each system by itself: these systems, other clips.
  A system of m clips (or clusters) gives m - 1 draws, which makes the variance of its
  mean the usual s^2 / m (McCarthy & Snowden, Vital Health Stat. 2 (95), 1985).
- ``systems``: whole systems are drawn, with all their clips: other systems of the
  kind, which is what a statement about a predictor in general needs. (Only the upper
  level is drawn: Davison & Hinkley, Bootstrap Methods and their Application, 1997,
  3.8, where drawing clips again within the drawn systems counts their noise twice.)

A resample is represented by how often each utterance occurs in it, so that every metric
of R resamples is a few matrix products.

Intervals are percentile intervals. In simulations with 1000 resamples (bivariate
normal, r = 0.9) the 95 % intervals of LCC, SRCC, KTAU and MSE held the true value in
91, 98, 97 and 86 % of the samples of 15 items, 93, 97, 97 and 90 % of 30, and 94, 96,
96 and 96 % of 100. BCa intervals (Efron, JASA 82, 1987) had 92, 96, 98 and 88 %, then
93, 95, 98 and 92 %, then 95, 95, 96 and 95 %: no clear gain for a jackknife more. Below
30 items (systems, mostly) an MSE's upper end is too low.

Where clips are drawn and systems are compared, the noise of the system means is in the
sample and once more in every resample: correlations come out too low and errors too
high, and with few clips a system the plain interval misses (30 systems of 6 clips: 88 %
for LCC, 81 % for MSE; the bias correction of BCa turns the wrong way, 78 and 70 %).
``within_systems`` therefore moves the interval by the difference between the estimate
and the mean of the resamples (95 % for both); ``centred`` does so for any other.
"""

from typing import Dict, Hashable, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from espnet2_distilmos.evaluation.metrics import (
    METRIC_RANGE,
    METRICS,
    SYSTEM_DECIMALS,
    check_metrics,
    evaluate,
    fit_mapping,
    system_means,
)

RESAMPLES = ("clusters", "within_systems", "systems")

# Values of one temporary array of pairs
_PAIRS_AT_ONCE = 1 << 22


class Interval(NamedTuple):
    """Lower and upper end of a percentile interval."""

    low: float
    high: float


def draw_clusters(
    num_clusters: int,
    num_resamples: int,
    seed: Union[int, np.random.SeedSequence],
    num_draws: Optional[int] = None,
) -> np.ndarray:
    """Draw how often each cluster occurs in each resample.

    Args:
        num_clusters: Number of clusters C.
        num_resamples: Number of resamples R.
        seed: Seed of the generator.
        num_draws: Draws a resample; None: C.

    Returns:
        Counts (R, C), int64, every row sums to ``num_draws``.
    """
    generator = np.random.default_rng(seed)
    draws = num_clusters if num_draws is None else num_draws
    return generator.multinomial(
        draws, np.full(num_clusters, 1 / num_clusters), size=num_resamples
    )


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation of each row of x, y, weights (R, n) -> (R,)."""
    return _line(x, y, weights)[0]


def _line(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> Tuple[np.ndarray, np.ndarray]:
    """Weighted correlation (R,) and sum of squares of y (R,), of rows (R, n)."""
    total = weights.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = x - (weights * x).sum(1, keepdims=True) / total
        y = y - (weights * y).sum(1, keepdims=True) / total
        xx = (weights * x * x).sum(1)
        yy = (weights * y * y).sum(1)
        r = (weights * x * y).sum(1) / np.sqrt(xx * yy)
    # what rounding leaves of a constant is not variance
    tiny = 1e-20 * total[:, 0]
    r[(xx <= tiny) | (yy <= tiny)] = np.nan
    return np.clip(r, -1.0, 1.0), yy


def _first_order_rmse(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``metrics.rmse_first_order`` of rows (R, n) -> (R,)."""
    r, yy = _line(x, y, weights)
    freedom = weights.sum(1) - 2
    freedom[freedom < 1] = np.nan
    # a line with slope >= 0 explains nothing where r < 0
    return np.sqrt(yy * (1 - np.maximum(r, 0.0) ** 2) / freedom)


def _third_order_rmse(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``metrics.rmse_third_order`` of rows (R, n) -> (R,)."""
    values = np.full(len(weights), np.nan)
    defined = np.isfinite(_correlation(x, y, weights)) & (weights.sum(1) >= 3)
    for row in np.flatnonzero(defined):
        mapping = fit_mapping(x[row], y[row], 3, weights[row])
        error = weights[row] @ (mapping(x[row]) - y[row]) ** 2
        freedom = weights[row].sum() - len(mapping.coefficients)
        values[row] = np.sqrt(error / freedom)
    return values


def _tied_groups(values: np.ndarray):
    """Sort values (n,); return the order and the start of each run of equals."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    return order, starts


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average ranks of values (n,) that occur weights (R, n) times -> (R, n)."""
    order, starts = _tied_groups(values)
    in_group = np.add.reduceat(weights[:, order], starts, axis=1)
    last = np.cumsum(in_group, axis=1)
    group_rank = last - (in_group - 1) / 2
    group = np.empty(len(values), dtype=np.int64)
    group[order] = np.repeat(
        np.arange(len(starts)), np.diff(np.r_[starts, len(values)])
    )
    return group_rank[:, group]


def _tied_pairs(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pairs with equal values, where values (n,) occur weights (R, n) times -> (R,)."""
    order, starts = _tied_groups(values)
    in_group = np.add.reduceat(weights[:, order], starts, axis=1)
    return (in_group * (in_group - 1) / 2).sum(1)


def utterance_metrics(
    pred: np.ndarray,
    true: np.ndarray,
    weights: np.ndarray,
    metrics: Sequence[str] = tuple(METRICS),
) -> Dict[str, np.ndarray]:
    """Compute the utterance-level metrics of every resample.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        weights: How often each utterance occurs in each resample (R, n).
        metrics: Names from ``metrics.ALL_METRICS``.

    Returns:
        The metrics by name, each (R,); NaN where a resample leaves it undefined.
    """
    weights = weights.astype(np.float64)
    total = weights.sum(1)
    rows = np.ones((len(weights), 1))
    # values around zero keep their digits in the sums
    x, y = rows * (pred - pred.mean()), rows * (true - true.mean())
    values: Dict[str, np.ndarray] = {}
    if "mse" in metrics:
        with np.errstate(invalid="ignore", divide="ignore"):
            values["mse"] = weights @ ((pred - true) ** 2) / total
    if "lcc" in metrics:
        values["lcc"] = _correlation(x, y, weights)
    if "srcc" in metrics:
        values["srcc"] = _correlation(
            _weighted_ranks(pred, weights), _weighted_ranks(true, weights), weights
        )
    if "ktau" in metrics or "pair_accuracy" in metrics:
        balance = np.zeros(len(weights))
        small = weights.astype(np.float32)
        step = max(1, _PAIRS_AT_ONCE // len(pred))
        for start in range(0, len(pred), step):
            part = slice(start, start + step)
            signs = np.sign(pred[part, None] - pred) * np.sign(true[part, None] - true)
            # sums of small integers: exact in float32, and twice as fast as float64
            products = small @ signs.T.astype(np.float32)
            balance += (weights[:, part] * products).sum(1, dtype=np.float64)
        pairs = total * (total - 1) / 2
        untied_true = pairs - _tied_pairs(true, weights)
        untied = (pairs - _tied_pairs(pred, weights)) * untied_true
        with np.errstate(invalid="ignore", divide="ignore"):
            values["ktau"] = np.where(untied > 0, balance / 2 / np.sqrt(untied), np.nan)
            values["pair_accuracy"] = np.where(
                untied_true > 0, 0.5 + balance / 4 / untied_true, np.nan
            )
    if "rmse_first_order" in metrics:
        values["rmse_first_order"] = _first_order_rmse(x, y, weights)
    if "rmse_third_order" in metrics:
        values["rmse_third_order"] = _third_order_rmse(x, y, weights)
    return {name: values[name] for name in metrics}


def system_metrics(
    pred: np.ndarray,
    true: np.ndarray,
    system_index: np.ndarray,
    weights: np.ndarray,
    metrics: Sequence[str] = tuple(METRICS),
) -> Dict[str, np.ndarray]:
    """Compute the system-level metrics of every resample.

    The system means are taken anew in each resample, over the utterances drawn; a
    system of which nothing was drawn does not count in that resample.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        system_index: System number of each utterance (n,), -1 where it has none.
        weights: How often each utterance occurs in each resample (R, n).
        metrics: Names from ``metrics.ALL_METRICS``.

    Returns:
        The metrics by name, each (R,); NaN where a resample leaves it undefined.
    """
    known = system_index >= 0
    member = np.zeros((len(pred), system_index.max() + 1))
    member[np.flatnonzero(known), system_index[known]] = 1.0
    weights = weights.astype(np.float64)
    counts = weights @ member
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.round((weights * pred) @ member / counts, SYSTEM_DECIMALS)
        y = np.round((weights * true) @ member / counts, SYSTEM_DECIMALS)
    present = (counts > 0).astype(np.float64)
    x[counts == 0] = y[counts == 0] = 0.0
    total = present.sum(1)
    values: Dict[str, np.ndarray] = {}
    if {"srcc", "ktau", "pair_accuracy"} & set(metrics):
        rank_x, rank_y = np.empty_like(x), np.empty_like(y)
        balance, untied_x, untied_y = np.empty((3, len(x)))
        step = max(1, _PAIRS_AT_ONCE // x.shape[1] ** 2)
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            both = present[part, :, None] * present[part, None, :]
            sign_x = np.sign(x[part, :, None] - x[part, None, :]) * both
            sign_y = np.sign(y[part, :, None] - y[part, None, :]) * both
            # rank = those below + (ties with itself + 1) / 2
            #      = (n + 1 + sum of signs) / 2
            rank_x[part] = (total[part, None] + 1 + sign_x.sum(2)) / 2
            rank_y[part] = (total[part, None] + 1 + sign_y.sum(2)) / 2
            balance[part] = (sign_x * sign_y).sum((1, 2))
            untied_x[part] = np.abs(sign_x).sum((1, 2))
            untied_y[part] = np.abs(sign_y).sum((1, 2))
        values["srcc"] = _correlation(rank_x, rank_y, present)
        untied = untied_x * untied_y
        with np.errstate(invalid="ignore", divide="ignore"):
            values["ktau"] = np.where(untied > 0, balance / np.sqrt(untied), np.nan)
            values["pair_accuracy"] = np.where(
                untied_y > 0, 0.5 + 0.5 * balance / untied_y, np.nan
            )
    if "mse" in metrics:
        with np.errstate(invalid="ignore", divide="ignore"):
            values["mse"] = (present * (x - y) ** 2).sum(1) / total
    if "lcc" in metrics:
        values["lcc"] = _correlation(x, y, present)
    if "rmse_first_order" in metrics:
        values["rmse_first_order"] = _first_order_rmse(x, y, present)
    if "rmse_third_order" in metrics:
        values["rmse_third_order"] = _third_order_rmse(x, y, present)
    return {name: values[name] for name in metrics}


def _numbered(values: Sequence[Hashable]) -> np.ndarray:
    """Number values (n,) of any type by their first occurrence -> (n,)."""
    # dict, not np.unique: the values may be of types that do not compare
    number = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return np.array([number[value] for value in values], dtype=np.int64)


class Resampler:
    """Draws resamples of the items of one test set and computes metrics of them.

    Every model of one test set is evaluated on the same resamples: this is what makes
    a comparison paired.

    Args:
        num_items: Number of items n.
        systems: System of each utterance (n,), None where it has none; or None.
        clusters: Cluster of each utterance (n,), such as its sentence; None takes
            every utterance for a cluster of its own.
        resample: One of ``RESAMPLES``; with ``systems`` the clusters are not used,
            with ``within_systems`` they are drawn within each system.
        num_resamples: Number of resamples R.
        seed: Seed of the resampling; one seed always gives the same resamples.

    Attributes:
        num_units: Number of units that are drawn from; below 2 nothing is known about
            variability.
        weights: How often each utterance occurs in each resample (R, n).
        resample: As given.
        systems: As given; None where no utterance has one.

    Raises:
        ValueError: The lengths differ, ``resample`` is unknown, or it needs systems
            and there are none.
    """

    def __init__(
        self,
        num_items: int,
        systems: Optional[Sequence[Optional[str]]] = None,
        clusters: Optional[Sequence[Hashable]] = None,
        resample: str = "clusters",
        num_resamples: int = 1000,
        seed: int = 0,
    ):
        for name, values in (("systems", systems), ("clusters", clusters)):
            if values is not None and len(values) != num_items:
                raise ValueError(f"{len(values)} {name} for {num_items} predictions.")
        if resample not in RESAMPLES:
            raise ValueError(
                f"resample is {resample}, expected one of {', '.join(RESAMPLES)}."
            )
        if systems is not None and all(system is None for system in systems):
            systems = None
        if systems is None and resample != "clusters":
            raise ValueError(f"resample {resample} needs the system of the utterances.")
        self.resample = resample
        self.systems = systems
        self._whole_systems = resample == "systems"
        cluster = np.arange(num_items) if clusters is None else _numbered(clusters)
        if systems is not None:
            # numbered by first occurrence, like the clusters; -1 has none
            names = dict.fromkeys(s for s in systems if s is not None)
            number = {s: i for i, s in enumerate(names)}
            self._system = np.array([number.get(s, -1) for s in systems])
        if resample == "systems":
            # an utterance without a system stands for itself
            unit = _numbered(
                [s if s is not None else (i,) for i, s in enumerate(systems)]
            )
        elif resample == "clusters":
            unit = cluster
        else:
            unit = _numbered(list(zip(self._system.tolist(), cluster.tolist())))
        self.num_units = int(unit.max()) + 1 if num_items else 0
        if self.num_units < 2:
            self.weights = np.ones((num_resamples, num_items), dtype=np.int64)
        elif resample == "within_systems":
            self.weights = np.empty((num_resamples, num_items), dtype=np.int64)
            seeds = np.random.SeedSequence(seed).spawn(len(names) + 1)
            for system in np.unique(self._system):
                of_system = self._system == system
                inner = _numbered(unit[of_system].tolist())
                size = int(inner.max()) + 1
                drawn = draw_clusters(
                    size, num_resamples, seeds[system], max(1, size - 1)
                )
                self.weights[:, of_system] = drawn[:, inner]
        else:
            self.weights = draw_clusters(self.num_units, num_resamples, seed)[:, unit]

    def __call__(
        self,
        pred: np.ndarray,
        true: np.ndarray,
        metrics: Sequence[str] = tuple(METRICS),
    ) -> Dict[str, np.ndarray]:
        """Compute the metrics of every resample at both levels.

        Args:
            pred: Predictions (n,), finite.
            true: Labels (n,), finite.
            metrics: Names from ``metrics.ALL_METRICS``.

        Returns:
            ``utt_mos_…`` and, with systems, ``sys_mos_…``, each (R,); NaN where a
            resample leaves the metric undefined.

        Raises:
            ValueError: The lengths differ, a value is not finite or a metric is
                unknown.
        """
        pred = np.asarray(pred, dtype=np.float64)
        true = np.asarray(true, dtype=np.float64)
        check_metrics(metrics)
        for name, values in (("predictions", pred), ("labels", true)):
            if values.shape != self.weights.shape[1:]:
                raise ValueError(
                    f"the {name} have the shape {values.shape}, expected "
                    f"{self.weights.shape[1:]}."
                )
        if not (np.isfinite(pred).all() and np.isfinite(true).all()):
            raise ValueError("predictions and labels must be finite.")
        samples = {
            f"utt_mos_{name}": value
            for name, value in utterance_metrics(
                pred, true, self.weights, metrics
            ).items()
        }
        if self.systems is None:
            return samples
        if self._whole_systems:
            # A system that was drawn twice is two points of the same means.
            sys_pred, sys_true, _ = system_means(pred, true, self.systems)
            first = np.unique(
                [str(s) for s in self.systems if s is not None], return_index=True
            )[1]
            drawn = self.weights[:, np.flatnonzero(self._system >= 0)[first]]
            by_system = utterance_metrics(sys_pred, sys_true, drawn, metrics)
        else:
            by_system = system_metrics(pred, true, self._system, self.weights, metrics)
        samples.update({f"sys_mos_{k}": v for k, v in by_system.items()})
        return samples


def centre(samples: np.ndarray, estimate: float) -> np.ndarray:
    """Move resampled values (R,) so that their mean is the estimate."""
    if not np.isfinite(samples).any():
        return samples
    return samples - np.nanmean(samples) + estimate


def percentile_interval(
    samples: np.ndarray, confidence: float = 0.95
) -> Optional[Interval]:
    """Percentile interval of resampled values (R,).

    Args:
        samples: Values, NaN where a resample left the metric undefined.
        confidence: Share of the resamples within the interval.

    Returns:
        The interval; None where fewer than half of the values are finite.
    """
    finite = samples[np.isfinite(samples)]
    if not 2 * len(finite) >= len(samples) > 0:
        return None
    tail = 50 * (1 - confidence)
    low, high = np.percentile(finite, [tail, 100 - tail])
    return Interval(float(low), float(high))


def bootstrap_intervals(
    pred: Sequence[float],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    clusters: Optional[Sequence[Hashable]] = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    resample: str = "clusters",
    metrics: Sequence[str] = tuple(METRICS),
    centred: Optional[bool] = None,
) -> Dict[str, Optional[Interval]]:
    """Percentile intervals of all metrics from a bootstrap.

    Time grows with num_resamples x n^2 (tau and pairwise accuracy; 3 s for 1000 x
    5000 on one core), memory with num_resamples x n. ``rmse_third_order`` takes
    another 3 s, one fit a resample.

    Args:
        pred: Predictions (n,), finite.
        true: Labels (n,), finite.
        systems: System of each utterance (n,), None where it has none; or None.
        clusters: Cluster of each utterance (n,), such as its sentence; None takes
            every utterance for a cluster of its own.
        num_resamples: Number of resamples.
        confidence: Share of the resamples within the interval.
        seed: Seed of the resampling; one seed always gives the same intervals.
        resample: What is drawn, one of ``RESAMPLES``.
        metrics: Names from ``metrics.ALL_METRICS``.
        centred: Move the intervals so that the mean of the resamples is the estimate
            (see above); None does so with ``within_systems`` only.

    Returns:
        Interval by the keys of ``evaluate``; None where fewer than half of the
        resamples define the metric or there are fewer than 2 units to draw.

    Raises:
        ValueError: The lengths differ, a value is not finite, or ``resample`` needs
            systems and there are none.
    """
    pred = np.asarray(pred, dtype=np.float64)
    true = np.asarray(true, dtype=np.float64)
    if len(true) != len(pred):
        raise ValueError(f"{len(true)} labels for {len(pred)} predictions.")
    if not (np.isfinite(pred).all() and np.isfinite(true).all()):
        raise ValueError("predictions and labels must be finite.")
    check_metrics(metrics)
    intervals: Dict[str, Optional[Interval]] = {
        f"{level}_mos_{name}": None for level in ("utt", "sys") for name in metrics
    }
    resampler = Resampler(len(pred), systems, clusters, resample, num_resamples, seed)
    if resampler.num_units < 2:
        return intervals
    estimates: Dict[str, Optional[float]] = {}
    if resample == "within_systems" if centred is None else centred:
        estimates = evaluate(pred, true, systems, metrics)
    for key, samples in resampler(pred, true, metrics).items():
        if estimates.get(key) is not None:
            low, high = METRIC_RANGE[key.split("_", 2)[2]]
            samples = np.clip(centre(samples, estimates[key]), low, high)
        intervals[key] = percentile_interval(samples, confidence)
    return intervals
