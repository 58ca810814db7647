# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Codebooks: K centroids for each of several layers of an upstream."""

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any, Dict, List, Mapping, Sequence, Tuple, Union

import numpy as np
import torch
import torch.nn.functional as F

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend

# Token files are int16.
MAX_CLUSTERS = 32767
# Token of a frame that an utterance of a padded batch does not have.
PADDING = -1
# K-means: iterations on a part of the frames, one in so many. On 48 000 frames of
# Whisper-tiny (384 dimensions, 200 clusters) the distance is that of 20 iterations on
# all within 0.2 %, at seven tenths of the cost.
SCHEDULE = ((4, 10), (1, 10))
# Frames a cluster: of a part at least; that the first centroids are drawn from.
LEAST_FRAMES, SPREAD_FRAMES = 30, 20
# Frames whose distances are computed at a time.
CHUNK = 4096


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
        self,
        hidden_states: Union[Sequence[torch.Tensor], Mapping[int, torch.Tensor]],
        lengths: torch.Tensor,
    ) -> torch.Tensor:
        """Find the nearest centroid of every frame in every layer.

        Args:
            hidden_states: All of the frontend's states, tensors (B, T, D), or by layer.
            lengths: Valid frames (B,).

        Returns:
            Tokens (B, T, L) int64 in [0, K); -1 in padded frames.

        Raises:
            ValueError: A layer is missing or has another dimension.
        """
        known = hidden_states
        if not isinstance(known, Mapping):
            known = dict(enumerate(hidden_states))
        first, dim = next(iter(known.values())), self.centroids.shape[2]
        if not set(self.layers) <= set(known) or first.shape[-1] != dim:
            raise ValueError(
                f"the codebooks are of layers up to {max(self.layers)} and dimension "
                f"{dim}, but the upstream has layers {min(known)} to {max(known)} of "
                f"dimension {first.shape[-1]}; rerun stage 5 with this upstream."
            )
        tokens = first.new_empty(
            (*first.shape[:2], len(self.layers)), dtype=torch.int64
        )
        for i, layer in enumerate(self.layers):
            tokens[..., i] = self.nearest(i, known[layer].detach())
        frames = torch.arange(first.shape[1], device=first.device)
        padded = frames >= lengths.to(first.device)[:, None]
        return tokens.masked_fill(padded[..., None], PADDING)

    def nearest(self, index: int, states: torch.Tensor) -> torch.Tensor:
        """Find the nearest centroid of one codebook for states (..., D): (...) int64.

        argmin_k |h - mu_k|^2 = argmin_k (|mu_k|^2 - 2 h mu_k), in float64 around the
        mean of the centroids: the matrix product, whose rounding depends on the shape
        of the batch, then decides only where two centroids are equally near to about
        twelve digits.
        """
        centroids = torch.from_numpy(self.centroids[index])
        centroids = centroids.to(states.device, torch.float64)
        offset = centroids.mean(dim=0)
        centred = centroids - offset
        h = states.to(torch.float64) - offset
        return torch.argmin(centred.square().sum(dim=1) - 2 * (h @ centred.T), dim=-1)

    def token_info(self, frontend: AbsLayerFrontend) -> Dict[str, Any]:
        """Contents of tokens.json: what the tokens of this upstream's frames are."""
        info = {
            "format_version": FORMAT_VERSION,
            "columns": self.columns(),
            "frame_shift": self.frame_shift,
            "minimum_samples": frontend.minimum_samples,
            "frame_offset": 0,
            "sample_rate": self.sample_rate,
            "codebook_fingerprint": self.fingerprint(),
            "upstream_fingerprint": self.upstream_fingerprint,
        }
        if frontend.frame_centre != (frontend.minimum_samples - 1) / 2:
            # Networks that pad their input.
            info["frame_centre"] = frontend.frame_centre
        return info

    def save(self, file: IO[bytes]) -> None:
        """Write an .npz without pickles; equal codebooks give equal bytes."""
        save_codebooks(file, [self])

    @classmethod
    def load(cls, file: Union[str, IO[bytes]]) -> "Codebooks":
        """Read what ``save`` wrote, from a path or an open binary file.

        Raises:
            ValueError: As :func:`load_codebooks`, or they are of several streams.
        """
        codebooks, *others = load_codebooks(file)
        if others:
            streams = [book.stream for book in (codebooks, *others)]
            raise ValueError(
                f"{_name_of(file)} has the codebooks of {', '.join(streams)}, expected "
                "those of one stream; name another file."
            )
        return codebooks

    def _arrays(self) -> Dict[str, np.ndarray]:
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
        return dict(
            centroids=self.centroids,
            layers=np.array(self.layers, dtype=np.int64),
            inertia=np.array(self.inertia, dtype=np.float64),
            metadata=np.array(json.dumps(metadata, sort_keys=True)),
        )

    @classmethod
    def _of_arrays(cls, stored: Dict[str, np.ndarray]) -> "Codebooks":
        metadata = json.loads(str(stored.pop("metadata")))
        version = metadata.pop("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, not {FORMAT_VERSION}")
        fingerprint = metadata.pop("codebook_fingerprint")
        codebooks = cls(**stored, **metadata)
        if codebooks.fingerprint() != fingerprint:
            raise ValueError("altered since the fingerprint in it was written")
        return codebooks


