#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write the weights that a training started from: make_untrained.py EXP OUT."""

import argparse
import os
import sys

import torch
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.mos.checkpoint import initial_model, read_config


def main(cmd=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("exp", help="The experiment, with its config.yaml.")
    parser.add_argument("out", help="The .pth to write.")
    args = parser.parse_args(cmd)
    path = os.path.join(args.exp, "config.yaml")
    try:
        config = read_config(path)
        # As the training does before it builds the model.
        set_all_random_seed(config["seed"])
        with initial_model(config) as model, atomic_write(args.out, "wb") as f:
            torch.save(model.state_dict(), f)
    except (OSError, ValueError, DataError) as error:
        print(f"make_untrained: {path}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
