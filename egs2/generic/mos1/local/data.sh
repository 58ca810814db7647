#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of generic: write data/{train,dev,test} from a table of ratings and check them,
# audio too. Nothing is trained, and every fault is told at once. All options but --python
# are those of local/prepare_data.py: local/data.sh --help.
set -euo pipefail
cd "$(dirname "$0")/.."

python=python3
arguments=()
while [ $# -gt 0 ]; do
    if [ "$1" = --python ]; then
        python=$2
        shift 2
        continue
    fi
    arguments+=("$1")
    shift
done
. ./path.sh
exec "${python}" local/prepare_data.py "${arguments[@]}"
