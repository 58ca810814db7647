# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io
import json

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

import espnet2_distilmos.mos.tokens as tokens_module
from espnet2_distilmos.mos.tokens import (
    Codebooks,
    fit_codebooks,
    load_codebooks,
    save_codebooks,
)


def make(centroids=None, **changes):
    if centroids is None:
        centroids = np.random.default_rng(0).normal(size=(2, 20, 8))
    values = dict(
        layers=(1, 3),
        stream="hubert",
        frame_shift=320,
        sample_rate=16000,
        upstream_fingerprint="abc",
        seed=7,
        num_frames=500,
        inertia=(1.5, 2.5),
        settings={"max_frames": 500},
    )
    return Codebooks(centroids=centroids, **{**values, **changes})


def states(batch=3, frames=50, dim=8, layers=4, scale=1.0, offset=0.0):
    generator = torch.Generator().manual_seed(1)
    return [
        scale * torch.randn(batch, frames, dim, generator=generator) + offset
        for _ in range(layers + 1)
    ]


# With the offset |h|^2 is about 1e8 times the distances: fp32 would see ties.
@pytest.mark.parametrize("scale,offset", [(1.0, 0.0), (0.1, 1000.0)])
def test_assign_equals_brute_force(scale, offset):
    centroids = np.random.default_rng(0).normal(size=(2, 20, 8)) * scale + offset
    codebooks, hidden = make(centroids), states(scale=scale, offset=offset)
    lengths = torch.tensor([50, 31, 1])
    tokens = codebooks.assign(hidden, lengths)
    assert tokens.shape == (3, 50, 2) and tokens.dtype == torch.int64
    for column, layer in enumerate(codebooks.layers):
        h = hidden[layer].numpy().astype(np.float64)
        mu = codebooks.centroids[column].astype(np.float64)
        expected = ((h[:, :, None, :] - mu) ** 2).sum(-1).argmin(-1)
        for b, length in enumerate(lengths):
            found = tokens[b, :, column]
            np.testing.assert_array_equal(found[:length], expected[b, :length])
            assert (found[length:] == -1).all()


def test_upstream_that_does_not_fit():
    for change in ({"layers": 2}, {"dim": 9}):
        with pytest.raises(ValueError, match="the upstream has.*rerun stage 5"):
            make().assign(states(**change), torch.tensor([1, 1, 1]))


def test_fit_does_as_well_as_scikit_learn_whatever_the_jobs():
    features = np.random.default_rng(3).normal(size=(3, 700, 6)).astype(np.float32)
    centroids, inertia = fit_codebooks(features, 12, seed=4, n_jobs=1)
    assert centroids.shape == (3, 12, 6) and centroids.dtype == np.float32
    for layer in range(3):
        plain = KMeans(12, n_init=3, random_state=4).fit(features[layer])
        assert inertia[layer] < 1.05 * plain.inertia_
        # The inertia is the sum of squared distances to the nearest centroid.
        distance = ((features[layer][:, None] - centroids[layer]) ** 2).sum(-1).min(1)
        assert inertia[layer] == pytest.approx(distance.sum(), rel=1e-4)
    again = fit_codebooks(features, 12, seed=4, n_jobs=2)
    assert again[0].tobytes() == centroids.tobytes()
    assert not np.allclose(fit_codebooks(features, 12, seed=5)[0], centroids)
    half, _ = fit_codebooks(torch.from_numpy(features).half(), 12, seed=4)
    assert np.abs(half - centroids).max() < 0.5 and not (half == centroids).all()


def test_an_iteration_equals_scikit_learn(monkeypatch):
    monkeypatch.setattr(tokens_module, "CHUNK", 64)
    generator = np.random.default_rng(0)
    x, start = (generator.normal(size=(n, 5)).astype(np.float32) for n in (300, 7))
    plain = KMeans(7, init=start, n_init=1, max_iter=1).fit(x)
    x, start = torch.from_numpy(x), torch.from_numpy(start)
    moved = tokens_module._moved(x, x.square().sum(1), start)
    np.testing.assert_allclose(moved, plain.cluster_centers_, atol=1e-5)


def test_the_start_is_greedy_k_means_plus_plus():
    """In NumPy, a frame and a trial at a time."""
    generator = np.random.default_rng(2)
    x, draws = generator.normal(size=(40, 3)), generator.uniform(size=(6, 4))
    nearest, expected = np.ones(40), []
    for k, row in enumerate(draws):
        edges = np.cumsum(nearest) / nearest.sum()
        options = []
        for draw in row:
            place = int((edges <= draw).sum())
            distance = ((x - x[place]) ** 2).sum(axis=1)
            left = np.minimum(distance, nearest) if k else distance
            options.append((left.sum(), place, left))
        _, place, nearest = min(options, key=lambda option: option[0])
        expected.append(x[place])
    x, draws = torch.from_numpy(x), torch.from_numpy(draws)
    found = tokens_module._spread(x, x.square().sum(dim=1), draws)
    np.testing.assert_array_equal(found, np.stack(expected))


