#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Turn a model that the DistilMOS authors released into an experiment directory."""

import argparse
import logging
import os
import sys
from typing import Any, Optional, Sequence

import torch
import yaml

from espnet2_distilmos.cli import start_logging
from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.mos.build import build_model, read_states
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.mos.official import convert_config, convert_states, find_states


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Import a released DistilMOS model (wavlm or w2v2, from "
        "BaleYang/DistilMOS on the Hugging Face hub). Writes OUTPUT/model.pth and "
        "OUTPUT/config.yaml, for mos_inference, mos_pack and fine-tuning.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", required=True, help="model.pth.tar as released")
    parser.add_argument("--config", required=True, help="model_cfg.yaml beside it")
    parser.add_argument("--output", required=True, help="experiment directory to write")
    return parser


def import_official(checkpoint: str, config: str, output: str) -> ESPnetMOSModel:
    """Write an experiment directory that scores as the released model does.

    Args:
        checkpoint: ``model.pth.tar`` as released.
        config: ``model_cfg.yaml`` as released with it.
        output: directory; gets ``model.pth``, then ``config.yaml``.

    Returns:
        The model.

    Raises:
        DataError: one sentence on the file that is not what it should be.
    """
    target = os.path.join(output, "config.yaml")
    if os.path.exists(target):
        raise DataError(
            f"{target} is there already, expected a directory without an experiment; "
            "choose another --output or remove it."
        )
    given = _read_yaml(config)
    states = _read_checkpoint(checkpoint)
    try:
        states = find_states(states)
    except ValueError as error:
        raise DataError(f"{checkpoint}: {error}") from error
    try:
        converted, missing = convert_config(given, states)
        model = _build(converted)
        weights = convert_states(
            states, model.state_dict(), converted["frontend_conf"]["upstream_config"]
        )
    except ValueError as error:
        raise DataError(f"{checkpoint} with {config}: {error}") from error
    if missing:
        logging.warning(
            f"{config} lacks {', '.join(missing)}: the values are those that the "
            "authors' code takes then"
        )
    model.load_state_dict(weights, strict=True)
    # Whole: the file shall not depend on the defaults of a release of transformers.
    converted["frontend_conf"] = model.frontend.resolved_conf()
    with atomic_write(os.path.join(output, "model.pth"), "wb") as file:
        torch.save(model.state_dict(), file)
    # Last, so that a config.yaml says that everything is there.
    with atomic_write(target) as file:
        yaml.safe_dump(converted, file, sort_keys=False)
    return model


def _build(config: dict) -> ESPnetMOSModel:
    try:
        return build_model(config, load_pretrained=False)
    except Exception as error:  # transformers' and torch's constructors raise anything
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the configuration describes no network that can be built ({reason}), "
            "expected the model_cfg.yaml that was released with the checkpoint"
        ) from error


def _read_checkpoint(path: str) -> Any:
    try:
        return read_states(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror or error}), expected the "
            "model.pth.tar that the authors released; correct --checkpoint."
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path} is no checkpoint of tensors and plain values "
            f"({type(error.__cause__).__name__}), expected the model.pth.tar that the "
            "authors released; correct --checkpoint or download the file anew."
        ) from error


def _read_yaml(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.safe_load(file)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}), expected the model_cfg.yaml "
            "that was released with the checkpoint; correct --config."
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path} is not YAML ({reason}), expected the model_cfg.yaml that was "
            "released with the checkpoint; correct --config."
        ) from error


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    start_logging()
    try:
        model = import_official(args.checkpoint, args.config, args.output)
    except DataError as error:
        print(" ".join(f"import_official: {error}".split()), file=sys.stderr)
        return 1
    logging.info(
        f"{args.output}: {model.frontend.name} of {model.frontend.num_layers} layers, "
        f"{sum(p.numel() for p in model.parameters())} parameters"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
