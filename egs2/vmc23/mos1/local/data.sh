#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of vmc23: write data/{track1a,track1b,track2,track3} from VMC23 of db.sh. Nothing is
# copied.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus VMC23 \
    --corpus_home "the VoiceMOS Challenge 2023" \
    "$@"
