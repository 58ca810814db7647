# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What several training runs that differ in their seed say about a method.

A test set's bootstrap interval is about one trained model; whether a method is better
than another is a question about its runs, mostly three to ten. There are two analyses:

- over the runs alone, with the items as they are: t intervals (Student, Biometrika 6,
  1908), of two methods paired or Welch's (Biometrika 34, 1947);
- crossed, for other runs and other items: the variance of the mean over n runs is
  s^2 / n + c, where s is the deviation of the runs on these items and c the covariance
  of two runs over resamples of the items. This is the model of Obuchowski & Rockette
  for readers and cases (Commun. Stat. Simul. Comput. 24, 1995) with c from the
  bootstrap; the t interval has the degrees of freedom of Satterthwaite as in Hillis
  (Stat. Med. 26, 2007), who takes the items' part for known, and here with u - 1 for
  the u units that are drawn: they may be six talkers. A method of a single run, such as
  one without chance in its training, is taken as it is.

Items ask for ``bootstrap.MINIMUM_UNITS`` units. Runs do not: their t intervals are
exact for normal values of any number from 2 on.

Simulated (SRCC, two methods equally good, 300 samples, 300 resamples), the crossed test
rejected at 0.05 in 2 to 4 % (3 and 5 runs, 60 items), 2 to 6 % (5 and 10 runs, 400
items) and 8 to 11 % of the samples (3 runs, 400 items); the test over the runs alone in
4 to 30, 6 to 30 and 8 to 12 %.
"""

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
    Union,
)

import numpy as np
import scipy

from espnet2_distilmos.evaluation.bootstrap import (
    UNDEFINED_RESAMPLES,
    Interval,
    Resampler,
    too_few,
)
from espnet2_distilmos.evaluation.metrics import METRIC_RANGE, METRICS, evaluate
from espnet2_distilmos.evaluation.paired import better_of, holm, smallest_detectable

# Number of units that resamples drew from: of one set of items, or of each of several
# whose resamples stand one after the other; None: no resamples, the runs alone.
Units = Union[int, Sequence[int], None]


class SeedSummary(NamedTuple):
    """A metric over the runs of one method, and why something is None."""

    num_runs: int
    mean: Optional[float]
    sd: Optional[float]
    interval: Optional[Interval]
    reason: Optional[str] = None


class SeedDifference(NamedTuple):
    """Mean of method a minus mean of method b, and why something is None.

    ``detectable`` is the smallest difference that the test could find, see ``paired``.
    """

    difference: Optional[float] = None
    interval: Optional[Interval] = None
    p_value: Optional[float] = None
    degrees_of_freedom: Optional[float] = None
    reason: Optional[str] = None
    detectable: Optional[float] = None


def _item_variance(groups: Sequence[np.ndarray], num_units: int) -> float:
    """Variance that the items give the sum of the groups' means.

    Args:
        groups: Each group's runs in the same resamples (n_g, R), finite.
        num_units: Number of units that were drawn from.
    """
    means = [samples.mean(0) for samples in groups]
    variance = np.var(sum(means), ddof=1)
    for samples, mean in zip(groups, means):
        if len(samples) > 1:
            # what a run alone varies with the items is in the runs' variance
            alone = samples.var(1, ddof=1).mean() - mean.var(ddof=1)
            variance -= alone / (len(samples) - 1)
    # A draw of n of n has (n - 1) / n of the variance.
    return max(0.0, float(variance)) * num_units / (num_units - 1)


def _test_sum(
    groups: Sequence[np.ndarray], num_units: Units, confidence: float
) -> SeedDifference:
    """t test of the sum of the groups' means; groups (n_g, 1 + R) as ``_runs``."""
    values = [group[:, 0] for group in groups]
    if not all(len(v) for v in values):
        return SeedDifference(reason="there are no runs")
    missing = np.count_nonzero(~np.isfinite(np.concatenate(values)))
    if missing:
        # those that have a value are not a fair sample
        return SeedDifference(reason=f"{missing} runs have no value")
    estimate = float(sum(v.mean() for v in values))
    parts = [(v.var(ddof=1) / len(v), len(v) - 1) for v in values if len(v) > 1]
    reason = None
    if num_units is None:
        if len(parts) < len(values):
            reason = "1 run, at least 2 needed"
    else:
        units = [num_units] if isinstance(num_units, int) else list(num_units)
        # Each set of items loses one of its own for its mean.
        free = sum(units) - len(units) + 1
        reason = too_few(free if min(units) > 1 else min(units))
        drawn = [np.array_split(group[:, 1:], len(units), 1) for group in groups]
        for number, samples in zip(units, zip(*drawn)):
            if reason is None:
                defined = np.isfinite(np.concatenate(samples)).all(0)
                if 2 * np.count_nonzero(defined) < len(defined):
                    reason = UNDEFINED_RESAMPLES
                    continue
                samples = [group[:, defined] for group in samples]
                parts.append((_item_variance(samples, number), number - 1))
    variance = float(sum(part for part, _ in parts))
    # differences of equal runs leave the rounding of their sums
    rounding = 1e-24 * max(np.abs(v).max() for v in values) ** 2
    if reason is None and variance <= rounding:
        reason = "neither runs nor resamples differ"
    if reason is not None:
        return SeedDifference(estimate, reason=reason)
    freedom = float(variance**2 / sum(part**2 / f for part, f in parts))
    scale = variance**0.5
    low, high = scipy.stats.t.interval(confidence, freedom, estimate, scale)
    p_value = float(2 * scipy.stats.t.sf(abs(estimate) / scale, freedom))
    interval = Interval(float(low), float(high))
    detectable = smallest_detectable(scale, freedom)
    return SeedDifference(estimate, interval, p_value, freedom, None, detectable)


