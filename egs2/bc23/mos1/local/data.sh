#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of bc23: write data/{track1a,track1b} from BC23 of db.sh. Nothing is copied.
set -euo pipefail
cd "$(dirname "$0")/.."

out=data
sets=          # Only these data directories, "" is all.
skip_bad=false # Go on without what is missing: a partial copy of the corpus.
# shellcheck disable=SC2034  # the options are those of every data.sh
download=true  # There is nothing to download: a person has to.
python=python3

help_message="Usage: $0 [--out DIR] [--sets \"A B\"] [--skip_bad true|false]"
. utils/parse_options.sh
if [ $# -ne 0 ]; then
    echo "${help_message}" >&2
    exit 2
fi
. ./path.sh
. ./db.sh

scripts/utils/check_corpus.sh BC23 "${BC23}" "the VoiceMOS Challenge 2023, track 1"
# shellcheck disable=SC2086  # sets are several names
"${python}" local/prepare_data.py "${BC23}" --out "${out}" --skip_bad "${skip_bad}" \
    --sets ${sets:-track1a track1b}
