#!/usr/bin/env bash
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Adds links, file by file, to the helpers of an ESPnet checkout that the recipes here
# have not (slurm.pl, queue.pl, ...), and to its settings of a cluster in the conf of
# every recipe. Files that are there stay. "--restore" removes the links.
set -euo pipefail

usage="Usage: $0 ESPNET_ROOT | $0 --restore"
if [ $# -ne 1 ]; then
    echo "${usage}" >&2
    exit 2
fi
egs2=$(cd "$(dirname "$0")"/../egs2 && pwd)
template="${egs2}/TEMPLATE/mos1"

restore() { # Links of the user, and our own, which are relative, lead elsewhere.
    local folders=("${template}"/{utils,scripts,pyscripts} "${egs2}"/*/*/conf)
    find "${folders[@]}" -type l -lname '/*/egs2/TEMPLATE/asr1/*' -delete
    find "${template}"/{utils,scripts,pyscripts} -type d -empty -delete
}

if [ "$1" = --restore ]; then
    restore
    echo "The helpers in ${template} are those of espnet2_distilmos alone."
    exit 0
fi
real="$1/egs2/TEMPLATE/asr1"
if [ ! -d "${real}" ]; then
    echo "$1 is not a checkout of ESPnet: ${real} is not there." >&2
    exit 1
fi
real=$(cd "${real}" && pwd)
# One of each folder. Where utils is a link, it leads into Kaldi, which ESPnet's set-up
# fetches.
for file in utils/slurm.pl scripts/audio/format_wav_scp.sh pyscripts/audio/format_wav_scp.py conf/slurm.conf; do
    if [ ! -f "${real}/${file}" ]; then
        mend="check ESPnet out as a whole"
        if [ -L "${real}/${file%%/*}" ]; then mend="run 'make -C ${real%/egs2/*}/tools kaldi.done', which fetches Kaldi,"; fi
        echo "$1 is no complete checkout of ESPnet: ${real}/${file} is not there; ${mend} and try again. Nothing was linked." >&2
        exit 1
    fi
done

restore # of another checkout, maybe
count=0
link() { # link SOURCE TARGET: unless something is there
    if [ ! -e "$2" ] && [ ! -L "$2" ]; then
        mkdir -p "$(dirname "$2")"
        ln -s "$1" "$2"
        count=$((count + 1))
    fi
}
for name in utils scripts pyscripts; do
    while IFS= read -r file; do
        link "${real}/${name}/${file}" "${template}/${name}/${file}"
    done < <(cd "${real}/${name}" && find -L . -type f | sed 's#^\./##')
done
# The back-ends read the conf of the recipe that they run in.
for conf in "${egs2}"/*/*/conf; do
    for name in slurm queue pbs; do
        [ ! -f "${real}/conf/${name}.conf" ] || link "${real}/conf/${name}.conf" "${conf}/${name}.conf"
    done
done
echo "Linked: ${count} files of ${real}; '$0 --restore' undoes this."
