# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""How far a score can be trusted: prediction intervals, novelty, and the scale.

**Prediction intervals** by split-conformal calibration (Vovk, Gammerman & Shafer,
Algorithmic Learning in a Random World, 2005; Lei et al., JASA 113, 2018, algorithm 2):
with q the ceil((n + 1) level)-th smallest absolute error on n labelled clips that
neither trained the model nor chose its checkpoint, the label of a new clip lies within
q of its score with probability at least ``level`` (at most level + 1 / (n + 1) without
ties), whatever the model and the distribution, as long as the new clip is exchangeable
with the n. The probability is over clips and calibration sets.

**Novelty** is the distance of a clip's embedding e from those of the training set:
``mahalanobis``, sqrt((e - m)^T S^-1 (e - m)) with their mean m and covariance S (Lee et
al., NeurIPS 2018, with one class), S shrunk after Ledoit & Wolf (J. Multivar. Anal. 88,
2004) so that fewer clips than dimensions are enough; or ``knn``, the distance to the
10th nearest, all scaled to unit length (Sun et al., ICML 2022), for training sets of
several clusters. Beyond a quantile of the distances of held-out clips the score is not
to be trusted; a smaller distance promises nothing.

**Scale**: a line or a monotone function, fitted to a few labelled clips, from the scale
of the listening test that trained the model to that of another.

