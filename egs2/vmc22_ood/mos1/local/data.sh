#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of vmc22_ood: write data/{train,train_unlabelled,dev,test} from VMC22_OOD of db.sh. Nothing is copied.
set -euo pipefail
cd "$(dirname "$0")/.."

exec scripts/utils/prepare_corpus.sh --corpus VMC22_OOD \
    --corpus_home "https://zenodo.org/records/6572573" \
    --prepare_opts "--track ood" \
    "$@"
