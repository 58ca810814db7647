# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What is in the files: bin/test_predict.py and bin/test_mos_inference.py."""

import pytest

from espnet2_distilmos.data.frames import npy_path


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
