# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Codebooks: K centroids for each of several layers of one upstream."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import IO, Any, Dict, List, Mapping, Sequence, Tuple, Union

import numpy as np
import torch

from espnet2_distilmos import FORMAT_VERSION

# Token files are int16.
MAX_CLUSTERS = 32767
# Token of a frame that an utterance of a padded batch does not have.
PADDING = -1


@dataclass
class Codebooks:
    """K-means centroids of the hidden states of one upstream, a codebook a layer.

    Attributes:
        centroids: (L, K, D) float32.
        layers: Layer of each codebook (L,), numbered as the hidden states.
        stream: Name of the upstream family, such as "hubert".
        frame_shift: Samples from one frame to the next.
        sample_rate: Sampling rate in Hz.
        upstream_fingerprint: Fingerprint of the frontend whose states were clustered.
        seed: Seed of the sample and of the clustering.
        num_frames: Frames that each codebook was fitted to.
        inertia: Sum of squared distances to the nearest centroid, a layer (L,).
        settings: How the codebooks were made: plain JSON values.

    Raises:
        ValueError: The centroids are no finite numbers of that shape.

    >>> book = Codebooks([[[0.0], [1.0]]], (1,), "hubert", 320, 16000, "")
    >>> states = torch.tensor([[[0.2], [0.9], [0.4]]])
    >>> book.assign([states, states], torch.tensor([2])).tolist()
    [[[0], [1], [-1]]]
    """

    centroids: np.ndarray
    layers: Tuple[int, ...]
    stream: str
    frame_shift: int
    sample_rate: int
    upstream_fingerprint: str
    seed: int = 0
    num_frames: int = 0
    inertia: Tuple[float, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.centroids = np.ascontiguousarray(self.centroids, dtype=np.float32)
        self.layers = tuple(int(layer) for layer in self.layers)
        self.inertia = tuple(float(value) for value in self.inertia)
        shape = self.centroids.shape
        is_right = len(shape) == 3 and shape[0] == len(self.layers)
        is_right = is_right and 1 <= shape[1] <= MAX_CLUSTERS
        if not is_right or not np.isfinite(self.centroids).all():
            raise ValueError(
                f"centroids have the shape {shape} or are not finite, expected finite "
                f"(K, D) with K up to {MAX_CLUSTERS} for each layer of {self.layers}."
            )

    @property
    def num_clusters(self) -> int:
        """Clusters K of every codebook."""
        return self.centroids.shape[1]

    def columns(self) -> List[Dict[str, Any]]:
        """Describe the columns of the tokens, as tokens.json does."""
        return [
            {"stream": self.stream, "layer": layer, "K": self.num_clusters}
            for layer in self.layers
        ]

    def fingerprint(self) -> str:
        """Hash all that decides which token a frame gets (not how it came about)."""
        head = [FORMAT_VERSION, self.layers, self.stream, self.frame_shift]
        head += [self.sample_rate, self.upstream_fingerprint, self.centroids.shape]
        digest = hashlib.blake2b(json.dumps(head).encode(), digest_size=16)
        digest.update(self.centroids.astype("<f4").tobytes())
        return digest.hexdigest()

    def assign(
        self, hidden_states: Sequence[torch.Tensor], lengths: torch.Tensor
    ) -> torch.Tensor:
        """Find the nearest centroid of every frame in every layer.

        argmin_k |h - mu_k|^2 = argmin_k (|mu_k|^2 - 2 h mu_k), in float64 around the
        mean of the centroids: the matrix product, whose rounding depends on the shape
        of the batch, then decides only where two centroids are equally near to about
        twelve digits.

        Args:
            hidden_states: All of the frontend's states, tensors (B, T, D).
            lengths: Valid frames (B,).

        Returns:
            Tokens (B, T, L) int64 in [0, K); -1 in padded frames.

        Raises:
            ValueError: A layer is missing or has another dimension.
        """
        first, dim = hidden_states[0], self.centroids.shape[2]
        if max(self.layers) >= len(hidden_states) or first.shape[-1] != dim:
            raise ValueError(
                f"the codebooks are of layers up to {max(self.layers)} and dimension "
                f"{dim}, but the upstream has layers 0 to {len(hidden_states) - 1} of "
                f"dimension {first.shape[-1]}; rerun stage 5 with this upstream."
            )
        centroids = torch.from_numpy(self.centroids).to(first.device, torch.float64)
        offset = centroids.mean(1)
        centred = centroids - offset[:, None]
        squares = centred.square().sum(2)
        tokens = first.new_empty(
            (*first.shape[:2], len(self.layers)), dtype=torch.int64
        )
        for i, layer in enumerate(self.layers):
            h = hidden_states[layer].detach().to(torch.float64) - offset[i]
            tokens[..., i] = torch.argmin(squares[i] - 2 * (h @ centred[i].T), dim=-1)
        frames = torch.arange(first.shape[1], device=first.device)
        padded = frames >= lengths.to(first.device)[:, None]
        return tokens.masked_fill(padded[..., None], PADDING)

    def save(self, file: IO[bytes]) -> None:
        """Write an .npz without pickles; equal codebooks give equal bytes."""
        metadata = {
            "format_version": FORMAT_VERSION,
            "stream": self.stream,
            "frame_shift": self.frame_shift,
            "sample_rate": self.sample_rate,
            "upstream_fingerprint": self.upstream_fingerprint,
            "codebook_fingerprint": self.fingerprint(),
            "seed": self.seed,
            "num_frames": self.num_frames,
            "settings": dict(self.settings),
        }
        np.savez(
            file,
            centroids=self.centroids,
            layers=np.array(self.layers, dtype=np.int64),
            inertia=np.array(self.inertia, dtype=np.float64),
            metadata=np.array(json.dumps(metadata, sort_keys=True)),
        )

    @classmethod
    def load(cls, file: Union[str, IO[bytes]]) -> "Codebooks":
        """Read what ``save`` wrote, from a path or an open binary file.

        Raises:
            ValueError: The file cannot be read, is not a file of codebooks, is of
                another format version or was altered.
        """
        try:
            with np.load(file, allow_pickle=False) as arrays:
                stored = dict(arrays)
            metadata = json.loads(str(stored.pop("metadata")))
            version = metadata.pop("format_version")
            if version != FORMAT_VERSION:
                raise ValueError(f"format version {version}, not {FORMAT_VERSION}")
            fingerprint = metadata.pop("codebook_fingerprint")
            codebooks = cls(**stored, **metadata)
            if codebooks.fingerprint() != fingerprint:
                raise ValueError("altered since the fingerprint in it was written")
        except Exception as error:  # NumPy has many for a damaged file.
            name = file if isinstance(file, str) else getattr(file, "name", "codebooks")
            reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
            raise ValueError(
                f"{name} cannot be read as codebooks ({reason}), expected an .npz that "
                "learn_codebooks wrote; run stage 5 (learn_codebooks --overwrite) "
                "again."
            ) from error
        return codebooks


def fit_codebooks(
    features: np.ndarray, num_clusters: int, seed: int = 0, n_jobs: int = 1
) -> Tuple[np.ndarray, np.ndarray]:
    """Cluster the frames of every layer with mini-batch k-means.

    Sculley, "Web-scale k-means clustering", WWW 2010, as scikit-learn implements it,
    with k-means++ (Arthur & Vassilvitskii, SODA 2007). Every layer has the same seed
    and one thread: the result does not depend on ``n_jobs``.

    Args:
        features: (L, M, D) float32, C-contiguous: M frames of L layers.
        num_clusters: Clusters K.
        seed: Seed of scikit-learn.
        n_jobs: Layers that are clustered at once.

    Returns:
        Centroids (L, K, D) float32 and inertias (L,) float64.

    Raises:
        ValueError: There are fewer frames than clusters, or too many clusters.
    """
    # Imported on use: assigning needs neither.
    import joblib
    from threadpoolctl import threadpool_limits

    num_frames = features.shape[1]
    if not 1 <= num_clusters <= min(MAX_CLUSTERS, num_frames):
        raise ValueError(
            f"found {num_frames} frames for {num_clusters} clusters, expected 1 to "
            f"{MAX_CLUSTERS} clusters, which int16 tokens can hold, and at least as "
            "many frames; give more audio, raise --max_frames or correct "
            "--num_clusters."
        )
    # BLAS threads are limited here, for all layers at once (the limit is one of the
    # process), OpenMP's in each worker (a limit of the thread).
    with threadpool_limits(limits=1):
        results = joblib.Parallel(n_jobs=n_jobs, prefer="threads")(
            joblib.delayed(_fit_layer)(layer, num_clusters, seed) for layer in features
        )
    centroids, inertias = zip(*results)
    return np.stack(centroids), np.array(inertias)


def _fit_layer(features: np.ndarray, num_clusters: int, seed: int):
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    kmeans = MiniBatchKMeans(
        n_clusters=num_clusters,
        init="k-means++",
        batch_size=10000,
        max_iter=100,
        # Tries are compared on a subset only. On hidden states of speech (30 000
        # frames, 200 clusters) the inertia after 1, 3 and 20 tries agrees within
        # 0.4 %, for 2, 5 and 31 s; three guard against a bad draw elsewhere.
        n_init=3,
        reassignment_ratio=0.0,
        random_state=seed,
    )
    with threadpool_limits(limits=1, user_api="openmp"):
        kmeans.fit(features)
    return kmeans.cluster_centers_.astype(np.float32), float(kmeans.inertia_)
