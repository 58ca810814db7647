#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# What a trained model has to beat: ridge regression on duration, level and long-term
# spectrum, and the same model untrained. Writes EXP/extra_predictions for stage 9.
set -euo pipefail

python=python3
data_feats=dump/raw
train_set=train
test_sets="test test_ood"
nj=2

help_message="Usage: $0 [--data_feats D] [--train_set S] [--test_sets \"A B\"] [--nj N] EXP"
. utils/parse_options.sh
if [ $# -ne 1 ]; then
    echo "${help_message}" >&2
    exit 2
fi
exp=$1
. ./path.sh
. ./cmd.sh

baselines="${exp}/baselines"
mkdir -p "${baselines}"

test_dirs=()
for dset in ${test_sets}; do
    test_dirs+=("${data_feats}/${dset}")
done
"${python}" local/baseline_ridge.py --train "${data_feats}/${train_set}" \
    --test "${test_dirs[@]}" --out "${baselines}/ridge"

"${python}" local/make_untrained.py "${exp}" "${baselines}/untrained.pth"
for dset in ${test_sets}; do
    # shellcheck disable=SC2154  # cmd.sh sets decode_cmd
    scripts/infer.sh --train_config "${exp}/config.yaml" --model_file "${baselines}/untrained.pth" \
        --inference_args "--write_frames false" --nj "${nj}" --cmd "${decode_cmd}" --python "${python}" \
        "${data_feats}/${dset}/wav.scp" "${baselines}/untrained/${dset}"
done

cat > "${exp}/extra_predictions" << EOM
ridge_regression ${baselines}/ridge
untrained ${baselines}/untrained
EOM
