# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import os

import numpy as np
import pytest

from espnet2_distilmos.data.calibration import (
    read_calibration,
    read_scale,
    write_calibration,
    write_scale,
)
from espnet2_distilmos.data.datadir import DataError

STORED = {
    "model": "0123456789ab",
    "scale": None,
    "labels": "dev é",
    "intervals": {"scores": [0.1, 1 / 3], "clusters": None},
    "novelty": {"whitening": np.arange(6.0).reshape(2, 3) / 7, "what": "novelty"},
}


def test_what_was_written_is_read(tmp_path):
    path = str(tmp_path / "new" / "calibration.npz")
    write_calibration(path, STORED)
    found = read_calibration(path)
    novelty = found.pop("novelty")
    assert found == {k: v for k, v in STORED.items() if k != "novelty"}
    np.testing.assert_array_equal(novelty["whitening"], STORED["novelty"]["whitening"])
    assert str(novelty["what"]) == "novelty" and len(novelty) == 2
    write_calibration(path, {**STORED, "novelty": None})
    assert read_calibration(path)["novelty"] is None
    assert os.listdir(tmp_path / "new") == ["calibration.npz"]
    # with NumPy alone, and nothing is unpickled
    with np.load(path, allow_pickle=False) as file:
        assert str(file["what"]) == "calibration" and int(file["format_version"]) == 1


def test_what_is_no_calibration_is_refused(tmp_path):
    path = tmp_path / "calibration.npz"
    write_calibration(str(path), STORED)
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[whole.index(b"dev".decode().encode("utf-32-le")) + 4] ^= 1
    for content in (b"", b"text", whole[:-100], whole[:50], bytes(changed)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="no readable calibration .* calibrate the"):
            read_calibration(str(path))
    np.savez(path, what=np.array({"an": "object"}))
    with pytest.raises(DataError, match="no readable calibration"):
        read_calibration(str(path))
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="no readable calibration"):
        read_calibration(str(path))
    with pytest.raises(DataError, match="none.npz is no readable calibration"):
        read_calibration(str(tmp_path / "none.npz"))
    newer = dict(what="calibration", format_version=2, info="{}")
    np.savez(path, **newer)
    with pytest.raises(DataError, match="calibration of the format 2, expected"):
        read_calibration(str(path))


def test_scales(tmp_path):
    path = str(tmp_path / "scale.json")
    scale = {"what": "scale", "slope": 1 / 3, "score_range": [0, 100]}
    write_scale(path, scale)
    assert read_scale(path) == scale
    for content in ("[1]", "{", ""):
        (tmp_path / "scale.json").write_text(content)
        with pytest.raises(DataError, match="scale.json is no readable scale"):
            read_scale(path)
    with pytest.raises(DataError, match="No such file"):
        read_scale(str(tmp_path / "none.json"))
