#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Turn a model that the DistilMOS authors released into an experiment directory."""

import argparse
import logging
import os
import sys
from typing import Dict, Optional, Sequence

import yaml

from espnet2_distilmos.cli import run
from espnet2_distilmos.data.datadir import DataError, atomic_write


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


def import_official(checkpoint: str, config: str, output: str) -> Dict[str, str]:
    """Write an experiment directory that scores as the released model does.

    Args:
        checkpoint: ``model.pth.tar`` as released.
        config: ``model_cfg.yaml`` as released with it.
        output: directory; gets ``model.pth``, then ``config.yaml``.

    Raises:
        DataError, OSError: one sentence on the file that is not what it should be.
    """
    import torch

    from espnet2_distilmos.mos.checkpoint import read_states, read_yaml
    from espnet2_distilmos.mos.official import convert

    target = os.path.join(output, "config.yaml")
    if os.path.exists(target):
        raise DataError(
            f"{target} is there already, expected a directory without an experiment; "
            "choose another --output or remove it."
        )
    given = read_yaml(config, "the model_cfg.yaml that was released; correct --config")
    states = read_states(checkpoint)
    try:
        model, converted = convert(given, states)
    except ValueError as error:
        raise DataError(f"{checkpoint} with {config}: {error}") from error
    with atomic_write(os.path.join(output, "model.pth"), "wb") as file:
        torch.save(model.state_dict(), file)
    # Last, so that a config.yaml says that everything is there.
    with atomic_write(target) as file:
        yaml.safe_dump(converted, file, sort_keys=False)
    logging.info(
        f"{output}: {model.frontend.name} of {model.frontend.num_layers} layers, "
        f"{sum(p.numel() for p in model.parameters())} parameters"
    )
    return {}


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(lambda: import_official(args.checkpoint, args.config, args.output), "")


if __name__ == "__main__":
    sys.exit(main())
