# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What is in the files: bin/test_predict.py and bin/test_mos_inference.py."""

import json

import numpy as np
import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.frames import npy_path, read_frames, write_frames


@pytest.mark.parametrize("utt_id", ["a", "../up", "a/b", "ü '\"%", ".", "\udcff\n.wav"])
def test_no_id_leaves_the_folder(utt_id, tmp_path):
    path = npy_path(str(tmp_path), utt_id)
    with open(path, "w"):
        pass
    assert [x.name for x in tmp_path.iterdir()] == [path.rsplit("/", 1)[1]]


def test_no_two_ids_share_a_file(tmp_path):
    for name in ["a/b", "a%2Fb", *("日本" * 60 + f"/{k}.wav" for k in range(2))]:
        with open(npy_path(str(tmp_path), name), "x"):
            pass
    assert len(list(tmp_path.iterdir())) == 4


def test_frames_with_their_times(tmp_path):
    path = write_frames(str(tmp_path), "a", np.array([1, 2.5, 3], np.float32))
    with pytest.raises(DataError, match="frames.json beside it cannot be read"):
        read_frames(path)
    info = {"frame_shift": 320, "frame_centre": 200, "sample_rate": 16000}
    (tmp_path / "frames.json").write_text(json.dumps(info))
    scores, times = read_frames(path)
    np.testing.assert_array_equal(scores, [1, 2.5, 3])
    np.testing.assert_allclose(times, [0.0125, 0.0325, 0.0525])
    for content in (np.ones((2, 2)), np.array([1, np.nan]), np.array([{}])):
        np.save(path, content)
        with pytest.raises(DataError, match="write it again"):
            read_frames(path)
