#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of nisqa: write data/{train,dev,test_for,test_p501,test_livetalk} from NISQA of db.sh,
# after downloading it (large) if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus NISQA \
    --corpus_home "https://github.com/gabrielmittag/NISQA/wiki/NISQA-Corpus" \
    "$@"
