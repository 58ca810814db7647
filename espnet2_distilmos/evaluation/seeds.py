# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What several training runs that differ in their seed say about a method.

A test set's bootstrap interval is about one trained model; whether a method is better
than another is a question about its runs, mostly three to ten. There are two analyses:

- over the runs alone, with the items as they are: t intervals (Student, Biometrika 6,
  1908), of two methods paired or Welch's (Biometrika 34, 1947);
- crossed, for other runs and other items: the mean over n runs varies with the runs and
  with the items, which all runs share. Its variance is s^2 / n + c, where s is the
  deviation of the runs on these items and c the covariance of two runs over resamples
  of the items. This is the model of Obuchowski & Rockette for readers and cases
  (Commun. Stat. Simul. Comput. 24, 1995) with c from the bootstrap; the t interval has
  the degrees of freedom of Satterthwaite as in Hillis (Stat. Med. 26, 2007), who takes
  the items' part for known, and here with u - 1 for the u units that are drawn: they
  may be six talkers. A method of a single run, such as one without chance in its
  training, is taken as it is.

Simulated (SRCC, two methods equally good, 300 samples, 300 resamples), the crossed test
rejected at 0.05 in 2 to 4 % (3 and 5 runs, 60 items), 2 to 6 % (5 and 10 runs, 400
items) and 8 to 11 % of the samples (3 runs, 400 items), where a bootstrap that draws
runs and items did in 1 to 4, 1 to 12 and 5 to 21 %, and the test over the runs alone in
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
)

import numpy as np
import scipy

from espnet2_distilmos.evaluation.bootstrap import Interval, Resampler
from espnet2_distilmos.evaluation.metrics import METRIC_RANGE, METRICS, evaluate
from espnet2_distilmos.evaluation.paired import better_of, holm


class SeedSummary(NamedTuple):
    """A metric over the runs of one method, and why something is None."""

    num_runs: int
    mean: Optional[float]
    sd: Optional[float]
    interval: Optional[Interval]
    reason: Optional[str] = None


class SeedDifference(NamedTuple):
    """Mean of method a minus mean of method b, and why something is None."""

    difference: Optional[float] = None
    interval: Optional[Interval] = None
    p_value: Optional[float] = None
    degrees_of_freedom: Optional[float] = None
    reason: Optional[str] = None


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
    groups: Sequence[np.ndarray], num_units: Optional[int], confidence: float
) -> SeedDifference:
    """t test of the sum of the groups' means.

    Args:
        groups: Each group's runs (n_g, 1 + R): the metric of the items as they are,
            then of each resample.
        num_units: Number of units that the resamples drew from; None: runs alone.
    """
    runs = [group[:, 0] for group in groups]
    if not all(len(values) for values in runs):
        return SeedDifference(reason="there are no runs")
    missing = np.count_nonzero(~np.isfinite(np.concatenate(runs)))
    if missing:
        # those that have a value are not a fair sample
        return SeedDifference(reason=f"{missing} runs have no value")
    estimate = float(sum(values.mean() for values in runs))
    parts = [(v.var(ddof=1) / len(v), len(v) - 1) for v in runs if len(v) > 1]
    if num_units is None:
        if len(parts) < len(runs):
            return SeedDifference(estimate, reason="1 run, at least 2 needed")
    elif num_units < 2:
        return SeedDifference(estimate, reason="fewer than 2 units to draw")
    else:
        defined = np.isfinite(np.concatenate(groups)).all(0)
        defined[0] = False
        if 2 * np.count_nonzero(defined) < len(defined) - 1:
            reason = "undefined in more than half of the resamples"
            return SeedDifference(estimate, reason=reason)
        drawn = [group[:, defined] for group in groups]
        parts.append((_item_variance(drawn, num_units), num_units - 1))
    variance = float(sum(part for part, _ in parts))
    # differences of equal runs leave the rounding of their sums
    if variance <= 1e-24 * max(np.abs(values).max() for values in runs) ** 2:
        return SeedDifference(estimate, reason="neither runs nor resamples differ")
    freedom = float(variance**2 / sum(part**2 / f for part, f in parts))
    scale = variance**0.5
    low, high = scipy.stats.t.interval(confidence, freedom, estimate, scale)
    p_value = float(2 * scipy.stats.t.sf(abs(estimate) / scale, freedom))
    return SeedDifference(estimate, Interval(float(low), float(high)), p_value, freedom)


def _with_samples(
    values: Sequence[Optional[float]], samples: Optional[np.ndarray]
) -> np.ndarray:
    """Values (n,) and their resamples (n, R) or None -> (n, 1 + R), NaN for None."""
    column = np.array(values, dtype=np.float64).reshape(-1, 1)
    return column if samples is None else np.hstack([column, samples])


