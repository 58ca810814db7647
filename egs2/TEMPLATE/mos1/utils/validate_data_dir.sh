#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Checks the shape of a data directory: files there, sorted, one line an id, the same
# utterances everywhere. Labels are the business of espnet2_distilmos.bin.check_data.
set -euo pipefail
export LC_ALL=C

no_text=false
no_wav=false
while [ $# -gt 1 ]; do
    case "$1" in
        --no-text) no_text=true ;;
        --no-wav) no_wav=true ;;
        --no-feats|--non-print|--no-spk-sort) ;; # Kaldi's; nothing here depends on them
        *) break ;;
    esac
    shift
done
if [ $# -ne 1 ] || [[ "$1" == -* ]]; then
    echo "Usage: $0 [--no-text] [--no-wav] [--no-feats] [--non-print] DATA_DIR" >&2
    exit 2
fi
data=$1
tmp=$(mktemp -d)
trap 'rm -rf "${tmp}"' EXIT
faults=0

fault() {
    echo "$0: $*" >&2
    faults=$((faults + 1))
}

required="utt2spk spk2utt"
${no_wav} || required+=" wav.scp"
${no_text} || required+=" text"
for f in ${required}; do
    [ -s "${data}/${f}" ] || fault "${data}/${f} is missing or empty; run the recipe's stage that writes it again."
done
[ "${faults}" -eq 0 ] || exit 1

for f in wav.scp segments text utt2spk spk2utt metric.scp utt2sys utt2src utt2domain votes.scp utt2num_samples; do
    [ -f "${data}/${f}" ] || continue
    awk '{print $1}' "${data}/${f}" > "${tmp}/ids"
    sort -c "${tmp}/ids" 2> /dev/null || fault "${data}/${f} is not sorted by id (LC_ALL=C); utils/fix_data_dir.sh ${data} sorts it."
    repeated=$(sort "${tmp}/ids" | uniq -d | head -n 3 | tr '\n' ' ')
    [ -z "${repeated}" ] || fault "${data}/${f} has more than one line for ${repeated% }; keep one line an id."
done

awk '{print $1}' "${data}/utt2spk" | sort -u > "${tmp}/utts"
awk '{for (i = 2; i <= NF; i++) print $i}' "${data}/spk2utt" | sort -u > "${tmp}/spk2utt"
cmp -s "${tmp}/utts" "${tmp}/spk2utt" || fault "${data}/spk2utt and ${data}/utt2spk name different utterances; utils/fix_data_dir.sh ${data} makes spk2utt again."
wav_or_segments=wav.scp
[ -f "${data}/segments" ] && wav_or_segments=segments
for f in "${wav_or_segments}" text metric.scp utt2sys utt2num_samples; do
    [ -f "${data}/${f}" ] || continue
    { [ "${f}" = text ] && ${no_text}; } && continue
    awk '{print $1}' "${data}/${f}" | sort -u > "${tmp}/ids"
    differ=$(comm -3 "${tmp}/utts" "${tmp}/ids" | awk '{print $1}' | head -n 3 | tr '\n' ' ')
    [ -z "${differ}" ] || fault "${data}/${f} and ${data}/utt2spk differ in ${differ% }; utils/fix_data_dir.sh ${data} keeps what both have."
done

[ "${faults}" -eq 0 ] || exit 1
echo "$0: ${data} is a good data directory with $(wc -l < "${data}/utt2spk") utterances." >&2
