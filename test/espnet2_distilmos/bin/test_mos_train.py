# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io
import os

import pytest
import yaml

from espnet2_distilmos.bin.mos_train import get_parser, main
from espnet2_distilmos.mos.checkpoint import load_model
from espnet2_distilmos.tasks.mos import MOSTask


def test_parser_says_what_it_is():
    assert "MOS" in get_parser().description


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--losses", "--upstream_lr", "--valid_utt2sys", "--token_info"):
        assert option in shown


def test_print_config():
    # ESPnet binds its output to the stdout of the import.
    output = io.StringIO()
    MOSTask.print_config(file=output)
    config = yaml.safe_load(output.getvalue())
    assert config["frontend"] == "hf" and config["head"] == "distilmos"
    assert config["head_conf"]["layer_mix"] == "entmax15"
    assert config["score_range"] == [1.0, 5.0]


def test_trains_a_model(mos_corpus, tmp_path):
    command = mos_corpus.command(
        tmp_path / "exp",
        "--head",
        "ssl_mos",
        tokens=False,
        head_conf={},
        losses={"mos_l1": {"weight": 1.0}},
    )
    main(command)
    out = tmp_path / "exp"
    assert os.readlink(out / "valid.sys_srcc.best.pth") == "1epoch.pth"
    model, config = load_model(out / "config.yaml", out / "valid.sys_srcc.best.pth")
    assert config["head"] == "ssl_mos" and not model.training


def test_bad_option_stops(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--scheduler", "warmuplinaer"])
    assert stop.value.code == 2
    assert "warmuplinear" in capsys.readouterr().err
