#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of bvcc: write data/{train,dev,test} from BVCC of db.sh. Nothing is copied.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus BVCC \
    --corpus_home "https://zenodo.org/records/6572573" \
    --prepare_opts "--track main" \
    "$@"