def save_codebooks(file: IO[bytes], streams: Sequence[Codebooks]) -> None:
    """Write the codebooks of one or several streams as an .npz without pickles.

    Those of one are as version 0.1 has them; of several, each array has the name of
    its stream and a dot before its own.
    """
    arrays = streams[0]._arrays()
    if len(streams) > 1:
        arrays = {f"{s.stream}.{k}": v for s in streams for k, v in s._arrays().items()}
    np.savez(file, **arrays)


def load_codebooks(file: Union[str, IO[bytes]]) -> List[Codebooks]:
    """Read what ``save_codebooks`` wrote, from a path or an open binary file.

    Raises:
        ValueError: The file cannot be read, is not a file of codebooks, is of another
            format version or was altered.
    """
    try:
        streams: Dict[str, Dict[str, np.ndarray]] = {}
        with np.load(file, allow_pickle=False) as arrays:
            for key, value in arrays.items():
                stream, _, name = key.rpartition(".")
                streams.setdefault(stream, {})[name] = value
        if not streams:
            raise ValueError("it is empty")
        return [Codebooks._of_arrays(stored) for stored in streams.values()]
    except Exception as error:  # NumPy has many for a damaged file.
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise ValueError(
            f"{_name_of(file)} cannot be read as codebooks ({reason}), expected an "
            ".npz that learn_codebooks wrote; run stage 5 (learn_codebooks "
            "--overwrite) again."
        ) from error


def _name_of(file: Union[str, IO[bytes]]) -> str:
    return file if isinstance(file, str) else getattr(file, "name", "codebooks")


def token_info(streams: Sequence[Codebooks], frontend) -> Dict[str, Any]:
    """Contents of tokens.json, of the tokens of one or several streams side by side.

    Args:
        streams: Their codebooks, in the order of the columns.
        frontend: The upstream on whose grid the frames are, or its ``Grid``.
    """
    info = streams[0].token_info(frontend)
    if len(streams) > 1:
        # What the tokens of one stream are of is said once, for all columns.
        info["columns"] = [
            {**column, "upstream_fingerprint": book.upstream_fingerprint}
            for book in streams
            for column in book.columns()
        ]
        prints = [book.fingerprint() for book in streams]
        info["codebook_fingerprint"] = "+".join(prints)
        prints = [book.upstream_fingerprint for book in streams]
        info["upstream_fingerprint"] = "+".join(prints)
    return info


def fit_codebooks(
    features: Union[np.ndarray, torch.Tensor],
    num_clusters: int,
    seed: int = 0,
    n_jobs: int = 1,
) -> Tuple[np.ndarray, np.ndarray]:
    """Cluster the frames of every layer with k-means.

    Lloyd's iterations, half of them on a part of the frames, where the device has them,
    from greedy k-means++ (Arthur & Vassilvitskii, SODA 2007). Every layer has the same
    seed and one thread: the result does not depend on ``n_jobs``.

    Args:
        features: (L, M, D) of any float type: M frames of L layers.
        num_clusters: Clusters K.
        seed: Seed of the order of the frames and of the first centroids.
        n_jobs: Layers that are clustered at once on the CPU; each has a copy in fp32.

    Returns:
        Centroids (L, K, D) float32 and inertias (L,) float64.

    Raises:
        ValueError: There are fewer frames than clusters, or too many clusters.
    """
    features = torch.as_tensor(features)
    num_frames = features.shape[1]
    if not 1 <= num_clusters <= min(MAX_CLUSTERS, num_frames):
        raise ValueError(
            f"found {num_frames} frames for {num_clusters} clusters, expected 1 to "
            f"{MAX_CLUSTERS} clusters, which int16 tokens can hold, and at least as "
            "many frames; give more audio, raise --max_frames or correct "
            "--num_clusters."
        )

    def fit(layer: torch.Tensor) -> Tuple[torch.Tensor, float]:
        with torch.inference_mode():
            return _fit_layer(layer, num_clusters, seed)

    threads = torch.get_num_threads()
    jobs = 1 if features.is_cuda else n_jobs
    try:
        # The limit is one of the thread for some of torch's libraries.
        with ThreadPoolExecutor(jobs, None, torch.set_num_threads, (1,)) as pool:
            centroids, inertias = zip(*pool.map(fit, features))
    finally:
        torch.set_num_threads(threads)
    return np.stack(centroids), np.array(inertias)


