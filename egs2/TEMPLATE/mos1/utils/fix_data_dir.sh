#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Sorts the files of a data directory and keeps the utterances that all of its required
# files have. What was there before is kept in DATA_DIR/.backup.
set -euo pipefail
export LC_ALL=C

utt_extra_files= # More files with an utterance id first
help_message="Usage: $0 [--utt_extra_files \"F1 F2\"] DATA_DIR"
here=$(cd "$(dirname "$0")" && pwd)
. "${here}"/parse_options.sh
if [ $# -ne 1 ]; then
    echo "${help_message}" >&2
    exit 2
fi
data=$1
if [ ! -f "${data}/utt2spk" ]; then
    echo "$0: ${data}/utt2spk is not there; ${data} is not a data directory." >&2
    exit 1
fi
mkdir -p "${data}/.backup"
tmp=$(mktemp -d)
trap 'rm -rf "${tmp}"' EXIT

wav_or_segments=wav.scp
[ -f "${data}/segments" ] && wav_or_segments=segments
sort -k1,1 -u "${data}/utt2spk" > "${tmp}/keep"
for f in "${wav_or_segments}" text feats.scp; do
    [ -f "${data}/${f}" ] || continue
    "${here}"/filter_scp.pl "${data}/${f}" "${tmp}/keep" > "${tmp}/keep.new"
    mv "${tmp}/keep.new" "${tmp}/keep"
done
if [ ! -s "${tmp}/keep" ]; then
    echo "$0: no utterance is in both ${data}/utt2spk and ${data}/${wav_or_segments}; nothing was changed." >&2
    exit 1
fi
before=$(wc -l < "${data}/utt2spk")

for f in utt2spk wav.scp segments text feats.scp metric.scp utt2sys utt2src utt2domain \
         votes.scp utt2num_samples utt2dur utt2lang ${utt_extra_files}; do
    [ -f "${data}/${f}" ] || continue
    if [ "${f}" = wav.scp ] && [ "${wav_or_segments}" = segments ]; then
        awk '{print $2}' "${data}/segments" | sort -u > "${tmp}/ids" # ids of recordings
    else
        cp "${tmp}/keep" "${tmp}/ids"
    fi
    "${here}"/filter_scp.pl "${tmp}/ids" "${data}/${f}" | sort -k1,1 -u > "${tmp}/${f##*/}"
    cmp -s "${tmp}/${f##*/}" "${data}/${f}" && continue
    cp -p "${data}/${f}" "${data}/.backup/${f##*/}"
    cp "${tmp}/${f##*/}" "${data}/${f}.tmp"
    mv "${data}/${f}.tmp" "${data}/${f}"
done
"${here}"/utt2spk_to_spk2utt.pl "${data}/utt2spk" | sort -k1,1 > "${data}/spk2utt.tmp"
mv "${data}/spk2utt.tmp" "${data}/spk2utt"
echo "$0: kept $(wc -l < "${data}/utt2spk") utterances of ${before} in ${data}; old files are in ${data}/.backup" >&2
