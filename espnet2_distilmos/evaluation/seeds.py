# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What several training runs that differ in their seed say about a method.

A test set's bootstrap interval is about one trained model; whether a method is better
than another is a question about its runs. The runs of one method are a sample, mostly
of three to ten: means get t intervals (Student, Biometrika 6, 1908). For both sources
of chance at once there are ``crossed_summary`` and ``crossed_difference``, which
``compare_methods`` takes.
"""

import math
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

from espnet2_distilmos.evaluation.bootstrap import (
    Interval,
    Resampler,
)
from espnet2_distilmos.evaluation.metrics import (
    LOWER_IS_BETTER,
    METRIC_RANGE,
    METRICS,
    check_metrics,
    evaluate,
)
from espnet2_distilmos.evaluation.paired import holm


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


def _item_variance(
    groups: Sequence[Tuple[float, np.ndarray]], num_units: int
) -> Tuple[Optional[float], Optional[str]]:
    """Variance that the items give sum_g sign_g mean_g, and why there is none.

    Args:
        groups: A sign and resampled values (n_g, R) each, all of the same resamples.
        num_units: Number of units that were drawn from.
    """
    if num_units < 2:
        return None, "fewer than 2 units to draw"
    stacked = np.concatenate([samples for _, samples in groups])
    defined = np.isfinite(stacked).all(0)
    if not 2 * np.count_nonzero(defined) >= stacked.shape[1] > 0:
        return None, "undefined in more than half of the resamples"
    covariance = np.atleast_2d(np.cov(stacked[:, defined]))
    ends = np.cumsum([len(samples) for _, samples in groups]).tolist()
    parts = list(zip([0, *ends], ends))
    total = 0.0
    for i, (start, end) in enumerate(parts):
        for j, (other_start, other_end) in enumerate(parts):
            block = covariance[start:end, other_start:other_end]
            if i == j and len(block) > 1:
                # What a run alone varies with the items is in the runs' variance.
                off = block.sum() - np.trace(block)
                mean = off / (len(block) * (len(block) - 1))
            else:
                mean = block.mean()
            total += groups[i][0] * groups[j][0] * mean
    # A draw of n of n has (n - 1) / n of the variance.
    return max(0.0, float(total)) * num_units / (num_units - 1), None


def _crossed_interval(
    groups: Sequence[Tuple[float, np.ndarray, np.ndarray]],
    num_units: int,
    confidence: float,
) -> Tuple[Optional[Tuple[Interval, float, float]], Optional[str]]:
    """(interval, p-value, degrees of freedom) of sum_g sign_g mean_g, or a reason."""
    items, reason = _item_variance([(s, x) for s, _, x in groups], num_units)
    if items is None:
        return None, reason
    parts = [(items, num_units - 1)]
    parts += [(v.var(ddof=1) / len(v), len(v) - 1) for _, v, _ in groups if len(v) > 1]
    variance = float(sum(part for part, _ in parts))
    largest = max(np.abs(values).max() for _, values, _ in groups)
    if variance <= 1e-24 * max(largest, 1e-12) ** 2:
        return None, "neither the runs nor the resamples differ"
    freedom = float(variance**2 / sum(part**2 / f for part, f in parts))
    estimate = float(sum(sign * values.mean() for sign, values, _ in groups))
    interval, p = _student(estimate, variance**0.5, freedom, confidence)
    return (interval, p, freedom), None


def crossed_summary(
    values: Sequence[Optional[float]],
    samples: np.ndarray,
    num_units: int,
    confidence: float = 0.95,
) -> SeedSummary:
    """Summarise a metric over the runs of one method, for other runs and other items.

    The mean over n runs varies with the runs and with the items, which all runs share.
    Its variance is s^2 / n + c, where s is the deviation of the runs on these items
    and c the covariance of two runs over resamples of the items. This is the model of
    Obuchowski & Rockette for readers and cases (Commun. Stat. Simul. Comput. 24, 1995)
    with c from the bootstrap; the t interval has the degrees of freedom of
    Satterthwaite as in Hillis (Stat. Med. 26, 2007), who takes the items' part for
    known, and here with u - 1 for the u units that are drawn: they may be six talkers.

    Args:
        values: The metric of each run (n,), None where it is undefined.
        samples: The metric of each run in each resample of the items (n, R).
        num_units: Number of units u that the resamples drew from.
        confidence: Coverage of the interval.

    Returns:
        The summary. The interval of a single run is about the items alone.
    """
    runs, reason = _runs(values)
    if reason:
        return SeedSummary(len(values), None, None, None, reason)
    sd = float(runs.std(ddof=1)) if len(runs) > 1 else None
    found, reason = _crossed_interval([(1.0, runs, samples)], num_units, confidence)
    interval = found[0] if found else None
    return SeedSummary(len(runs), float(runs.mean()), sd, interval, reason)


def crossed_difference(
    values_a: Sequence[Optional[float]],
    values_b: Sequence[Optional[float]],
    samples_a: np.ndarray,
    samples_b: np.ndarray,
    num_units: int,
    paired: bool,
    confidence: float = 0.95,
) -> SeedDifference:
    """Compare two methods over their runs, for other runs and other items.

    As ``crossed_summary``, of the differences run by run where they are paired, else
    with a variance of the runs for each method. A method of a single run, such as one
    without chance in its training, is taken as it is.

    Simulated (SRCC, two methods equally good, 300 samples, 300 resamples), it rejected
    at 0.05 in 2 to 4 % (3 and 5 runs, 60 items), 2 to 6 % (5 and 10 runs, 400 items)
    and 8 to 11 % of the samples (3 runs, 400 items), where a bootstrap that draws runs
    and items did in 1 to 4, 1 to 12 and 5 to 21 %, and ``seed_difference``, which takes
    the items as they are, in 4 to 30, 6 to 30 and 8 to 12 %.

    Args:
        values_a: The metric of each run of method a (n_a,).
        values_b: The metric of each run of method b (n_b,).
        samples_a: The metric of each run in each resample of the items (n_a, R).
        samples_b: The same of b (n_b, R), on the same resamples.
        num_units: Number of units that the resamples drew from.
        paired: Whether the i-th runs belong together.
        confidence: Coverage of the interval.

    Returns:
        The difference of the means; interval and p-value are None, with a reason, where
        a run has no value or there are no items to draw.

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
    groups = [(1.0, a, samples_a), (-1.0, b, samples_b)]
    if paired:
        groups = [(1.0, a - b, samples_a - samples_b)]
    difference = float(a.mean() - b.mean())
    found, reason = _crossed_interval(groups, num_units, confidence)
    if found is None:
        return SeedDifference(difference, None, None, None, reason)
    interval, p, freedom = found
    return SeedDifference(difference, interval, p, freedom)


