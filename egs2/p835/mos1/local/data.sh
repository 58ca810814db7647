#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of p835: write data/p835 (all clips), data/{train,dev,test}_<fold> of all folds,
# and data/speech, drawn from SPEECH of db.sh if that is given. Nothing is copied.
set -euo pipefail
cd "$(dirname "$0")/.."

# shellcheck source=/dev/null
. ./db.sh
export SPEECH # local/prepare_data.py reads it
exec scripts/utils/prepare_corpus.sh --corpus P835 \
    --corpus_home "https://github.com/microsoft/P.808" \
    "$@"
