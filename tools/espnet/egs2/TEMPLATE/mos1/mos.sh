#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# shellcheck disable=SC2154  # cmd.sh sets train_cmd, cuda_cmd and decode_cmd
set -euo pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
SECONDS=0

# General configuration
stage=1              # Processes starts from the specified stage.
stop_stage=10000     # Processes is stopped at the specified stage.
skip_data_prep=false # Skip data preparation stages.
skip_train=false     # Skip training stages.
skip_eval=false      # Skip decoding and evaluation stages.
skip_upload=true     # Skip packing stages.
ngpu=1               # The number of gpus ("0" uses cpu, otherwise use gpu).
num_nodes=1          # The number of nodes.
nj=32                # The number of parallel jobs.
inference_nj=32      # The number of parallel jobs in decoding.
gpu_inference=false  # Whether to perform gpu decoding.
dumpdir=dump         # Directory to dump features.
expdir=exp           # Directory to save experiments.
python=python3       # Specify python to execute espnet commands.

# Data preparation related
local_data_opts=     # Options to be passed to local/data.sh.
audio_format=flac    # Audio format: wav or flac.
fs=16000             # Sampling rate.
min_wav_duration=0.1 # Minimum duration in second.
max_wav_duration=30  # Maximum duration in second.

# Token related
use_tokens=true      # Whether tokens are made and given to the training.
num_clusters=200     # Clusters of each layer's codebook.
max_frames=100000    # Frames that the codebooks are fitted to.

# Training related
train_config=        # Config for training.
train_args=          # Arguments for training; they overwrite the config.
tag=                 # Suffix for training directory.
mos_exp=             # Directory of the experiment. If specified, tag is ignored.
mos_stats_dir=       # Directory of the statistics. If empty, automatically decided.

# Decoding related
inference_config=    # Config for decoding.
inference_args=      # Arguments for decoding; they overwrite the config.
inference_tag=       # Suffix for decoding directory.
inference_model=valid.sys_srcc.best.pth # Model path for decoding.

# [Task dependent] Set the datadir name created by local/data.sh
train_set=           # Name of training set.
valid_set=           # Name of validation set.
test_sets=           # Names of test sets.

help_message="Usage: $0 --train_set <train_set> --valid_set <valid_set> --test_sets <test_sets>

Stages: 1 data preparation, 2 audio formatting, 3 check of labels, 4 duration filtering,
        5 tokens, 6 statistics, 7 training, 8 inference, 9 scoring, 10 model packing.

Options and their defaults:
$(sed -n 's/^\([a-z_]*\)=\([^ #]*\) *# \(.*\)$/  --\1 (\2) \3/p' "$0")"

log "$0 $*"
run_args=$(scripts/utils/print_args.sh "$0" "$@")
. utils/parse_options.sh
if [ $# -ne 0 ]; then
    log "${help_message}"
    log "Error: No positional arguments are required."
    exit 2
fi

. ./path.sh
. ./cmd.sh

to_tag() { # to_tag CONFIG DEFAULT ARGS
    local name=$2
    [ -z "$1" ] || name=$(basename "$1" .yaml)
    echo "${name}$(echo "$3" | sed -e 's/--/_/g' -e 's/[ |=]//g')"
}
[ -n "${tag}" ] || tag=$(to_tag "${train_config}" train "${train_args}")
if [ -z "${inference_tag}" ]; then
    inference_tag=$(to_tag "${inference_config}" inference "${inference_args}")_${inference_model%.pth}
fi
data_feats="${dumpdir}/raw"
tokens_dir="${dumpdir}/tokens/${tag}_k${num_clusters}"
[ -n "${mos_exp}" ] || mos_exp="${expdir}/mos_${tag}"
[ -n "${mos_stats_dir}" ] || mos_stats_dir="${expdir}/mos_stats_raw"
train_dir="${data_feats}/${train_set}"
valid_dir="${data_feats}/${valid_set}"

org_dir() { # Where stage 2 writes a set; test sets are not filtered.
    case "$1" in
        "${train_set}" | "${valid_set}") echo "${data_feats}/org/$1" ;;
        *) echo "${data_feats}/$1" ;;
    esac
}
in_stage() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}

# ========================== Main stages start from here. ==========================