A *calibration* (``calibration.npz``) is a dict of ``model``, the fingerprint of the
model that made the errors; ``scale``, that of the scale that they are on, None for the
model's own; ``intervals`` of ``fit_intervals``; ``novelty`` of ``fit_novelty``, or
None; ``labels`` and ``train``, base names of what it was fitted to. A *scale*
(``scale.json``) is the dict of ``fit_scale``, possibly with ``model`` and
``score_range``, the lowest and highest label of the other test.
"""

import collections
import contextlib
import hashlib
import json
import math
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.data.datadir import DataError, atomic_write, read_text

#: Begins ``Confidence.off_scale``.
OFF_SCALE = "outside the scale of"
#: Beside the model's config.yaml.
CALIBRATION = "calibration.npz"
SCALES = ("linear", "monotone")
NOVELTY_METHODS = ("mahalanobis", "knn")
NUM_NEIGHBOURS = 10
# of the names of novelty's arrays in CALIBRATION
_PREFIX = "novelty."


def check_stored(stored: Mapping[str, Any], what: str) -> None:
    """Raise ValueError unless ``stored`` is a known version of ``what``."""
    found = str(stored.get("what", "something else"))
    version = int(stored.get("format_version", 0))
    if found != what or not 1 <= version <= FORMAT_VERSION:
        raise ValueError(
            f"found {found} of the format {version}, expected {what} of the format "
            f"{FORMAT_VERSION} at most; upgrade espnet2_distilmos or fit it again"
        )


def _array(values: Any, what: str, shape: Sequence[Optional[int]]) -> np.ndarray:
    """Return finite float64 values of a shape in which None is any size but 0."""
    array = np.asarray(values, dtype=np.float64)
    sizes = [size or max(n, 1) for n, size in zip(array.shape, shape)]
    if array.ndim != len(shape) or list(array.shape) != sizes:
        wanted = " x ".join(str(size or "1 or more") for size in shape)
        raise ValueError(f"{what} have the shape {array.shape}, expected {wanted}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{what} are NaN or infinite, expected numbers.")
    return array


def _check_share(share: float, name: str) -> None:
    if not 0 < share < 1:
        raise ValueError(f"the {name} is {share}, expected one between 0 and 1.")


def _check_choice(name: str, choices: Sequence[str]) -> None:
    if name not in choices:
        raise ValueError(f"found {name}, expected one of {', '.join(choices)}.")


def _clusters_of(items: Sequence, clusters: Optional[Sequence]) -> Sequence:
    """Return the cluster of each item: by default each is its own."""
    if clusters is not None and len(clusters) != len(items):
        raise ValueError(f"{len(clusters)} clusters for {len(items)} clips.")
    return items if clusters is None else clusters


# Prediction intervals


def split_dev(
    ids: Sequence[str],
    clusters: Optional[Sequence] = None,
    calibration_share: float = 0.5,
) -> Tuple[List[str], List[str]]:
    """Split a dev set into a part that chooses the checkpoint and one that calibrates.

    The errors of the best checkpoint on the first part are small by luck too, so they
    are not exchangeable with others. The part of a clip follows from its id (or
    cluster) alone, by SHA-256: it is the same on every machine, in any order, and
    whatever clips are added or left out.

    Args:
        ids: Utterance ids (n,).
        clusters: Cluster of each utterance (n,), such as its source; they stay whole.
        calibration_share: Expected share of the calibrating part, in (0, 1).

    Raises:
        ValueError: The share is not in (0, 1), the lengths differ, or a part is empty.

    >>> split_dev(["a", "b", "c", "d", "e", "f"])
    (['c'], ['a', 'b', 'd', 'e', 'f'])
    """
    _check_share(calibration_share, "share")
    choosing, calibrating = [], []
    for utt_id, key in zip(ids, _clusters_of(ids, clusters)):
        digest = hashlib.sha256(f"calibration\0{key}".encode("utf-8")).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        (calibrating if share < calibration_share else choosing).append(utt_id)
    if not choosing or not calibrating:
        raise ValueError(
            f"{len(ids)} utterances leave one part of the dev set empty, expected some "
            "in both; take a larger dev set or another calibrating share."
        )
    return choosing, calibrating


def conformal_quantile(
    residuals: Sequence[float],
    level: float,
    clusters: Optional[Sequence] = None,
) -> float:
    """Finite-sample quantile of absolute residuals (n,).

    The ceil((n + 1) level)-th smallest. With clusters (n,) the level-quantile of the
    distribution that gives each of K clusters the mass 1 / (K + 1), shared by its
    residuals, and the rest to infinity: it covers a new clip of a new cluster (Lee,
    Barber & Willett, arXiv 2306.06342).

    Raises:
        ValueError: The level is not in (0, 1), a residual is not finite, the lengths
            differ, or there are too few residuals (clusters) for the level.

    >>> conformal_quantile(range(1, 20), 0.9)
    18.0
    >>> conformal_quantile([1, 2, 3, 4], 0.5, ["a", "a", "b", "c"])
    3.0
    """
    _check_share(level, "level")
    values = _array(residuals, "residuals", [None])
    unit = "residuals" if clusters is None else "clusters of residuals"
    clusters = _clusters_of(range(len(values)), clusters)
    sizes = collections.Counter(clusters)
    # a whole number of clusters may be a rounding error short of the level
    needed = (len(sizes) + 1) * level - 1e-9
    if needed > len(sizes):
        raise ValueError(
            f"{len(sizes)} {unit} are too few for intervals of the level {level:g}, "
            f"expected at least {math.ceil(level / (1 - level) - 1e-9)}; lower the "
            "level or calibrate on more clips."
        )
    mass = np.array([1 / sizes[cluster] for cluster in clusters])
    order = np.argsort(values, kind="stable")
    return float(values[order][np.argmax(np.cumsum(mass[order]) >= needed)])


def fit_intervals(
    pred: Sequence[float],
    true: Sequence[float],
    clusters: Optional[Sequence] = None,
) -> Dict[str, Any]:
    """Keep what ``conformal_quantile`` needs for intervals of any level.

    Args:
        pred: Predictions of the calibrating clips (n,).
        true: Their labels (n,).
        clusters: Cluster of each clip (n,), such as its source.

    Returns:
        A JSON-ready dict; the clusters are numbers, so that no name of the dev set is
        given away.
    """
    x = _array(pred, "predictions", [None])
    residuals = np.abs(_array(true, "labels", x.shape) - x)
    order = np.argsort(residuals, kind="stable")
    of = _clusters_of(range(len(x)), clusters)
    number = {cluster: i for i, cluster in enumerate(dict.fromkeys(of))}
    return {
        "what": "prediction intervals",
        "format_version": FORMAT_VERSION,
        "scores": residuals[order].tolist(),
        "clusters": None if clusters is None else [number[of[i]] for i in order],
        "num_clips": len(x),
        "num_clusters": len(number),
    }


# Novelty


def _unit_length(embeddings: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(norm, np.finfo(np.float64).tiny)


def fit_novelty(
    train_embeddings: Any,
    dev_embeddings: Any,
    quantile: float = 0.99,
    method: str = "mahalanobis",
) -> Dict[str, np.ndarray]:
    """Describe the training set, and set the threshold on a dev set.

    Args:
        train_embeddings: (N, D).
        dev_embeddings: (M, D), of clips that were not trained on.
        quantile: Share of the dev clips that is not flagged, in (0, 1): the threshold
            is the least of their distances with this share at or below it.
        method: ``mahalanobis`` or ``knn``.

    Returns:
        Arrays without objects, ``threshold`` among them.

    Raises:
        ValueError: An option or a shape is wrong, a value is not finite, or the
            training embeddings are too few or all the same.
    """
    _check_choice(method, NOVELTY_METHODS)
    _check_share(quantile, "quantile")
    train = _array(train_embeddings, "training embeddings", [None, None])
    dev = _array(dev_embeddings, "dev embeddings", [None, train.shape[1]])
    least = 2 if method == "mahalanobis" else NUM_NEIGHBOURS
    if len(train) < least or (train == train[0]).all():
        raise ValueError(
            f"{len(train)} training embeddings are too few or all the same, expected "
            f"at least {least} different ones; add clips or check the model."
        )
    stored = {
        "what": np.array("novelty"),
        "format_version": np.array(FORMAT_VERSION),
        "method": np.array(method),
        "quantile": np.array(float(quantile)),
        "num_train": np.array(len(train)),
        "num_dev": np.array(len(dev)),
    }
    if method == "mahalanobis":
        from sklearn.covariance import LedoitWolf

        fitted = LedoitWolf().fit(train)
        values, vectors = np.linalg.eigh(fitted.covariance_)
        # A direction in which all of the training set is alike, such as a unit that
        # is never active, would divide by zero where nothing was shrunk.
        values = np.maximum(values, values.max() * 1e-10)
        stored["mean"] = fitted.location_
        # |(e - m) W|^2 = (e - m)^T S^-1 (e - m), never below zero. A flag needs no more
        # digits than the embeddings have.
        stored["whitening"] = (vectors / np.sqrt(values)).astype(np.float32)
    else:
        stored["neighbours"] = _unit_length(train).astype(np.float32)
        stored["num_neighbours"] = np.array(NUM_NEIGHBOURS)
    ordered = np.sort(novelty_distance(stored, dev))
    # the tolerance keeps 0.9 of 10 at the 9th
    index = math.ceil(quantile * len(ordered) - 1e-9) - 1
    # above 0, as distances are divided by it
    stored["threshold"] = np.maximum(ordered[max(index, 0)], np.finfo(np.float64).tiny)
    return stored


def novelty_distance(novelty: Mapping[str, Any], embeddings: Any) -> np.ndarray:
    """Distances (n,) of embeddings (n, D) from the training set of ``fit_novelty``.

    Raises:
        ValueError: ``novelty`` is something else or of a newer format, the shape is
            wrong, or a value is not finite.
    """
    check_stored(novelty, "novelty")
    if str(novelty["method"]) == "mahalanobis":
        array = _array(embeddings, "embeddings", [None, len(novelty["mean"])])
        return np.linalg.norm((array - novelty["mean"]) @ novelty["whitening"], axis=1)
    train = np.asarray(novelty["neighbours"], dtype=np.float64)
    array = _unit_length(_array(embeddings, "embeddings", [None, train.shape[1]]))
    k = int(novelty["num_neighbours"])
    # squared distances of unit vectors, for some clips at a time to save memory
    nearest = [
        np.partition(2 - 2 * part @ train.T, k - 1, axis=1)[:, k - 1]
        for part in np.array_split(array, len(array) // 256 + 1)
    ]
    return np.sqrt(np.maximum(np.concatenate(nearest), 0.0))


# Scale


def fit_scale(
    pred: Sequence[float], true: Sequence[float], kind: str = "linear"
) -> Dict[str, Any]:
    """Fit the map from a model's scores to a listening test's scale.

    Args:
        pred: Predictions of the labelled clips (n,).
        true: Their labels in the new test (n,).
        kind: ``linear``: least squares with a rising line, from about 10 clips on.
            ``monotone``: isotonic regression (Barlow et al., 1972), constant beyond the
            lowest and the highest prediction, from about 50 clips on the whole scale.

    Returns:
        A JSON-ready dict, with ``pred_range`` (predictions outside it are extrapolated)
        and ``residual_sd`` (root mean squared error on the clips that were fitted).

    Raises:
        ValueError: The kind is unknown, a value is not finite, the lengths differ, or
            the labels do not rise with the predictions.

    >>> scale = fit_scale([1, 2, 4], [20, 40, 80])
    >>> apply_scale(scale, [1, 5]).round(6).tolist()
    [20.0, 100.0]
    """
    _check_choice(kind, SCALES)
    x = _array(pred, "predictions", [None])
    y = _array(true, "labels", x.shape)
    stored: Dict[str, Any] = {
        "what": "scale",
        "format_version": FORMAT_VERSION,
        "kind": kind,
        "num_clips": len(x),
        "pred_range": [float(x.min()), float(x.max())],
    }
    if kind == "linear":
        centred = x - x.mean()
        slope = float(centred @ (y - y.mean()) / ((centred @ centred) or np.inf))
        stored["intercept"] = float(y.mean() - slope * x.mean())
        stored["slope"] = slope
    else:
        from sklearn.isotonic import IsotonicRegression

        isotonic = IsotonicRegression(increasing=True, out_of_bounds="clip").fit(x, y)
        stored["x"] = isotonic.X_thresholds_.astype(float).tolist()
        stored["y"] = isotonic.y_thresholds_.astype(float).tolist()
    lowest, highest = apply_scale(stored, stored["pred_range"])
    if not lowest < highest:
        raise ValueError(
            f"the labels of the {len(x)} clips do not rise with the model's "
            f"predictions, from {x.min():g} to {x.max():g}; check that both belong to "
            "the same clips, or label more clips of different quality."
        )
    error = apply_scale(stored, x) - y
    stored["residual_sd"] = float(np.sqrt(np.mean(error**2)))
    return stored


def apply_scale(scale: Optional[Mapping[str, Any]], pred: Any) -> np.ndarray:
    """Map predictions of any shape to another listening test's scale; None for none.

    Raises:
        ValueError: ``scale`` is not a stored scale or of a newer format.
    """
    if scale is None:
        return np.asarray(pred)
    check_stored(scale, "scale")
    x = np.asarray(pred, dtype=np.float64)
    if scale["kind"] == "linear":
        return scale["intercept"] + scale["slope"] * x
    return np.interp(x, scale["x"], scale["y"])


def scale_fingerprint(scale: Optional[Mapping[str, Any]]) -> Optional[str]:
    """Identify the map that a scale is, by 12 hexadecimal digits; None for none."""
    if scale is None:
        return None
    parts = [scale.get(n) for n in ("kind", "intercept", "slope", "x", "y")]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


# All of one model


class Confidence:
    """Intervals and novelty of one model's scores, and their scale.

    Args:
        model: Fingerprint of the model.
        calibration: Of this model, or None.
        scale: The scale that scores are given on, or None for the model's own.
        score_range: Lowest and highest label on the model's own scale, or None.

    Attributes:
        missing: Why there is no calibration, one sentence.

    Raises:
        ValueError: The calibration or the scale is of another model, the calibration is
            on another scale, or one of them is something else or of a newer format.
    """

    def __init__(
        self,
        model: str,
        calibration: Optional[Mapping[str, Any]] = None,
        scale: Optional[Mapping[str, Any]] = None,
        score_range: Optional[Sequence[float]] = None,
    ):
        self.scale = scale
        self.score_range = score_range
        self.missing = "the model has no calibration, run `distilmos calibrate`."
        self.calibration = calibration
        self._half_widths: Dict[float, float] = {}
        for what, fitted in (("scale", scale), ("calibration", calibration)):
            if fitted is not None and fitted.get("model", model) != model:
                raise ValueError(
                    f"the {what} is of the model {fitted['model']} and this is the "
                    f"model {model}, expected one of this, as the errors of another "
                    "checkpoint or way of scoring (--corpus, --listener, --knn) say "
                    "nothing; run `distilmos calibrate` for it."
                )
        if scale is not None:
            check_stored(scale, "scale")
        if calibration is None:
            return
        check_stored(calibration.get("intervals") or {}, "prediction intervals")
        if self.has_novelty:
            check_stored(calibration["novelty"], "novelty")
        if calibration.get("scale") not in (None, scale_fingerprint(scale)):
            raise ValueError(
                "the calibration was made on another listening test's scale, expected "
                "the scale that it was made with; give it with --scale, or calibrate "
                "with this one."
            )

    @property
    def coverage_is_known(self) -> bool:
        """Whether the labels that calibrated were on the scale of the scores."""
        return self.calibration is not None and (
            self.calibration.get("scale") == scale_fingerprint(self.scale)
        )

    @property
    def has_novelty(self) -> bool:
        """Whether the calibration knows the training set."""
        return (self.calibration or {}).get("novelty") is not None

    @property
    def fingerprint(self) -> Optional[str]:
        """Identify intervals and novelty; None without a calibration."""
        if self.calibration is None:
            return None
        arrays = self.calibration.get("novelty") or {}
        text = json.dumps([self.calibration["intervals"], sorted(arrays)])
        digest = hashlib.sha256(text.encode())
        for name in sorted(arrays):
            digest.update(np.asarray(arrays[name]).tobytes())
        return digest.hexdigest()[:12]

    def rescale(self, scores: Any) -> np.ndarray:
        """Map scores of any shape from the model's scale to that of the results."""
        return apply_scale(self.scale, scores)

    def is_extrapolated(self, score: float) -> bool:
        """Whether a score of the model is beyond those that the scale was fitted to."""
        if self.scale is None:
            return False
        low, high = self.scale["pred_range"]
        return not low <= score <= high

    def off_scale(self, score: float) -> Optional[str]:
        """Say which scale a score of the model leaves: that of the labels that trained
        it, or, mapped, that of the other listening test; None where it leaves neither.
        """
        for value, limits in (
            (score, self.score_range),
            (self.rescale(score), (self.scale or {}).get("score_range")),
        ):
            if limits and not limits[0] <= value <= limits[1]:
                return "{} {:g} to {:g}".format(OFF_SCALE, *limits)
        return None

    def half_width(self, level: float) -> float:
        """Half the width of the intervals, on the scale that the labels were on.

        Raises:
            ValueError: There is no calibration, it has too few clips for the level, or
                the level is not in (0, 1).
        """
        if self.calibration is None:
            raise ValueError(self.missing)
        if level not in self._half_widths:
            stored = self.calibration["intervals"]
            self._half_widths[level] = conformal_quantile(
                stored["scores"], level, stored["clusters"]
            )
        return self._half_widths[level]

    def interval(self, score: float, level: float = 0.9) -> Tuple[float, float]:
        """Interval on the scale of the results that holds a clip's label.

        A calibration on the model's own scale gives intervals there, whose ends are
        mapped to the scale of the results; their coverage in another listening test is
        unknown (``coverage_is_known``). Ends are cut at the lowest and highest label,
        which costs no coverage.

        Args:
            score: The model's own, before any scale.
            level: Probability of covering the label, in (0, 1).

        Raises:
            ValueError: As ``half_width``.
        """
        half = np.array([-1, 1]) * self.half_width(level)
        if self.calibration.get("scale") is None:
            ends = score + half
            if self.score_range is not None:
                ends = np.clip(ends, *self.score_range)
            ends = self.rescale(ends)
        else:
            ends = self.rescale(score) + half
        if self.scale is not None and self.scale.get("score_range"):
            ends = np.clip(ends, *self.scale["score_range"])
        return float(ends[0]), float(ends[1])

    def novelty(self, embedding: Any) -> Optional[float]:
        """Distance of an embedding (D,) from the training set, in thresholds.

        Above 1 the score is not to be trusted. None without a training set.
        """
        if not self.has_novelty:
            return None
        stored = self.calibration["novelty"]
        found = novelty_distance(stored, np.asarray(embedding)[None])[0]
        return float(found / stored["threshold"])


