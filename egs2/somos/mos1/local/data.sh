#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of somos: write data/{train,dev,test} (clean) and data/{train,dev,test}_full from
# SOMOS of db.sh, after downloading it (4 GB) if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus SOMOS \
    --corpus_home "https://zenodo.org/records/7378801" \
    "$@"