def compare_methods(
    predictions: Mapping[str, Mapping[str, Sequence[float]]],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    clusters: Optional[Sequence[Hashable]] = None,
    metrics: Sequence[str] = tuple(METRICS),
    baseline: Optional[str] = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    resample: str = "clusters",
) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """Summarise several methods on one test set and compare them with one of them.

    All comparisons of one metric at one level are one family for Holm's method.

    Args:
        predictions: Predictions (n,), finite, by method and by run (its seed). Two
            methods whose runs have the same names are compared run by run.
        true: Labels (n,), finite.
        systems: System of each utterance (n,), None where it has none; or None.
        clusters: Cluster of each utterance (n,), such as its sentence.
        metrics: Names from ``metrics.ALL_METRICS``.
        baseline: Compare the others with this method; None for no comparison.
        num_resamples: Number of resamples of the items.
        confidence: Coverage of the intervals, not adjusted for their number.
        seed: Seed of the resampling.
        resample: What is drawn, one of ``bootstrap.RESAMPLES``.

    Returns:
        Two lists of JSON-ready dicts. For each metric (``utt_mos_srcc``, …) and method:
        ``metric``, ``method``, ``runs`` (values by run), ``num_runs``, ``mean``,
        ``sd``, ``interval`` and ``reason``. For each metric and other method:
        ``metric``, ``method``, ``baseline``, ``difference`` (method minus baseline),
        ``interval``, ``p_value``, ``p_holm``, ``degrees_of_freedom``, ``paired``,
        ``better`` (None where equal) and ``reason``.

    Raises:
        ValueError: The baseline or a metric is unknown, a method has no run, the
            lengths differ, a value is not finite, or ``resample`` needs systems.
    """
    check_metrics(metrics)
    if baseline is not None and baseline not in predictions:
        raise ValueError(
            f"the baseline {baseline} is none of the methods {', '.join(predictions)}."
        )
    for method, runs in predictions.items():
        if not runs:
            raise ValueError(f"{method} has no run.")
    resampler = Resampler(len(true), systems, clusters, resample, num_resamples, seed)
    values: Dict[str, Dict[str, Dict[str, Optional[float]]]] = {}
    samples: Dict[str, Dict[str, Dict[str, np.ndarray]]] = {}
    for method, runs in predictions.items():
        values[method], samples[method] = {}, {}
        for run, pred in runs.items():
            drawn = resampler(pred, true, metrics)
            result = evaluate(pred, true, resampler.systems, metrics)
            values[method][run] = {key: result[key] for key in drawn}
            samples[method][run] = drawn
    num_units = resampler.num_units
    return compare_values(values, baseline, confidence, samples, num_units)


