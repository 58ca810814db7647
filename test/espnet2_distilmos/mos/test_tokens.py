# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from espnet2_distilmos.mos.tokens import (
    CodebookError,
    Codebooks,
    fit_codebooks,
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
    values.update(changes)
    return Codebooks(centroids=centroids, **values)


def states(batch=3, frames=50, dim=8, layers=4, scale=1.0, offset=0.0):
    generator = torch.Generator().manual_seed(1)
    return [
        scale * torch.randn(batch, frames, dim, generator=generator) + offset
        for _ in range(layers + 1)
    ]


def test_assign_equals_brute_force():
    codebooks, hidden = make(), states()
    lengths = torch.tensor([50, 31, 1])
    tokens = codebooks.assign(hidden, lengths)
    assert tokens.shape == (3, 50, 2) and tokens.dtype == torch.int64
    for column, layer in enumerate(codebooks.layers):
        h = hidden[layer].numpy().astype(np.float64)
        mu = codebooks.centroids[column].astype(np.float64)
        distance = ((h[:, :, None, :] - mu) ** 2).sum(-1)
        expected = distance.argmin(-1)
        for b, length in enumerate(lengths):
            np.testing.assert_array_equal(
                tokens[b, :length, column], expected[b, :length]
            )
            assert (tokens[b, length:, column] == -1).all()


def test_a_large_common_offset_does_not_drown_the_distances():
    # |h|^2 is about 1e8 times the distances: float32 would see ties everywhere
    centroids = np.random.default_rng(0).normal(size=(1, 50, 8)) * 0.1 + 1000
    codebooks = make(centroids, layers=(1,))
    hidden = states(scale=0.1, offset=1000.0)
    tokens = codebooks.assign(hidden, torch.tensor([50, 50, 50]))[..., 0].numpy()
    h = hidden[1].numpy().astype(np.float64)[:, :, None]
    distance = ((h - codebooks.centroids[0].astype(np.float64)) ** 2).sum(-1)
    np.testing.assert_array_equal(tokens, distance.argmin(-1))


def test_alone_and_in_a_batch():
    # frames of a padded batch carry rounding noise of another matrix size
    codebooks = make(np.random.default_rng(0).normal(size=(2, 200, 64)))
    hidden = states(batch=8, frames=60, dim=64)
    lengths = torch.tensor([60, 59, 40, 33, 20, 8, 2, 1])
    batch = codebooks.assign(hidden, lengths)
    noise = torch.Generator().manual_seed(5)
    decided = total = 0
    for b, length in enumerate(lengths):
        alone = [h[b : b + 1, :length] for h in hidden]
        alone = [h + 1e-6 * torch.randn(h.shape, generator=noise) for h in alone]
        tokens = codebooks.assign(alone, lengths[b : b + 1])
        for i, layer in enumerate(codebooks.layers):
            h = alone[layer][0].double()
            mu = torch.from_numpy(codebooks.centroids[i]).double()
            distance = torch.cdist(h, mu).square().sort(dim=-1).values
            clear = distance[:, 1] > (1 + 1e-4) * distance[:, 0]
            assert (tokens[0, clear, i] == batch[b, :length, i][clear]).all()
            decided, total = decided + int(clear.sum()), total + len(clear)
    assert decided > 0.98 * total


def test_upstream_that_does_not_fit():
    with pytest.raises(CodebookError, match="layers up to 3.*0 to 2"):
        make().assign(states(layers=2), torch.tensor([1, 1, 1]))
    with pytest.raises(CodebookError, match="dimension 8.*of 9"):
        make().assign(states(dim=9), torch.tensor([1, 1, 1]))


def test_fit_equals_plain_scikit_learn_whatever_the_jobs():
    features = np.random.default_rng(3).normal(size=(3, 700, 6)).astype(np.float32)
    centroids, inertia = fit_codebooks(features, 12, seed=4, n_jobs=1)
    assert centroids.shape == (3, 12, 6) and centroids.dtype == np.float32
    for layer in range(3):
        plain = MiniBatchKMeans(
            12,
            init="k-means++",
            n_init=3,
            batch_size=10000,
            max_iter=100,
            reassignment_ratio=0.0,
            random_state=4,
        ).fit(features[layer])
        np.testing.assert_allclose(centroids[layer], plain.cluster_centers_, rtol=1e-5)
        # the inertia is the sum of squared distances to the nearest centroid
        distance = ((features[layer][:, None] - centroids[layer]) ** 2).sum(-1).min(1)
        assert inertia[layer] == pytest.approx(distance.sum(), rel=1e-4)
    again = fit_codebooks(features, 12, seed=4, n_jobs=2)
    assert again[0].tobytes() == centroids.tobytes()
    other = fit_codebooks(features, 12, seed=5)[0]
    assert not np.allclose(other, centroids)


