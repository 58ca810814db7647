#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Scores a packed model on the test sets; other options are those of mos.sh. To score the
# models of another recipe, run that recipe with --ood "svcc23/track2 ...".
set -euo pipefail
cd "$(dirname "$0")"

./mos.sh \
    --skip_train true \
    --test_sets track2 \
    --inference_config conf/decode.yaml \
    "$@"
