#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of p835: write data/{train,dev,test}_<fold> of all folds, data/p835 (all clips),
# data/bvrnn, and data/speech (drawn from SPEECH) if that is given. Nothing is copied: the
# wav.scp point into P835, BVRNN and SPEECH of db.sh.
set -euo pipefail

leave=talkers # What a test set has that training has not: talkers, or conditions too.
out=data      # Where the data directories go.
python=python3

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: $0 [--leave talkers|conditions] [--out DIR]"
# shellcheck source=/dev/null
. utils/parse_options.sh
# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./db.sh

if [ -z "${P835}" ]; then
    cat >&2 << 'EOM'
data.sh: P835 of db.sh is empty. Download the clips and ratings (CC BY 4.0) with
    git clone --depth 1 --filter=blob:none --sparse https://github.com/microsoft/P.808 downloads/P.808
    git -C downloads/P.808 sparse-checkout set p835_reference_conditions
and set P835=downloads/P.808/p835_reference_conditions in db.sh or in the environment.
EOM
    exit 1
fi
if [ -z "${BVRNN}" ]; then
    cat >&2 << 'EOM'
data.sh: BVRNN of db.sh is empty: data/bvrnn, the out-of-domain test set, is left out. Download it (CC BY 4.0) with
    git clone --depth 1 --filter=blob:none --sparse https://github.com/BenjSta/bernoulli-var-speech-codec downloads/bvrnn
    git -C downloads/bvrnn sparse-checkout set mushra_results_dataset
and set BVRNN=downloads/bvrnn/mushra_results_dataset in db.sh or in the environment.
EOM
fi
"${python}" local/prepare_data.py --p835 "${P835}" --bvrnn "${BVRNN}" --speech "${SPEECH}" \
    --leave "${leave}" --out "${out}"
