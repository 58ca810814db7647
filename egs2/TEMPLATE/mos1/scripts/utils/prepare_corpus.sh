#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# What the local/data.sh of every corpus does: runs local/prepare_data.py on the corpus that a
# variable of db.sh names. Where that is "downloads", local/download.sh fills downloads/ first.
set -euo pipefail

# Given by local/data.sh
corpus=        # Variable of db.sh.
corpus_home=   # Where the corpus comes from, for messages.
prepare_opts=  # Further options of local/prepare_data.py.

# Given by the user or mos.sh
out=data       # Where the data directories go.
sets=          # Only these data directories.
skip_bad=false # Go on without what is missing: a partial copy of the corpus.
download=true  # Download the corpus if its owner lets anybody and it is not there.
python=python3

help_message="Usage: local/data.sh [--out DIR] [--sets \"A B\"] [--skip_bad true|false] [--download true|false]"
. utils/parse_options.sh
if [ $# -ne 0 ]; then
    echo "${help_message}" >&2
    exit 2
fi
. ./path.sh
. ./db.sh

directory=${!corpus}
if [ "${directory}" = downloads ]; then
    done="downloads/${corpus,,}.done" # of what was fetched and unpacked completely
    if ${download} && [ ! -e "${done}" ]; then
        python=${python} local/download.sh
        touch "${done}"
    fi
    [ -e "${done}" ] || directory=
fi
if [ -z "${directory}" ]; then
    found="is empty"
elif [ ! -d "${directory}" ]; then
    found="is ${directory}, which is no directory"
fi
if [ -n "${found:-}" ]; then
    echo "${PWD}/local/data.sh: ${corpus} of db.sh ${found}, expected the corpus; get it from ${corpus_home} (steps in ${PWD}/README.md) and set ${corpus} in db.sh or in the environment." >&2
    exit 1
fi
# shellcheck disable=SC2086  # several options, several sets
"${python}" local/prepare_data.py "${directory}" --out "${out}" --skip_bad "${skip_bad}" \
    ${sets:+--sets ${sets}} ${prepare_opts}
