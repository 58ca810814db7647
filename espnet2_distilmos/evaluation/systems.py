# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Systems: their means, intervals and ranks, and which of them listeners tell apart."""

from typing import Dict, Hashable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.evaluation.bootstrap import Interval
from espnet2_distilmos.evaluation.metrics import (
    SYSTEM_DECIMALS,
    Metric,
    average_ranks,
)
from espnet2_distilmos.evaluation.paired import holm

# Values of one temporary array: systems x different ratings x rows
_VALUES_AT_ONCE = 1 << 22


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
    Techniques, 3rd edition, 1977, chapter 9A). For clusters
    of one value it is Student's interval, mean -+ t_{n-1} s / sqrt(n).

    Args:
        values: Values (n,), finite, at least one.
        clusters: Cluster of each value (n,); None: each is its own.
        confidence: Coverage of the interval.

    Returns:
        Mean and interval; no interval with one cluster.

    Raises:
        ValueError: There are no values, one is not finite, or the lengths differ.
    """
    from scipy.stats import t as student

    x = np.asarray(values, dtype=np.float64)
    if len(x) == 0 or not np.isfinite(x).all():
        raise ValueError("a mean needs values, all of them finite.")
    if clusters is None:
        index = np.arange(len(x))
    else:
        if len(clusters) != len(x):
            raise ValueError(f"{len(clusters)} clusters for {len(x)} values.")
        number = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
        index = np.array([number[c] for c in clusters])
    mean = float(x.mean())
    num_clusters = int(index.max()) + 1
    if num_clusters < 2:
        what = "clip" if clusters is None or len(x) == 1 else "cluster"
        return MeanInterval(mean, None, f"1 {what}, at least 2 needed")
    sums = np.bincount(index, weights=x - mean)
    variance = num_clusters / (num_clusters - 1) * float(sums @ sums) / len(x) ** 2
    half = float(student.isf((1 - confidence) / 2, num_clusters - 1)) * variance**0.5
    return MeanInterval(mean, Interval(mean - half, mean + half))


class SystemRow(NamedTuple):
    """One system of a listening test.

    Attributes:
        system: Its name.
        num_clips: Number of its clips.
        label: Mean label with its interval.
        pred: Mean prediction with its interval.
        label_rank: Rank by label, 1 is the best; equal systems share the mean rank.
        pred_rank: Rank by prediction.
        rank_difference: ``pred_rank`` - ``label_rank``: positive where the model puts
            the system too low.
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

    The intervals are about other clips of the same system: they hold the chance of the
    clips (and of the listeners as far as clips had different ones), see
    ``mean_interval``.

    Args:
        pred: Predictions (n,), finite.
        true: Labels (n,), finite.
        systems: System of each utterance (n,), None leaves the utterance out.
        clusters: Cluster of each utterance (n,), such as its source; None: its own.
        confidence: Coverage of the intervals.

    Returns:
        A row for each system, the best label first; empty without systems.

    Raises:
        ValueError: The lengths differ or a value is not finite.
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
    items: Dict[str, List[int]] = {}
    for i, system in enumerate(systems):
        if system is not None:
            items.setdefault(system, []).append(i)
    if not items:
        return []
    columns = []
    for values in (true, pred):
        means = [
            mean_interval(
                values[index],
                None if clusters is None else [clusters[i] for i in index],
                confidence,
            )
            for index in items.values()
        ]
        rounded = np.round([m.mean for m in means], SYSTEM_DECIMALS)
        columns.append((means, average_ranks(-rounded)))
    (label, label_rank), (prediction, pred_rank) = columns
    rows = [
        SystemRow(
            system,
            len(items[system]),
            label[i],
            prediction[i],
            float(label_rank[i]),
            float(pred_rank[i]),
            float(pred_rank[i] - label_rank[i]),
        )
        for i, system in enumerate(items)
    ]
    return sorted(rows, key=lambda row: (row.label_rank, row.pred_rank, row.system))