# Files


@contextlib.contextmanager
def reading_stored(path: str, what: str) -> Iterator[None]:
    """Raise DataError where it is something else, cut off, or of a newer format."""
    try:
        yield
    # NumPy, zipfile, zlib and json have a dozen errors for a damaged file
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if "pickle" in reason:  # NumPy's advice is to allow it
            reason = "it does not hold plain arrays"
        raise DataError(
            f"{path} is no readable {what} ({reason}), expected a file of `distilmos "
            "calibrate`; run it again."
        ) from error


def write_calibration(path: str, calibration: Mapping[str, Any]) -> None:
    """Write a calibration as arrays without objects, whole or not at all."""
    info = {key: value for key, value in calibration.items() if key != "novelty"}
    novelty = calibration.get("novelty") or {}
    with atomic_write(path, "wb") as file:
        np.savez(
            file,
            what=np.array("calibration"),
            format_version=np.array(FORMAT_VERSION),
            info=np.array(json.dumps(info, allow_nan=False)),
            **{_PREFIX + name: np.asarray(array) for name, array in novelty.items()},
        )


def read_calibration(path: str) -> Dict[str, Any]:
    """Read what ``write_calibration`` wrote; nothing is unpickled."""
    with reading_stored(path, "calibration"):
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        check_stored(arrays, "calibration")
        info = json.loads(str(arrays["info"]))
    names = [name for name in arrays if name.startswith(_PREFIX)]
    novelty = {name[len(_PREFIX) :]: arrays[name] for name in names}
    return {**info, "novelty": novelty or None}


def write_scale(path: str, scale: Mapping[str, Any]) -> None:
    """Write a scale as JSON, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(scale, indent=1, allow_nan=False) + "\n")


def read_scale(path: str) -> Dict[str, Any]:
    """Read what ``write_scale`` wrote."""
    with reading_stored(path, "scale"):
        scale = json.loads(read_text(path))
        check_stored(scale, "scale")
    return scale
