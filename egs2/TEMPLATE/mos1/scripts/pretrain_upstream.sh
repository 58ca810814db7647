#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Trains an upstream on audio without labels: tokens of a frontend, then a training that
# predicts them (HuBERT's masked prediction, if its configuration says so), or one that
# needs none, as of a teacher's states. What is done is skipped or gone on with.
# shellcheck disable=SC2154  # cmd.sh sets train_cmd and cuda_cmd
set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${0##*/}) $*"
}
fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

steps="tokens training" # What is done: one or both.
train_scp=           # wav.scp of the audio, formatted, with utt2num_samples beside it.
valid_scp=           # The same of the validation set.
exp=                 # Directory of the training.
tokens_dir=          # Directory of the codebook and tokens; EXP/tokens if empty.

# Tokens
use_tokens=true      # Whether the training reads tokens.
tokens_config=       # Configuration whose frontend gives the tokens; that of the training if empty.
tokens_args=         # Options that override it.
token_layers=all     # Layers that have a codebook.
num_clusters=100     # Centroids of a codebook.
max_frames=100000    # Frames that the codebooks are fitted to.

# Training
train_config=        # Configuration of the training.
train_args=          # Options that override it.
token_source=        # Stream of the tokens where it is not the upstream that is trained.
min_wav_duration=1   # Shortest utterance, seconds.
max_wav_duration=20  # Longest utterance, seconds.
crop_seconds=        # Training takes a random piece of this length; that of the configuration if empty.
fs=16000             # Sampling rate, Hz.

ngpu=0
num_nodes=1
nj=1
train_threads=1
python=python3

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: $0 --train_scp F --valid_scp F --exp DIR --train_config F [--name value ...]

Options and their defaults (explained at the top of the script):
$(sed -n '/^steps=/,/^python=/s/^\([a-z_]*\)=\("[^"]*"\|[^ #]*\) *# \(.*\)$/  --\1 (\2) \3/p' "$0")"
# shellcheck source=/dev/null
. utils/parse_options.sh
[ $# -eq 0 ] || fail "'$*' is not an option; '$0 --help' lists the options."
# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./cmd.sh

for name in train_scp valid_scp exp train_config; do
    [ -n "${!name}" ] || fail "--${name} is missing."
done
tokens_dir=${tokens_dir:-${exp}/tokens}
tokens_config=${tokens_config:-${train_config}}
for file in "${train_scp}" "${valid_scp}" "${train_config}" "${tokens_config}"; do
    [ -s "${file}" ] || fail "${file} is missing or empty."
done
mkdir -p "${exp}"
if ${use_tokens}; then mkdir -p "${tokens_dir}"; fi

if [[ " ${steps} " == *" tokens "* ]] && ${use_tokens}; then
    _cmd=${train_cmd}
    gpu=0
    if [ "${ngpu}" -gt 0 ]; then
        _cmd="${cuda_cmd} --gpu 1 --max-jobs-run $((ngpu * num_nodes))"
        gpu=1
    fi
    log "Tokens, log: ${tokens_dir}/*.log"
    ${_cmd} "${tokens_dir}/learn_codebooks.log" \
        "${python}" -m espnet2_distilmos.bin.learn_codebooks \
            --config "${tokens_config}" --train_args="${tokens_args}" --wav_scp "${train_scp}" \
            --output "${tokens_dir}/codebooks.npz" --num_clusters "${num_clusters}" \
            --layers "${token_layers}" --max_frames "${max_frames}" --nj "${nj}" --ngpu "${gpu}" \
        || fail "the codebook cannot be made; see ${tokens_dir}/learn_codebooks.log."
    # One pass over both sets. An utterance of both is one.
    sort -u -k1,1 "${train_scp}" "${valid_scp}" > "${tokens_dir}/.wav.scp"
    cmp -s "${tokens_dir}/.wav.scp" "${tokens_dir}/wav.scp" || cp "${tokens_dir}/.wav.scp" "${tokens_dir}/wav.scp"
    scripts/dump_tokens.sh --train_config "${tokens_config}" --train_args "${tokens_args}" \
        --codebooks "${tokens_dir}/codebooks.npz" --nj "${nj}" --ngpu "${gpu}" --cmd "${_cmd}" \
        --python "${python}" "${tokens_dir}/wav.scp" "${tokens_dir}" \
        || fail "the tokens cannot be made; see the lines above."
fi

if [[ " ${steps} " == *" training "* ]]; then
    opts=()
    if ${use_tokens}; then
        [ -s "${tokens_dir}/tokens.scp" ] || fail "${tokens_dir}/tokens.scp is missing or empty; make the tokens first."
        opts+=(--token_info "${tokens_dir}/tokens.json")
    fi
    for phase in train valid; do
        scp="${phase}_scp"
        scp=${!scp}
        # Validation takes whole utterances.
        crop=()
        if [ "${phase}" = train ]; then
            crop=(--config "${train_config}")
            [ -z "${crop_seconds}" ] || crop+=(--crop_seconds "${crop_seconds}")
        fi
        "${python}" -m espnet2_distilmos.bin.crop_shapes \
            --utt2num_samples "$(dirname "${scp}")/utt2num_samples" \
            --output "${exp}/${phase}_shape" --fs "${fs}" --min_seconds "${min_wav_duration}" \
            --max_seconds "${max_wav_duration}" "${crop[@]}" \
            || fail "there is nothing to train on; see the sentence above."
        opts+=("--${phase}_data_path_and_name_and_type" "${scp},speech,sound")
        if ${use_tokens}; then
            opts+=("--${phase}_data_path_and_name_and_type" "${tokens_dir}/tokens.scp,tokens,npy")
        fi
        opts+=("--${phase}_shape_file" "${exp}/${phase}_shape")
    done
    [ -z "${token_source}" ] || opts+=(--token_source "${token_source}")
    [ -z "${crop_seconds}" ] || opts+=(--crop_seconds "${crop_seconds}")
    job_name="${exp}/train.log"
    # SGE has no "/" in a job's name.
    if [[ "${cuda_cmd}" == *queue*.pl* ]]; then job_name=$(basename "${exp}"); fi
    log "Training, log: ${exp}/train.log"
    # shellcheck disable=SC2086  # train_args are several options
    OMP_NUM_THREADS=${train_threads} "${python}" -m espnet2.bin.launch \
        --cmd "${cuda_cmd} --name ${job_name}" --log "${exp}/train.log" \
        --ngpu "${ngpu}" --num_nodes "${num_nodes}" --init_file_prefix "${exp}/.dist_init_" \
        --multiprocessing_distributed true -- \
        "${python}" -m espnet2_distilmos.bin.mos_train \
            --config "${train_config}" --resume true --output_dir "${exp}" "${opts[@]}" ${train_args} \
        2> "${exp}/launch.log" \
        || fail "the training failed, see ${exp}/train.log; $(scripts/utils/why_failed.sh "${exp}")"
fi
