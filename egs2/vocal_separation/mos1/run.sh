#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Scores a packed model on the test set; other options are those of mos.sh. With
# --keep_mixture true the test set has the unseparated mixtures too. To score the models of
# another recipe, run that recipe with --ood "vocal_separation/test ...".
set -euo pipefail
cd "$(dirname "$0")"

keep_mixture=false
local_data_opts=
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --keep_mixture|--local_data_opts)
            [ $# -gt 1 ] || { echo "run.sh: option $1 needs a value." >&2; exit 1; }
            printf -v "${1#--}" '%s' "$2"
            shift 2 ;;
        *)
            options+=("$1")
            shift ;;
    esac
done

./mos.sh \
    --skip_train true \
    --test_sets test \
    --local_data_opts "--prepare_opts --keep_mixture=${keep_mixture} ${local_data_opts}" \
    --inference_config conf/decode.yaml \
    "${options[@]}"
