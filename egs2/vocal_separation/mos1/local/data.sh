#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of vocal_separation: write data/test from VOCAL_SEPARATION of db.sh. Nothing is
# copied. --prepare_opts --keep_mixture=true keeps the unseparated mixtures.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus VOCAL_SEPARATION \
    --corpus_home "https://github.com/CVSSP/perceptual-study-source-separation" \
    "$@"
