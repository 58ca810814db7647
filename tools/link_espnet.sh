#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Links ESPnet's own utils, steps, scripts and pyscripts over those of the recipes here,
# for example to use slurm.pl or queue.pl. "--restore" brings ours back.
set -euo pipefail

usage="Usage: $0 ESPNET_ROOT | $0 --restore"
if [ $# -ne 1 ]; then
    echo "${usage}" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")"/.. && pwd)
template=${DISTILMOS_TEMPLATE:-${root}/egs2/TEMPLATE/mos1} # another one in the tests
names="utils steps scripts pyscripts"

restore() {
    local name=$1
    [ -L "${template}/${name}" ] && rm "${template}/${name}"
    if [ -d "${template}/${name}.distilmos" ]; then
        mv "${template}/${name}.distilmos" "${template}/${name}"
    fi
}

if [ "$1" = --restore ]; then
    for name in ${names}; do
        restore "${name}"
    done
    echo "The helpers in ${template} are those of espnet2_distilmos again."
    exit 0
fi

if [ ! -d "$1/egs2/TEMPLATE/asr1" ]; then
    echo "$1 is not a checkout of ESPnet: $1/egs2/TEMPLATE/asr1 is not there." >&2
    exit 1
fi
espnet=$(cd "$1" && pwd)
for name in ${names}; do
    real="${espnet}/egs2/TEMPLATE/asr1/${name}"
    if [ ! -d "${real}/" ]; then # a link into Kaldi, which ESPnet's set-up fetches
        echo "Not linked: ${name}; ${real} leads nowhere yet, run ESPnet's 'make -C ${espnet}/tools kaldi.done' first."
        continue
    fi
    restore "${name}"
    if [ -d "${template}/${name}" ]; then
        mv "${template}/${name}" "${template}/${name}.distilmos"
    fi
    ln -s "${real}" "${template}/${name}"
    echo "Linked: ${template}/${name} -> ${real}"
done
echo "'$0 --restore' undoes this."
