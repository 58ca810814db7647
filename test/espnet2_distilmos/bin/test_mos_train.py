# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import io

import pytest
import yaml

from espnet2_distilmos.bin.mos_train import main
from espnet2_distilmos.tasks.mos import MOSTask


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
