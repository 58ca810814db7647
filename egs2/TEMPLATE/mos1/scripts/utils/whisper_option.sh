#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Prints the option of mos_train that takes Whisper-tiny from WHISPER_TINY of db.sh, and
# nothing if that is empty: the hub is asked then.
set -euo pipefail

. ./db.sh
[ -n "${WHISPER_TINY}" ] || exit 0
if [[ "${WHISPER_TINY}" == *[[:space:]]* ]] || [ ! -r "${WHISPER_TINY}/config.json" ]; then
    echo "run.sh: WHISPER_TINY is '${WHISPER_TINY}', expected a path without spaces to a directory with config.json and weights of openai/whisper-tiny; download it as egs2/p835/mos1/README.md says, or empty the variable to use the hub." >&2
    exit 1
fi
echo "--frontend_conf upstream=${WHISPER_TINY}"
