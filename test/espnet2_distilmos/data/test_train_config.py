# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.train_config import (
    read_frontend_conf,
    refuse_experiment_as_config,
)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("frontend: hf\nfrontend_conf: {upstream: a, b: {c: 1, d: 2}}\n")
    return str(path)


def test_plain(config):
    assert read_frontend_conf(config) == (
        "hf",
        {"upstream": "a", "b": {"c": 1, "d": 2}},
        None,
    )


def test_overrides_merge_and_other_options_pass(config):
    args = (
        "--max_epoch 3 --frontend_conf b.c=7 --losses token_ce.weight=0 "
        "--frontend s3prl --frontend_conf 'upstream=x y'"
    )
    assert read_frontend_conf(config, args) == (
        "s3prl",
        {"upstream": "x y", "b": {"c": 7, "d": 2}},
        None,
    )


def test_no_frontend_means_the_default(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("max_epoch: 1\n")
    assert read_frontend_conf(str(path)) == ("hf", {}, None)


def test_init_model(config, tmp_path):
    args = "--frontend_conf freeze=all --init_model exp/a"
    conf = {"upstream": "a", "b": {"c": 1, "d": 2}, "freeze": "all"}
    assert read_frontend_conf(config, args) == ("hf", conf, "exp/a")
    path = tmp_path / "init.yaml"
    path.write_text("init_model: exp/b.zip\n")
    # The default frontend is not what the model has.
    assert read_frontend_conf(str(path)) == (None, {}, "exp/b.zip")
    assert read_frontend_conf(str(path), args)[2] == "exp/a"
    args = "--init_model=exp/c --frontend s3prl"
    assert read_frontend_conf(str(path), args) == ("s3prl", {}, "exp/c")


def test_the_record_of_a_training_is_no_configuration(config, tmp_path):
    folder = tmp_path / "exp"
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text("frontend: hf\nmos_format_version: 1\n")
    message = (
        "exp/config.yaml is the record of a training.*--init_model .*/exp to go on"
    )
    with pytest.raises(DataError, match=message):
        read_frontend_conf(str(path))
    for form in (["--config", str(path)], [f"--config={path}"]):
        with pytest.raises(DataError, match=message):
            refuse_experiment_as_config(["--seed", "3", *form])
    path.write_text("a: [")  # left to the parser, as what is not there
    for options in (["--config", str(path)], ["--config"], ["--config", "no"], []):
        assert refuse_experiment_as_config(options) is None
    assert refuse_experiment_as_config(["--config", config]) is None


@pytest.mark.parametrize("text", ["[1, 2]", "", "a: [", "frontend_conf: 3"])
def test_bad_config(tmp_path, text):
    path = tmp_path / "train.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match="train.yaml") as error:
        read_frontend_conf(str(path))
    assert "\n" not in str(error.value)


def test_missing_config(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_frontend_conf(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("args", ["--frontend", "--frontend_conf 3", "--frontend 'x"])
def test_bad_overrides(config, args):
    with pytest.raises(DataError, match="--train_args"):
        read_frontend_conf(config, args)
