#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Predicts the MOS of a set's audio in parallel jobs: DIR/metric.scp, and frames.scp and
# frames.json if they are asked for. Exit code 3: bad utterances (a sentence each) were
# left out.
set -euo pipefail

train_config=     # config.yaml of the experiment.
model_file=       # Weights.
inference_config= # Configuration of the inference.
inference_args=   # Options that override it.
nj=1              # Number of jobs.
ngpu=0            # Number of GPUs a job: 0 or 1.
cmd=utils/run.pl
python=python3

help_message="Usage: $0 --train_config F --model_file F [--inference_config F] [--inference_args A] [--nj N] [--ngpu N] [--cmd CMD] WAV_SCP DIR"
. utils/parse_options.sh
if [ $# -ne 2 ]; then
    echo "${help_message}" >&2
    exit 2
fi
wav_scp=$1
dir=$2

logdir="${dir}/log"
mkdir -p "${logdir}"
rm -rf "${logdir}"/output.* "${logdir}"/wav.*
count=$(wc -l < "${wav_scp}")
nj=$((nj < count ? nj : count))
parts=()
for n in $(seq "${nj}"); do parts+=("${logdir}/wav.${n}.scp"); done
utils/split_scp.pl "${wav_scp}" "${parts[@]}"
code=0
# shellcheck disable=SC2086  # inference_args are several options
${cmd} "JOB=1:${nj}" "${logdir}/mos_inference.JOB.log" \
    "${python}" -m espnet2_distilmos.bin.mos_inference \
        --train_config "${train_config}" --model_file "${model_file}" \
        --wav_scp "${logdir}/wav.JOB.scp" --output_dir "${logdir}/output.JOB" --ngpu "${ngpu}" \
        ${inference_config:+--config "${inference_config}"} ${inference_args} || code=3
for n in $(seq "${nj}"); do
    if [ ! -e "${logdir}/output.${n}/metric.scp" ]; then
        echo "$0: no predictions in ${logdir}/output.${n}; see ${logdir}/mos_inference.${n}.log." >&2
        exit 1
    fi
done
rm -f "${dir}"/frames.*
if [ -e "${logdir}/output.1/frames.json" ]; then # one for all
    cp "${logdir}/output.1/frames.json" "${dir}"
    cat "${logdir}"/output.*/frames.scp | sort -k1,1 > "${dir}/frames.scp"
fi
# metric.scp last: it says that the set is done.
for n in $(seq "${nj}"); do
    cat "${logdir}/output.${n}/metric.scp"
done > "${dir}/.metric.scp"
mv "${dir}/.metric.scp" "${dir}/metric.scp"
exit "${code}"
