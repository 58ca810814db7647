#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write the weights that a training started from: make_untrained.py EXP OUT."""

import argparse
import os
import sys

import torch
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

from espnet2_distilmos.cli import call
from espnet2_distilmos.data.datadir import atomic_write
from espnet2_distilmos.mos.checkpoint import initial_model, read_config


def main(cmd=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("exp", help="The experiment, with its config.yaml.")
    parser.add_argument("out", help="The .pth to write.")
    args = parser.parse_args(cmd)
    return call(lambda: make_untrained(args.exp, args.out))


def make_untrained(exp: str, out: str) -> int:
    """Write the weights that the training in ``exp`` started from."""
    config = read_config(os.path.join(exp, "config.yaml"))
    # As the training does before it builds the model.
    set_all_random_seed(config["seed"])
    with initial_model(config) as model, atomic_write(out, "wb") as f:
        torch.save(model.state_dict(), f)
    return 0


if __name__ == "__main__":
    sys.exit(main())
