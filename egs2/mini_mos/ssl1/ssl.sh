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
train_threads=       # CPU threads of training; all cores when ngpu is 0, else 1.

# Data
local_data_opts=     # Options for local/data.sh, such as "--speech_dir DIR".
fs=16000             # Sampling rate, Hz.
audio_format=wav     # Format of the audio in dumpdir: wav or flac; wav reads faster.
min_wav_duration=1   # Shortest utterance, seconds.
max_wav_duration=20  # Longest utterance, seconds.
crop_seconds=3       # Training hears a random piece of this length.

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
if [ -z "${train_threads}" ]; then
    train_threads=1
    [ "${ngpu}" -gt 0 ] || train_threads=$(nproc)
fi

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

make_tokens() { # make_tokens ITERATION: what it predicts
    local dir conf dset gpu=0 layers=all
    dir=$(tokens_of "$1")
    conf="${dir}/frontend.yaml"
    mkdir -p "${dir}"
    if [ "$1" -eq 1 ]; then
        cp "${first_tokens}" "${conf}"
    else
        need "$(upstream_of $(($1 - 1)))/config.json" 5
        printf 'frontend: hf\nfrontend_conf: {upstream: "%s"}\n' "$(realpath "$(upstream_of $(($1 - 1)))")" > "${conf}"
        layers=${token_layer}
    fi
    [ "${ngpu}" -eq 0 ] || gpu=1
    log "Tokens of iteration $1, log: ${dir}/*.log"
    ${train_cmd} "${dir}/learn_codebooks.log" \
        "${python}" -m espnet2_distilmos.bin.learn_codebooks \
            --config "${conf}" --wav_scp "${data_feats}/train/wav.scp" \
            --output "${dir}/codebooks.npz" --num_clusters "${num_clusters}" \
            --layers "${layers}" --max_frames "${max_frames}" --ngpu "${gpu}" \
        || fail "the codebook cannot be made; see ${dir}/learn_codebooks.log."
    # One pass over both sets, whose ids differ as their speakers do.
    for dset in ${sets}; do cat "${data_feats}/${dset}/wav.scp"; done | sort -k1,1 > "${dir}/wav.scp"
    ${train_cmd} "${dir}/dump_tokens.log" \
        "${python}" -m espnet2_distilmos.bin.dump_tokens \
            --config "${conf}" --wav_scp "${dir}/wav.scp" \
            --codebooks "${dir}/codebooks.npz" --output_dir "${dir}" --ngpu "${gpu}" \
        || fail "the tokens cannot be made; see ${dir}/dump_tokens.log."
}

pretrain() { # pretrain ITERATION
    local dir exp source=mfcc dset opts=()
    dir=$(tokens_of "$1")
    exp=$(exp_of "$1")
    need "${dir}/tokens.scp" 3
    mkdir -p "${exp}"
    # Whose tokens they are meant to be, said here and not read from their file.
    if [ "$1" -eq 1 ]; then
        source=$(sed -n 's/^frontend: *\([a-z0-9_]*\).*/\1/p' "${first_tokens}")
    else
        source=$(sed -n 's/.*"model_type": *"\([^"]*\)".*/\1/p' "$(upstream_of $(($1 - 1)))/config.json")
        if ${warm_start}; then
            opts+=(--init_param "$(exp_of $(($1 - 1)))/valid.loss.best.pth:frontend:frontend")
        fi
    fi
    for dset in ${sets}; do
        _phase=${dset/dev/valid}
        opts+=("--${_phase}_data_path_and_name_and_type" "${data_feats}/${dset}/wav.scp,speech,sound")
        opts+=("--${_phase}_data_path_and_name_and_type" "${dir}/tokens.scp,tokens,npy")
        opts+=("--${_phase}_shape_file" "${data_feats}/${dset}/speech_shape")
    done
    log "Pretraining, iteration $1, log: ${exp}/train.log"
    # shellcheck disable=SC2086  # train_args are several options
    OMP_NUM_THREADS=${train_threads} ${cuda_cmd} --gpu "${ngpu}" "${exp}/train.log" \
        "${python}" -m espnet2_distilmos.bin.mos_train \
            --config "${train_config}" --resume true --ngpu "${ngpu}" --output_dir "${exp}" \
            --crop_seconds "${crop_seconds}" --token_info "${dir}/tokens.json" \
            --token_source "${source}" "${opts[@]}" ${train_args} ${extra_args} \
        || fail "training failed, see ${exp}/train.log; run the stage again: it resumes."
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
        opts=()
        [ "${dset}" != train ] || opts+=(--crop_seconds "${crop_seconds}")
        "${python}" local/make_shapes.py --utt2num_samples "${data_feats}/${dset}/utt2num_samples" \
            --output "${data_feats}/${dset}/speech_shape" --fs "${fs}" \
            --min_seconds "${min_wav_duration}" --max_seconds "${max_wav_duration}" "${opts[@]}"
    done
fi

extra_args=
if in_stage 3; then
    log "Stage 3: Tokens of ${first_tokens}"
    for dset in ${sets}; do need "${data_feats}/${dset}/speech_shape" 2; done
    make_tokens 1
fi

if in_stage 4; then
    log "Stage 4: Pretraining"
    pretrain 1
fi

if in_stage 5; then
    log "Stage 5: Export: $(upstream_of 1)"
    need "$(exp_of 1)/config.yaml" 4
    export_upstream 1
fi

if in_stage 6; then
    log "Stage 6: Iterations 2 to ${iterations}"
    extra_args=${later_train_args}
    for n in $(seq 2 "${iterations}"); do
        make_tokens "${n}"
        pretrain "${n}"
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
