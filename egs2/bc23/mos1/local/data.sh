#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of bc23: write data/{track1a,track1b} from BC23 of db.sh. Nothing is copied.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus BC23 \
    --corpus_home "the VoiceMOS Challenge 2023, track 1" \
    --sets "track1a track1b" \
    "$@"
