# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What several training runs that differ in their seed say about a method.

A test set's bootstrap interval is about one trained model; whether a method is better
than another is a question about its runs. The runs of one method are a sample, mostly
of three to ten: means get t intervals (Student, Biometrika 6, 1908). A hierarchical
bootstrap draws runs and items, for both sources of chance at once.
"""

import math
from typing import Dict, Hashable, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.mos.evaluation.bootstrap import (
    Interval,
    Resampler,
    centre,
    draw_clusters,
    percentile_interval,
)
from espnet2_distilmos.mos.evaluation.metrics import METRICS, evaluate
from espnet2_distilmos.mos.evaluation.paired import PairedDifference, bootstrap_p_value


class SeedSummary(NamedTuple):
    """A metric over the runs of one method.

    Attributes:
        num_seeds: Number of runs n.
        mean: Mean over the runs.
        sd: Standard deviation with n - 1 below.
        interval: t interval of the mean over all runs there could be.
        reason: Why something is None.
    """

    num_seeds: int
    mean: Optional[float]
    sd: Optional[float]
    interval: Optional[Interval]
    reason: Optional[str] = None


class SeedDifference(NamedTuple):
    """The difference of a metric between two methods.

    Attributes:
        difference: Mean of method a minus mean of method b.
        interval: t interval of the difference.
        p_value: Two-sided, of no difference.
        degrees_of_freedom: Of t.
        reason: Why something is None.
    """

    difference: Optional[float]
    interval: Optional[Interval]
    p_value: Optional[float]
    degrees_of_freedom: Optional[float]
    reason: Optional[str] = None


def _runs(
    values: Sequence[Optional[float]], name: str = ""
) -> Tuple[np.ndarray, Optional[str]]:
    """Array (n,) and the reason why it cannot be summarised."""
    name = f" of {name}" if name else ""
    missing = sum(v is None or not math.isfinite(v) for v in values)
    if not len(values):
        return np.zeros(0), f"there are no runs{name}"
    if missing:
        return np.zeros(0), f"{missing} of {len(values)} runs{name} have no value"
    return np.asarray(values, dtype=np.float64), None


def _student(
    difference: float, error: float, freedom: float, confidence: float
) -> Tuple[Interval, float]:
    """t interval and two-sided p-value of a difference with its standard error."""
    from scipy.stats import t as student

    half = float(student.isf((1 - confidence) / 2, freedom)) * error
    p = float(2 * student.sf(abs(difference) / error, freedom))
    return Interval(difference - half, difference + half), p


def summarise_seeds(
    values: Sequence[Optional[float]], confidence: float = 0.95
) -> SeedSummary:
    """Summarise a metric over the runs of one method.

    Args:
        values: The metric of each run (n,), None where it is undefined.
        confidence: Coverage of the interval mean -+ t_{n-1} sd / sqrt(n).

    Returns:
        The summary. With one run there is a mean alone; with a run that has no value
        there is nothing, since the runs that have one are not a fair sample.
    """
    runs, reason = _runs(values)
    if reason:
        return SeedSummary(len(values), None, None, None, reason)
    mean = float(runs.mean())
    if len(runs) == 1:
        reason = "1 run, at least 2 needed for a deviation"
        return SeedSummary(1, mean, None, None, reason)
    sd = float(runs.std(ddof=1))
    if sd == 0:
        reason = "the runs do not differ, so they say nothing about others"
        return SeedSummary(len(runs), mean, sd, None, reason)
    interval, _ = _student(mean, sd / len(runs) ** 0.5, len(runs) - 1, confidence)
    return SeedSummary(len(runs), mean, sd, interval)


def seed_difference(
    values_a: Sequence[Optional[float]],
    values_b: Sequence[Optional[float]],
    paired: bool,
    confidence: float = 0.95,
) -> SeedDifference:
    """Compare two methods over their runs.

    Args:
        values_a: The metric of each run of method a (n_a,).
        values_b: The metric of each run of method b (n_b,).
        paired: Whether the i-th runs belong together: one seed with the same
            initialisation and order of the data. Then the paired t interval, with n - 1
            degrees of freedom, else Welch's (Biometrika 34, 1947), with
            (v_a + v_b)^2 / (v_a^2 / (n_a - 1) + v_b^2 / (n_b - 1)), v = sd^2 / n.
        confidence: Coverage of the interval.

    Returns:
        The difference of the means; interval and p-value are None, with a reason, for
        fewer than 2 runs a method or runs that do not differ at all.

    Raises:
        ValueError: Paired runs of different number.
    """
    if paired and len(values_a) != len(values_b):
        raise ValueError(
            f"{len(values_a)} runs of a and {len(values_b)} of b, expected equally "
            "many where they are paired."
        )
    a, reason_a = _runs(values_a, "a")
    b, reason_b = _runs(values_b, "b")
    reason = reason_a or reason_b
    if reason:
        return SeedDifference(None, None, None, None, reason)
    difference = float(a.mean() - b.mean())
    if min(len(a), len(b)) < 2:
        reason = "1 run of a method, at least 2 needed for an interval"
        return SeedDifference(difference, None, None, None, reason)
    if paired:
        variance = float(np.var(a - b, ddof=1)) / len(a)
        freedom = float(len(a) - 1)
    else:
        parts = [(float(np.var(v, ddof=1)) / len(v), len(v) - 1) for v in (a, b)]
        variance = sum(v for v, _ in parts)
    # differences of equal runs leave the rounding of their sums
    if variance <= 1e-24 * max(np.abs(a).max(), np.abs(b).max()) ** 2:
        reason = "the runs do not differ, so they say nothing about others"
        return SeedDifference(difference, None, None, None, reason)
    if not paired:
        freedom = variance**2 / sum(v**2 / f for v, f in parts)
    interval, p = _student(difference, variance**0.5, freedom, confidence)
    return SeedDifference(difference, interval, p, freedom)


def hierarchical_bootstrap(
    preds_a: Sequence[Sequence[float]],
    preds_b: Sequence[Sequence[float]],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    clusters: Optional[Sequence[Hashable]] = None,
    metrics: Sequence[str] = tuple(METRICS),
    paired: bool = True,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    resample: str = "clusters",
) -> Dict[str, PairedDifference]:
    """Compare two methods over runs and items by one bootstrap.

    Each resample draws runs with replacement and, independently, items; all its runs
    are evaluated on the same items, and the metrics are averaged over the runs. So the
    interval holds the chance of training and that of the test set (runs and items are
    crossed: Owen, Ann. Appl. Stat. 1, 2007, who shows that such intervals are rather
    too wide than too narrow where both matter). Drawing n runs takes their variance for
    (n - 1) / n of what it is. In a simulation it rejected a true null hypothesis at
    0.05 in 3, 1 and 2 % of the samples (3 runs and 60 items, 5 and 60, 10 and 400), but
    in 10 % where few runs meet many items (3 or 5 and 400): there take
    ``seed_difference``.

    Args:
        preds_a: Predictions of each run of method a (S_a, n), finite.
        preds_b: Predictions of each run of method b (S_b, n), finite.
        true: Labels (n,), finite.
        systems: System of each utterance (n,), None where it has none; or None.
        clusters: Cluster of each utterance (n,), such as its sentence.
        metrics: Names from ``metrics.ALL_METRICS``.
        paired: Whether the i-th runs belong together and are drawn together.
        num_resamples: Number of resamples.
        confidence: Coverage of the interval.
        seed: Seed of the resampling.
        resample: What items are drawn, one of ``bootstrap.RESAMPLES``.

    Returns:
        The difference of the means over the runs, by the keys of ``evaluate``; None
        with a reason where a run leaves the metric undefined, or with fewer than 2
        runs or units to draw.

    Raises:
        ValueError: The lengths differ, a value is not finite, paired runs are of
            different number, or ``resample`` needs systems and there are none.
    """
    groups = [
        [np.asarray(p, np.float64) for p in preds] for preds in (preds_a, preds_b)
    ]
    sizes = [len(group) for group in groups]
    if paired and sizes[0] != sizes[1]:
        raise ValueError(
            f"{sizes[0]} runs of a and {sizes[1]} of b, expected equally many where "
            "they are paired."
        )
    if min(sizes) == 0:
        raise ValueError("there are no runs of a method.")
    true = np.asarray(true, dtype=np.float64)
    resampler = Resampler(len(true), systems, clusters, resample, num_resamples, seed)
    streams = np.random.SeedSequence([seed, 1]).spawn(2)
    if paired:
        streams = [streams[0], streams[0]]
    means, estimates = [], []
    for group, stream in zip(groups, streams):
        drawn = draw_clusters(len(group), num_resamples, stream) / len(group)
        samples = [resampler(pred, true, metrics) for pred in group]
        values = [evaluate(pred, true, resampler.systems, metrics) for pred in group]
        means.append(
            {
                key: sum(drawn[:, i] * run[key] for i, run in enumerate(samples))
                for key in samples[0]
            }
        )
        estimates.append({key: [v[key] for v in values] for key in samples[0]})

    result = {}
    for key in means[0]:
        runs = [_runs(values[key], name) for values, name in zip(estimates, "ab")]
        reason = runs[0][1] or runs[1][1]
        if reason:
            result[key] = PairedDifference(None, None, None, reason)
            continue
        difference = float(runs[0][0].mean() - runs[1][0].mean())
        if min(sizes) < 2 or resampler.num_units < 2:
            reason = "fewer than 2 runs of a method or units to draw"
            result[key] = PairedDifference(difference, None, None, reason)
            continue
        differences = means[0][key] - means[1][key]
        if resample == "within_systems":
            differences = centre(differences, difference)
        interval = percentile_interval(differences, confidence)
        p = bootstrap_p_value(differences)
        if interval is None:
            reason = "undefined in more than half of the resamples"
        result[key] = PairedDifference(difference, interval, p, reason)
    return result
