#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Trains on the Tencent corpus, which has no systems. Options are those of mos.sh, and
# --ood "somos/test ...": see egs2/bvcc/mos1/README.md.
set -euo pipefail
cd "$(dirname "$0")"

./mos.sh \
    --train_set train \
    --valid_set dev \
    --test_sets dev \
    --train_config conf/train_distilmos.yaml \
    --inference_config conf/decode.yaml \
    --inference_model valid.utt_srcc.best.pth \
    --need_systems false \
    "$@"
