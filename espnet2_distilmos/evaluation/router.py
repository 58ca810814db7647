# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A mix of several predictors' scores, whose weights depend on the scores."""

import hashlib
import json
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np
import scipy

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.data.datadir import DataError, atomic_write, read_text

# Strengths of the penalty of the slopes; the greatest leaves the weights constant.
PENALTIES = (0.01, 0.1, 1.0, 10.0, 1000.0)
# Of the biases: constant weights are few numbers, and may well leave somebody out.
BIAS_PENALTY = 0.003
FOLDS = 5
# Fewer labelled clips of a set say nothing of a correlation.
MINIMUM_CLIPS = 10


class Router(NamedTuple):
    r"""Weights of predictors by a linear map of their scores.

    With the scores :math:`x_k` and :math:`z_k = (x_k - m_k) / s_k`, the mix is
    :math:`\sum_k w_k (\bar m + \bar s z_k)`, :math:`w = \mathrm{softmax}(A z + b)`, so
    that predictors with other spreads come to one scale. A missing score has no weight,
    and counts as :math:`z_k = 0` in the weights of the others.

    A hidden layer of eight units in the place of the linear map was tried on three
    predictors and the four listening tests of egs2/open_tests: mean SRCC .589 against
    .605 on other clips of the tests, and .536 against .566 on tests left out.

    Attributes:
        keys: names of the K scores.
        mean, sd: m and s, (K,).
        centre, spread: the scale of the mix: means of m and s, weighted as the scores
            are on average over the clips of the fit.
        slopes: A, (K, K).
        biases: b, (K,).
        penalty: that of the fit.
    """

    keys: Tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    centre: float
    spread: float
    slopes: np.ndarray
    biases: np.ndarray
    penalty: float

    def weights(self, scores: np.ndarray) -> np.ndarray:
        """Weights (n, K) of scores (n, K); zero for NaN, all zero without a score."""
        known = np.isfinite(scores)
        z = np.where(known, (scores - self.mean) / self.sd, 0.0)
        return _softmax(z @ self.slopes.T + self.biases, known)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """The mix (n,) of scores (n, K); NaN where there is no score at all."""
        known = np.isfinite(scores)
        z = np.where(known, (scores - self.mean) / self.sd, 0.0)
        mixed = self.centre + self.spread * (self.weights(scores) * z).sum(axis=1)
        return np.where(known.any(axis=1), mixed, np.nan)


def _softmax(logits: np.ndarray, known: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True)) * known
    return powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-300)


def fit(
    scores: np.ndarray,
    labels: np.ndarray,
    sets: Sequence[str],
    keys: Sequence[str],
    penalty: float,
) -> Router:
    r"""Fit a router to labelled clips of one or several listening tests.

    Minimises the mean over the tests of 1 - LCC within the test, so that labels of
    different tests are not compared, plus ``penalty`` :math:`|A|^2 / K` and a little
    for :math:`|b|^2`.

    Args:
        scores: (n, K), NaN where there is none; every clip has one at least, and every
            key two different ones (see :func:`fittable`).
        labels: (n,), each test's on a scale of its own.
        sets: name of the test of each clip.
        keys: names of the K scores.
        penalty: at least 0.
    """
    count = len(keys)
    known = np.isfinite(scores)
    mean = np.nanmean(scores, axis=0)
    sd = np.maximum(np.nanstd(scores, axis=0), 1e-6)
    z = np.where(known, (scores - mean) / sd, 0.0)
    names = np.asarray(sets)
    places = [np.flatnonzero(names == name) for name in dict.fromkeys(sets)]
    targets = []
    for place in places:
        centred = labels[place] - labels[place].mean()
        targets.append(centred / max(np.linalg.norm(centred), 1e-12))

    shares = np.full(count * (count + 1), penalty / count)
    shares[:count] = BIAS_PENALTY / count

    def loss(flat: np.ndarray) -> Tuple[float, np.ndarray]:
        slopes, biases = flat[count:].reshape(count, count), flat[:count]
        weights = _softmax(z @ slopes.T + biases, known)
        mixed = (weights * z).sum(axis=1)
        of_mixed = np.zeros(len(z))  # the gradient
        value = 0.0
        for place, target in zip(places, targets):
            centred = mixed[place] - mixed[place].mean()
            length = max(np.linalg.norm(centred), 1e-12)
            lcc = centred @ target / length
            value += (1 - lcc) / len(places)
            of_mixed[place] = (lcc * centred / length - target) / length / len(places)
        of_logits = of_mixed[:, None] * weights * (z - mixed[:, None])
        gradient = np.concatenate([of_logits.sum(axis=0), (of_logits.T @ z).ravel()])
        return value + shares @ flat**2, gradient + 2 * shares * flat

    found = scipy.optimize.minimize(
        loss, np.zeros(count * (count + 1)), jac=True, method="L-BFGS-B"
    )
    slopes, biases = found.x[count:].reshape(count, count), found.x[:count]
    average = _softmax(z @ slopes.T + biases, known).mean(axis=0)
    scale = float(average @ mean), float(average @ sd)
    return Router(tuple(keys), mean, sd, *scale, slopes, biases, penalty)


