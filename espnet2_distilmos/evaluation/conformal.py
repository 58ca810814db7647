# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Prediction intervals per clip by split-conformal calibration.

Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005; Lei, G'Sell,
Rinaldo, Tibshirani & Wasserman, JASA 113, 2018, algorithm 2. The model is tried on n
labelled clips that neither trained it nor chose its checkpoint. With q the
ceil((n + 1) level)-th smallest of the absolute residuals, the label of a new clip lies
within q of its prediction with probability at least ``level`` (at most level +
1 / (n + 1) without ties), whatever the model and the distribution, as long as the new
clip could be exchanged with the n: a clip of another kind of system has no such
promise. The probability is over clips and calibration sets, not for each single clip.
"""

import hashlib
import math
from typing import Any, Dict, Hashable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.evaluation.calibration import check_format

FORMAT_VERSION = 1


def split_dev(
    ids: Sequence[str],
    clusters: Optional[Sequence[Hashable]] = None,
    calibration_share: float = 0.5,
    salt: str = "calibration",
) -> Tuple[List[str], List[str]]:
    """Split a dev set into a part that chooses and a part that calibrates.

    The best checkpoint was chosen because its errors on the choosing part are small,
    luck included, so those errors are not exchangeable with others. A clip's part
    depends on its own id (or cluster) alone, by SHA-256: it is the same on every
    machine, in any order, and whatever clips are added or left out.

    Args:
        ids: Utterance ids (n,).
        clusters: Cluster of each utterance (n,), such as its source: clips of one
            source stay together, as otherwise the parts know each other. Their text
            counts (``str``). None: every utterance for itself.
        calibration_share: Expected share of the calibrating part, in (0, 1).
        salt: Another one gives another split.

    Returns:
        Ids of the choosing part, ids of the calibrating part, both in the order given.

    Raises:
        ValueError: The share is not in (0, 1), the lengths differ, or a part is empty.
    """
    if not 0 < calibration_share < 1:
        raise ValueError(
            f"the calibrating share is {calibration_share}, expected one between 0 "
            "and 1."
        )
    keys = ids if clusters is None else clusters
    if len(keys) != len(ids):
        raise ValueError(f"{len(keys)} clusters for {len(ids)} utterances.")
    choosing, calibrating = [], []
    for utt_id, key in zip(ids, keys):
        digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8")).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        (calibrating if share < calibration_share else choosing).append(utt_id)
    if not choosing or not calibrating:
        raise ValueError(
            f"{len(ids)} utterances leave one part of the dev set empty, expected some "
            "in both; take a larger dev set or another calibrating share."
        )
    return choosing, calibrating


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"the level is {level}, expected one between 0 and 1.")


def conformal_quantile(
    scores: Sequence[float],
    level: float,
    clusters: Optional[Sequence[Hashable]] = None,
) -> float:
    """Finite-sample quantile of conformity scores.

    Without clusters the ceil((n + 1) level)-th smallest score. With clusters the
    level-quantile of the distribution that gives each of K clusters the mass
    1 / (K + 1), shared by its scores, and the rest to infinity: it covers a new clip of
    a new cluster (Lee, Barber & Willett, Distribution-free inference with hierarchical
    data, arXiv 2306.06342). With clusters of one clip both are the same.

    Args:
        scores: Scores (n,), finite, such as absolute residuals.
        level: Coverage in (0, 1).
        clusters: Cluster of each score (n,).

    Returns:
        The quantile, one of the scores.

    Raises:
        ValueError: The level is not in (0, 1), a score is not finite, the lengths
            differ, or there are too few scores (clusters) for the level.
    """
    _check_level(level)
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("residuals must be finite.")
    mass = np.ones(len(values))
    if clusters is not None:
        if len(clusters) != len(values):
            raise ValueError(f"{len(clusters)} clusters for {len(values)} residuals.")
        sizes: Dict[Hashable, int] = {}
        for cluster in clusters:
            sizes[cluster] = sizes.get(cluster, 0) + 1
        mass = np.array([1 / sizes[cluster] for cluster in clusters])
    num_clusters = round(float(mass.sum()))
    # a whole number of clusters may be a rounding error short of the level
    needed = (num_clusters + 1) * level - 1e-9
    if needed > num_clusters:
        unit = "residuals" if clusters is None else "clusters of residuals"
        raise ValueError(
            f"{num_clusters} {unit} are too few for intervals of the level {level:g}, "
            f"expected at least {math.ceil(level / (1 - level) - 1e-9)}; lower the "
            "level or calibrate on more clips."
        )
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(mass[order]) >= needed
    return float(values[order][np.argmax(reached)])


def calibrate(
    pred: Sequence[float],
    true: Sequence[float],
    difficulty: Optional[Sequence[float]] = None,
    clusters: Optional[Sequence[Hashable]] = None,
) -> Dict[str, Any]:
    """Keep what is needed for intervals of any level.

    Args:
        pred: Predictions of the calibrating clips (n,), finite.
        true: Their labels (n,), finite.
        difficulty: An estimate of each clip's expected error (n,), > 0, in any unit,
            such as the standard deviation of its frame scores: the scores are
            |t - p| / difficulty, and the intervals are as much wider for harder clips.
        clusters: Cluster of each clip (n,), such as its source.

    Returns:
        A JSON-ready dict: ``what``, ``format_version``, ``scores`` (n,) in ascending
        order, ``clusters`` their clusters as numbers, or None, ``scaled`` whether by
        difficulty, ``num_clips`` and ``num_clusters``.

    Raises:
        ValueError: The lengths differ, there are no clips, a value is not finite, or a
            difficulty is not positive.
    """
    x = np.asarray(pred, dtype=np.float64)
    y = np.asarray(true, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise ValueError(
            f"predictions have the shape {x.shape} and labels {y.shape}, expected one "
            "prediction for every label, and at least one."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("predictions and labels must be finite.")
    scores = np.abs(y - x)
    if difficulty is not None:
        scores = scores / _checked_difficulty(difficulty, x.shape)
    order = np.argsort(scores, kind="stable")
    numbers = None
    num_clusters = len(x)
    if clusters is not None:
        if len(clusters) != len(x):
            raise ValueError(f"{len(clusters)} clusters for {len(x)} predictions.")
        # numbers instead of names: nothing of the dev set is given away
        number = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
        num_clusters = len(number)
        numbers = [number[clusters[i]] for i in order]
    return {
        "what": "prediction intervals",
        "format_version": FORMAT_VERSION,
        "scores": scores[order].tolist(),
        "clusters": numbers,
        "scaled": difficulty is not None,
        "num_clips": len(x),
        "num_clusters": num_clusters,
    }


def _checked_difficulty(difficulty: Sequence[float], shape: Tuple) -> np.ndarray:
    scale = np.asarray(difficulty, dtype=np.float64)
    if scale.shape != shape:
        raise ValueError(f"{scale.shape} difficulties for {shape} predictions.")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("a difficulty must be finite and greater than 0.")
    return scale


def prediction_intervals(
    calibration: Mapping[str, Any],
    pred: Sequence[float],
    level: float = 0.9,
    difficulty: Optional[Sequence[float]] = None,
    score_range: Optional[Tuple[float, float]] = None,
) -> Tuple[np.ndarray, np.ndarray]:
    """Intervals that hold the labels of new clips with a given probability.

    Args:
        calibration: As ``calibrate`` returns it.
        pred: Predictions (n,).
        level: Coverage in (0, 1).
        difficulty: Of each clip (n,), where the calibration has it.
        score_range: Lowest and highest label there can be: the ends are cut there,
            which costs no coverage.

    Returns:
        Lower ends (n,) and upper ends (n,), float64.

    Raises:
        ValueError: ``calibration`` is something else or of a newer format, it has too
            few clips for the level, or the difficulty is missing, superfluous or not
            positive.
    """
    check_format(calibration, "prediction intervals", FORMAT_VERSION)
    if calibration["scaled"] and difficulty is None:
        raise ValueError("the intervals were calibrated with difficulties; give them.")
    if difficulty is not None and not calibration["scaled"]:
        raise ValueError(
            "the intervals were calibrated without difficulties; calibrate with "
            "them or give none."
        )
    x = np.asarray(pred, dtype=np.float64)
    half = conformal_quantile(calibration["scores"], level, calibration["clusters"])
    width = np.full(x.shape, half)
    if difficulty is not None:
        width = half * _checked_difficulty(difficulty, x.shape)
    low, high = x - width, x + width
    if score_range is not None:
        low, high = np.clip(low, *score_range), np.clip(high, *score_range)
    return low, high
