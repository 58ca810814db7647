#!/usr/bin/env bash
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# A minute of synthetic tones in noise and a random network: for tests of the task, not
# for results.
set -euo pipefail

./mos.sh \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 2 \
    --num_clusters 10 \
    --train_set train \
    --valid_set dev \
    --test_sets test \
    --train_config conf/train.yaml \
    "$@"