def fittable(scores: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """What of the scores (n, K) a router can be fitted to.

    A key needs two different scores: without them it has no mean, or no spread by which
    others' scores are brought to one scale.

    Returns:
        Indices of the clips that have a score of such a key, and of such keys.
    """
    known = np.isfinite(scores)
    low = np.where(known, scores, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, scores, -np.inf).max(axis=0, initial=-np.inf)
    keys = np.flatnonzero(low < high)
    return np.flatnonzero(known[:, keys].any(axis=1)), keys


def fit_router(
    scores: np.ndarray,
    labels: np.ndarray,
    sets: Sequence[str],
    groups: Sequence[str],
    keys: Sequence[str],
) -> Router:
    """Fit a router, its penalty chosen by cross-validation over groups of clips.

    Of a single group nothing can be left out, and the penalty is the greatest.

    Args:
        groups: what is not divided, such as the sentence of each clip.
        scores, labels, sets, keys: as of :func:`fit`.
    """
    folds = _folds(sets, groups)

    def correlation(penalty: float) -> float:
        predicted = _cross(scores, labels, sets, keys, folds, penalty)
        return np.mean(list(_lccs(predicted, labels, sets)))

    # Of equally good ones the greatest.
    best = max(sorted(PENALTIES, reverse=True), key=correlation)
    return fit(scores, labels, sets, keys, best)


def cross_predict(
    scores: np.ndarray,
    labels: np.ndarray,
    sets: Sequence[str],
    groups: Sequence[str],
    keys: Sequence[str],
    leave_sets: bool = False,
) -> np.ndarray:
    """Mixes (n,), each of a router whose fit and penalty knew nothing of the clip.

    NaN where the other clips, or the clip itself, have none of the scores.

    Args:
        leave_sets: leave whole tests out, of which there are two at least; else groups.
        scores, labels, sets, groups, keys: as of :func:`fit_router`.
    """
    folds = np.unique(sets, return_inverse=True)[1] if leave_sets else None
    folds = _folds(sets, groups) if folds is None else folds
    mixed = np.full(len(labels), np.nan)
    for fold in np.unique(folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        rows, columns = fittable(scores[train])
        if not len(rows):
            continue
        train = train[rows]
        of_train = ([values[i] for i in train] for values in (sets, groups))
        given = scores[np.ix_(train, columns)], labels[train], *of_train
        router = fit_router(*given, [keys[k] for k in columns])
        mixed[test] = router(scores[np.ix_(test, columns)])
    return mixed


def check_labelled(name: str, labels: Sequence[float], what: str) -> None:
    """Refuse a test that a correlation says nothing of.

    Args:
        name: of the test.
        labels: of its clips.
        what: its clips have, for the message: "a label".

    Raises:
        DataError: it has less than 10 clips, or labels that are all the same.
    """
    if len(labels) < MINIMUM_CLIPS or min(labels) == max(labels):
        of_labels = f", from {min(labels):g} to {max(labels):g}" if len(labels) else ""
        raise DataError(
            f"the labelled set {name} has {len(labels)} clips with {what}{of_labels}, "
            f"expected at least {MINIMUM_CLIPS} with different labels to compare with; "
            "leave it out."
        )


def _folds(sets: Sequence[str], groups: Sequence[str]) -> np.ndarray:
    """Fold of each clip, (n,): a group of a test is whole, and folds about equal."""
    names = [f"{one}/{group}" for one, group in zip(sets, groups)]
    # The order is random, but hangs on the names only.
    order = sorted(set(names), key=lambda g: hashlib.sha256(g.encode()).digest())
    place = {name: index % FOLDS for index, name in enumerate(order)}
    return np.array([place[name] for name in names])


def _cross(scores, labels, sets, keys, folds, penalty) -> np.ndarray:
    predicted = np.full(len(labels), np.nan)
    for fold in np.unique(folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        rows, columns = fittable(scores[train])
        if len(rows):
            train = train[rows]
            given = scores[np.ix_(train, columns)], labels[train]
            given += [sets[i] for i in train], [keys[k] for k in columns]
            router = fit(*given, penalty)
            predicted[test] = router(scores[np.ix_(test, columns)])
    return predicted


def _lccs(predicted: np.ndarray, labels: np.ndarray, sets: Sequence[str]) -> List:
    names = np.asarray(sets)
    found = []
    for name in dict.fromkeys(sets):
        own = (names == name) & np.isfinite(predicted)
        pair = predicted[own], labels[own]
        varied = own.any() and all(np.ptp(values) > 0 for values in pair)
        found.append(np.nan_to_num(np.corrcoef(*pair)[0, 1]) if varied else 0.0)
    return found


def write_router(path: str, router: Router) -> None:
    """Write a router as JSON."""
    data = {"format_version": FORMAT_VERSION, "kind": "router"}
    data.update(
        (name, value.tolist() if isinstance(value, np.ndarray) else value)
        for name, value in router._asdict().items()
    )
    with atomic_write(path) as file:
        file.write(json.dumps(data, indent=1, allow_nan=False) + "\n")


def read_router(path: str) -> Router:
    """Read what :func:`write_router` wrote.

    Raises:
        DataError: it is no router.
    """
    try:
        data = json.loads(read_text(path))
        count = len(data["keys"])
        shapes = {"mean": (count,), "sd": (count,), "slopes": (count, count)}
        shapes["biases"] = (count,)
        arrays = {name: np.array(data[name], dtype=np.float64) for name in shapes}
        good = all(
            arrays[name].shape == shape and np.isfinite(arrays[name]).all()
            for name, shape in shapes.items()
        )
        if data["kind"] != "router" or not good or not (arrays["sd"] > 0).all():
            raise ValueError("its values do not fit together")
        rest = {name: float(data[name]) for name in ("centre", "spread", "penalty")}
        return Router(tuple(data["keys"]), **arrays, **rest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as a router ({error}), expected the router.json of "
            "`distilmos pseudo_label`; fit it with --labelled."
        ) from error
