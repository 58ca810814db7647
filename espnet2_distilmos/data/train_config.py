# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What is read of a training configuration before, or without, mos_train's parser."""

import argparse
import os
import shlex
from typing import Any, Dict, NamedTuple, Optional, Sequence

import yaml
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet2_distilmos.data.datadir import DataError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise DataError(
            f"--train_args cannot be read ({message}), expected options of mos_train "
            "such as `--frontend_conf freeze=cnn`; correct --train_args."
        )


class FrontendSettings(NamedTuple):
    """The frontend that a training configuration states.

    Attributes:
        name: key of ``FRONTENDS``; None where none is stated and ``init_model`` is.
        conf: its keyword arguments.
        init_model: the trained model that training starts from, or None.
    """

    name: Optional[str]
    conf: Dict[str, Any]
    init_model: Optional[str] = None


def refuse_experiment(path: str, config: Any) -> None:
    """Refuse the config.yaml of an experiment where a training's is expected.

    Raises:
        DataError: ``config``, the contents of ``path``, is what a training wrote.
    """
    if isinstance(config, dict) and "mos_format_version" in config:
        folder = os.path.dirname(path) or "."
        raise DataError(
            f"{path} is the record of a training, expected a configuration to train "
            f"with; give that, and --init_model {folder} to go on from its weights."
        )


def refuse_experiment_as_config(cmd: Optional[Sequence[str]]) -> None:
    """The same of the ``--config`` of a command line, where there is one.

    ESPnet's parser would name the first option that it does not know.

    Args:
        cmd: command line of mos_train; None is that of the process.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", nargs="?")
    path = parser.parse_known_args(cmd)[0].config
    if path is None:
        return
    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return  # for the parser to report
    refuse_experiment(path, config)


def read_frontend_conf(path: str, train_args: str = "") -> FrontendSettings:
    """Read the frontend of a training configuration, as training will build it.

    Args:
        path: YAML configuration of mos_train.
        train_args: Options that override it on mos_train's command line; only
            ``--frontend``, ``--frontend_conf`` and ``--init_model`` matter here.

    Raises:
        DataError: The configuration or the options cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), expected a training "
            "configuration; correct --config."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} is not YAML ({reason}), expected a training configuration; "
            "correct the file."
        ) from error
    conf = config.get("frontend_conf") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(conf or {}, dict):
        raise DataError(
            f"{path} holds no mapping with a mapping `frontend_conf`, expected a "
            "training configuration; correct the file."
        )
    refuse_experiment(path, config)
    # Whole names only: with so few options known, prefixes would match too much.
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--frontend", default=config.get("frontend"))
    parser.add_argument("--init_model", default=config.get("init_model"))
    parser.add_argument("--frontend_conf", action=NestedDictAction, default=conf or {})
    try:
        args, _ = parser.parse_known_args(shlex.split(train_args))
    except (ValueError, argparse.ArgumentTypeError, yaml.YAMLError) as error:
        if isinstance(error, DataError):
            raise
        parser.error(" ".join(str(error).split()))
    name = args.frontend
    if name is None and args.init_model is None:
        name = "hf"
    return FrontendSettings(name, args.frontend_conf, args.init_model)
