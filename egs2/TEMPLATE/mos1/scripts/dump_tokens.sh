#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Writes the tokens of a set's audio in parallel jobs: DIR/tokens.scp, DIR/tokens.json.
# What is there is kept, unless the audio or the codebooks are newer; a killed run goes
# on. Exit code 3: there are bad utterances, a sentence each in the logs; tokens.scp is
# without them where --skip_bad is true, and is not written otherwise.
set -euo pipefail

train_config= # Configuration whose frontend makes the tokens.
train_args=   # Options that override it.
token_upstreams= # Upstreams that make them instead, on the grid of its frames.
codebooks=    # Codebooks, from learn_codebooks.
nj=1          # Number of jobs.
ngpu=0        # Number of GPUs a job: 0 or 1.
skip_bad=false
cmd=utils/run.pl
python=python3

help_message="Usage: $0 --train_config F --codebooks F [--train_args A] [--token_upstreams \"A B\"] [--nj N] [--ngpu N] [--cmd CMD] [--skip_bad true|false] WAV_SCP DIR"
. utils/parse_options.sh
if [ $# -ne 2 ]; then
    echo "${help_message}" >&2
    exit 2
fi
wav_scp=$1
dir=$2

if [ -s "${dir}/tokens.scp" ] && [ -s "${dir}/tokens.json" ] \
    && [ "${dir}/tokens.scp" -nt "${wav_scp}" ] && [ "${dir}/tokens.scp" -nt "${codebooks}" ] \
    && cmp -s <(cut -d ' ' -f 1 "${wav_scp}") <(cut -d ' ' -f 1 "${dir}/tokens.scp"); then
    echo "$0: the tokens in ${dir} are there already"
    exit 0
fi
count=$(wc -l < "${wav_scp}")
nj=$((nj < count ? nj : count))
split="${dir}/split${nj}"
# What a killed run left is of use unless the audio or the codebooks are newer.
if [ ! -e "${split}/started" ] || [ "${wav_scp}" -nt "${split}/started" ] \
    || [ "${codebooks}" -nt "${split}/started" ]; then
    rm -rf "${split}"
    mkdir -p "${split}"
    touch "${split}/started"
fi
parts=()
for n in $(seq "${nj}"); do parts+=("${split}/wav.${n}.scp"); done
utils/split_scp.pl "${wav_scp}" "${parts[@]}"
rm -f "${split}"/[0-9]*/tokens.scp # written last, which distinguishes a crash from bad utterances
echo "$0: ${dir}, log: ${split}/dump_tokens.*.log"
opts=()
# shellcheck disable=SC2206  # one word an upstream
[ -z "${token_upstreams}" ] || opts=(--upstreams ${token_upstreams})
code=0
${cmd} "JOB=1:${nj}" "${split}/dump_tokens.JOB.log" \
    "${python}" -m espnet2_distilmos.bin.dump_tokens \
        --config "${train_config}" --train_args="${train_args}" --codebooks "${codebooks}" \
        --wav_scp "${split}/wav.JOB.scp" --output_dir "${split}/JOB" --ngpu "${ngpu}" "${opts[@]}" || code=3
for n in $(seq "${nj}"); do
    if [ ! -e "${split}/${n}/tokens.scp" ]; then
        echo "$0: no tokens in ${split}/${n}; see ${split}/dump_tokens.${n}.log." >&2
        exit 1
    fi
    cat "${split}/${n}/tokens.scp"
done | sort -k1,1 > "${dir}/.tokens.scp"
if [ "${code}" -ne 0 ] && ! ${skip_bad}; then exit "${code}"; fi
cp "${split}/1/tokens.json" "${dir}/.tokens.json"
mv "${dir}/.tokens.json" "${dir}/tokens.json"
mv "${dir}/.tokens.scp" "${dir}/tokens.scp"
exit "${code}"
