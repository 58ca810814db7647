#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of singmos: write data/{train,dev,test} from SINGMOS of db.sh. Nothing is copied.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus SINGMOS \
    --corpus_home "the VoiceMOS Challenge 2024, track 2" \
    "$@"
