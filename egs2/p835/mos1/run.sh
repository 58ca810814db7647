#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# One fold: ./run.sh --fold f1 leaves talker f1 out, --fold f1_g0 also the conditions of group
# 0. All folds, methods and seeds: local/run_comparison.sh. Other options are those of mos.sh.
set -euo pipefail
cd "$(dirname "$0")"

fold=f1
train_args=
expdir="exp/{fold}"
dumpdir="dump/{fold}"
options=()
# shellcheck source=/dev/null
. scripts/utils/take_options.sh
take_options "fold train_args expdir dumpdir" "$@"

upstream=$(scripts/utils/whisper_option.sh)
train_args+="${upstream:+ ${upstream}}"
# As many steps as with all conditions, which schedules are made for.
[[ "${fold}" != *_g* ]] || train_args="--num_iters_per_epoch 22 ${train_args}"

./mos.sh \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 1 \
    --train_set "train_${fold}" \
    --valid_set "dev_${fold}" \
    --test_sets "test_${fold} bvrnn/test" \
    --expdir "${expdir/"{fold}"/${fold}}" \
    --dumpdir "${dumpdir/"{fold}"/${fold}}" \
    --num_clusters 100 \
    --train_config conf/train_distilmos.yaml \
    --train_args "--use_matplotlib false ${train_args}" \
    --inference_config conf/decode.yaml \
    --inference_tag inference \
    --inference_model latest.pth \
    "${options[@]}"
