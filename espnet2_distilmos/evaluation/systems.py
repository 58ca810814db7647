# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Systems: means, intervals, ranks, and which pairs differ significantly."""

from typing import Dict, Hashable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import scipy

from espnet2_distilmos.evaluation.bootstrap import (
    MINIMUM_UNITS,
    Interval,
    number_values,
    too_few,
)
from espnet2_distilmos.evaluation.metrics import SYSTEM_DECIMALS, Metric, as_pair, srcc
from espnet2_distilmos.evaluation.paired import holm


class MeanInterval(NamedTuple):
    """A mean with its t interval, or without it and the reason why."""

    mean: float
    interval: Optional[Interval]
    reason: Optional[str] = None


def mean_interval(
    values: Sequence[float],
    clusters: Optional[Sequence[Hashable]] = None,
    confidence: float = 0.95,
) -> MeanInterval:
    """Interval of a mean, of independent or clustered values.

    mean -+ t_{C-1} sqrt( C / (C - 1) sum_c (sum_{i in c} (x_i - mean))^2 / n^2 ), the
    linearised variance of a mean over C clusters of any size (Cochran, Sampling
    Techniques, 3rd edition, 1977, chapter 9A). For clusters of one value it is
    Student's interval, mean -+ t_{n-1} s / sqrt(n).

    Args:
        values: Values (n,), finite, at least one.
        clusters: Cluster of each value (n,); None: each is its own.
        confidence: Coverage of the interval.

    Returns:
        Mean and interval; no interval below ``bootstrap.MINIMUM_UNITS`` clusters.
    """
    x = np.asarray(values, dtype=np.float64)
    mean = float(x.mean())
    index = number_values(range(len(x)) if clusters is None else clusters)
    sums = np.bincount(index, weights=x - mean)
    if reason := too_few(len(sums), "clips" if clusters is None else "clusters"):
        return MeanInterval(mean, None, reason)
    error = (len(sums) / (len(sums) - 1) * (sums @ sums)) ** 0.5 / len(x)
    half = float(scipy.stats.t.isf((1 - confidence) / 2, len(sums) - 1) * error)
    return MeanInterval(mean, Interval(mean - half, mean + half))


class SystemRow(NamedTuple):
    """One system: its mean label and prediction, and its ranks by both, 1 the best.

    Equal systems share the mean rank. ``rank_difference`` is ``pred_rank`` -
    ``label_rank``: positive where the model puts the system too low.
    """

    system: str
    num_clips: int
    label: MeanInterval
    pred: MeanInterval
    label_rank: float
    pred_rank: float
    rank_difference: float


def system_table(
    pred: Sequence[float],
    true: Sequence[float],
    systems: Sequence[Optional[str]],
    clusters: Optional[Sequence[Hashable]] = None,
    confidence: float = 0.95,
) -> List[SystemRow]:
    """Rank the systems of a test set by their labels and by their predictions.

    Args:
        pred: Predictions (n,), finite.
        true: Labels (n,), finite.
        systems: System of each utterance (n,), None leaves the utterance out.
        clusters: Cluster of each utterance (n,), such as its source; None: its own.
        confidence: Coverage of the intervals, which are about other clips of the same
            system, see ``mean_interval``.

    Returns:
        A row for each system, the best label first; empty without systems.

    Raises:
        ValueError: The lengths differ or a value is not finite.
    """
    pred, true = as_pair(pred, true, finite=True)
    for name, values in (("systems", systems), ("clusters", clusters)):
        if values is not None and len(values) != len(pred):
            raise ValueError(f"{len(values)} {name} for {len(pred)} predictions.")
    items: Dict[str, List[int]] = {}
    for i, system in enumerate(systems):
        if system is not None:
            items.setdefault(system, []).append(i)
    means, ranks = [], []
    for values in (true, pred):
        of_systems = []
        for index in items.values():
            inner = None if clusters is None else [clusters[i] for i in index]
            of_systems.append(mean_interval(values[index], inner, confidence))
        means.append(of_systems)
        rounded = np.round([m.mean for m in of_systems], SYSTEM_DECIMALS)
        ranks.append(scipy.stats.rankdata(-rounded).tolist())
    rows = [
        SystemRow(system, len(index), label, predicted, *rank, rank[1] - rank[0])
        for (system, index), label, predicted, *rank in zip(
            items.items(), *means, *ranks
        )
    ]
    return sorted(rows, key=lambda row: (row.label_rank, row.pred_rank, row.system))


class SystemPair(NamedTuple):
    """Two systems whose ratings differ significantly, the better one first."""

    better: str
    worse: str
    p_value: float


