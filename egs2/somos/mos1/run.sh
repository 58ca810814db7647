#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Trains on SOMOS (clean) and scores in and out of domain. Options are those of mos.sh,
# and --ood "vmc22_ood/test ...": see egs2/bvcc/mos1/README.md.
set -euo pipefail
cd "$(dirname "$0")"

./mos.sh \
    --train_set train \
    --valid_set dev \
    --test_sets "test test_full" \
    --train_config conf/train_distilmos.yaml \
    --inference_config conf/decode.yaml \
    --inference_model valid.sys_srcc.best.pth \
    "$@"