def test_fit_finds_separate_clusters():
    generator = np.random.default_rng(0)
    centres = 20 * generator.normal(size=(5, 4))
    points = np.repeat(centres, 40, 0) + 0.01 * generator.normal(size=(200, 4))
    found, _ = fit_codebooks(points[None].astype(np.float32), 5)
    distance = np.abs(found[0][:, None] - centres).max(-1)
    assert sorted(distance.argmin(1)) == [0, 1, 2, 3, 4]
    assert distance.min(1).max() < 0.02


@pytest.mark.parametrize(
    "frames, clusters, found",
    [(10, 11, "10 frames for 11 clusters"), (10, 0, "0 clusters"), (9, 40000, "40000")],
)
def test_impossible_number_of_clusters(frames, clusters, found):
    with pytest.raises(CodebookError, match=found):
        fit_codebooks(np.zeros((1, frames, 3), np.float32), clusters)


def saved(codebooks):
    file = io.BytesIO()
    codebooks.save(file)
    return file.getvalue()


def test_round_trip():
    codebooks = make()
    data = saved(codebooks)
    loaded = Codebooks.load(io.BytesIO(data))
    np.testing.assert_array_equal(loaded.centroids, codebooks.centroids)
    for name in ("layers", "stream", "frame_shift", "sample_rate", "seed", "settings"):
        assert getattr(loaded, name) == getattr(codebooks, name)
    assert loaded.inertia == (1.5, 2.5) and loaded.num_frames == 500
    assert loaded.fingerprint() == codebooks.fingerprint()
    assert saved(loaded) == data
    assert loaded.columns() == [
        {"stream": "hubert", "layer": 1, "K": 20},
        {"stream": "hubert", "layer": 3, "K": 20},
    ]


def test_fingerprint_follows_what_decides_the_tokens():
    first = make().fingerprint()
    moved = make().centroids.copy()
    moved[1, 3, 2] += 1e-3
    assert make(moved).fingerprint() != first
    assert make(layers=(1, 2)).fingerprint() != first
    assert make(upstream_fingerprint="abd").fingerprint() != first
    assert make(inertia=(0, 0), settings={}).fingerprint() == first


def test_unusable_files(tmp_path):
    path = tmp_path / "codebooks.npz"
    with pytest.raises(CodebookError, match="cannot be read.*stage 5"):
        Codebooks.load(str(path))
    path.write_bytes(b"")
    with pytest.raises(CodebookError, match="cannot be read"):
        Codebooks.load(str(path))
    path.write_text("no zip")
    with pytest.raises(CodebookError, match="cannot be read"):
        Codebooks.load(str(path))
    path.write_bytes(saved(make())[:900])
    with pytest.raises(CodebookError, match="cannot be read"):
        Codebooks.load(str(path))
    np.savez(path, centroids=np.zeros((1, 2, 3)))
    with pytest.raises(CodebookError, match="cannot be read"):
        Codebooks.load(str(path))
    np.savez(path, metadata=np.array([{"pickled": 1}], dtype=object))
    with pytest.raises(CodebookError, match="pickle"):
        Codebooks.load(str(path))


def altered(**changes):
    arrays = dict(np.load(io.BytesIO(saved(make()))))
    metadata = json.loads(str(arrays["metadata"]))
    metadata.update(changes)
    arrays["metadata"] = np.array(json.dumps(metadata))
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    return file


def test_other_version_and_altered_contents():
    with pytest.raises(CodebookError, match="format version 2, expected 1"):
        Codebooks.load(altered(format_version=2))
    with pytest.raises(CodebookError, match="was altered"):
        Codebooks.load(altered(upstream_fingerprint="other"))


def test_bad_centroids():
    with pytest.raises(CodebookError, match="NaN"):
        make(np.full((2, 3, 4), np.nan))
    with pytest.raises(CodebookError, match="each of the 2 layers"):
        make(np.zeros((3, 3, 4)))


def test_tokens_import_neither_task_nor_files():
    code = (
        "import sys, espnet2_distilmos.mos.tokens;"
        "bad = [m for m in sys.modules if m.startswith(('espnet2.', 'sklearn', "
        "'espnet2_distilmos.data', 'espnet2_distilmos.tasks', 'soundfile'))];"
        "sys.exit(' '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
