# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import re

import pytest
import torch
import yaml

from espnet2_distilmos.cli import get_device, one_line, progress, run
from espnet2_distilmos.data.datadir import DataError


def test_each_failure_has_its_sentence(capsys):
    assert run(dict, "have no score") == 0
    assert capsys.readouterr().err == ""
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


def test_sentences_stay_on_one_line():
    assert one_line("a\nb\udcffé 日") == "a\\nb\\udcffé 日"


def test_device(monkeypatch):
    assert get_device(0) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DataError, match="--ngpu is 1 and no CUDA device"):
        get_device(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert get_device(2).type == "cuda"
    with pytest.raises(DataError, match="2 CUDA devices were found, expected 3"):
        get_device(3)


@pytest.mark.parametrize("seconds, count", [(0, 10), (60, 2)])
def test_progress_in_a_log_is_lines(seconds, count, monkeypatch, capsys):
    monkeypatch.setattr("espnet2_distilmos.cli._LOG_SECONDS", seconds)
    items = progress((k for k in range(8)), "scores", total=8, unit="file")
    assert list(items) == list(range(8))
    printed = capsys.readouterr().err
    lines = printed.splitlines()
    assert len(lines) == count and "\r" not in printed
    assert re.match(r"scores: 100%.* 8/8 ", lines[-1])
