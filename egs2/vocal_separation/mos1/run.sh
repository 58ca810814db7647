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
# shellcheck source=/dev/null
. scripts/utils/take_options.sh
take_options "keep_mixture local_data_opts" "$@"

./mos.sh \
    --skip_train true \
    --test_sets test \
    --local_data_opts "--prepare_opts --keep_mixture=${keep_mixture} ${local_data_opts}" \
    --inference_config conf/decode.yaml \
    "${options[@]}"