def compare_values(
    values: Mapping[str, Mapping[str, Mapping[str, Optional[float]]]],
    baseline: Optional[str] = None,
    confidence: float = 0.95,
    samples: Optional[Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]] = None,
    num_units: int = 0,
) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """``compare_methods`` from the metrics of the runs.

    Args:
        values: By method, run and metric, such as ``utt_mos_srcc``.
        baseline: As of ``compare_methods``.
        confidence: Coverage of the intervals.
        samples: The same in each resample of the items, (R,) each; None takes the items
            as they are, so that intervals and tests are about the runs alone.
        num_units: Number of units that the resamples drew from.

    Returns:
        As ``compare_methods``.
    """
    summaries: List[Dict[str, Any]] = []
    comparisons: List[Dict[str, Any]] = []
    first = next(iter(next(iter(values.values())).values()))
    for key in first:
        name = key.split("_", 2)[2]
        of_runs = {
            m: {r: v[key] for r, v in runs.items()} for m, runs in values.items()
        }
        drawn = {
            method: {run: of_run[key] for run, of_run in runs.items()}
            for method, runs in (samples or {}).items()
        }
        for method, runs in of_runs.items():
            if samples is None:
                summary = summarise_seeds(list(runs.values()), confidence)
            else:
                of_method = np.stack([drawn[method][run] for run in runs])
                summary = crossed_summary(
                    list(runs.values()), of_method, num_units, confidence
                )
            interval = summary.interval
            if interval is not None:
                # A t interval knows no bounds of a correlation.
                interval = Interval(*np.clip(interval, *METRIC_RANGE[name]).tolist())
            summaries.append(
                {
                    "metric": key,
                    "method": method,
                    "runs": runs,
                    "num_runs": summary.num_seeds,
                    "mean": summary.mean,
                    "sd": summary.sd,
                    "interval": interval,
                    "reason": summary.reason,
                }
            )
        family = []
        for method, runs in of_runs.items():
            if baseline is None or method == baseline:
                continue
            others = of_runs[baseline]
            paired = set(runs) == set(others)
            names = list(runs), list(runs if paired else others)
            pair = [runs[r] for r in names[0]], [others[r] for r in names[1]]
            if samples is None:
                found = seed_difference(*pair, paired, confidence)
            else:
                pair += (
                    np.stack([drawn[method][run] for run in names[0]]),
                    np.stack([drawn[baseline][run] for run in names[1]]),
                )
                found = crossed_difference(*pair, num_units, paired, confidence)
            better = None
            if found.difference:
                wins = (found.difference > 0) != (name in LOWER_IS_BETTER)
                better = method if wins else baseline
            family.append(
                {
                    "metric": key,
                    "method": method,
                    "baseline": baseline,
                    "difference": found.difference,
                    "interval": found.interval,
                    "p_value": found.p_value,
                    "degrees_of_freedom": found.degrees_of_freedom,
                    "paired": paired,
                    "better": better,
                    "reason": found.reason,
                }
            )
        for row, p in zip(family, holm([row["p_value"] for row in family])):
            row["p_holm"] = p
        comparisons += family
    return summaries, comparisons
