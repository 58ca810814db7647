#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Says, in one sentence, which variable of db.sh to set when a corpus is not there.
set -euo pipefail

if [ $# -ne 3 ]; then
    echo "Usage: $0 VARIABLE ITS_VALUE WHERE_TO_GET_THE_CORPUS" >&2
    exit 2
fi
if [ -z "$2" ]; then
    echo "${PWD}/local/data.sh: $1 of db.sh is empty, expected the corpus' directory; get it from $3 (steps in ${PWD}/README.md) and set $1 in db.sh or in the environment." >&2
    exit 1
fi
if [ ! -d "$2" ]; then
    echo "${PWD}/local/data.sh: $1=$2 of db.sh is no directory, expected the corpus; get it from $3 (steps in ${PWD}/README.md) or correct $1 in db.sh or in the environment." >&2
    exit 1
fi
