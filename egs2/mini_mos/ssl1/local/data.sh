#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of ssl1: write data/{train,dev} from a folder of speech, without labels. All
# options but --python are those of local/prepare_speech.py: local/data.sh --help.
set -euo pipefail
cd "$(dirname "$0")/.."

python=python3
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --python) python=$2; shift 2; continue ;;
    esac
    arguments+=("$1")
    shift
done
. ./path.sh

"${python}" local/prepare_speech.py "${arguments[@]}"
