#!/usr/bin/env bash
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Adds links to the helpers of an ESPnet checkout that the recipes here have not, such as
# slurm.pl and queue.pl; files that are there stay. "--restore" removes the links.
set -euo pipefail

usage="Usage: $0 ESPNET_ROOT | $0 --restore"
if [ $# -ne 1 ]; then
    echo "${usage}" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")"/.. && pwd)
template=${DISTILMOS_TEMPLATE:-${root}/egs2/TEMPLATE/mos1} # another one in the tests

if [ "$1" = --restore ]; then
    # Our own links are relative.
    find "${template}"/{utils,scripts,pyscripts} -type l -lname '/*' -delete
    find "${template}"/{utils,scripts,pyscripts} -type d -empty -delete
    echo "The helpers in ${template} are those of espnet2_distilmos alone."
    exit 0
fi
if [ ! -d "$1/egs2/TEMPLATE/asr1" ]; then
    echo "$1 is not a checkout of ESPnet: $1/egs2/TEMPLATE/asr1 is not there." >&2
    exit 1
fi
espnet=$(cd "$1" && pwd)
for name in utils scripts pyscripts; do
    real="${espnet}/egs2/TEMPLATE/asr1/${name}"
    if [ ! -d "${real}/" ]; then # a link into Kaldi, which ESPnet's set-up fetches
        echo "Not linked: ${name}; ${real} leads nowhere yet, run ESPnet's 'make -C ${espnet}/tools kaldi.done' first."
        continue
    fi
    count=0
    while read -r file; do
        [ ! -e "${template}/${name}/${file}" ] || continue
        mkdir -p "$(dirname "${template}/${name}/${file}")"
        ln -sf "${real}/${file}" "${template}/${name}/${file}"
        count=$((count + 1))
    done < <(cd "${real}" && find -L . -type f | sed 's#^\./##')
    echo "Linked: ${count} files of ${real}"
done
echo "'$0 --restore' undoes this."
