# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch

from espnet2_distilmos.bin.mos_train import main


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--losses", "--upstream_lr", "--valid_utt2sys", "--token_info"):
        assert option in shown


def test_a_gpu_that_is_not_there(mos_corpus, tmp_path, monkeypatch):
    """Before any data is read."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    missing = ["--train_shape_file", "none", "--ngpu", "1"]
    with pytest.raises(ValueError, match="--ngpu is 1 and no CUDA"):
        main(mos_corpus.command(tmp_path / "exp", *missing))
