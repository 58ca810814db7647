# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Files of what was fitted to a trained model: its calibration, and scales.

``calibration.npz`` lies beside the model: NumPy arrays without objects, so that nothing
is unpickled. ``scale.json`` belongs to a listening test and lies anywhere.
"""

import json
import zipfile
import zlib
from typing import Any, Dict, Mapping

import numpy as np

from espnet2_distilmos.data.datadir import DataError, atomic_write

#: Beside the model's config.yaml.
CALIBRATION = "calibration.npz"
FORMAT_VERSION = 1
_PREFIX = "novelty."


def write_calibration(path: str, calibration: Mapping[str, Any]) -> None:
    """Write a calibration, whole or not at all.

    Args:
        path: File to write.
        calibration: ``novelty``, arrays by name, or None; the rest is JSON-ready (see
            ``evaluation.confidence``).

    Raises:
        DataError: The file cannot be written.
    """
    info = {key: value for key, value in calibration.items() if key != "novelty"}
    arrays = {
        "what": np.array("calibration"),
        "format_version": np.array(FORMAT_VERSION),
        "info": np.array(json.dumps(info, allow_nan=False)),
    }
    for key, value in (calibration.get("novelty") or {}).items():
        arrays[_PREFIX + key] = np.asarray(value)
    with atomic_write(path, "wb") as file:
        np.savez(file, **arrays)


def read_calibration(path: str) -> Dict[str, Any]:
    """Read what ``write_calibration`` wrote.

    Raises:
        DataError: It is something else, cut off, or of a newer format.
    """
    mend = "calibrate the model again (`distilmos calibrate`)."
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        what, version = str(arrays["what"]), int(arrays["format_version"])
        info = json.loads(str(arrays["info"]))
    except (
        OSError,
        ValueError,  # also of objects, and of JSON
        TypeError,
        AttributeError,  # a single array has no names
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(
            f"{path} is no readable calibration ({reason}), expected a file of "
            f"`distilmos calibrate`; {mend}"
        ) from error
    if what != "calibration" or not 1 <= version <= FORMAT_VERSION:
        raise DataError(
            f"{path} holds {what} of the format {version}, expected a calibration of "
            f"the format {FORMAT_VERSION} at most; upgrade espnet2_distilmos or {mend}"
        )
    novelty = {
        name[len(_PREFIX) :]: array
        for name, array in arrays.items()
        if name.startswith(_PREFIX)
    }
    return {**info, "novelty": novelty or None}


def write_scale(path: str, scale: Mapping[str, Any]) -> None:
    """Write a scale as JSON, whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(json.dumps(scale, indent=1, allow_nan=False) + "\n")


def read_scale(path: str) -> Dict[str, Any]:
    """Read what ``write_scale`` wrote.

    Raises:
        DataError: It cannot be read or is no JSON object.
    """
    try:
        with open(path, encoding="utf-8") as file:
            scale = json.load(file)
        if not isinstance(scale, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"{path} is no readable scale ({reason}), expected a file of `distilmos "
            "calibrate --fit-scale`; fit the scale again."
        ) from error
    return scale
