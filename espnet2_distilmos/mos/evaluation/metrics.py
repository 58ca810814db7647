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
# Rows of the pairwise comparison that are held at once: 2 ** 22 values
_PAIRS_AT_ONCE = 1 << 22


class Metric(NamedTuple):
    """A value, or None and the reason why it is undefined."""

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


def ktau(pred: Sequence[float], true: Sequence[float]) -> Metric:
    """Rank correlation tau-b (Kendall, Biometrika 33, 1945).

    tau_b = (C - D) / sqrt((n_0 - n_p)(n_0 - n_t)), with C and D the concordant and
    discordant pairs, n_0 = n (n - 1) / 2 all pairs, n_p and n_t the pairs with equal
    predictions and equal labels. Time grows with n^2, memory does not.

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
    # Ranks instead of values: differences of ranks have exact signs.
    pred, true = average_ranks(pred), average_ranks(true)
    balance = untied_pred = untied_true = 0
    step = max(1, _PAIRS_AT_ONCE // len(pred))
    for start in range(0, len(pred), step):
        rows = slice(start, start + step)
        sign_pred = np.sign(pred[rows, None] - pred).astype(np.int8)
        sign_true = np.sign(true[rows, None] - true).astype(np.int8)
        balance += int(np.sum(sign_pred * sign_true, dtype=np.int64))
        untied_pred += np.count_nonzero(sign_pred)
        untied_true += np.count_nonzero(sign_true)
    # every pair was counted twice, above and below the fraction line
    return Metric(balance / (float(untied_pred) * float(untied_true)) ** 0.5)


METRICS: Dict[str, Callable[[Sequence[float], Sequence[float]], Metric]] = {
    "mse": mse,
    "lcc": lcc,
    "srcc": srcc,
    "ktau": ktau,
}


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
) -> dict:
    """Compute all metrics at utterance and system level.

    A system's score is the mean over its utterances, of predictions and of labels.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        systems: System of each utterance (n,), None where it has none; or None.

    Returns:
        ``utt_mos_{mse,lcc,srcc,ktau}`` and ``sys_mos_{mse,lcc,srcc,ktau}``, each a
        number or None; ``undefined``, the reason for each None by its key;
        ``num_utts`` and ``num_systems``.

    Raises:
        ValueError: The shapes differ.
    """
    pred, true = _arrays(pred, true)
    result: dict = {"num_utts": len(pred), "num_systems": 0}
    metrics = {
        f"utt_mos_{name}": metric(pred, true) for name, metric in METRICS.items()
    }
    if systems is None:
        missing = Metric(None, "no utterance has a system")
        metrics.update({f"sys_mos_{name}": missing for name in METRICS})
    else:
        sys_pred, sys_true, names = system_means(pred, true, systems)
        result["num_systems"] = len(names)
        for name, metric in METRICS.items():
            metrics[f"sys_mos_{name}"] = metric(sys_pred, sys_true)
    result.update({key: metric.value for key, metric in metrics.items()})
    result["undefined"] = {
        key: metric.reason for key, metric in metrics.items() if metric.value is None
    }
    return result