def _welch_p_values(
    ratings: List[np.ndarray], first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """p-values (P,) of Welch's t test of the pairs of systems first, second (P,)."""
    from scipy.stats import t as student

    count = np.array([len(r) for r in ratings], dtype=np.float64)
    mean = np.array([r.mean() for r in ratings])
    variance = np.array([r.var(ddof=1) for r in ratings])
    # what rounding leaves of equal ratings is not variance
    variance[[r.min() == r.max() for r in ratings]] = 0.0
    error = variance / count
    both = error[first] + error[second]
    difference = np.abs(mean[first] - mean[second])
    with np.errstate(invalid="ignore", divide="ignore"):
        below = error[first] ** 2 / (count[first] - 1)
        below += error[second] ** 2 / (count[second] - 1)
        p = 2 * student.sf(difference / np.sqrt(both), both**2 / below)
    # two systems that every listener rated alike: equal, or surely different
    return np.where(both > 0, p, np.where(difference > 1e-12, 0.0, 1.0))


def _mann_whitney_p_values(
    ratings: List[np.ndarray], first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """p-values (P,) of the Mann-Whitney test of pairs of systems, normal with ties.

    With c(v) ratings of value v in a system, U = sum_v c_1(v) (sum_{w<v} c_2(w) +
    c_2(v) / 2), all pairs at once by matrix products.
    """
    from scipy.stats import norm

    values, index = np.unique(np.concatenate(ratings), return_inverse=True)
    size = np.array([len(r) for r in ratings])
    system = np.repeat(np.arange(len(ratings)), size)
    counts = np.zeros((len(ratings), len(values)))
    np.add.at(counts, (system, index), 1.0)
    below = np.cumsum(counts, axis=1) - counts / 2
    u = (counts @ below.T)[first, second]
    ties = np.empty(len(first))
    step = max(1, _VALUES_AT_ONCE // len(values))
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        tied = counts[first[part]] + counts[second[part]]
        ties[part] = (tied**3 - tied).sum(1)
    n1, n2 = size[first].astype(np.float64), size[second].astype(np.float64)
    n = n1 + n2
    sd = np.sqrt(n1 * n2 / 12 * ((n + 1) - ties / (n * (n - 1))))
    # half a step of continuity, as ranks are whole numbers
    distance = np.maximum(np.abs(u - n1 * n2 / 2) - 0.5, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * norm.sf(distance / sd)
    return np.where(sd > 0, np.minimum(p, 1.0), 1.0)


SYSTEM_TESTS = {"welch": _welch_p_values, "mann_whitney": _mann_whitney_p_values}


class SystemPair(NamedTuple):
    """Two systems that listeners rate differently, the better one first."""

    better: str
    worse: str
    p_value: float


def significant_pairs(
    ratings: Mapping[str, Sequence[float]],
    test: str = "welch",
    alpha: float = 0.05,
    correction: Optional[str] = "holm",
) -> Tuple[List[SystemPair], int]:
    """Find the pairs of systems whose ratings differ significantly.

    Welch's t test (Biometrika 34, 1947) of the mean ratings, or the Mann-Whitney test
    (Ann. Math. Stat. 18, 1947) with the normal approximation, corrected for ties and
    continuity. Both take ratings for independent; single votes of few listeners, who
    are more or less strict, are less than that.

    Args:
        ratings: Ratings of each system, finite: votes, or means of its utterances.
        test: A key of ``SYSTEM_TESTS``.
        alpha: Significance level.
        correction: ``holm`` adjusts the p-values for the number of pairs; None tests
            each pair at alpha, as the listening tests' own reports mostly do not.

    Returns:
        The significant pairs, and the number of pairs that were tested: those of two
        systems with at least 2 ratings each.

    Raises:
        ValueError: The test or the correction is unknown or a rating is not finite.
    """
    if test not in SYSTEM_TESTS:
        raise ValueError(
            f"the test is {test}, expected one of {', '.join(SYSTEM_TESTS)}."
        )
    if correction not in ("holm", None):
        raise ValueError(f"the correction is {correction}, expected holm or None.")
    arrays = {s: np.asarray(r, dtype=np.float64) for s, r in ratings.items()}
    for system, values in arrays.items():
        if not np.isfinite(values).all():
            raise ValueError(f"the ratings of {system} contain NaN or infinity.")
    names = [system for system, values in arrays.items() if len(values) >= 2]
    if len(names) < 2:
        return [], 0
    first, second = np.triu_indices(len(names), 1)
    p_values = SYSTEM_TESTS[test]([arrays[s] for s in names], first, second).tolist()
    if correction == "holm":
        p_values = holm(p_values)
    mean = np.array([arrays[s].mean() for s in names])
    pairs = []
    for i, j, p in zip(first, second, p_values):
        # ranks may differ where means do not; such a pair has no better system
        if p <= alpha and mean[i] != mean[j]:
            better, worse = (i, j) if mean[i] > mean[j] else (j, i)
            pairs.append(SystemPair(names[better], names[worse], float(p)))
    return pairs, len(first)


def significant_pair_accuracy(
    sys_pred: Mapping[str, float],
    ratings: Mapping[str, Sequence[float]],
    test: str = "welch",
    alpha: float = 0.05,
    correction: Optional[str] = "holm",
) -> Tuple[Metric, int, int]:
    """Share of the pairs that listeners tell apart which the model orders as they do.

    As ``metrics.pair_accuracy`` over systems, without the pairs whose order the
    listening test leaves open: there, agreeing with the labels is luck. Equal
    predictions count one half. (Mathur, Baldwin & Cohn, ACL 2020, and Kocmi et al.,
    WMT 2021, evaluate metrics of machine translation so.)

    Args:
        sys_pred: Mean prediction of each system.
        ratings: Ratings of each system; systems without a prediction are left out.
        test: A key of ``SYSTEM_TESTS``.
        alpha: Significance level.
        correction: ``holm`` or None, see ``significant_pairs``.

    Returns:
        The accuracy in [0, 1], undefined where no pair is significant; the number of
        significant pairs; the number of tested pairs.

    Raises:
        ValueError: The test or the correction is unknown or a value is not finite.
    """
    known = {s: r for s, r in ratings.items() if s in sys_pred}
    for system in known:
        if not np.isfinite(sys_pred[system]):
            raise ValueError(f"the prediction of {system} is not finite.")
    pairs, num_tested = significant_pairs(known, test, alpha, correction)
    if num_tested == 0:
        reason = "fewer than 2 systems have a prediction and 2 ratings"
        return Metric(None, reason), 0, 0
    if not pairs:
        reason = f"none of {num_tested} pairs of systems differs significantly"
        return Metric(None, reason), 0, num_tested
    difference = np.array([sys_pred[p.better] - sys_pred[p.worse] for p in pairs])
    # means of equal scores may differ in the last bit
    right = (1 + np.sign(np.round(difference, SYSTEM_DECIMALS))) / 2
    return Metric(float(right.mean())), len(pairs), num_tested
