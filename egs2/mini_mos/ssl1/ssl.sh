#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Pretrains an upstream on speech without labels: HuBERT's iterations, of which each
# predicts the masked tokens that the one before gives.
set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}
SECONDS=0

# General configuration
stage=1              # First stage.
stop_stage=10000     # Last stage.
ngpu=0               # Number of GPUs; 0 is the CPU.
nj=2                 # Number of parallel jobs for audio and tokens.
dumpdir=dump         # Directory for formatted audio and tokens.
expdir=exp           # Directory for experiments.
python=python3       # Python interpreter.
train_threads=1      # CPU threads of training.

# Data
local_data_opts=     # Options for local/data.sh, such as "--speech_dir DIR".
fs=16000             # Sampling rate, Hz.
audio_format=wav     # Format of the audio in dumpdir: wav or flac; wav reads faster.
min_wav_duration=1   # Shortest utterance, seconds.
max_wav_duration=20  # Longest utterance, seconds.
crop_seconds=3       # Training takes a random piece of this length.

# Tokens
first_tokens=conf/tokens_mfcc.yaml # Frontend whose tokens the first iteration predicts.
token_layer=3        # Layer of an iteration whose tokens the next one predicts.
num_clusters=100     # Centroids of a codebook.
max_frames=200000    # Frames that a codebook is fitted to.

# Training
train_config=conf/train_hubert.yaml # Configuration of the network and its training.
train_args=          # Options that override it in all iterations.
later_train_args=    # Options that override it from the second iteration on.
warm_start=true      # Later iterations go on from the weights of the one before.
iterations=2         # Number of iterations.
export_dtype=float16 # Weights of the exported checkpoints: float16 or float32.

# Probes
probe_opts=          # Further options of local/probe.py.

help_message="Usage: $0 --local_data_opts \"--speech_dir DIR\" [--name value ...]

Stages: 1 data preparation, 2 audio formatting, 3 tokens of the first iteration,
4 pretraining, 5 export, 6 the later iterations (tokens, pretraining, export),
7 probes.

Options and their defaults (explained at the top of the script):
$(sed -n '/^# General/,/^help_message/s/^\([a-z_]*\)=\("[^"]*"\|[^ #]*\) *# \(.*\)$/  --\1 (\2) \3/p' "$0")"

log "$0 $*"
. utils/parse_options.sh
if [ $# -ne 0 ]; then
    fail "'$*' is not an option; '$0 --help' lists the options."
fi
. ./path.sh
. ./cmd.sh

for number in stage stop_stage ngpu nj num_clusters max_frames iterations token_layer; do
    [[ "${!number}" =~ ^[0-9]+$ ]] || fail "--${number} ${!number} is not a whole number."
done
for file in "${train_config}" "${first_tokens}"; do
    [ -r "${file}" ] || fail "${file} cannot be read; correct --train_config or --first_tokens."
done

sets="train dev"
data_feats="${dumpdir}/raw"
in_stage() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}
need() { # need FILE STAGE: FILE was made by that stage
    [ -s "$1" ] || fail "$1 is missing or empty; run stage $2 first (--stage $2)."
}
# Names of an iteration's directories
tokens_of() { echo "${dumpdir}/tokens/iteration$1"; }
exp_of() { echo "${expdir}/hubert_iteration$1"; }
upstream_of() { echo "$(exp_of "$1")/upstream"; }