if ! "${skip_data_prep}"; then
    if in_stage 1; then
        log "Stage 1: Data preparation for data/${train_set}, data/${valid_set}, etc."
        # shellcheck disable=SC2086
        local/data.sh ${local_data_opts}
    fi

    if in_stage 2; then
        log "Stage 2: Format wav.scp: data/ -> ${data_feats}/"
        for dset in "${train_set}" "${valid_set}" ${test_sets}; do
            dir=$(org_dir "${dset}")
            utils/copy_data_dir.sh --validate_opts --non-print "data/${dset}" "${dir}"
            for f in metric.scp utt2sys; do
                [ ! -e "data/${dset}/${f}" ] || cp "data/${dset}/${f}" "${dir}"
            done
            opts=()
            [ ! -e "data/${dset}/segments" ] || opts+=(--segments "data/${dset}/segments")
            scripts/audio/format_wav_scp.sh --nj "${nj}" --cmd "${train_cmd}" \
                --audio-format "${audio_format}" --fs "${fs}" "${opts[@]}" \
                "data/${dset}/wav.scp" "${dir}"
        done
    fi

    if in_stage 3; then
        log "Stage 3: Check that every utterance has a label"
        for dset in "${train_set}" "${valid_set}" ${test_sets}; do
            dir=$(org_dir "${dset}")
            missing=$(utils/filter_scp.pl --exclude "${dir}/metric.scp" "${dir}/wav.scp" | cut -d ' ' -f 1)
            if [ -n "${missing}" ]; then
                log "Error: ${dir}/metric.scp has no line for: ${missing//$'\n'/ }; write '{}' for one without a label."
                exit 1
            fi
        done
    fi

    if in_stage 4; then
        log "Stage 4: Remove long/short data: ${data_feats}/org -> ${data_feats}"
        for dset in "${train_set}" "${valid_set}"; do
            org="${data_feats}/org/${dset}"
            dir="${data_feats}/${dset}"
            mkdir -p "${dir}"
            awk -v low="${min_wav_duration}" -v high="${max_wav_duration}" -v fs="${fs}" \
                '$2 >= low * fs && $2 <= high * fs' "${org}/utt2num_samples" > "${dir}/utt2num_samples"
            for f in wav.scp utt2spk metric.scp utt2sys; do
                [ ! -e "${org}/${f}" ] || utils/filter_scp.pl "${dir}/utt2num_samples" "${org}/${f}" > "${dir}/${f}"
            done
        done
    fi

    if in_stage 5 && "${use_tokens}"; then
        log "Stage 5: Tokens: ${tokens_dir}"
        gpu_opts=
        gpu=0
        cmd=${train_cmd}
        if [ "${ngpu}" -gt 0 ]; then
            gpu_opts="--gpu 1"
            gpu=1
            cmd=${cuda_cmd}
        fi
        tokens=("${python}" -m espnet2.bin.mos_tokens --config "${train_config}" --train_args="${train_args}"
            --codebooks "${tokens_dir}/codebooks.npz" --ngpu "${gpu}")
        # shellcheck disable=SC2086
        ${cmd} ${gpu_opts} "${tokens_dir}/codebooks.log" "${tokens[@]}" --wav_scp "${train_dir}/wav.scp" \
            --num_clusters "${num_clusters}" --max_frames "${max_frames}"
        for dset in "${train_set}" "${valid_set}"; do
            # shellcheck disable=SC2086
            ${cmd} ${gpu_opts} "${tokens_dir}/${dset}/tokens.log" "${tokens[@]}" \
                --wav_scp "${data_feats}/${dset}/wav.scp" --output_dir "${tokens_dir}/${dset}"
        done
    fi
else
    log "Skip the stages for data preparation"
fi

# ========================== Data preparation is done here. ==========================

train_opts=()
[ -z "${train_config}" ] || train_opts+=(--config "${train_config}")
for part in train valid; do
    dir="${part}_dir"
    train_opts+=("--${part}_data_path_and_name_and_type" "${!dir}/wav.scp,speech,sound")
    train_opts+=("--${part}_data_path_and_name_and_type" "${!dir}/metric.scp,mos,text")
done

