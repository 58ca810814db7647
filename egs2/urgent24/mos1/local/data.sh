#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of urgent24: write data/test from URGENT24 of db.sh, after downloading it (14 h) if it is
# not there.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus URGENT24 \
    --corpus_home "https://huggingface.co/datasets/urgent-challenge/urgent2024_mos" \
    "$@"
