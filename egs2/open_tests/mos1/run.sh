#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# One fold: ./run.sh --fold no_p835 leaves the set p835 of conf/sets.txt out, --fold only_p835
# trains on it alone, --fold all on all. All folds, methods and seeds: local/run_comparison.sh.
# Other options are those of mos.sh.
set -euo pipefail
cd "$(dirname "$0")"

fold=all
labels=ranks
test_parts=true
train_config=conf/train_ridge.yaml
train_args=
expdir="exp/{fold}"
dumpdir="dump/{fold}"
skip_bad=false
options=()
# shellcheck source=/dev/null
. scripts/utils/take_options.sh
take_options "fold labels test_parts train_config train_args expdir dumpdir skip_bad" "$@"
# shellcheck source=/dev/null
. ./path.sh

upstream=
if grep -qs '^frontend: hf' "${train_config}"; then upstream=$(scripts/utils/whisper_option.sh); fi
words=$(python3 local/folds.py "${fold}" --labels "${labels}" --test_parts "${test_parts}") # --train_set or --train_sets, and the others
mapfile -t sets <<< "${words}"
# Batches of a single set need no sampler for it.
[ "${sets[0]}" = --train_sets ] || train_args=${train_args//--sampling_batches single/}

./mos.sh \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 1 \
    "${sets[@]}" \
    --local_data_opts "--fold ${fold} --labels ${labels} --skip_bad ${skip_bad}" \
    --skip_bad "${skip_bad}" \
    --expdir "${expdir/"{fold}"/${fold}}" \
    --dumpdir "${dumpdir/"{fold}"/${fold}}" \
    --num_clusters 100 \
    --use_tokens false \
    --use_corpora true \
    --train_config "${train_config}" \
    --train_args "${train_args} ${upstream}" \
    --inference_config conf/decode.yaml \
    --inference_tag inference \
    --inference_model latest.pth \
    "${options[@]}"
