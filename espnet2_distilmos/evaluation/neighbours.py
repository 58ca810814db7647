# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Labels of the clips that are most like one: a datastore, and regression on it.

RAMP (Wang et al., Interspeech 2023) blends a model's score with the labels of the k
nearest training clips in the space of its embeddings. Here their weights end with the
distance of the next one, the (k + 1)-th: w_i = d_{k+1}^2 - d_i^2, the Epanechnikov
kernel at the width of the neighbourhood (Hechenbichler & Schliep, SFB 386 paper 399,
2004). So the labels' mean is continuous in the embedding, where softmax and inverse
distance jump when two clips change places at the edge: what another batch changes, the
last digits of an embedding, changes the last digits of the mean. There is no
temperature to tune, and the scale of the distances does not matter.

d^2 is the mean over the embedding's dimensions of the squared differences in standard
deviations of the datastore, so that no dimension counts by its size, and the length of
an embedding, which can say what the quality is, counts. The search is exact.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import List, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.data.datadir import atomic_write
from espnet2_distilmos.evaluation.join import match
from espnet2_distilmos.evaluation.trust import check_stored, reading_stored

#: Beside the model's config.yaml.
DATASTORE = "datastore.npz"
# Added to the squared radius: clips that are all equally far away count alike.
_EDGE = 1e-6
# A dimension that varies less than this, relative to the one that varies most, is a
# unit that is never active; its noise would be all that counts.
_LEAST_DEVIATION = 1e-4


@dataclass(frozen=True)
class Datastore:
    """Embeddings and labels of clips, of one model.

    Attributes:
        model: fingerprint of the model that made the embeddings.
        ids: of the clips, N of them.
        embeddings: (N, D) float32.
        labels: (N,) float32, on the model's own scale.
        source: base name of what the labels were read from.
        score_range: lowest and highest score of that scale, or None.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.
    """

    model: str
    ids: Sequence[str]
    embeddings: np.ndarray
    labels: np.ndarray
    source: str = ""
    score_range: Optional[Tuple[float, float]] = None

    def __post_init__(self):
        shapes = np.shape(self.embeddings), np.shape(self.labels)
        if len(shapes[0]) != 2 or not shapes[1] == (len(self.ids),) == shapes[0][:1]:
            raise ValueError(
                f"found embeddings {shapes[0]}, labels {shapes[1]} and {len(self.ids)} "
                "ids, expected (N, D), (N,) and N"
            )
        if not (np.isfinite(self.embeddings).all() and np.isfinite(self.labels).all()):
            raise ValueError("found a value that is NaN or infinite, expected numbers")

    @cached_property
    def _standardized(self) -> Tuple[np.ndarray, np.ndarray]:
        """Embeddings, (N, D) float64, and what they were divided by, (D,)."""
        embeddings = np.asarray(self.embeddings, np.float64)
        deviation = embeddings.std(axis=0)
        least = _LEAST_DEVIATION * (deviation.max() or 1.0)
        # The mean over the dimensions is taken along.
        scale = np.maximum(deviation, least) * np.sqrt(len(deviation))
        return embeddings / scale, scale

    @cached_property
    def fingerprint(self) -> str:
        """Identify the content, by 12 hexadecimal digits."""
        digest = hashlib.sha256(self.model.encode())
        for values in (self.embeddings, self.labels):
            digest.update(np.ascontiguousarray(values, np.float32))
        return digest.hexdigest()[:12]

    def check_neighbours(self, k: int) -> None:
        """Raise ValueError unless there are clips for ``k`` neighbours and an edge."""
        if k >= len(self.ids):
            raise ValueError(
                f"found knn={k} and a datastore of {len(self.ids)} clips, expected at "
                f"least {k + 1}; take fewer neighbours, or make a datastore of more "
                "labelled clips (`distilmos calibrate --datastore`)"
            )

    def label(self, embedding: np.ndarray, k: int) -> float:
        """Weighted mean of the labels of the ``k`` clips most like an embedding (D,).

        Clips that are as far away as the k-th count like it, however many they are.
        """
        from scipy.spatial.distance import cdist

        embeddings, scale = self._standardized
        query = np.asarray(embedding, np.float64)[None] / scale
        squared = cdist(query, embeddings, "sqeuclidean")[0]
        edge = np.partition(squared, k)[k] + _EDGE
        weights = np.maximum(edge - squared, 0.0)
        return float(weights @ self.labels / weights.sum())

    def own_clips(self, clips: Sequence[Tuple[str, Optional[str]]]) -> List[str]:
        """A sentence if some of the clips that are scored are its own, by their names.

        Args:
            clips: id and path of each, matched with its own as labels are.
        """
        own = len(match(clips, [(utt_id, None) for utt_id in self.ids])[0])
        if not own:
            return []
        return [
            f"{own} of the {len(clips)} clips are in the datastore ({self.source}), by "
            "their names: their scores have their own labels in them and say "
            "nothing of other clips; take others, or leave out --knn."
        ]

    def write(self, path: str) -> None:
        """Write it as arrays without objects, whole or not at all."""
        info = {
            "model": self.model,
            "source": self.source,
            "score_range": self.score_range,
        }
        with atomic_write(path, "wb") as file:
            np.savez(
                file,
                what=np.array("datastore"),
                format_version=np.array(FORMAT_VERSION),
                info=np.array(json.dumps(info, allow_nan=False)),
                ids=np.array(self.ids, np.str_),
                embeddings=np.asarray(self.embeddings, np.float32),
                labels=np.asarray(self.labels, np.float32),
            )

    @classmethod
    def read(cls, path: str) -> "Datastore":
        """Read what ``write`` wrote; nothing is unpickled.

        Raises:
            DataError: It is something else, cut off, or of a newer format.
        """
        with reading_stored(path, "datastore"):
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            check_stored(arrays, "datastore")
            return cls(
                ids=arrays["ids"].tolist(),
                embeddings=arrays["embeddings"],
                labels=arrays["labels"],
                **json.loads(str(arrays["info"])),
            )
