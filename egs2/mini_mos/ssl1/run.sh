#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# The small upstream of mini_mos from raw speech, on one CPU. Options are those of ssl.sh:
# ./run.sh --local_data_opts "--speech_dir DIR".
set -euo pipefail
cd "$(dirname "$0")"

./ssl.sh \
    --ngpu 0 \
    --train_config conf/train_hubert.yaml \
    --iterations 2 \
    "$@"
