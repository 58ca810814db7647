#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of somos: write data/{train,dev,test} (clean) and data/{train,dev,test}_full from
# SOMOS of db.sh, after downloading it (4 GB) if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

out=data
sets=          # Only these data directories, "" is all.
skip_bad=false # Go on without what is missing: a partial copy of the corpus.
download=true  # Download the corpus if SOMOS is "downloads" and it is not there.
python=python3

help_message="Usage: $0 [--out DIR] [--sets \"A B\"] [--skip_bad true|false] [--download true|false]"
. utils/parse_options.sh
if [ $# -ne 0 ]; then
    echo "${help_message}" >&2
    exit 2
fi
. ./path.sh
. ./db.sh

if [ "${SOMOS}" = downloads ]; then
    if ${download} && [ ! -e downloads/somos.done ]; then
        scripts/utils/download.sh --md5 bdfde4cae256549dfab05d713136e4af \
            https://zenodo.org/records/7378801/files/somos.zip downloads/somos.zip
        "${python}" -m zipfile -e downloads/somos.zip downloads
        "${python}" -m zipfile -e downloads/audios.zip downloads
        touch downloads/somos.done
        rm downloads/somos.zip downloads/audios.zip
    fi
    [ -d downloads/training_files ] || SOMOS=
fi
scripts/utils/check_corpus.sh SOMOS "${SOMOS}" https://zenodo.org/records/7378801
# shellcheck disable=SC2086  # sets are several names
"${python}" local/prepare_data.py "${SOMOS}" --out "${out}" --skip_bad "${skip_bad}" \
    ${sets:+--sets ${sets}}
