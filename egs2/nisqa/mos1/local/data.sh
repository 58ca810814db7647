#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of nisqa: write data/{train,dev,test_for,test_p501,test_livetalk} from NISQA of db.sh,
# after downloading it (large) if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

out=data
sets=          # Only these data directories, "" is all.
skip_bad=false # Go on without what is missing: a partial copy of the corpus.
download=true  # Download the corpus if NISQA is "downloads" and it is not there.
python=python3

help_message="Usage: $0 [--out DIR] [--sets \"A B\"] [--skip_bad true|false] [--download true|false]"
. utils/parse_options.sh
if [ $# -ne 0 ]; then
    echo "${help_message}" >&2
    exit 2
fi
. ./path.sh
. ./db.sh

if [ "${NISQA}" = downloads ]; then
    if ${download} && [ ! -e downloads/nisqa.done ]; then
        scripts/utils/download.sh \
            https://depositonce.tu-berlin.de/bitstream/11303/13012.5/9/NISQA_Corpus.zip \
            downloads/NISQA_Corpus.zip
        "${python}" -m zipfile -e downloads/NISQA_Corpus.zip downloads
        touch downloads/nisqa.done
        rm downloads/NISQA_Corpus.zip
    fi
    [ -d downloads/NISQA_Corpus ] || NISQA=
fi
scripts/utils/check_corpus.sh NISQA "${NISQA}" "https://github.com/gabrielmittag/NISQA/wiki/NISQA-Corpus"
# shellcheck disable=SC2086  # sets are several names
"${python}" local/prepare_data.py "${NISQA}" --out "${out}" --skip_bad "${skip_bad}" \
    ${sets:+--sets ${sets}}
