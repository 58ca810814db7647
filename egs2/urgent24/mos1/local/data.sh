#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of urgent24: write data/test from URGENT24 of db.sh, after downloading it (14 h) if it is
# not there.
set -euo pipefail
cd "$(dirname "$0")/.."

out=data
sets=          # Only these data directories, "" is all.
skip_bad=false # Go on without what is missing: a partial copy of the corpus.
download=true  # Download the corpus if URGENT24 is "downloads" and it is not there.
python=python3

help_message="Usage: $0 [--out DIR] [--sets \"A B\"] [--skip_bad true|false] [--download true|false]"
. utils/parse_options.sh
if [ $# -ne 0 ]; then
    echo "${help_message}" >&2
    exit 2
fi
. ./path.sh
. ./db.sh

if [ "${URGENT24}" = downloads ]; then
    if ${download} && [ ! -e downloads/metadata.csv ]; then
        "${python}" local/download.py --output_dir downloads
    fi
    [ -e downloads/metadata.csv ] || URGENT24=
fi
scripts/utils/check_corpus.sh URGENT24 "${URGENT24}" "https://huggingface.co/datasets/urgent-challenge/urgent2024_mos"
# shellcheck disable=SC2086  # sets are several names
"${python}" local/prepare_data.py "${URGENT24}" --out "${out}" --skip_bad "${skip_bad}" \
    ${sets:+--sets ${sets}}
