# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Bootstrap intervals of the metrics.

Which intervals answer which question (``resample``):

- ``clusters``: clips are drawn with replacement, or whole clusters of clips: those that
  share a sentence or a source recording are not independent, and drawing single ones
  makes the interval too narrow (Efron & Tibshirani, An Introduction to the Bootstrap,
  1993, chapters 8 and 13).
- ``within_systems``: the same in each system by itself: these systems, other clips.
  A system of m clips (or clusters) gives m - 1 draws, which makes the variance of its
  mean the usual s^2 / m (McCarthy & Snowden, Vital Health Stat. 2 (95), 1985).
- ``systems``: whole systems are drawn, with all their clips: other systems of the
  kind, which is what a statement about a predictor in general needs (Davison & Hinkley,
  Bootstrap Methods and their Application, 1997, 3.8).

Intervals are percentile intervals. In simulations (bivariate normal, r = 0.9) the 95 %
intervals of LCC, SRCC, KTAU and MSE held the true value in 91, 98, 97 and 86 % of the
samples of 15 items, 93, 97, 97 and 90 % of 30, and 94, 96, 96 and 96 % of 100.

Where clips are drawn and systems are compared, the noise of the system means is in the
sample and once more in every resample: correlations come out too low and errors too
high (30 systems of 6 clips: coverage 88 % for LCC, 81 % for MSE). ``within_systems``
therefore moves the resampled values so that their mean is the estimate (95 % for both).
"""

import itertools
from typing import (
    Callable,
    Dict,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np

from espnet2_distilmos.evaluation.metrics import (
    METRIC_RANGE,
    METRICS,
    SYSTEM_DECIMALS,
    as_pair,
    evaluate,
    group_means,
    number_systems,
)
from espnet2_distilmos.evaluation.resampled import (
    Columns,
    Drawn,
    Pair,
    Values,
    of_columns,
)

RESAMPLES = ("clusters", "within_systems", "systems")
# Below these there is neither an interval nor a p-value, of whatever method. Of five
# pairs, all with the same sign, no exact test says p < 0.05 (sign flips: 2 / 2^5); the
# bootstrap of two clips says p = 0.002.
MINIMUM_UNITS = 6
# Why there is neither although there are enough.
UNDEFINED_RESAMPLES = "undefined in more than half of the resamples"
# Counts of a block of resamples: 2 MB, and some copies of it.
_BLOCK_VALUES = 2**18

_OfBlock = Callable[[np.ndarray], Iterable[Tuple[Hashable, Dict[str, np.ndarray]]]]


class Interval(NamedTuple):
    """Lower and upper end of an interval."""

    low: float
    high: float


def too_few(num_units: int, unit: str = "independent units") -> Optional[str]:
    """Why so few units give neither an interval nor a p-value; None if they do.

    >>> too_few(2, "clips")
    'found 2 of the at least 6 clips that an interval or a p-value needs; label more'
    """
    if num_units >= MINIMUM_UNITS:
        return None
    return (
        f"found {num_units} of the at least {MINIMUM_UNITS} {unit} that an interval or "
        "a p-value needs; label more"
    )


def number_values(values: Sequence[Hashable]) -> np.ndarray:
    """Number values (n,) of any type by their first occurrence -> (n,).

    >>> number_values(["b", "a", "b", ("a", 1)])
    array([0, 1, 0, 2])
    """
    # dict, not np.unique: the values may be of types that do not compare
    number = {value: i for i, value in enumerate(dict.fromkeys(values))}
    return np.array([number[value] for value in values], dtype=np.int64)


class Resampler:
    """Draws resamples of the items of one test set and computes metrics of them.

    Every model of one test set is evaluated on the same resamples: this is what makes
    a comparison paired. Iterating gives for each resample how often every utterance
    occurs in it (n,), the same each time.

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
        num_units: Number of units that are drawn from; within systems without those
            that are alone in theirs, which every resample has once.
        too_few: Why there are too few of them, see ``too_few``, or None.
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
        if systems is not None and set(systems) <= {None}:
            systems = None
        if systems is None and resample != "clusters":
            raise ValueError(f"resample {resample} needs the system of the utterances.")
        self.num_items = num_items
        self.systems = systems
        self.resample = resample
        self.num_resamples = num_resamples
        self.seed = seed
        if systems is not None:
            _, self._system = number_systems(systems)
        unit = np.arange(num_items) if clusters is None else number_values(clusters)
        name = "utterances" if clusters is None else "clusters of utterances"
        if resample == "systems":
            # an utterance without a system stands for itself
            unit = number_values(
                [(i,) if s is None else s for i, s in enumerate(systems)]
            )
            name = "systems"
        elif resample == "within_systems":
            # numbers that make the units of one system neighbours
            pairs, unit = np.unique(
                np.stack([self._system, unit]), axis=1, return_inverse=True
            )
            _, start, size = np.unique(pairs[0], return_index=True, return_counts=True)
            draws = np.maximum(1, size - 1)
            self._range = np.repeat(start, draws), np.repeat(start + size, draws)
            name += " in systems that have several"
        self._unit = unit.reshape(-1)
        self._num_drawn = self.num_units = int(unit.max()) + 1 if num_items else 0
        if resample == "within_systems":
            self.num_units = int(size[size > 1].sum())
        self.too_few = too_few(self.num_units, name)

    def __iter__(self) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(self.seed)
        share = np.full(self._num_drawn, 1 / max(1, self._num_drawn))
        for _ in range(self.num_resamples):
            if self.resample == "within_systems":
                drawn = generator.integers(*self._range)
                counts = np.bincount(drawn, minlength=self._num_drawn)
            else:
                counts = generator.multinomial(self._num_drawn, share)
            yield counts[self._unit]

    def __call__(
        self,
        pred: Sequence[float],
        true: Sequence[float],
        metrics: Sequence[str] = tuple(METRICS),
    ) -> Dict[str, np.ndarray]:
        """Compute the metrics of every resample of one model, see ``of_models``."""
        return self.of_models({"": pred}, true, metrics)[""]

    def of_models(
        self,
        predictions: Mapping[Hashable, Sequence[float]],
        true: Sequence[float],
        metrics: Sequence[str] = tuple(METRICS),
    ) -> Dict[Hashable, Dict[str, np.ndarray]]:
        """Compute the metrics of every resample at both levels, for many models.

        System means are taken over the utterances drawn; a system of which nothing was
        drawn does not count, and with ``systems`` one that was drawn twice is two
        points. The resamples are drawn once for all models, and computed in blocks:
        memory is O(n) for each model.

        Args:
            predictions: Predictions of each model (n,), finite, by its name.
            true: Labels (n,), finite.
            metrics: Names from ``ALL_METRICS``.

        Returns:
            By model ``utt_mos_…`` and, with systems, ``sys_mos_…``, each (R,); NaN
            where a resample leaves the metric undefined.

        Raises:
            ValueError: The lengths differ or a value is not finite.
        """
        predictions = {
            m: as_pair(pred, true, finite=True)[0] for m, pred in predictions.items()
        }
        true = np.asarray(true, dtype=np.float64)
        if len(true) != self.num_items:
            raise ValueError(f"{len(true)} predictions, expected {self.num_items}.")
        levels = ("utt",) if self.systems is None else ("utt", "sys")
        keys = [f"{level}_mos_{name}" for level in levels for name in metrics]
        samples: Dict[Hashable, Dict[str, np.ndarray]] = {
            m: {key: np.full(self.num_resamples, np.nan) for key in keys}
            for m in predictions
        }
        first = 0
        # 0 / 0 is undefined: NaN
        with np.errstate(all="ignore"):
            compute = [self._of_utterances(predictions, true, metrics)]
            if "sys" in levels:
                compute.append(self._of_systems(predictions, true, metrics))
            for counts in self._blocks():
                for level, of_level in zip(levels, compute):
                    for model, found in of_level(counts):
                        for name, values in found.items():
                            whole = samples[model][f"{level}_mos_{name}"]
                            whole[first : first + len(values)] = values
                first += counts.shape[1]
        return samples

    def _blocks(self) -> Iterator[np.ndarray]:
        """The resamples in blocks, as counts (n, B)."""
        drawn = iter(self)
        size = max(1, _BLOCK_VALUES // max(1, self.num_items))
        while block := list(itertools.islice(drawn, size)):
            yield np.array(block, dtype=np.int64).T.copy()

    def _of_utterances(
        self,
        predictions: Mapping[Hashable, np.ndarray],
        true: np.ndarray,
        metrics: Sequence[str],
    ) -> _OfBlock:
        """What computes the metrics of a block's utterances, for each model."""
        labels = Values(true)
        pairs = {m: Pair(Values(p), labels, metrics) for m, p in predictions.items()}

        def compute(counts: np.ndarray):
            drawn = Drawn(labels, counts)
            for model, pair in pairs.items():
                yield model, pair(drawn)

        return compute

    def _of_systems(
        self,
        predictions: Mapping[Hashable, np.ndarray],
        true: np.ndarray,
        metrics: Sequence[str],
    ) -> _OfBlock:
        """What computes the metrics of a block's systems, for each model."""
        order = np.argsort(self._system, kind="stable")
        order = order[np.searchsorted(self._system[order], 0) :]
        # of the first utterance of each system
        starts = np.flatnonzero(np.diff(self._system[order], prepend=-1))
        if self.resample == "systems":
            # all of a system's utterances are drawn equally often
            means = {m: group_means(p, self._system) for m, p in predictions.items()}
            of_drawn = self._of_utterances(
                means, group_means(true, self._system), metrics
            )
            return lambda counts: of_drawn(counts[order[starts]])

        def compute(counts: np.ndarray):
            counts = counts[order]
            number = np.add.reduceat(counts, starts, axis=0)
            drawn = (number > 0).astype(np.float64)

            def means(values: np.ndarray) -> Columns:
                sums = np.add.reduceat(counts * values[order, None], starts, axis=0)
                mean = np.round(sums / np.maximum(number, 1), SYSTEM_DECIMALS)
                return Columns(mean, drawn)

            labels = means(true)
            for model, pred in predictions.items():
                yield model, of_columns(means(pred), labels, metrics)

        return compute


def centre(samples: np.ndarray, estimate: float) -> np.ndarray:
    """Move resampled values (R,) so that their mean is the estimate."""
    if not np.isfinite(samples).any():
        return samples
    return samples - np.nanmean(samples) + estimate


def percentile_interval(
    samples: np.ndarray, confidence: float = 0.95
) -> Optional[Interval]:
    """Percentile interval of resampled values (R,), None if most are NaN.

    >>> percentile_interval(np.arange(101.0), 0.5)
    Interval(low=25.0, high=75.0)
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
) -> Dict[str, Optional[Interval]]:
    """Percentile intervals of the metrics at both levels.

    Args:
        pred: Predictions (n,), finite.
        true: Labels (n,), finite.
        systems, clusters, num_resamples, seed, resample: See ``Resampler``.
        confidence: Share of the resamples within the interval.
        metrics: Names from ``metrics.ALL_METRICS``.

    Returns:
        Interval by the keys of ``evaluate``; None where fewer than half of the
        resamples define the metric, and all None where ``Resampler.too_few``.

    Raises:
        ValueError: See ``Resampler``, the shapes differ or a value is not finite.
    """
    pred, true = as_pair(pred, true, finite=True)
    resampler = Resampler(len(pred), systems, clusters, resample, num_resamples, seed)
    estimates = evaluate(pred, true, systems, metrics)
    intervals: Dict[str, Optional[Interval]] = {
        f"{level}_mos_{name}": None for level in ("utt", "sys") for name in metrics
    }
    if resampler.too_few:
        return intervals
    for key, samples in resampler(pred, true, metrics).items():
        if resample == "within_systems" and estimates[key] is not None:
            low, high = METRIC_RANGE[key.split("_", 2)[2]]
            samples = np.clip(centre(samples, estimates[key]), low, high)
        intervals[key] = percentile_interval(samples, confidence)
    return intervals
