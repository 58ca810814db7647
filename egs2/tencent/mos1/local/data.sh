#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of tencent: write data/{train,dev} from TENCENT of db.sh. Nothing is copied.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus TENCENT \
    --corpus_home "https://github.com/ConferencingSpeech/ConferencingSpeech2022" \
    "$@"
