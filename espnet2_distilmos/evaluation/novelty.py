# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Flag clips that lie far from everything the model was trained on.

A model scores music, noise or an unknown language like anything else; only the
embedding shows that nothing like it was heard. Two distances from the training set:

- ``mahalanobis``: sqrt((e - m)^T S^-1 (e - m)), m and S mean and covariance of the
  training embeddings (Lee, Lee, Lee & Shin, NeurIPS 2018, with one class), S shrunk
  towards a multiple of the identity (Ledoit & Wolf, J. Multivar. Anal. 88, 2004), so
  that fewer clips than dimensions are enough;
- ``knn``: distance to the k-th nearest training embedding, all scaled to unit length
  (Sun, Ming, Zhu & Li, ICML 2022): for training sets of several clusters.

The threshold is a quantile of the distances on the dev set. A flag says that the score
is not to be trusted; its absence promises nothing.
"""

from typing import Any, Dict, Mapping

import numpy as np

from espnet2_distilmos.evaluation.calibration import check_format

FORMAT_VERSION = 1
METHODS = ("mahalanobis", "knn")

# Values of one temporary array of distances
_VALUES_AT_ONCE = 1 << 22


def _checked(embeddings: Any, name: str, dimension: int = 0) -> np.ndarray:
    array = np.asarray(embeddings, dtype=np.float64)
    if array.ndim != 2 or (dimension and array.shape[1] != dimension):
        expected = f"(clips, {dimension})" if dimension else "(clips, dimension)"
        raise ValueError(
            f"the {name} embeddings have the shape {array.shape}, expected {expected}."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"the {name} embeddings contain NaN or infinity.")
    return array


def _unit_length(embeddings: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(norm, np.finfo(np.float64).tiny)


def fit_novelty(
    train_embeddings: Any,
    dev_embeddings: Any,
    quantile: float = 0.99,
    method: str = "mahalanobis",
    num_neighbours: int = 10,
    max_train: int = 10000,
    seed: int = 0,
) -> Dict[str, np.ndarray]:
    """Describe the training set, and set the threshold on the dev set.

    Args:
        train_embeddings: Utterance embeddings of the training set (N, D).
        dev_embeddings: Utterance embeddings of a dev set (M, D) that was not trained on
            and is meant to be familiar.
        quantile: Share of dev clips that are not flagged, in (0, 1): the threshold is
            the least dev distance with at least this share at or below it.
        method: ``mahalanobis`` or ``knn``.
        num_neighbours: k of ``knn``.
        max_train: ``knn`` keeps this many training clips, drawn at random.
        seed: Of that draw.

    Returns:
        Arrays without objects, for ``numpy.savez`` and ``numpy.load(allow_pickle=
        False)``: ``what``, ``format_version``, ``method``, ``threshold``, ``quantile``,
        ``num_train``, ``num_dev``, and ``mean`` (D,) and ``whitening`` (D, D), or
        ``neighbours`` (K, D) float32 and ``num_neighbours``.

    Raises:
        ValueError: The shapes are wrong, a value is not finite, the quantile is not in
            (0, 1), the method is unknown, or the training embeddings are too few or all
            the same.
    """
    if method not in METHODS:
        raise ValueError(
            f"the method is {method}, expected one of {', '.join(METHODS)}."
        )
    if not 0 < quantile < 1:
        raise ValueError(f"the quantile is {quantile}, expected one between 0 and 1.")
    train = _checked(train_embeddings, "training")
    dev = _checked(dev_embeddings, "dev", train.shape[1])
    if len(dev) == 0:
        raise ValueError("there are no dev embeddings to set the threshold on.")
    least = 2 if method == "mahalanobis" else num_neighbours
    if len(train) < max(least, 1):
        raise ValueError(
            f"{len(train)} training embeddings, expected at least {max(least, 1)}."
        )
    if (train == train[0]).all():
        raise ValueError(
            "all training embeddings are the same, so every clip would be novel; check "
            "the model that made them."
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
        # |(e - m) W|^2 = (e - m)^T S^-1 (e - m), never below zero
        stored["whitening"] = vectors / np.sqrt(values)
    else:
        if num_neighbours < 1 or max_train < num_neighbours:
            raise ValueError(
                f"{num_neighbours} neighbours of {max_train} training clips, expected "
                "at least 1 and at most as many as clips."
            )
        if len(train) > max_train:
            generator = np.random.default_rng(seed)
            train = train[generator.choice(len(train), max_train, replace=False)]
        stored["neighbours"] = _unit_length(train).astype(np.float32)
        stored["num_neighbours"] = np.array(num_neighbours)
    ordered = np.sort(distance(stored, dev))
    # the tolerance keeps 0.9 of 10 at the 9th
    index = int(np.ceil(quantile * len(ordered) - 1e-9)) - 1
    stored["threshold"] = ordered[max(index, 0)]
    return stored


def distance(novelty: Mapping[str, Any], embeddings: Any) -> np.ndarray:
    """Distance of clips from the training set.

    Args:
        novelty: As ``fit_novelty`` returns it, or as ``numpy.load`` reads it.
        embeddings: Utterance embeddings (n, D).

    Returns:
        Distances >= 0 (n,), float64.

    Raises:
        ValueError: ``novelty`` is something else or of a newer format, the shape is
            wrong, or a value is not finite.
    """
    check_format(novelty, "novelty", FORMAT_VERSION)
    if str(novelty["method"]) == "mahalanobis":
        mean = np.asarray(novelty["mean"])
        array = _checked(embeddings, "clips'", len(mean))
        whitened = (array - mean) @ np.asarray(novelty["whitening"])
        return np.sqrt(np.einsum("nd,nd->n", whitened, whitened))
    train = np.asarray(novelty["neighbours"], dtype=np.float64)
    array = _unit_length(_checked(embeddings, "clips'", train.shape[1]))
    k = int(novelty["num_neighbours"])
    result = np.empty(len(array))
    step = max(1, _VALUES_AT_ONCE // len(train))
    for start in range(0, len(array), step):
        part = array[start : start + step]
        # squared distance of unit vectors
        square = 2 - 2 * part @ train.T
        nearest = np.partition(square, k - 1, axis=1)[:, k - 1]
        result[start : start + step] = np.sqrt(np.maximum(nearest, 0.0))
    return result


def is_novel(novelty: Mapping[str, Any], embeddings: Any) -> np.ndarray:
    """Flag the clips whose score is not to be trusted.

    Args:
        novelty: As ``fit_novelty`` returns it, or as ``numpy.load`` reads it.
        embeddings: Utterance embeddings (n, D).

    Returns:
        Whether each clip lies beyond the threshold (n,), bool.

    Raises:
        ValueError: As ``distance``.
    """
    return distance(novelty, embeddings) > float(novelty["threshold"])