def _runs(values: Sequence) -> np.ndarray:
    """Runs (n,) or (n, 1 + R) -> (n, 1 + R), with NaN for None."""
    runs = np.array(values, dtype=np.float64)
    return runs[:, None] if runs.ndim == 1 else runs


def summarise_seeds(
    values: Sequence, confidence: float = 0.95, num_units: Units = None
) -> SeedSummary:
    """Summarise a metric over the runs of one method.

    Args:
        values: The metric of each run (n,), None where it is undefined; for the crossed
            analysis (n, 1 + R), followed by the same in each resample of the items.
        confidence: Coverage of the interval.
        num_units: Number of units that the resamples drew from; None: runs alone. With
            several, an equal number of the resamples is of each set of items, the
            others being as they are: the variances of independent sets add up.

    Returns:
        The summary. With one run there is a mean alone, or an interval about the items
        alone; with a run that has no value there is nothing.

    >>> summarise_seeds([0.5, 0.75, 1.0]).mean
    0.75
    """
    runs = _runs(values)
    found = _test_sum([runs], num_units, confidence)
    sd = None
    if found.difference is not None and len(runs) > 1:
        sd = float(runs[:, 0].std(ddof=1))
    return SeedSummary(len(runs), found.difference, sd, found.interval, found.reason)


