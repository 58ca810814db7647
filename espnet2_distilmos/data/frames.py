# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Files of what a model gives frame by frame: .npy files and what says where they are.

``frames.json`` has the time of frame ``i``, in seconds: ``(frame_centre + i *
frame_shift) / sample_rate``. Files of version 0.1 may lack ``frame_centre``.
"""

import json
import os
from typing import Mapping

import numpy as np

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.data.datadir import atomic_write, path_of_id, write_scp


def npy_path(folder: str, utt_id: str) -> str:
    """Return the .npy file of an utterance in ``folder``."""
    return path_of_id(folder, utt_id, ".npy")


def write_frames(folder: str, utt_id: str, frames: np.ndarray) -> str:
    """Write the frame scores of an utterance, (T,), and return the file's path.

    Raises:
        DataError: The file cannot be written.
    """
    path = npy_path(folder, utt_id)
    with atomic_write(path, "wb") as file:
        np.save(file, frames)
    return path


def write_frame_index(folder: str, paths: Mapping[str, str], predictor) -> None:
    """Write ``frames.scp`` and ``frames.json``.

    Args:
        folder: Where they go.
        paths: Files of ``write_frames`` by id.
        predictor: The MOSPredictor that made the scores.

    Raises:
        DataError: A file cannot be written.
    """
    info = {
        "format_version": FORMAT_VERSION,
        "frame_shift": predictor.frame_shift,
        "frame_centre": predictor.frame_centre,
        "sample_rate": predictor.sample_rate,
    }
    with atomic_write(os.path.join(folder, "frames.json")) as file:
        file.write(json.dumps(info) + "\n")
    write_scp(os.path.join(folder, "frames.scp"), paths, sort=False)
