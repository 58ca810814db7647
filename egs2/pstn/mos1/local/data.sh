#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of pstn: write data/{train,dev} from PSTN of db.sh, after downloading it
# (large) if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus PSTN \
    --corpus_home "https://github.com/ConferencingSpeech/ConferencingSpeech2022" \
    "$@"