if ! "${skip_train}"; then
    if in_stage 6; then
        log "Stage 6: Collect stats: ${mos_stats_dir}"
        logdir="${mos_stats_dir}/logdir"
        mkdir -p "${logdir}"
        jobs=$(printf '%s\n' "${nj}" "$(wc -l < "${train_dir}/wav.scp")" "$(wc -l < "${valid_dir}/wav.scp")" | sort -n | head -n 1)
        for part in train valid; do
            dir="${part}_dir"
            parts=()
            for n in $(seq "${jobs}"); do parts+=("${logdir}/${part}.${n}.scp"); done
            utils/split_scp.pl "${!dir}/wav.scp" "${parts[@]}"
        done
        # shellcheck disable=SC2086
        ${train_cmd} "JOB=1:${jobs}" "${logdir}/stats.JOB.log" \
            "${python}" -m espnet2.bin.mos_train --collect_stats true \
            --train_shape_file "${logdir}/train.JOB.scp" --valid_shape_file "${logdir}/valid.JOB.scp" \
            --output_dir "${logdir}/stats.JOB" "${train_opts[@]}" ${train_args}
        opts=()
        for n in $(seq "${jobs}"); do opts+=(--input_dir "${logdir}/stats.${n}"); done
        "${python}" -m espnet2.bin.aggregate_stats_dirs --skip_sum_stats "${opts[@]}" --output_dir "${mos_stats_dir}"
    fi

    if in_stage 7; then
        log "Stage 7: Training: ${mos_exp}"
        mkdir -p "${mos_exp}"
        echo "${run_args} --stage 7 \"\$@\"; exit \$?" > "${mos_exp}/run.sh"
        chmod +x "${mos_exp}/run.sh"
        opts=()
        if "${use_tokens}"; then
            opts+=(--token_info "${tokens_dir}/${train_set}/tokens.json")
            opts+=(--train_data_path_and_name_and_type "${tokens_dir}/${train_set}/tokens.scp,tokens,npy")
            opts+=(--valid_data_path_and_name_and_type "${tokens_dir}/${valid_set}/tokens.scp,tokens,npy")
        fi
        [ ! -e "${valid_dir}/utt2sys" ] || opts+=(--valid_utt2sys "${valid_dir}/utt2sys")
        job_name="${mos_exp}/train.log"
        if [[ "${cuda_cmd}" == *queue*.pl* ]]; then job_name=$(basename "${mos_exp}"); fi # SGE: no "/"
        # shellcheck disable=SC2086
        "${python}" -m espnet2.bin.launch \
            --cmd "${cuda_cmd} --name ${job_name}" --log "${mos_exp}/train.log" \
            --ngpu "${ngpu}" --num_nodes "${num_nodes}" --init_file_prefix "${mos_exp}/.dist_init_" \
            --multiprocessing_distributed true -- \
            "${python}" -m espnet2.bin.mos_train --use_preprocessor true --resume true \
            --train_shape_file "${mos_stats_dir}/train/speech_shape" \
            --valid_shape_file "${mos_stats_dir}/valid/speech_shape" \
            --output_dir "${mos_exp}" "${train_opts[@]}" "${opts[@]}" ${train_args}
    fi
else
    log "Skip the training stages"
fi

if ! "${skip_eval}"; then
    if in_stage 8; then
        log "Stage 8: Inference: ${mos_exp}/${inference_tag}"
        cmd=${decode_cmd}
        gpu=0
        if "${gpu_inference}"; then
            cmd="${cuda_cmd} --gpu 1"
            gpu=1
        fi
        opts=()
        [ -z "${inference_config}" ] || opts+=(--config "${inference_config}")
        for dset in ${test_sets}; do
            wav_scp="${data_feats}/${dset}/wav.scp"
            dir="${mos_exp}/${inference_tag}/${dset}"
            mkdir -p "${dir}/logdir"
            jobs=$(printf '%s\n' "${inference_nj}" "$(wc -l < "${wav_scp}")" | sort -n | head -n 1)
            parts=()
            for n in $(seq "${jobs}"); do parts+=("${dir}/logdir/keys.${n}.scp"); done
            utils/split_scp.pl "${wav_scp}" "${parts[@]}"
            # shellcheck disable=SC2086
            ${cmd} "JOB=1:${jobs}" "${dir}/logdir/mos_inference.JOB.log" \
                "${python}" -m espnet2.bin.mos_inference --ngpu "${gpu}" \
                --data_path_and_name_and_type "${wav_scp},speech,sound" --key_file "${dir}/logdir/keys.JOB.scp" \
                --train_config "${mos_exp}/config.yaml" --model_file "${mos_exp}/${inference_model}" \
                --output_dir "${dir}/logdir/output.JOB" "${opts[@]}" ${inference_args}
            for n in $(seq "${jobs}"); do
                cat "${dir}/logdir/output.${n}/metric.scp"
            done | LC_ALL=C sort -k1 > "${dir}/metric.scp"
        done
    fi

    if in_stage 9; then
        log "Stage 9: Scoring: ${mos_exp}/RESULTS.md"
        opts=()
        for dset in ${test_sets}; do
            opts+=("${data_feats}/${dset}=${mos_exp}/${inference_tag}/${dset}/metric.scp")
        done
        "${python}" pyscripts/utils/mos_score.py "${mos_exp}/RESULTS.md" "${opts[@]}"
    fi
else
    log "Skip the evaluation stages"
fi

if ! "${skip_upload}" && in_stage 10; then
    packed_model="${mos_exp}/${mos_exp##*/}_${inference_model%.pth}.zip"
    log "Stage 10: Pack model: ${packed_model}"
    opts=()
    for f in RESULTS.md upstream_files/*; do
        for path in "${mos_exp}"/${f}; do [ ! -e "${path}" ] || opts+=("${path}"); done
    done
    "${python}" -c '
import sys
from espnet2.main_funcs.pack_funcs import pack

config, model, outpath, *option = sys.argv[1:]
pack({"model_file": model}, {"train_config": config}, outpath, option)' \
        "${mos_exp}/config.yaml" "${mos_exp}/${inference_model}" "${packed_model}" "${opts[@]}"
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
