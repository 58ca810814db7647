# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Files of what a model gives frame by frame: .npy files and what says where they are.

``frames.json`` has the time of frame ``i``, in seconds: ``(frame_centre + i *
frame_shift) / sample_rate``. Files of version 0.1 may lack ``frame_centre``.
"""

import glob
import json
import os
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    path_of_id,
    write_scp,
)


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


def write_frame_index(
    folder: str, paths: Optional[Mapping[str, str]], predictor
) -> None:
    """Write ``frames.scp`` and ``frames.json``.

    Args:
        folder: Where they go.
        paths: Files of ``write_frames`` by id; None for ``frames.json`` alone.
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
    if paths is not None:
        write_scp(os.path.join(folder, "frames.scp"), paths, sort=False)


def read_frames(path: str) -> Tuple[np.ndarray, np.ndarray]:
    """Read frame scores with their times, as ``frames.json`` beside them says.

    Returns:
        Scores (T,) and times (T,) in seconds.

    Raises:
        DataError: One of the files cannot be read or is not of ``write_frames``.
    """
    info_path = os.path.join(os.path.dirname(path), "frames.json")
    try:
        with open(info_path, encoding="utf-8") as file:
            info = json.load(file)
        centre = info.get("frame_centre", info["frame_shift"] / 2)
        frames = np.load(path, allow_pickle=False)
        if frames.ndim != 1 or not np.isfinite(frames).all():
            raise ValueError(f"it holds {frames.dtype} of the shape {frames.shape}")
        places = centre + np.arange(len(frames)) * info["frame_shift"]
        return frames.astype(np.float64), places / info["sample_rate"]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
    ) as error:
        raise DataError(
            f"{path} or frames.json beside it cannot be read ({error}), expected what "
            "`distilmos predict --frames` writes; write it again."
        ) from error


def prepare_tokens(output_dir: str, info: Dict[str, Any], overwrite: bool) -> bool:
    """Write tokens.json before any token, so that all tokens beside it are of its kind.

    Args:
        output_dir: Directory of the tokens.
        info: Contents of tokens.json.
        overwrite: Remove the tokens that are there.

    Returns:
        Whether tokens that are there can be kept.

    Raises:
        DataError: The directory has tokens of another kind or cannot be written.
    """
    path = os.path.join(output_dir, "tokens.json")
    keep = os.path.exists(path) and not overwrite
    if keep:
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        except (OSError, ValueError) as error:
            found = str(error)
        if found != info:
            raise DataError(
                f"{path} is not of this codebook and upstream (found {found}), "
                f"expected codebook {info['codebook_fingerprint']}; use another "
                "directory or --overwrite."
            )
    else:
        pattern = os.path.join(glob.escape(output_dir), "data", "*.npy")
        for stale in glob.glob(pattern):
            os.remove(stale)
        with atomic_write(path) as file:
            file.write(json.dumps(info, indent=2) + "\n")
    return keep
