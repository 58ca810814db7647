#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of pstn: write data/{train,dev} from PSTN of db.sh, after downloading it
# (large) if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

out=data
sets=          # Only these data directories, "" is all.
skip_bad=false # Go on without what is missing: a partial copy of the corpus.
download=true  # Download the corpus if PSTN is "downloads" and it is not there.
python=python3

help_message="Usage: $0 [--out DIR] [--sets \"A B\"] [--skip_bad true|false] [--download true|false]"
. utils/parse_options.sh
if [ $# -ne 0 ]; then
    echo "${help_message}" >&2
    exit 2
fi
. ./path.sh
. ./db.sh

if [ "${PSTN}" = downloads ]; then
    if ${download} && [ ! -e downloads/pstn.done ]; then
        scripts/utils/download.sh https://challenge.blob.core.windows.net/pstn/train.zip downloads/train.zip
        "${python}" -m zipfile -e downloads/train.zip downloads
        touch downloads/pstn.done
        rm downloads/train.zip
    fi
    [ -d downloads/pstn_train ] || PSTN=
fi
scripts/utils/check_corpus.sh PSTN "${PSTN}" "https://github.com/ConferencingSpeech/ConferencingSpeech2022"
# shellcheck disable=SC2086  # sets are several names
"${python}" local/prepare_data.py "${PSTN}" --out "${out}" --skip_bad "${skip_bad}" \
    ${sets:+--sets ${sets}}
