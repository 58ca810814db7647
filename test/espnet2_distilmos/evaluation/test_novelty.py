# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io

import numpy as np
import pytest
import scipy.stats
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from espnet2_distilmos.evaluation.novelty import distance, fit_novelty, is_novel


def embeddings(n, seed, shift=0.0):
    """Correlated embeddings in 12 dimensions, not centred."""
    generator = np.random.default_rng(seed)
    mix = np.random.default_rng(99).normal(size=(12, 12))
    return generator.normal(size=(n, 12)) @ mix + 2 + shift


def stored_and_read(novelty):
    buffer = io.BytesIO()
    np.savez(buffer, **novelty)
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as archive:
        return dict(archive)


def test_mahalanobis_is_that_of_the_shrunk_covariance():
    train, dev, new = embeddings(40, 0), embeddings(100, 1), embeddings(20, 2, shift=3)
    novelty = stored_and_read(fit_novelty(train, dev))
    expected = LedoitWolf().fit(train).mahalanobis(new) ** 0.5
    np.testing.assert_allclose(distance(novelty, new), expected)
    # the 99th of 100
    dev_distance = np.sort(LedoitWolf().fit(train).mahalanobis(dev) ** 0.5)
    assert float(novelty["threshold"]) == pytest.approx(dev_distance[98])
    assert int(novelty["num_train"]) == 40 and int(novelty["num_dev"]) == 100


def test_nearest_neighbours_against_sklearn():
    train, dev, new = embeddings(300, 0), embeddings(50, 1), embeddings(20, 2, shift=3)
    novelty = stored_and_read(fit_novelty(train, dev, 0.9, "knn", num_neighbours=7))
    reference = NearestNeighbors(n_neighbors=7).fit(normalize(train))
    expected = reference.kneighbors(normalize(new))[0][:, 6]
    np.testing.assert_allclose(distance(novelty, new), expected, atol=1e-5)
    dev_distance = np.sort(reference.kneighbors(normalize(dev))[0][:, 6])
    assert float(novelty["threshold"]) == pytest.approx(dev_distance[44], abs=1e-5)
    # the length of an embedding says nothing
    np.testing.assert_allclose(
        distance(novelty, 5 * new), distance(novelty, new), atol=1e-9
    )


@pytest.mark.parametrize("method", ["mahalanobis", "knn"])
def test_the_familiar_is_seldom_flagged_and_the_foreign_mostly(method):
    train, dev = embeddings(2000, 0), embeddings(500, 1)
    novelty = fit_novelty(train, dev, 0.95, method)
    assert is_novel(novelty, dev).sum() == 25
    flagged = is_novel(novelty, embeddings(2000, 2)).sum()
    # the threshold of 500 clips is itself a little uncertain
    low, high = scipy.stats.binom.ppf([0.0005, 0.9995], 2000, 0.05)
    assert 0.5 * low <= flagged <= 1.6 * high
    foreign = np.random.default_rng(3).normal(size=(200, 12)) * 30
    assert is_novel(novelty, foreign).mean() > 0.5
    # one at a time as in a batch
    single = np.concatenate([distance(novelty, e[None]) for e in foreign[:20]])
    np.testing.assert_allclose(single, distance(novelty, foreign)[:20], atol=1e-7)


def test_the_direction_of_a_difference_counts():
    # much variance along the first dimension, little along the second
    generator = np.random.default_rng(0)
    train = generator.normal(size=(3000, 2)) * [10, 0.1]
    novelty = fit_novelty(train, train)
    along, across = distance(novelty, [[5.0, 0.0], [0.0, 5.0]])
    assert along < 1 and across > 10


def test_fewer_clips_than_dimensions_and_dead_units():
    generator = np.random.default_rng(0)
    train = generator.normal(size=(20, 64))
    train[:, 5] = 1.0
    novelty = fit_novelty(train, generator.normal(size=(10, 64)))
    assert np.isfinite(distance(novelty, train)).all()
    # nothing to shrink: a unit that never moved, then does
    train = np.c_[generator.normal(size=(500, 1)), np.ones((500, 1))]
    novelty = fit_novelty(train, train)
    still, moved = distance(novelty, [[0.0, 1.0], [0.0, 2.0]])
    assert still < 1 and moved > 10
    # of two clips the estimate shrinks nothing, and the covariance is singular
    novelty = fit_novelty([[0.0, 0, 0], [2.0, 0, 0]], [[1.0, 0, 0]])
    near, far = distance(novelty, [[1.0, 0, 0], [1.0, 1, 0]])
    assert near == 0 and 1e3 < far < np.inf


def test_large_training_sets_are_sampled():
    train, dev = embeddings(400, 0), embeddings(50, 1)
    small = fit_novelty(train, dev, method="knn", max_train=100)
    assert small["neighbours"].shape == (100, 12) and int(small["num_train"]) == 400
    again = fit_novelty(train, dev, method="knn", max_train=100)
    np.testing.assert_array_equal(small["neighbours"], again["neighbours"])
    other = fit_novelty(train, dev, method="knn", max_train=100, seed=1)
    assert (other["neighbours"] != small["neighbours"]).any()


def test_what_cannot_be_fitted():
    train, dev = embeddings(30, 0), embeddings(5, 1)
    with pytest.raises(ValueError, match="method is svm"):
        fit_novelty(train, dev, method="svm")
    with pytest.raises(ValueError, match="quantile is 1"):
        fit_novelty(train, dev, 1)
    with pytest.raises(ValueError, match="training embeddings contain NaN"):
        fit_novelty(train * np.nan, dev)
    with pytest.raises(ValueError, match=r"dev embeddings have the shape \(5, 3\)"):
        fit_novelty(train, dev[:, :3])
    with pytest.raises(ValueError, match="no dev embeddings"):
        fit_novelty(train, dev[:0])
    with pytest.raises(ValueError, match="are the same"):
        fit_novelty(np.ones((30, 12)), dev)
    with pytest.raises(ValueError, match="1 training embeddings, expected at least 2"):
        fit_novelty(train[:1], dev)
    with pytest.raises(ValueError, match="9 training embeddings, expected at least 10"):
        fit_novelty(train[:9], dev, method="knn")
    with pytest.raises(ValueError, match="20 neighbours of 15"):
        fit_novelty(train, dev, method="knn", num_neighbours=20, max_train=15)
    novelty = fit_novelty(train, dev)
    with pytest.raises(ValueError, match=r"clips' embeddings have the shape \(12,\)"):
        distance(novelty, train[0])
    with pytest.raises(ValueError, match="expected a stored novelty, found scale"):
        distance({"what": "scale"}, train)
    with pytest.raises(ValueError, match="format 9"):
        distance({**novelty, "format_version": np.array(9)}, train)
