#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Trains on BVCC and scores in and out of domain. Options are those of mos.sh, and
# --ood "somos/test ..." or --ood all: see README.md.
set -euo pipefail
cd "$(dirname "$0")"

./mos.sh \
    --train_set train \
    --valid_set dev \
    --test_sets test \
    --train_config conf/train_distilmos.yaml \
    --inference_config conf/decode.yaml \
    --inference_model valid.sys_srcc.best.pth \
    --known_ood "vmc22_ood/test somos/test nisqa/test_for nisqa/test_p501 nisqa/test_livetalk tmhint_qi/test singmos/test vmc23/track1a vmc23/track1b vmc23/track2 vmc23/track3 urgent24/test bvrnn/test yourtts/test yourtts/test_en vocal_separation/test" \
    "$@"