def seed_difference(
    values_a: Sequence,
    values_b: Sequence,
    paired: bool,
    confidence: float = 0.95,
    num_units: Units = None,
) -> SeedDifference:
    """Compare two methods over their runs.

    Args:
        values_a, values_b, num_units: See ``summarise_seeds``; of the same resamples.
        paired: Whether the i-th runs belong together: one seed with the same
            initialisation and order of the data. Then the test is of the differences
            run by run, else each method has a variance of its own.
        confidence: Coverage of the interval.

    Returns:
        The difference of the means; interval and p-value are None, with a reason, where
        nothing varies or too little is known.

    Raises:
        ValueError: Paired runs of different number.
    """
    if paired and len(values_a) != len(values_b):
        raise ValueError(
            f"{len(values_a)} runs of a and {len(values_b)} of b, expected equally "
            "many where they are paired."
        )
    a, b = _runs(values_a), _runs(values_b)
    return _test_sum([a - b] if paired else [a, -b], num_units, confidence)


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

    The analysis is crossed. All comparisons of one metric at one level are one family
    for Holm's method.

    Args:
        predictions: Predictions (n,), finite, by method and by run (its seed). Two
            methods whose runs have the same names are compared run by run.
        true: Labels (n,), finite.
        systems, clusters, num_resamples, seed, resample: See ``Resampler``.
        metrics: Names from ``metrics.ALL_METRICS``.
        baseline: Compare the others with this method; None for no comparison.
        confidence: Coverage of the intervals, not adjusted for their number.

    Returns:
        Two lists of JSON-ready dicts. For each metric (``utt_mos_srcc``, …) and method:
        ``metric``, ``method``, ``runs`` (values by run), ``num_runs``, ``mean``,
        ``sd``, ``interval`` and ``reason``. For each metric and other method:
        ``metric``, ``method``, ``baseline``, ``difference`` (method minus baseline),
        ``interval``, ``p_value``, ``p_holm``, ``degrees_of_freedom``, ``detectable``,
        ``paired``, ``better`` (None where equal) and ``reason``.

    Raises:
        ValueError: The baseline or a metric is unknown, a method has no run, a value is
            not finite, or see ``Resampler``.
    """
    resampler = Resampler(len(true), systems, clusters, resample, num_resamples, seed)
    values = resample_runs(predictions, true, resampler, metrics)
    return compare_values(values, baseline, confidence, resampler.num_units)


def resample_runs(
    predictions: Mapping[str, Mapping[str, Sequence[float]]],
    true: Sequence[float],
    resampler: Resampler,
    metrics: Sequence[str] = tuple(METRICS),
) -> Dict[str, Dict[str, Dict[str, np.ndarray]]]:
    """Metrics of runs as they are and in every resample, (1 + R,).

    For ``compare_values``; see ``compare_methods`` for the arguments.
    """

    every = {
        (m, r): pred for m, runs in predictions.items() for r, pred in runs.items()
    }
    samples = resampler.of_models(every, true, metrics)
    values: Dict[str, Dict[str, Dict[str, np.ndarray]]] = {m: {} for m in predictions}
    for (method, run), found in samples.items():
        result = evaluate(every[method, run], true, resampler.systems, metrics)
        values[method][run] = {
            key: np.array([result[key], *drawn], np.float64)
            for key, drawn in found.items()
        }
    return values


def combine_sets(
    sets: Sequence[np.ndarray], weights: Sequence[float], items: Sequence[int]
) -> np.ndarray:
    """Weighted sum of one run's metric over several test sets.

    Args:
        sets: The metric on each test set, (1 + R,) as of ``resample_runs``.
        weights: Of each test set.
        items: Number of the items that each test set has, 0 to I - 1: sets of the same
            items were resampled together.

    Returns:
        The sum, then R resamples of the items 0 with the others as they are, R of the
        items 1 and so on, (1 + I R,): ``num_units`` are those of the items in order.
    """
    estimate = sum(w * values[0] for w, values in zip(weights, sets))
    parts = [np.array([estimate])]
    for item in range(max(items) + 1):
        change = sum(
            w * (values[1:] - values[0])
            for w, values, own in zip(weights, sets, items)
            if own == item
        )
        parts.append(estimate + change)
    return np.concatenate(parts)


def compare_values(
    values: Mapping[str, Mapping[str, Mapping[str, Any]]],
    baseline: Optional[str] = None,
    confidence: float = 0.95,
    num_units: Units = None,
) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """``compare_methods`` from the metrics of the runs.

    Args:
        values: By method, run and metric, such as ``utt_mos_srcc``; see
            ``summarise_seeds``.
        baseline, confidence: See ``compare_methods``.
        num_units: See ``summarise_seeds``.

    Returns:
        As ``compare_methods``.

    Raises:
        ValueError: The baseline is unknown or a method has no run.
    """
    if baseline is not None and baseline not in values:
        raise ValueError(
            f"the baseline {baseline} is none of the methods {', '.join(values)}."
        )
    for method, runs in values.items():
        if not runs:
            raise ValueError(f"{method} has no run.")
    summaries: List[Dict[str, Any]] = []
    comparisons: List[Dict[str, Any]] = []
    for key in next(iter(next(iter(values.values())).values())):
        name = key.split("_", 2)[2]
        family = []
        for method, by_run in values.items():
            runs = _runs([of_run[key] for of_run in by_run.values()])
            summary = summarise_seeds(runs, confidence, num_units)
            if summary.interval is not None:
                # A t interval knows no bounds of a correlation.
                ends = np.clip(summary.interval, *METRIC_RANGE[name]).tolist()
                summary = summary._replace(interval=Interval(*ends))
            row = {"metric": key, "method": method}
            numbers = [None if np.isnan(v) else float(v) for v in runs[:, 0]]
            summaries.append(
                {**row, "runs": dict(zip(by_run, numbers)), **summary._asdict()}
            )
            if baseline is None or method == baseline:
                continue
            others = values[baseline]
            paired = set(by_run) == set(others)
            others = [others[run][key] for run in (by_run if paired else others)]
            found = seed_difference(runs, others, paired, confidence, num_units)
            row.update(baseline=baseline, **found._asdict(), paired=paired)
            row["better"] = better_of(name, found.difference, method, baseline)
            family.append(row)
        for row, p in zip(family, holm([row["p_value"] for row in family])):
            row["p_holm"] = p
        comparisons += family
    return summaries, comparisons
