#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# One fold: ./run.sh --fold sys0 leaves systems out, --fold spk0 voices; README.md has them all.
# Other options are those of mos.sh.
set -euo pipefail
cd "$(dirname "$0")"

fold=sysA
train_args=
options=()
# shellcheck source=/dev/null
. scripts/utils/take_options.sh
take_options "fold train_args" "$@"
if ! [[ "${fold}" =~ ^(sys[0-2AB]|spk[0-4])$ ]]; then
    echo "run.sh: --fold is '${fold}', expected sys0, sys1, sys2, sysA, sysB or spk0 to spk4." >&2
    exit 1
fi
upstream=$(scripts/utils/whisper_option.sh)

./mos.sh \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 1 \
    --train_set "train_${fold}" \
    --valid_set "dev_${fold}" \
    --test_sets "test_${fold}" \
    --expdir "exp/${fold}" \
    --dumpdir "dump/${fold}" \
    --num_clusters 100 \
    --use_tokens false \
    --train_config conf/train_ridge.yaml \
    --train_args "--use_matplotlib false ${train_args} ${upstream}" \
    --inference_config conf/decode.yaml \
    --inference_tag inference \
    --inference_model latest.pth \
    --known_ood "p835/p835 bvrnn/test vocal_separation/test yourtts/test_en" \
    "${options[@]}"