# iterate STEPS ITERATION [OPTIONS]: tokens, training or both of an iteration
iterate() {
    local config source layers=all args=() before=$(($2 - 1))
    # Whose tokens they are meant to be is said here and not read from their file.
    if [ "$2" -eq 1 ]; then
        config=${first_tokens}
        source=$(sed -n 's/^frontend: *\([a-z0-9_]*\).*/\1/p' "${first_tokens}")
    else
        need "$(upstream_of "${before}")/config.json" 5
        config="$(tokens_of "$2")/frontend.yaml"
        layers=${token_layer}
        source=$(sed -n 's/.*"model_type": *"\([^"]*\)".*/\1/p' "$(upstream_of "${before}")/config.json")
        mkdir -p "$(tokens_of "$2")"
        printf 'frontend: hf\nfrontend_conf: {upstream: "%s"}\n' "$(realpath "$(upstream_of "${before}")")" > "${config}"
        if ${warm_start}; then
            args=(--init_param "$(exp_of "${before}")/valid.loss.best.pth:frontend:frontend")
        fi
    fi
    log "Iteration $2: $1"
    scripts/pretrain_upstream.sh --steps "$1" --train_scp "${data_feats}/train/wav.scp" \
        --valid_scp "${data_feats}/dev/wav.scp" --exp "$(exp_of "$2")" --tokens_dir "$(tokens_of "$2")" \
        --tokens_config "${config}" --token_layers "${layers}" --num_clusters "${num_clusters}" \
        --max_frames "${max_frames}" --train_config "${train_config}" --token_source "${source}" \
        --train_args "${args[*]} ${train_args} ${*:3}" --crop_seconds "${crop_seconds}" \
        --min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}" \
        --fs "${fs}" --ngpu "${ngpu}" --nj "${nj}" --train_threads "${train_threads}" --python "${python}"
}

export_upstream() { # export_upstream ITERATION
    "${python}" -m espnet2_distilmos.bin.export_upstream --overwrite --dtype "${export_dtype}" \
        "$(exp_of "$1")" "$(upstream_of "$1")" \
        || fail "iteration $1 cannot be exported; see the sentence above."
}

if in_stage 1; then
    log "Stage 1: Data preparation: data/train, data/dev"
    # shellcheck disable=SC2086  # several options in one string
    local/data.sh --python "${python}" ${local_data_opts}
fi

if in_stage 2; then
    log "Stage 2: Format wav.scp: data/ -> ${data_feats}/"
    for dset in ${sets}; do
        need "data/${dset}/wav.scp" 1
        mkdir -p "${data_feats}/${dset}"
        scripts/audio/format_wav_scp.sh --nj "${nj}" --cmd "${train_cmd}" --fs "${fs}" --python "${python}" \
            --audio-format "${audio_format}" "data/${dset}/wav.scp" "${data_feats}/${dset}" \
            || log "Going on without the utterances above"
    done
fi

if in_stage 3; then
    log "Stage 3: Tokens of ${first_tokens}"
    for dset in ${sets}; do need "${data_feats}/${dset}/wav.scp" 2; done
    iterate tokens 1
fi

if in_stage 4; then
    log "Stage 4: Pretraining"
    need "$(tokens_of 1)/tokens.scp" 3
    iterate training 1
fi

if in_stage 5; then
    log "Stage 5: Export: $(upstream_of 1)"
    need "$(exp_of 1)/config.yaml" 4
    export_upstream 1
fi

if in_stage 6; then
    log "Stage 6: Iterations 2 to ${iterations}"
    for n in $(seq 2 "${iterations}"); do
        iterate "tokens training" "${n}" "${later_train_args}"
        export_upstream "${n}"
    done
fi

if in_stage 7; then
    log "Stage 7: Curves and probes: ${expdir}/curves.png, ${expdir}/probes.md"
    opts=()
    exps=()
    for n in $(seq "${iterations}"); do
        need "$(upstream_of "${n}")/config.json" 6
        opts+=("iteration_${n}=$(upstream_of "${n}")")
        exps+=("$(exp_of "${n}")")
    done
    "${python}" local/plot_curves.py --output "${expdir}/curves.png" "${exps[@]}"
    # shellcheck disable=SC2086  # several options in one string
    "${python}" local/probe.py --train_wav_scp "${data_feats}/train/wav.scp" \
        --dev_wav_scp "${data_feats}/dev/wav.scp" --mfcc_tokens "$(tokens_of 1)/tokens.scp" \
        --output_dir "${expdir}" ${probe_opts} "${opts[@]}"
fi
log "Finished, elapsed time: ${SECONDS} s"
