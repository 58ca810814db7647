#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Makes a data directory of some utterances of another one.
set -euo pipefail
export LC_ALL=C

utt_list=
first=false
usage="Usage: $0 [--first] SRC_DIR NUM_UTTERANCES DST_DIR | $0 --utt-list FILE SRC_DIR DST_DIR"
here=$(cd "$(dirname "$0")" && pwd)
while [ $# -gt 0 ]; do
    case "$1" in
        --utt-list) utt_list=${2:?${usage}}; shift 2 ;;
        --first) first=true; shift ;;
        *) break ;;
    esac
done
if [ -n "${utt_list}" ] && [ $# -eq 2 ]; then
    src=$1
    dst=$2
elif [ -z "${utt_list}" ] && [ $# -eq 3 ]; then
    src=$1
    dst=$3
else
    echo "${usage}" >&2
    exit 2
fi
if [ ! -f "${src}/utt2spk" ]; then
    echo "$0: ${src}/utt2spk is not there; ${src} is not a data directory." >&2
    exit 1
fi
tmp=$(mktemp -d)
trap 'rm -rf "${tmp}"' EXIT
if [ -n "${utt_list}" ]; then
    cp "${utt_list}" "${tmp}/ids"
else
    total=$(wc -l < "${src}/utt2spk")
    if ! [[ "$2" =~ ^[0-9]+$ ]] || [ "$2" -lt 1 ] || [ "$2" -gt "${total}" ]; then
        echo "$0: $2 utterances are asked for, and ${src} has ${total}." >&2
        exit 1
    fi
    if ${first}; then
        head -n "$2" "${src}/utt2spk" > "${tmp}/ids"
    else # evenly spread over the list, so that a sorted list gives all speakers
        awk -v n="$2" -v total="${total}" \
            'int(NR * n / total) > int((NR - 1) * n / total)' "${src}/utt2spk" > "${tmp}/ids"
    fi
fi
mkdir -p "${dst}"
for f in utt2spk wav.scp segments text metric.scp utt2sys utt2src utt2domain votes.scp \
         utt2num_samples utt2dur utt2lang feats.scp; do
    [ -f "${src}/${f}" ] || continue
    if [ "${f}" = wav.scp ] && [ -f "${src}/segments" ]; then
        "${here}"/filter_scp.pl "${tmp}/ids" "${src}/segments" | awk '{print $2}' > "${tmp}/recordings"
        "${here}"/filter_scp.pl "${tmp}/recordings" "${src}/${f}" > "${dst}/${f}"
    else
        "${here}"/filter_scp.pl "${tmp}/ids" "${src}/${f}" > "${dst}/${f}"
    fi
done
"${here}"/utt2spk_to_spk2utt.pl "${dst}/utt2spk" | sort -k1,1 > "${dst}/spk2utt"
echo "$0: ${dst} has $(wc -l < "${dst}/utt2spk") of the $(wc -l < "${src}/utt2spk") utterances of ${src}" >&2
