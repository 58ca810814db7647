# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Cluster bootstrap intervals of the metrics, all resamples at once.

Clips that share a sentence or a source recording are not independent: an interval
that resamples single clips is too narrow. Here whole clusters are drawn with
replacement (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8
and 13). A resample is represented by how often each utterance occurs in it, so that
every metric of R resamples is a few matrix products.
"""

from typing import Dict, Hashable, NamedTuple, Optional, Sequence

import numpy as np

from espnet2_distilmos.mos.evaluation.metrics import METRICS, SYSTEM_DECIMALS

# Values of one temporary array of pairs
_PAIRS_AT_ONCE = 1 << 22


class Interval(NamedTuple):
    """Lower and upper end of a percentile interval."""

    low: float
    high: float


def draw_clusters(num_clusters: int, num_resamples: int, seed: int) -> np.ndarray:
    """Draw how often each cluster occurs in each resample.

    Args:
        num_clusters: Number of clusters C.
        num_resamples: Number of resamples R.
        seed: Seed of the generator.

    Returns:
        Counts (R, C), int64, every row sums to C.
    """
    generator = np.random.default_rng(seed)
    return generator.multinomial(
        num_clusters, np.full(num_clusters, 1 / num_clusters), size=num_resamples
    )


def _correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted Pearson correlation of each row of x, y, weights (R, n) -> (R,)."""
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
    return np.clip(r, -1.0, 1.0)


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
    pred: np.ndarray, true: np.ndarray, weights: np.ndarray
) -> Dict[str, np.ndarray]:
    """Compute the utterance-level metrics of every resample.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        weights: How often each utterance occurs in each resample (R, n).

    Returns:
        mse, lcc, srcc and ktau, each (R,); NaN where a resample leaves it undefined.
    """
    weights = weights.astype(np.float64)
    total = weights.sum(1)
    rows = np.ones((len(weights), 1))
    # values around zero keep their digits in the sums
    x, y = pred - pred.mean(), true - true.mean()
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
    untied = (pairs - _tied_pairs(pred, weights)) * (pairs - _tied_pairs(true, weights))
    with np.errstate(invalid="ignore", divide="ignore"):
        tau = np.where(untied > 0, balance / 2 / np.sqrt(untied), np.nan)
        error = weights @ ((pred - true) ** 2) / total
    return {
        "mse": error,
        "lcc": _correlation(rows * x, rows * y, weights),
        "srcc": _correlation(
            _weighted_ranks(pred, weights), _weighted_ranks(true, weights), weights
        ),
        "ktau": tau,
    }


def system_metrics(
    pred: np.ndarray, true: np.ndarray, system_index: np.ndarray, weights: np.ndarray
) -> Dict[str, np.ndarray]:
    """Compute the system-level metrics of every resample.

    The system means are taken anew in each resample, over the utterances drawn; a
    system of which nothing was drawn does not count in that resample.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        system_index: System number of each utterance (n,), -1 where it has none.
        weights: How often each utterance occurs in each resample (R, n).

    Returns:
        mse, lcc, srcc and ktau, each (R,); NaN where a resample leaves it undefined.
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
    rank_x, rank_y = np.empty_like(x), np.empty_like(y)
    tau = np.empty(len(x))
    step = max(1, _PAIRS_AT_ONCE // x.shape[1] ** 2)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        both = present[part, :, None] * present[part, None, :]
        sign_x = np.sign(x[part, :, None] - x[part, None, :]) * both
        sign_y = np.sign(y[part, :, None] - y[part, None, :]) * both
        # rank = (those below) + (ties with itself + 1) / 2 = (n + 1 + sum of signs) / 2
        rank_x[part] = (total[part, None] + 1 + sign_x.sum(2)) / 2
        rank_y[part] = (total[part, None] + 1 + sign_y.sum(2)) / 2
        untied = np.abs(sign_x).sum((1, 2)) * np.abs(sign_y).sum((1, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            tau[part] = np.where(
                untied > 0, (sign_x * sign_y).sum((1, 2)) / np.sqrt(untied), np.nan
            )
    with np.errstate(invalid="ignore", divide="ignore"):
        error = (present * (x - y) ** 2).sum(1) / total
    return {
        "mse": error,
        "lcc": _correlation(x, y, present),
        "srcc": _correlation(rank_x, rank_y, present),
        "ktau": tau,
    }


def bootstrap_intervals(
    pred: Sequence[float],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    clusters: Optional[Sequence[Hashable]] = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Dict[str, Optional[Interval]]:
    """Percentile intervals of all metrics from a cluster bootstrap.

    Time grows with num_resamples x n^2 (tau), memory with num_resamples x n.

    Args:
        pred: Predictions (n,), finite.
        true: Labels (n,), finite.
        systems: System of each utterance (n,), None where it has none; or None.
        clusters: Cluster of each utterance (n,), such as its sentence; None takes
            every utterance for a cluster of its own.
        num_resamples: Number of resamples.
        confidence: Share of the resamples within the interval.
        seed: Seed of the resampling; one seed always gives the same intervals.

    Returns:
        Interval by the keys of ``evaluate``; None where fewer than half of the
        resamples define the metric or there are fewer than 2 clusters.

    Raises:
        ValueError: The lengths differ, or a value is not finite.
    """
    pred = np.asarray(pred, dtype=np.float64)
    true = np.asarray(true, dtype=np.float64)
    for name, values in (
        ("labels", true),
        ("systems", systems),
        ("clusters", clusters),
    ):
        if values is not None and len(values) != len(pred):
            raise ValueError(f"{len(values)} {name} for {len(pred)} predictions.")
    if not (np.isfinite(pred).all() and np.isfinite(true).all()):
        raise ValueError("predictions and labels must be finite.")
    keys = [f"{level}_mos_{name}" for level in ("utt", "sys") for name in METRICS]
    intervals: Dict[str, Optional[Interval]] = {key: None for key in keys}

    # dict, not np.unique: clusters numbered by first occurrence, of any type
    cluster_ids = range(len(pred)) if clusters is None else clusters
    number = {c: i for i, c in enumerate(dict.fromkeys(cluster_ids))}
    if len(number) < 2:
        return intervals
    index = np.array([number[c] for c in cluster_ids])
    weights = draw_clusters(len(number), num_resamples, seed)[:, index]

    values = {
        f"utt_mos_{k}": v for k, v in utterance_metrics(pred, true, weights).items()
    }
    if systems is not None and any(s is not None for s in systems):
        names = dict.fromkeys(s for s in systems if s is not None)
        system_number = {s: i for i, s in enumerate(names)}
        system_index = np.array([system_number.get(s, -1) for s in systems])
        for k, v in system_metrics(pred, true, system_index, weights).items():
            values[f"sys_mos_{k}"] = v
    tail = 50 * (1 - confidence)
    for key, samples in values.items():
        samples = samples[np.isfinite(samples)]
        if 2 * len(samples) >= num_resamples > 0:
            low, high = np.percentile(samples, [tail, 100 - tail])
            intervals[key] = Interval(float(low), float(high))
    return intervals
