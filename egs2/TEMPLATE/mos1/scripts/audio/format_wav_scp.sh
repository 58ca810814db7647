#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Writes the audio of a wav.scp as mono files of one rate, in parallel jobs. Utterances
# that cannot be written are listed in OUT_DIR/errors.txt, the others are written all
# the same, and the exit code is then 1.
set -euo pipefail

nj=4
cmd=utils/run.pl
fs=16000
audio_format=flac
segments=
min_seconds=0.1  # shorter audio is refused
python=python3

help_message="Usage: $0 [--nj N] [--cmd CMD] [--fs RATE] [--audio-format flac|wav] [--segments F] [--min-seconds S] WAV_SCP OUT_DIR [LOG_DIR [AUDIO_DIR]]"
. utils/parse_options.sh
if [ $# -lt 2 ] || [ $# -gt 4 ]; then
    echo "${help_message}" >&2
    exit 2
fi
wav_scp=$1
out_dir=$2
logdir=${3:-${out_dir}/logs}
audio_dir=${4:-${out_dir}/data}

for f in "${wav_scp}" ${segments:+"${segments}"}; do
    if [ ! -s "${f}" ]; then
        echo "$0: ${f} is missing or empty; run the recipe's stage 1 first." >&2
        exit 1
    fi
done
if ! mkdir -p "${logdir}" 2> /dev/null || ! [ -w "${out_dir}" ]; then
    echo "$0: ${out_dir} cannot be written; choose another --dumpdir or change its permissions." >&2
    exit 1
fi
rm -rf "${logdir}"/output.*

# An id that occurs twice is ambiguous: neither of its lines is taken. awk would take a
# byte order mark or a carriage return for a part of it.
keys=${segments:-${wav_scp}}
plain="${logdir}/keys.txt"
LC_ALL=C sed $'s/^\xef\xbb\xbf//; s/\r$//' "${keys}" > "${plain}"
awk -v file="${keys}" '
    { if ($1 in first) { repeated[$1] = repeated[$1] " and " NR } else first[$1] = NR }
    END { for (id in repeated)
        print "utterance " id ": " file " has it on the lines " first[id] repeated[id] \
              ", expected one line; ids are unique: remove or rename one." }' \
    "${plain}" | LC_ALL=C sort > "${logdir}/duplicates.txt"
awk 'NR == FNR { count[$1]++; next } count[$1] == 1' "${plain}" "${plain}" > "${logdir}/keys.scp"

errors="${out_dir}/errors.txt"
rm -f "${errors}"
lines=$(wc -l < "${logdir}/keys.scp")
if [ "${lines}" -eq 0 ]; then
    cp "${logdir}/duplicates.txt" "${errors}"
    echo "$0: ${keys} has no id that occurs once; see ${errors}." >&2
    exit 1
fi
nj=$((nj < lines ? nj : lines))
parts=()
for n in $(seq "${nj}"); do
    parts+=("${logdir}/keys.${n}.scp")
done
utils/split_scp.pl "${logdir}/keys.scp" "${parts[@]}"

# An empty line of wav.scp is a faulty utterance and no reason to end the job, hence
# --bad_exit_code 0; errors.txt has the sentences.
if [ -n "${segments}" ]; then
    inputs=(--wav_scp "${wav_scp}" --segments "${logdir}/keys.JOB.scp")
else
    inputs=(--wav_scp "${logdir}/keys.JOB.scp")
fi
${cmd} "JOB=1:${nj}" "${logdir}/format_audio.JOB.log" \
    "${python}" -m espnet2_distilmos.bin.format_audio \
        "${inputs[@]}" \
        --output_dir "${logdir}/output.JOB" \
        --audio_dir "${audio_dir}" \
        --fs "${fs}" \
        --audio_format "${audio_format}" \
        --min_seconds "${min_seconds}" \
        --bad_exit_code 0

written=0
for n in $(seq "${nj}"); do
    written=$((written + $(sed -n 's/^format_audio: \([0-9]*\) files written.*/\1/p' "${logdir}/format_audio.${n}.log")))
done
# merge FILE: the parts in one sorted file. Its date says when the audio last changed,
# which later stages go by.
merge() {
    for n in $(seq "${nj}"); do
        cat "${logdir}/output.${n}/$1"
    done | LC_ALL=C sort -k1,1 > "${out_dir}/.$1.tmp"
    if [ "${written}" -eq 0 ] && cmp -s "${out_dir}/.$1.tmp" "${out_dir}/$1"; then
        rm "${out_dir}/.$1.tmp"
    else
        mv "${out_dir}/.$1.tmp" "${out_dir}/$1"
    fi
}
merge utt2num_samples
merge wav.scp
{
    cat "${logdir}/duplicates.txt"
    for n in $(seq "${nj}"); do
        cat "${logdir}/output.${n}/errors.txt"
    done
} > "${out_dir}/.errors.tmp"
mv "${out_dir}/.errors.tmp" "${errors}"

total=$(wc -l < "${out_dir}/wav.scp")
echo "$0: ${out_dir} has ${total} utterances, ${written} of them written now" >&2
if [ -s "${errors}" ]; then
    cat "${errors}" >&2
    echo "$0: $(wc -l < "${errors}") utterances are bad, see ${errors}" >&2
    exit 1
fi
