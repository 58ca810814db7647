# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the token tools read of a training configuration: its frontend."""

import argparse
import shlex
from typing import Any, Dict, Tuple

import yaml
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet2_distilmos.fileio.datadir import DataError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise DataError(
            f"--train_args cannot be read ({message}), expected options of mos_train "
            "such as `--frontend_conf freeze=cnn`; correct --train_args."
        )


def read_frontend_conf(path: str, train_args: str = "") -> Tuple[str, Dict[str, Any]]:
    """Read the frontend of a training configuration, as training will build it.

    Args:
        path: YAML configuration of mos_train.
        train_args: Options that override it on mos_train's command line; only
            ``--frontend`` and ``--frontend_conf`` matter here.

    Returns:
        Name and keyword arguments of the frontend, for ``build_frontend``.

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
    # Whole names only: with so few options known, prefixes would match too much.
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--frontend", default=config.get("frontend", "hf"))
    parser.add_argument("--frontend_conf", action=NestedDictAction, default=conf or {})
    try:
        args, _ = parser.parse_known_args(shlex.split(train_args))
    except (ValueError, argparse.ArgumentTypeError, yaml.YAMLError) as error:
        if isinstance(error, DataError):
            raise
        parser.error(" ".join(str(error).split()))
    return args.frontend, args.frontend_conf
