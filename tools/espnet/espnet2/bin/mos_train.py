#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Train a MOS prediction model."""

from espnet2.tasks.mos import MOSTask


def get_parser():
    """Parser of the training command."""
    parser = MOSTask.get_parser()
    parser.description = "Train a MOS prediction model."
    return parser


def main(cmd=None):
    r"""MOS training.

    Example:

        % python -m espnet2.bin.mos_train --print_config
        % python -m espnet2.bin.mos_train --config conf/train.yaml \
            --train_data_path_and_name_and_type data/train/wav.scp,speech,sound \
            --train_data_path_and_name_and_type data/train/metric.scp,mos,text ...
    """
    MOSTask.main(cmd=cmd)


if __name__ == "__main__":
    main()
