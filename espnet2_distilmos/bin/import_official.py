#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Turn a model that the DistilMOS authors released into an experiment directory."""

import argparse
import sys
from typing import Dict, Optional, Sequence

from espnet2_distilmos.cli import run


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
    """Do what the options say."""
    from espnet2_distilmos.mos.checkpoint import import_official as convert

    convert(checkpoint, config, output)
    return {}


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(lambda: import_official(args.checkpoint, args.config, args.output), "")


if __name__ == "__main__":
    sys.exit(main())