def _fit_layer(
    features: torch.Tensor, num_clusters: int, seed: int
) -> Tuple[np.ndarray, float]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(features), generator=generator)
    trials = 2 + int(math.log(num_clusters))
    size = num_clusters, trials
    draws = torch.rand(size, generator=generator, dtype=torch.float64)
    x = features[order.to(features.device)].float()
    # Around the mean, where the squares of fp32 lose nothing.
    middle = x.mean(dim=0)
    x -= middle
    squares = x.square().sum(dim=1)
    few = max(SPREAD_FRAMES * num_clusters, CHUNK)
    centroids = _spread(x[:few], squares[:few], draws.to(x.device))
    for share, iterations in SCHEDULE:
        part = max(len(x) // share, LEAST_FRAMES * num_clusters)
        for _ in range(iterations):
            centroids = _moved(x[:part], squares[:part], centroids)
    distances = [
        _nearest(*chunk, centroids)[1]
        for chunk in zip(x.split(CHUNK), squares.split(CHUNK))
    ]
    inertia = float(torch.cat(distances).sum(dtype=torch.float64))
    return (centroids + middle).cpu().numpy(), inertia


def _spread(
    x: torch.Tensor, squares: torch.Tensor, draws: torch.Tensor
) -> torch.Tensor:
    """Greedy k-means++: (K, D) frames of x (M, D), by uniform draws (K, T) float64.

    T frames are drawn with a chance that grows as the squared distance to those chosen
    before; the one that leaves the least sum of distances is chosen.
    """
    nearest, chosen = torch.ones_like(squares), []
    for k, draw in enumerate(draws):
        sums = nearest.cumsum(0, dtype=torch.float64)
        place = torch.searchsorted(sums, draw * sums[-1], right=True)
        tried = x[place.clamp(max=len(x) - 1)]
        distance = squares[:, None] - 2 * (x @ tried.T) + tried.square().sum(dim=1)
        distance = distance.clamp(min=0)
        if k:
            distance = torch.minimum(distance, nearest[:, None])
        best = distance.sum(dim=0).argmin()
        nearest = distance[:, best]
        chosen.append(tried[best])
    return torch.stack(chosen)


def _nearest(
    x: torch.Tensor, squares: torch.Tensor, centroids: torch.Tensor
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Nearest centroid (M,) of frames (M, D), and squared distance (M,)."""
    half = centroids.square().sum(dim=1) / 2
    best, label = torch.addmm(half, x, centroids.T, beta=-1).max(dim=1)
    return label, squares - 2 * best


def _moved(
    x: torch.Tensor, squares: torch.Tensor, centroids: torch.Tensor
) -> torch.Tensor:
    """One of Lloyd's iterations; (K, D)."""
    sums = torch.zeros_like(centroids)
    counts = sums.new_zeros(len(sums))
    distances = []
    for part, square in zip(x.split(CHUNK), squares.split(CHUNK)):
        label, distance = _nearest(part, square, centroids)
        distances.append(distance)
        if x.is_cuda:
            # Sums of indices have no fixed order there.
            member = F.one_hot(label, len(centroids)).to(part.dtype)
            sums.addmm_(member.T, part)
            counts += member.sum(dim=0)
        else:
            sums.index_add_(0, label, part)
            counts += torch.bincount(label, minlength=len(centroids))
    moved = sums / counts.clamp(min=1)[:, None]
    # A centroid without frames goes to one that is far from all.
    empty = (counts == 0).nonzero()[:, 0]
    moved[empty] = x[torch.cat(distances).topk(len(empty)).indices]
    return moved
