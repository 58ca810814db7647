#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# The embedded default data, from nothing to the table of results. Options are those of
# mos.sh, e.g. ./run.sh --stage 7 --stop_stage 9 --train_args "--max_epoch 3", and --ood all:
# the human ratings of p835, bvrnn, yourtts and vocal_separation of db.sh too.
set -euo pipefail
cd "$(dirname "$0")"

./mos.sh \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 2 \
    --train_set train \
    --valid_set dev \
    --test_sets "test test_ood" \
    --train_config conf/train_distilmos.yaml \
    --inference_config conf/decode.yaml \
    --inference_model valid.utt_srcc.best.pth \
    --known_ood "p835/p835 bvrnn/test yourtts/test vocal_separation/test" \
    "$@"
