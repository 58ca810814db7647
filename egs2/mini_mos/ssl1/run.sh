#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# The small upstream of mini_mos from raw speech, on one CPU. Options are those of ssl.sh:
# ./run.sh --local_data_opts "--speech_dir DIR" --train_threads 1.
set -euo pipefail
cd "$(dirname "$0")"

# The second iteration goes on from the first: a shorter schedule, lower rate. It hears
# noise, other speakers and rooms, and predicts the tokens of the true signal.
schedule="--max_epoch 11 --num_iters_per_epoch 200 --optim_conf lr=1.5e-3 --scheduler_conf warmup_steps=150 --scheduler_conf total_steps=2200"
noisy_view="--noisy_view noise_prob=0.4 --noisy_view speech_prob=0.2 --noisy_view reverb_prob=0.2"

./ssl.sh \
    --ngpu 0 \
    --train_config conf/train_hubert.yaml \
    --iterations 2 \
    --later_train_args "${noisy_view} ${schedule}" \
    "$@"
