#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Prints which of the named test sets there are. CORPUS/SET is a set of the recipe
# egs2/CORPUS/mos1: its stage 1 writes it into data/CORPUS/SET here. What cannot be had
# is left out with a sentence on stderr. Nothing is downloaded.
set -euo pipefail

prepare=true # Whether sets of other recipes are prepared now; else those there are taken.
skip_bad=false # Go on without clips that are missing.

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: $0 [--prepare true|false] [--skip_bad true|false] SET ..."
. utils/parse_options.sh

available=()
for dset in "$@"; do
    corpus=${dset%%/*}
    name=${dset#*/}
    if [ "${corpus}" = "${dset}" ]; then # of this recipe
        available+=("${dset}")
        continue
    fi
    log="data/${dset}/data.log"
    if ${prepare}; then
        mkdir -p "data/${dset}"
        rm -f "data/${dset}/wav.scp"
        if [ ! -x "../../${corpus}/mos1/local/data.sh" ]; then
            echo "there is no recipe egs2/${corpus}/mos1 with a local/data.sh." > "${log}"
        else
            (
                options=(--out "${PWD}/data/${corpus}")
                cd "../../${corpus}/mos1"
                # Stage 1 of a recipe with embedded data has no further options.
                if grep -q prepare_corpus.sh local/data.sh; then
                    options+=(--sets "${name}" --skip_bad "${skip_bad}" --download false)
                fi
                local/data.sh "${options[@]}"
            ) > "${log}" 2>&1 || rm -f "data/${dset}/wav.scp"
        fi
    fi
    if [ -s "data/${dset}/wav.scp" ]; then
        available+=("${dset}")
    elif [ -s "${log}" ]; then
        echo "${dset} is left out: $(tail -n 1 "${log}") (log: ${log})" >&2
    else
        echo "${dset} is left out: data/${dset}/wav.scp is not there; run stage 1." >&2
    fi
done
echo "${available[*]}"