def test_clusters_far_apart_are_found_each():
    """Also the rare ones: one frame in a hundred, around large numbers."""
    generator = np.random.default_rng(1)
    sizes = [3000] + [30] * 9
    means = 1000 + 1000 * generator.permutation(np.eye(10, 16, dtype=np.float32))
    labels = generator.permutation(np.repeat(np.arange(10), sizes))
    x = means[labels] + generator.normal(size=(len(labels), 16)).astype(np.float32)
    centroids, _ = fit_codebooks(x[None], 10, seed=0)
    expected = np.stack([x[labels == k].mean(0) for k in range(10)])
    distance = ((centroids[0][:, None] - expected) ** 2).sum(-1)
    assert (
        sorted(distance.argmin(1)) == list(range(10)) and distance.min(1).max() < 1e-2
    )


def test_fewer_different_frames_than_clusters():
    x = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    centroids, inertia = fit_codebooks(x[None], 6)
    assert np.isfinite(centroids).all() and inertia[0] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("clusters", [0, 11])
def test_impossible_number_of_clusters(clusters):
    with pytest.raises(ValueError, match=f"{clusters} clusters, expected"):
        fit_codebooks(np.zeros((1, 10, 3), np.float32), clusters)


def saved(codebooks):
    file = io.BytesIO()
    codebooks.save(file)
    return file.getvalue()


def test_round_trip():
    codebooks = make()
    data = saved(codebooks)
    loaded = Codebooks.load(io.BytesIO(data))
    np.testing.assert_array_equal(loaded.centroids, codebooks.centroids)
    assert {**vars(loaded), "centroids": 0} == {**vars(codebooks), "centroids": 0}
    assert loaded.fingerprint() == codebooks.fingerprint()
    assert saved(loaded) == data
    assert loaded.columns()[1] == {"stream": "hubert", "layer": 3, "K": 20}


def test_streams_in_one_file(tmp_path):
    """Of other sizes; one stream is written as ever."""
    other = np.random.default_rng(1).normal(size=(3, 7, 5))
    streams = [make(), make(other, stream="hubert-2", layers=(1, 2, 4))]
    path = tmp_path / "codebooks.npz"
    with open(path, "wb") as file:
        save_codebooks(file, streams)
    found = load_codebooks(str(path))
    assert [book.stream for book in found] == ["hubert", "hubert-2"]
    assert [b.fingerprint() for b in found] == [b.fingerprint() for b in streams]
    np.testing.assert_array_equal(found[1].centroids, streams[1].centroids)
    with pytest.raises(ValueError, match="codebooks of hubert, hubert-2, expected"):
        Codebooks.load(str(path))
    with open(path, "wb") as file:
        save_codebooks(file, streams[:1])
    assert path.read_bytes() == saved(streams[0])
    assert sorted(np.load(path)) == ["centroids", "inertia", "layers", "metadata"]


def test_fingerprint_follows_what_decides_the_tokens():
    first = make().fingerprint()
    moved = make().centroids.copy()
    moved[1, 3, 2] += 1e-3
    assert make(moved).fingerprint() != first
    assert make(layers=(1, 2)).fingerprint() != first
    assert make(upstream_fingerprint="abd").fingerprint() != first
    assert make(inertia=(0, 0), settings={}).fingerprint() == first


def altered(**changes):
    arrays = dict(np.load(io.BytesIO(saved(make()))))
    metadata = {**json.loads(str(arrays["metadata"])), **changes}
    arrays["metadata"] = np.array(json.dumps(metadata))
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def pickled():
    file = io.BytesIO()
    np.savez(file, metadata=np.array([{"pickled": 1}], dtype=object))
    return file.getvalue()


@pytest.mark.parametrize(
    "content,found",
    [
        (None, "No such file"),
        (saved(make())[:900], ""),
        (pickled(), "pickle"),
        (altered(format_version=2), "format version 2"),
        (altered(upstream_fingerprint="other"), "altered"),
    ],
)
def test_unusable_files(tmp_path, content, found):
    path = tmp_path / "codebooks.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"npz cannot .*{found}.*stage 5") as error:
        Codebooks.load(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("centroids", [np.full((2, 3, 4), np.nan), np.zeros((3, 3, 4))])
def test_bad_centroids(centroids):
    with pytest.raises(ValueError, match="expected finite"):
        make(centroids)
