# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch
import yaml

from espnet2_distilmos.cli import get_device, npy_path, progress, run
from espnet2_distilmos.data.batches import AudioBatches
from espnet2_distilmos.data.datadir import DataError


def test_all_went_well(capsys):
    assert run(dict, "have no score") == 0
    assert capsys.readouterr().err == ""


def test_each_failure_has_its_sentence(capsys):
    failures = {"b": "b: found nothing.", "a": "a: found noise."}
    assert run(lambda: failures, "have no score, see F") == 1
    assert capsys.readouterr().err.splitlines() == [
        "b: found nothing.",
        "a: found noise.",
        "2 have no score, see F",
    ]


@pytest.mark.parametrize("kind", [DataError, ValueError, OSError, yaml.YAMLError])
def test_an_error_is_one_line_and_not_a_traceback(kind, capsys):
    def work():
        raise kind("wav.scp: found\n  nothing")

    assert run(work, "have no score") == 1
    assert capsys.readouterr().err == "wav.scp: found nothing\n"


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(lambda: {"a": str(1 / 0)}, "have no score")


def test_device(monkeypatch):
    assert get_device(0) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="--ngpu is 1 and no CUDA device"):
        get_device(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert get_device(1).type == "cuda"


def test_progress_passes_every_batch(mos_corpus):
    wav_scp = mos_corpus.root / "train" / "wav.scp"
    batches = AudioBatches(str(wav_scp), batch_seconds=1)
    ids = [utt for batch in progress(batches, "scores") for utt in batch.utt_ids]
    assert sorted(ids) == sorted(line.split()[0] for line in wav_scp.open())


@pytest.mark.parametrize("utt_id", ["a", "../up", "a/b", "ü '\"%", ".", ".."])
def test_no_id_leaves_the_folder(utt_id, tmp_path):
    path = npy_path(str(tmp_path), utt_id)
    with open(path, "w"):
        pass
    assert [x.name for x in tmp_path.iterdir()] == [path.rsplit("/", 1)[1]]
    assert npy_path("x", "a/b") != npy_path("x", "a%2Fb")


def test_names_that_are_long_or_no_text(tmp_path):
    names = ["日本" * 60 + f"/{k}.wav" for k in range(2)] + ["\udcff\n.wav"]
    for name in names:
        with open(npy_path(str(tmp_path), name), "w"):
            pass
    assert len(list(tmp_path.iterdir())) == 3