def summarise_seeds(
    values: Sequence[Optional[float]],
    confidence: float = 0.95,
    samples: Optional[np.ndarray] = None,
    num_units: Optional[int] = None,
) -> SeedSummary:
    """Summarise a metric over the runs of one method.

    Args:
        values: The metric of each run (n,), None where it is undefined.
        confidence: Coverage of the interval.
        samples: The metric of each run in each resample of the items (n, R), for the
            crossed analysis; None: over the runs alone.
        num_units: Number of units that the resamples drew from.

    Returns:
        The summary. With one run there is a mean alone, or an interval about the items
        alone; with a run that has no value there is nothing.

    >>> summarise_seeds([0.5, 0.75, 1.0]).mean
    0.75
    """
    group = _with_samples(values, samples)
    found = _test_sum([group], num_units, confidence)
    sd = None
    if found.difference is not None and len(group) > 1:
        sd = float(group[:, 0].std(ddof=1))
    return SeedSummary(len(group), found.difference, sd, found.interval, found.reason)


def seed_difference(
    values_a: Sequence[Optional[float]],
    values_b: Sequence[Optional[float]],
    paired: bool,
    confidence: float = 0.95,
    samples_a: Optional[np.ndarray] = None,
    samples_b: Optional[np.ndarray] = None,
    num_units: Optional[int] = None,
) -> SeedDifference:
    """Compare two methods over their runs.

    Args:
        values_a: The metric of each run of method a (n_a,).
        values_b: The metric of each run of method b (n_b,).
        paired: Whether the i-th runs belong together: one seed with the same
            initialisation and order of the data. Then the test is of the differences
            run by run, else each method has a variance of its own.
        confidence: Coverage of the interval.
        samples_a, samples_b, num_units: As of ``summarise_seeds``, of the same
            resamples.

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
    a, b = _with_samples(values_a, samples_a), _with_samples(values_b, samples_b)
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
        systems, clusters, num_resamples, seed, resample: As of ``Resampler``.
        metrics: Names from ``metrics.ALL_METRICS``.
        baseline: Compare the others with this method; None for no comparison.
        confidence: Coverage of the intervals, not adjusted for their number.

    Returns:
        Two lists of JSON-ready dicts. For each metric (``utt_mos_srcc``, …) and method:
        ``metric``, ``method``, ``runs`` (values by run), ``num_runs``, ``mean``,
        ``sd``, ``interval`` and ``reason``. For each metric and other method:
        ``metric``, ``method``, ``baseline``, ``difference`` (method minus baseline),
        ``interval``, ``p_value``, ``p_holm``, ``degrees_of_freedom``, ``paired``,
        ``better`` (None where equal) and ``reason``.

    Raises:
        ValueError: The baseline or a metric is unknown, a method has no run, a value is
            not finite, or as of ``Resampler``.
    """
    resampler = Resampler(len(true), systems, clusters, resample, num_resamples, seed)
    values: Dict[str, Dict[str, Dict[str, Optional[float]]]] = {}
    samples: Dict[str, Dict[str, Dict[str, np.ndarray]]] = {}
    for method, runs in predictions.items():
        values[method], samples[method] = {}, {}
        for run, pred in runs.items():
            result = evaluate(pred, true, resampler.systems, metrics)
            drawn = resampler(pred, true, metrics)
            values[method][run] = {key: result[key] for key in drawn}
            samples[method][run] = drawn
    return compare_values(values, baseline, confidence, samples, resampler.num_units)


def compare_values(
    values: Mapping[str, Mapping[str, Mapping[str, Optional[float]]]],
    baseline: Optional[str] = None,
    confidence: float = 0.95,
    samples: Optional[Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]] = None,
    num_units: Optional[int] = None,
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

    def select(method: str, names: Sequence[str], key: str):
        drawn = None
        if samples is not None:
            drawn = np.stack([samples[method][run][key] for run in names])
        return [values[method][run][key] for run in names], drawn

    summaries: List[Dict[str, Any]] = []
    comparisons: List[Dict[str, Any]] = []
    first = next(iter(next(iter(values.values())).values()))
    for key in first:
        name = key.split("_", 2)[2]
        family = []
        for method, runs in values.items():
            of_runs, drawn = select(method, list(runs), key)
            summary = summarise_seeds(of_runs, confidence, drawn, num_units)
            if summary.interval is not None:
                # A t interval knows no bounds of a correlation.
                ends = np.clip(summary.interval, *METRIC_RANGE[name]).tolist()
                summary = summary._replace(interval=Interval(*ends))
            of_method = {"metric": key, "method": method}
            summaries.append(
                {
                    **of_method,
                    "runs": dict(zip(runs, of_runs)),
                    **summary._asdict(),
                }
            )
            if baseline is None or method == baseline:
                continue
            paired = set(runs) == set(values[baseline])
            names = list(runs if paired else values[baseline])
            others, others_drawn = select(baseline, names, key)
            found = seed_difference(
                of_runs, others, paired, confidence, drawn, others_drawn, num_units
            )
            family.append(
                {
                    **of_method,
                    "baseline": baseline,
                    **found._asdict(),
                    "paired": paired,
                    "better": better_of(name, found.difference, method, baseline),
                }
            )
        for row, p in zip(family, holm([row["p_value"] for row in family])):
            row["p_holm"] = p
        comparisons += family
    return summaries, comparisons