def significant_pairs(
    ratings: Mapping[str, Sequence[float]], alpha: float = 0.05
) -> Tuple[List[SystemPair], int]:
    """Find the pairs of systems whose ratings differ significantly.

    Welch's t test (Biometrika 34, 1947) of the mean ratings with Holm's correction for
    the number of pairs. It takes ratings for independent; single votes of few
    listeners, who are more or less strict, are less than that. ``ratings`` are those of
    each system, finite: votes, or means of its utterances.

    Returns:
        The significant pairs, and the number of pairs that were tested: those of two
        systems with at least 2 ratings each and ``bootstrap.MINIMUM_UNITS`` together.

    Raises:
        ValueError: A rating is not finite.
    """
    names, stats = [], []
    for system, values in ratings.items():
        x = np.asarray(values, dtype=np.float64)
        if not np.isfinite(x).all():
            raise ValueError(f"the ratings of {system} contain NaN or infinity.")
        if len(x) >= 2:
            # what rounding leaves of equal ratings is not variance
            sd = x.std(ddof=1) if x.min() < x.max() else 0.0
            names.append(system)
            stats.append((np.round(x.mean(), SYSTEM_DECIMALS), sd, len(x)))
    if len(names) < 2:
        return [], 0
    first, second = np.triu_indices(len(names), 1)
    mean, sd, count = np.array(stats).T
    enough = count[first] + count[second] >= MINIMUM_UNITS
    first, second = first[enough], second[enough]
    with np.errstate(invalid="ignore", divide="ignore"):
        p_values = scipy.stats.ttest_ind_from_stats(
            *(mean[first], sd[first], count[first]),
            *(mean[second], sd[second], count[second]),
            equal_var=False,
        ).pvalue
    # 0 / 0: two systems with one and the same rating throughout
    p_values[np.isnan(p_values)] = 1.0
    pairs = []
    for i, j, p in zip(first, second, holm(p_values.tolist())):
        if p <= alpha and mean[i] != mean[j]:
            better, worse = (i, j) if mean[i] > mean[j] else (j, i)
            pairs.append(SystemPair(names[better], names[worse], p))
    return pairs, len(first)


def significant_pair_accuracy(
    sys_pred: Mapping[str, float],
    ratings: Mapping[str, Sequence[float]],
    alpha: float = 0.05,
) -> Tuple[Metric, int, int]:
    """Share of the significantly different pairs that the model orders right.

    As ``metrics.pair_accuracy`` over systems, without the pairs whose order the
    listening test leaves open: there, agreeing with the labels is luck. Equal
    predictions count one half. (Mathur, Baldwin & Cohn, ACL 2020, and Kocmi et al.,
    WMT 2021, evaluate metrics of machine translation so.)

    Args:
        sys_pred: Mean prediction of each system, finite.
        ratings, alpha: See ``significant_pairs``; systems without a prediction are
            left out.

    Returns:
        The accuracy in [0, 1], undefined where no pair is significant; the number of
        significant pairs; the number of tested pairs.

    Raises:
        ValueError: A rating is not finite.

    >>> ratings = {"a": [4, 5, 4, 5], "b": [1, 2, 1, 2]}
    >>> significant_pair_accuracy({"a": 3.5, "b": 3.0}, ratings)[0].value
    1.0
    """
    known = {s: r for s, r in ratings.items() if s in sys_pred}
    pairs, num_tested = significant_pairs(known, alpha)
    if num_tested == 0:
        reason = (
            "no two systems have predictions and 2 ratings each, "
            f"{MINIMUM_UNITS} together"
        )
        return Metric(None, reason), 0, 0
    if not pairs:
        reason = f"none of {num_tested} pairs of systems differs significantly"
        return Metric(None, reason), 0, num_tested
    difference = np.array([sys_pred[p.better] - sys_pred[p.worse] for p in pairs])
    # means of equal scores may differ in the last bit
    right = (1 + np.sign(np.round(difference, SYSTEM_DECIMALS))) / 2
    return Metric(float(right.mean())), len(pairs), num_tested


def reliability(
    votes: Sequence[Sequence[Tuple[Hashable, float]]],
    groups: Optional[Sequence[Hashable]] = None,
    num_splits: int = 100,
    seed: int = 0,
) -> Metric:
    """Reliability of the means of votes, by halves of the listeners.

    The listeners are split at random, the means of both halves are correlated (SRCC)
    over the clips that both rated, and the correlation r, averaged over the splits, is
    that of half of the votes: with all of them it is 2 r / (1 + r) (Spearman, Brown;
    Br. J. Psychol. 3, 1910). A model that knew the true means could have a correlation
    of the square root of that with the labels, which is their ceiling.

    Args:
        votes: Listener and score of the votes of each clip (n,).
        groups: System of each clip, whose means are correlated instead; or None.
        num_splits, seed: Of the splits.

    Returns:
        At most 1; undefined where the halves have no positive correlation, or none.
    """
    clips = [i for i, of_clip in enumerate(votes) for _ in of_clip]
    item = number_values([i if groups is None else groups[i] for i in clips])
    listener = number_values([who for of_clip in votes for who, _ in of_clip])
    score = np.array([value for of_clip in votes for _, value in of_clip], np.float64)
    if not len(score) or listener.max() < 1:
        return Metric(None, "there are no votes of two listeners")
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(num_splits):
        half = generator.permutation(listener.max() + 1)[listener] % 2
        means = np.full((2, item.max() + 1), np.nan)
        for k in (0, 1):
            number = np.bincount(item[half == k], minlength=means.shape[1])
            sums = np.bincount(item[half == k], score[half == k], means.shape[1])
            means[k, number > 0] = sums[number > 0] / number[number > 0]
        found.append(srcc(*means[:, np.isfinite(means).all(0)]).value)
    if None in found:
        return Metric(None, "some halves of the votes have no correlation")
    r = float(np.mean(found))
    if r <= 0:
        return Metric(None, f"halves of the votes have the correlation {r:.2f}")
    return Metric(2 * r / (1 + r))
