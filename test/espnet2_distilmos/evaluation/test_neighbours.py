# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from espnet2_distilmos.evaluation.neighbours import Datastore


def make(count=40, size=6, seed=0, **changes):
    generator = np.random.default_rng(seed)
    embeddings = generator.normal(size=(count, size)) * np.logspace(-1, 1, size)
    values = {
        "model": "m",
        "ids": [f"utt{k}" for k in range(count)],
        "embeddings": (embeddings + 1).astype(np.float32),
        "labels": generator.uniform(1, 5, count).astype(np.float32),
        "source": "train",
        "score_range": [1, 5],
    }
    return Datastore(**{**values, **changes})


@pytest.mark.parametrize("k", [1, 3, 8, 39])
def test_it_is_scikit_learns_regression(k):
    store, queries = make(), make(30, seed=1).embeddings

    def epanechnikov(distances):
        """The last of the k + 1 is the edge, with next to no weight."""
        return distances[:, -1:] ** 2 - distances**2 + 6 * 1e-6

    scaler = StandardScaler().fit(store.embeddings.astype(np.float64))
    peer = KNeighborsRegressor(k + 1, weights=epanechnikov, algorithm="brute")
    peer.fit(scaler.transform(store.embeddings), store.labels)
    expected = peer.predict(scaler.transform(queries))
    found = [store.label(query, k) for query in queries]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    if k == 1:  # the nearest's own label
        nearest = peer.kneighbors(scaler.transform(queries), 1, False)[:, 0]
        np.testing.assert_allclose(found, store.labels[nearest], atol=1e-3)


def test_a_rounding_error_changes_as_little():
    """Also where clips change places at the edge, or all are the same clip."""
    store = make()
    twice = np.concatenate([store.embeddings] * 2), np.tile(store.labels, 2)
    ids = [str(k) for k in range(80)]
    doubled = make(ids=ids, embeddings=twice[0], labels=twice[1])
    line = make(embeddings=np.arange(40.0)[:, None])
    many = np.repeat(store.embeddings[:2], 20, axis=0)
    alike = make(embeddings=many)
    noise = np.random.default_rng(2).normal(0, 3e-7, (50, 1))
    for one, queries in (
        (store, store.embeddings),
        (line, [[7.5], [20.5]]),  # k = 3 parts two that are equally far
        (doubled, store.embeddings[:5]),
        (alike, many[:1]),
    ):
        for query in queries:
            found = [one.label(np.array(query) * (1 + e), 3) for e in noise]
            np.testing.assert_allclose(found, one.label(query, 3), atol=1e-4)
    # Copies of a clip are neighbours like others, all that are equally near.
    assert alike.label(many[0], 3) == pytest.approx(alike.labels[:20].mean(), abs=1e-4)
    labels = np.float32([1, 3] * 20)
    assert make(embeddings=many[:, :1] * 0, labels=labels).label(
        [0.0], 8
    ) == pytest.approx(2)


def test_what_never_varies_does_not_count():
    store = make()
    noise = np.random.default_rng(1).normal(0, 1e-6, (40, 1)).astype(np.float32)
    silent = make(embeddings=np.concatenate([store.embeddings, 2 + noise], axis=1))
    for query in make(9, seed=3).embeddings:
        expected = store.label(query, 5)
        assert silent.label([*query, 2.000003], 5) == pytest.approx(expected, abs=1e-3)


def test_it_is_stored_as_data(tmp_path):
    path = str(tmp_path / "new" / "datastore.npz")
    store = make(ids=["ä b", *map(str, range(39))])
    store.write(path)
    again = Datastore.read(path)
    assert again.fingerprint == store.fingerprint and again.ids == store.ids
    assert (again.model, again.source, again.score_range) == ("m", "train", [1, 5])
    query = make(1, seed=4).embeddings[0]
    assert again.label(query, 8) == store.label(query, 8)
    with np.load(path, allow_pickle=False) as file:
        assert str(file["what"]) == "datastore" and int(file["format_version"]) == 1
        assert file["embeddings"].dtype == file["labels"].dtype == np.float32
        newer = {**file, "format_version": np.array(9)}
    changed = make(labels=store.labels + np.float32(0.5))
    assert changed.fingerprint != store.fingerprint
    content = (tmp_path / "new" / "datastore.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:-99])
    np.savez(tmp_path / "newer.npz", **newer)
    np.savez(tmp_path / "pickle.npz", what=np.array([{}], object))
    np.savez(tmp_path / "other.npz", what=np.array("calibration"))
    for name, words in (
        ("cut", "no readable datastore"),
        ("newer", "datastore of the format 9"),
        ("pickle", "does not hold plain arrays"),
        ("other", "found calibration of the format"),
    ):
        with pytest.raises(ValueError, match=f"{name}.npz is no .*") as error:
            Datastore.read(str(tmp_path / f"{name}.npz"))
        assert words in str(error.value) and "distilmos calibrate" in str(error.value)


def test_impossible_datastores_are_refused():
    store = make()
    store.check_neighbours(39)
    with pytest.raises(ValueError, match="knn=40 and a datastore of 40 clips"):
        store.check_neighbours(40)
    for changes, words in (
        ({"labels": store.labels[1:]}, r"found embeddings \(40, 6\), labels \(39,\)"),
        ({"embeddings": store.embeddings * np.nan}, "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=words):
            make(**changes)
    # By their ids or the names of their files, as labels are matched.
    clips = [("a", "x/a.wav"), ("utt3", None), ("x/utt4.wav", "x/utt4.wav")]
    assert store.own_clips(clips)[0].startswith("2 of the 3 clips are")
    assert store.own_clips(clips[:1]) == []
