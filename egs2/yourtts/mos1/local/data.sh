#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of yourtts: write data/test (all clips), data/{train,dev,test}_<fold> of all folds,
# and, from the owner's layout, data/test_en. YOURTTS of db.sh says where it lies; nothing is
# copied.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus YOURTTS \
    --corpus_home "https://github.com/Edresson/YourTTS" \
    "$@"
