#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# shellcheck disable=SC2034  # options are read by their names
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
skip_data_prep=false # Skip the stages 1-5.
skip_train=false     # Skip the stages 6 and 7.
skip_eval=false      # Skip the stages 8 and 9.
skip_upload=true     # Skip the stages 10 and 11.
ngpu=1               # Number of GPUs a node for tokens and training; 0 is the CPU.
num_nodes=1          # Number of nodes for training.
nj=8                 # Number of parallel jobs.
inference_nj=8       # Number of parallel jobs of inference.
gpu_inference=false  # Whether inference uses a GPU.
dumpdir=dump         # Directory for formatted audio and tokens.
expdir=exp           # Directory for experiments.
python=python3       # Python interpreter.
skip_bad=false       # Go on without bad utterances instead of stopping.
train_threads=1      # CPU threads of training; another number rounds differently.

# Data preparation
local_data_opts=       # Options for local/data.sh.
fs=16000               # Sampling rate of the upstream, Hz.
audio_format=flac      # Format of the audio in dumpdir: flac or wav.
min_wav_duration=0.1   # Shortest utterance in training and validation, seconds.
max_wav_duration=30    # Longest utterance in training and validation, seconds.
score_range="1 5"      # Lowest and highest label; data/<set>/score_range says so of one test set.
need_systems=true      # Whether every utterance must have a system in utt2sys.
map_scores=false       # Map labels of sets of --train_sets on another scale linearly to score_range.
keep_scores=false      # Keep their scales instead, for losses that compare utterances of one corpus (--use_corpora).
calibration_share=0    # Share of the validation set that calibrates intervals and does not choose the checkpoint.

# Tokens
use_tokens=true        # Whether tokens are made and given to the training.
token_upstreams=       # Upstreams that the tokens are of, as frontend_conf.upstream of "frontend: hf"; that which is trained if empty.
token_aggregate=heads  # Of several: heads (tokens of each), or one codebook on the average or concat of their states.
num_clusters=200       # Centroids a codebook; of several upstreams also of each, "200 100".
token_layers=all       # Layers with a codebook: all, or a list such as 1,3,5; of several upstreams also of each, "3,6 1,2".
max_frames=100000      # Frames of the training set that the codebooks are fitted to.
import_km=             # Take ESPnet's k-means models instead of fitting: "6=km6.mdl 9=km9.mdl".
tokens_tag=            # Name of the token directory; made from the settings if empty.

# Training
train_config=          # Configuration of the model and its training.
train_args=            # Options that override it, e.g. "--seed 3" or "--init_model exp/mos_x" (fine-tuning).
tag=                   # Name of the experiment; made from the two above if empty.
mos_exp=               # Directory of the experiment; if given, tag is not used.
mos_stats_dir=         # Directory of the statistics.
audio_fold_length=256000 # Used by batch_type "folded" only, samples.
use_votes=false        # Give votes.scp to the training, for model_conf.listener_embedding and bradley_terry.
use_corpora=false      # Give utt2domain to the training, for model_conf.corpus_embedding and losses on pairs.

# Inference and scoring
inference_config=      # Configuration of the inference.
inference_args=        # Options that override it.
inference_tag=         # Name of the directory of predictions.
inference_model=valid.sys_srcc.best.pth # Model file in the experiment.
download_model=        # Use this model instead: a packed .zip file, or user/name of the Hugging Face hub.
bootstrap=1000         # Resamples for the 95 % intervals.
baselines=true         # Whether local/baselines.sh, if there, adds models to the table.
all_models=true        # Whether the other models in expdir are scored too, into EXPDIR/RESULTS.md.

# Data sets; CORPUS/SET is a set of egs2/CORPUS
train_set=             # Training set.
train_sets=            # Several instead, each with its sampling weight or none with one: "train:1 somos/train:0.5".
further_sets=          # Labelled sets that train besides those of the recipe: "pseudo:3" (the recipe's have 1 if it gave none).
unlabelled_sets=       # Sets of audio alone that train besides, with weights or without: "unlab:1" (the labelled set has 1 then).
valid_set=             # Validation set.
test_sets=             # Test sets, in-domain and out-of-domain.
ood=                   # More test sets; "all" is those of --known_ood. One that is not there is left out.
known_ood=             # What "--ood all" means.

# Upload
hf_repo=               # Repository on the Hugging Face hub.

help_message="Usage: $0 --train_set T --valid_set V --test_sets \"A B\" [--name value ...]

Stages: 1 data preparation, 2 audio formatting, 3 check of labels and ids, 4 duration
filter, 5 tokens (codebooks, then dump), 6 statistics, 7 training, 8 inference,
9 scoring, 10 packing, 11 upload.

Options and their defaults (explained at the top of the script):
$(sed -n '/^# General/,/^help_message/s/^\([a-z_]*\)=\("[^"]*"\|[^ #]*\) *# \(.*\)$/  --\1 (\2) \3/p' "$0")"

log "$0 $*"
run_args=$(scripts/utils/print_args.sh "$0" "$@")
. utils/parse_options.sh
[ $# -eq 0 ] || fail "'$*' is not an option; '$0 --help' lists the options."

. ./path.sh
. ./cmd.sh

# Checks the options and sets what follows from them, names of directories above all.
options=()
for name in \
    stage stop_stage ngpu num_nodes nj inference_nj num_clusters max_frames bootstrap \
    skip_train calibration_share dumpdir expdir \
    train_set train_sets further_sets unlabelled_sets valid_set test_sets ood known_ood \
    train_config train_args tag mos_exp mos_stats_dir tokens_tag token_layers import_km \
    token_upstreams token_aggregate \
    inference_config inference_args inference_tag inference_model; do
    options+=("${name}=${!name}")
done
settings=$("${python}" pyscripts/utils/mos_settings.py "${options[@]}")
train_parts=()      # Sets that train; more than one with --train_sets.
unlabelled_parts=() # Those of them whose labels are not read.
train_weights=      # Their sampling weights, as JSON.
calibration_set=    # Empty without a --calibration_share.
test_only=false     # Whether there is nothing to train.
tokens_dir=
eval "${settings}" # every value is quoted
data_feats="${dumpdir}/raw"
filtered_sets=" ${train_parts[*]} ${valid_set} " # Stage 4 filters these.

in_stage() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] || return 1
    case "$1" in
        [1-5]) ! ${skip_data_prep} ;;
        [67]) ! ${skip_train} ;;
        [89]) ! ${skip_eval} ;;
        *) ! ${skip_upload} ;;
    esac
}
gpus=0 # that the stages will use
if ${gpu_inference} && in_stage 8; then gpus=1; fi
if [ "${ngpu}" -gt 0 ] && ! ${test_only}; then
    if in_stage 5 && ${use_tokens}; then gpus=1; fi
    if in_stage 7; then gpus=${ngpu}; fi
fi
# Refused here and not after hours. On a cluster it is another host that has them.
if [ "${gpus}" -gt 0 ] && [[ "${cuda_cmd}" == *run.pl* ]]; then
    "${python}" -c 'import sys
from espnet2_distilmos.cli import call, get_device
sys.exit(call(lambda: get_device(int(sys.argv[1])) is None))' "${gpus}" || exit 1
fi
need() { # need FILE STAGE: FILE was made by that stage
    [ -s "$1" ] || fail "$1 is missing or empty; run stage $2 first (--stage $2)."
}
need_model() { # the model file; it may have another name
    local file names=
    [ -s "${mos_exp}/${inference_model}" ] && return
    for file in "${mos_exp}"/*.pth; do
        if [ -s "${file}" ] && [[ "${file}" != */checkpoint* ]]; then names+=" ${file##*/}"; fi
    done
    [ -n "${names}" ] || need "${mos_exp}/${inference_model}" 7
    fail "${mos_exp}/${inference_model} is missing; found${names} there: choose one with --inference_model, or train with the best_model_criterion that keeps it."
}
num_lines() {
    wc -l < "$1"
}
# The directory where stage 2 writes a set
formatted_dir() {
    if [[ "${filtered_sets}" == *" $1 "* ]]; then
        echo "${data_feats}/org/$1"
    else
        echo "${data_feats}/$1"
    fi
}
plain_text() { # plain_text FILE: prints it without byte order marks and carriage returns
    LC_ALL=C sed $'s/^\xef\xbb\xbf//; s/\r$//' "$1"
}
is_unlabelled() {
    [[ " ${unlabelled_parts[*]} " == *" $1 "* ]]
}
keep_utterances() { # keep_utterances [--exclude] [--labels_only] IDS SRC DST
    "${python}" pyscripts/utils/filter_data_dir.py "$@"
}
# stop_for_bad STAGE SET ...: ends the script when sets with bad utterances are named
stop_for_bad() {
    [ $# -gt 1 ] || return 0
    if ${skip_bad}; then
        log "Going on without the bad utterances of: ${*:2}"
    else
        fail "stage $1 found bad utterances in: ${*:2} (each has its sentence above); mend them and run stage $1 again, or go on without them with --skip_bad true."
    fi
}
write_run() { # write_run DIR STAGE: DIR/run.sh runs the same command from that stage on
    mkdir -p "$1"
    echo "${run_args} --stage $2 \"\$@\"; exit \$?" > "$1/run.sh"
    chmod +x "$1/run.sh"
}

# ========================== Data preparation ==========================
prepare=false
if in_stage 1; then
    log "Stage 1: Data preparation for data/${train_set:-${test_sets[0]}}, etc."
    # shellcheck disable=SC2086  # several options in one string
    local/data.sh ${local_data_opts}
    for dset in "${train_parts[@]}"; do
        [[ "${dset}" == */* ]] || continue # of this recipe
        [ -n "$(scripts/utils/prepare_test_sets.sh --skip_bad "${skip_bad}" "${dset}")" ] \
            || fail "--train_sets names ${dset}, which cannot be prepared; see the sentence above."
    done
    prepare=true
fi
available=$(scripts/utils/prepare_test_sets.sh --prepare "${prepare}" --skip_bad "${skip_bad}" "${test_sets[@]}")
read -r -a test_sets <<< "${available}"
mapfile -t all_sets < <(tr ' ' '\n' <<< "${filtered_sets}${test_sets[*]}" | awk 'NF && !seen[$0]++')

# Later stages do not quietly go on without what an earlier one refused.
if ! ${skip_bad}; then
    for dset in "${all_sets[@]}"; do
        for n in 2 3; do
            errors="$(formatted_dir "${dset}")/errors_stage${n}.txt"
            if [ "${stage}" -gt "${n}" ] && [ -s "${errors}" ]; then
                fail "stage ${n} left bad utterances out, see ${errors}; mend them and run stage ${n} again, or go on without them with --skip_bad true."
            fi
        done
    done
fi

if in_stage 2; then
    log "Stage 2: Format wav.scp: data/ -> ${data_feats}/"
    bad_sets=()
    for dset in "${all_sets[@]}"; do
        need "data/${dset}/wav.scp" 1
        dir=$(formatted_dir "${dset}")
        keys="data/${dset}/wav.scp"
        opts=()
        if [ -e "data/${dset}/segments" ]; then
            keys="data/${dset}/segments"
            opts+=(--segments "${keys}")
        fi
        mkdir -p "${dir}/logs"
        rm -f "${dir}"/errors*.txt "${dir}/score_range"
        if ! scripts/audio/format_wav_scp.sh --nj "${nj}" --cmd "${train_cmd}" --fs "${fs}" \
            --audio-format "${audio_format}" "${opts[@]}" "data/${dset}/wav.scp" "${dir}"; then
            [ -s "${dir}/errors.txt" ] && [ -s "${dir}/wav.scp" ] \
                || fail "stage 2 failed for ${dset}; see the lines above and ${dir}/logs."
            cp "${dir}/errors.txt" "${dir}/errors_stage2.txt"
            bad_sets+=("${dset}")
        fi
        # Labels of refused audio go; labels without any audio stay for stage 3 to report.
        awk 'NR == FNR { good[$1]; next } NF && !($1 in good)' \
            "${dir}/wav.scp" <(plain_text "${keys}") > "${dir}/logs/refused"
        opts=(--exclude --labels_only)
        if is_unlabelled "${dset}"; then opts+=(--unlabelled); fi
        keep_utterances "${opts[@]}" "${dir}/logs/refused" "data/${dset}" "${dir}"
        if ! is_unlabelled "${dset}" && [ -e "data/${dset}/score_range" ]; then
            plain_text "data/${dset}/score_range" > "${dir}/score_range"
        fi
    done
    stop_for_bad 2 "${bad_sets[@]}"
fi

if in_stage 3; then
    log "Stage 3: Check labels, ids, systems and listeners" # A test set may have a scale of its own.
    bad_sets=()
    for dset in "${all_sets[@]}"; do
        dir=$(formatted_dir "${dset}")
        need "${dir}/wav.scp" 2
        rm -f "${dir}/errors_stage3.txt"
        range=${score_range}
        [ ! -s "${dir}/score_range" ] || range=$(xargs < "${dir}/score_range")
        if [ "${range}" != "${score_range}" ] && [[ " ${train_set} ${valid_set} " == *" ${dset} "* ]]; then
            fail "data/${dset}/score_range is '${range}', and the training is told '${score_range}'; give --score_range '${range}'."
        fi
        labels=true
        systems=${need_systems}
        if is_unlabelled "${dset}"; then
            labels=false
            systems=false
        elif [[ "${filtered_sets}" != *" ${dset} "* ]] && [ ! -e "${dir}/utt2sys" ]; then
            # A listening test of others may have none.
            log "${dset} has no utt2sys: it is scored by utterances only"
            systems=false
        fi
        # shellcheck disable=SC2086  # range is two numbers
        if "${python}" -m espnet2_distilmos.bin.check_data --data_dir "${dir}" \
            --score_range ${range} --need_systems "${systems}" --need_labels "${labels}" \
            --good_list "${dir}/logs/good" --bad_exit_code 3 2> "${dir}/logs/check_data.log"; then
            tail -n 1 "${dir}/logs/check_data.log"
        else
            code=$?
            cat "${dir}/logs/check_data.log" >&2
            [ "${code}" -eq 3 ] || fail "stage 3 cannot use ${dir}; see the sentences above."
            cp "${dir}/logs/check_data.log" "${dir}/errors_stage3.txt"
            bad_sets+=("${dset}")
            if ${skip_bad}; then keep_utterances "${dir}/logs/good" "${dir}" "${dir}"; fi
        fi
    done
    stop_for_bad 3 "${bad_sets[@]}"
fi

if in_stage 4 && ! ${test_only}; then
    log "Stage 4: Filter by duration (${min_wav_duration} s to ${max_wav_duration} s): ${data_feats}/org -> ${data_feats}"
    for dset in $(tr ' ' '\n' <<< "${filtered_sets}" | awk 'NF && !seen[$0]++'); do
        org="${data_feats}/org/${dset}"
        dir="${data_feats}/${dset}"
        need "${org}/wav.scp" 2
        mkdir -p "${dir}"
        awk -v low="${min_wav_duration}" -v high="${max_wav_duration}" -v fs="${fs}" \
            '$2 >= low * fs && $2 <= high * fs' "${org}/utt2num_samples" > "${dir}/ids"
        [ -s "${dir}/ids" ] \
            || fail "no utterance of ${dset} lasts between ${min_wav_duration} and ${max_wav_duration} s; change --min_wav_duration or --max_wav_duration."
        if [ -n "${calibration_set}" ] && [ "${dset}" = "${valid_set}" ]; then
            cal="${data_feats}/${calibration_set}"
            mkdir -p "${cal}"
            opts=()
            [ ! -s "${org}/utt2src" ] || opts+=(--utt2src "${org}/utt2src")
            "${python}" -m espnet2_distilmos.bin.split_dev --ids "${dir}/ids" \
                --share "${calibration_share}" --output "${cal}/ids" "${opts[@]}" \
                || fail "${dset} cannot be split; change --calibration_share ${calibration_share}."
            keep_utterances "${cal}/ids" "${org}" "${cal}"
            awk 'NR == FNR { taken[$1]; next } !($1 in taken)' "${cal}/ids" "${dir}/ids" > "${dir}/ids.rest"
            mv "${dir}/ids.rest" "${dir}/ids"
            log "${calibration_set}: $(num_lines "${cal}/wav.scp") utterances of ${dset} will calibrate, the others choose the checkpoint"
        fi
        keep_utterances "${dir}/ids" "${org}" "${dir}"
        rm -f "${dir}/score_range"
        [ ! -e "${org}/score_range" ] || cp "${org}/score_range" "${dir}"
        log "${dset}: $(num_lines "${dir}/wav.scp") of $(num_lines "${org}/wav.scp") utterances kept"
    done
    if [ ${#train_parts[@]} -gt 1 ]; then
        opts=()
        for dset in "${train_parts[@]}"; do opts+=("${dset}=${data_feats}/${dset}"); done
        # shellcheck disable=SC2086  # score_range is two numbers
        "${python}" -m espnet2_distilmos.bin.combine_data --output_dir "${data_feats}/${train_set}" \
            --score_range ${score_range} --map_scores "${map_scores}" --keep_scores "${keep_scores}" "${opts[@]}" \
            || fail "stage 4 cannot combine ${train_parts[*]}; see the sentence above."
    fi
fi

train_dir="${data_feats}/${train_set}"
valid_dir="${data_feats}/${valid_set}"

if in_stage 5 && ${use_tokens} && ! ${test_only}; then
    log "Stage 5: Tokens: ${tokens_dir}"
    for dir in "${train_dir}" "${valid_dir}"; do need "${dir}/wav.scp" 4; done
    [ -n "${train_config}" ] || fail "--train_config is missing; stage 5 takes the frontend from it."
    if [ "${ngpu}" -gt 0 ]; then
        cmd="${cuda_cmd} --gpu 1 --max-jobs-run $((ngpu * num_nodes))"
        gpu=1
    else
        cmd=${train_cmd}
        gpu=0
    fi
    mkdir -p "${tokens_dir}"
    log "Stage 5a: Fit the codebooks, log: ${tokens_dir}/learn_codebooks.log"
    # shellcheck disable=SC2206  # one word an upstream
    opts=(--num_clusters ${num_clusters} --layers ${token_layers} --max_frames "${max_frames}")
    [ ${#token_upstreams[@]} -eq 0 ] || opts+=(--upstreams "${token_upstreams[@]}" --aggregate "${token_aggregate}")
    # shellcheck disable=SC2206  # import_km is one word a layer
    [ -z "${import_km}" ] || opts+=(--import_km ${import_km})
    ${cmd} "${tokens_dir}/learn_codebooks.log" \
        "${python}" -m espnet2_distilmos.bin.learn_codebooks \
            --config "${train_config}" --train_args="${train_args}" --wav_scp "${train_dir}/wav.scp" \
            --output "${tokens_dir}/codebooks.npz" --tokens_dir "${tokens_dir}/${train_set}" \
            --nj "${nj}" --ngpu "${gpu}" "${opts[@]}" \
        || fail "stage 5 failed: $(grep -v '^#' "${tokens_dir}/learn_codebooks.log" | tail -n 1)"

    log "Stage 5b: Dump the tokens of ${train_set} and ${valid_set}"
    bad_sets=()
    for dset in "${train_set}" "${valid_set}"; do
        scripts/dump_tokens.sh --train_config "${train_config}" --train_args "${train_args}" \
            --token_upstreams "${token_upstreams[*]}" \
            --codebooks "${tokens_dir}/codebooks.npz" --nj "${nj}" --ngpu "${gpu}" --cmd "${cmd}" \
            --python "${python}" --skip_bad "${skip_bad}" "${data_feats}/${dset}/wav.scp" "${tokens_dir}/${dset}" \
            || {
                [ $? -eq 3 ] || fail "stage 5 failed for ${dset}; see the lines above."
                bad_sets+=("${dset}")
                if ${skip_bad}; then
                    keep_utterances "${tokens_dir}/${dset}/tokens.scp" "${data_feats}/${dset}" "${data_feats}/${dset}"
                    touch "${tokens_dir}/${dset}/tokens.scp"
                fi
            }
    done
    stop_for_bad 5 "${bad_sets[@]}"
fi

# ========================== Training ==========================
# Arguments that statistics and training share.
train_opts=(--use_preprocessor true)
[ -z "${train_config}" ] || train_opts+=(--config "${train_config}")
range=${score_range}
[ ! -s "${train_dir}/score_range" ] || range=$(xargs < "${train_dir}/score_range") # of kept scales
# shellcheck disable=SC2206  # range is two numbers
train_opts+=(--score_range ${range})
for part in train valid; do
    dir="${part}_dir"
    train_opts+=("--${part}_data_path_and_name_and_type" "${!dir}/wav.scp,speech,sound")
    train_opts+=("--${part}_data_path_and_name_and_type" "${!dir}/metric.scp,mos,text")
done

if in_stage 6; then
    log "Stage 6: Statistics of ${train_dir} and ${valid_dir}: ${mos_stats_dir}"
    need "${train_dir}/wav.scp" 4
    need "${valid_dir}/wav.scp" 4
    logdir="${mos_stats_dir}/logdir"
    rm -rf "${logdir}"/stats.* "${mos_stats_dir}/.new"
    write_run "${mos_stats_dir}" 6
    mkdir -p "${logdir}"
    jobs=$(printf '%s\n' "${nj}" "$(num_lines "${train_dir}/wav.scp")" "$(num_lines "${valid_dir}/wav.scp")" | sort -n | head -n 1)
    for part in train valid; do
        dir="${part}_dir"
        parts=()
        for n in $(seq "${jobs}"); do parts+=("${logdir}/${part}.${n}.scp"); done
        utils/split_scp.pl "${!dir}/wav.scp" "${parts[@]}"
    done
    # shellcheck disable=SC2086  # train_args are several options
    ${train_cmd} "JOB=1:${jobs}" "${logdir}/stats.JOB.log" \
        "${python}" -m espnet2_distilmos.bin.mos_train --collect_stats true \
            --train_shape_file "${logdir}/train.JOB.scp" --valid_shape_file "${logdir}/valid.JOB.scp" \
            --output_dir "${logdir}/stats.JOB" "${train_opts[@]}" ${train_args} \
        || fail "stage 6 failed; see ${logdir}/stats.*.log."
    opts=()
    for n in $(seq "${jobs}"); do opts+=(--input_dir "${logdir}/stats.${n}"); done
    "${python}" -m espnet2.bin.aggregate_stats_dirs --skip_sum_stats "${opts[@]}" \
        --output_dir "${mos_stats_dir}/.new" 2> "${logdir}/aggregate.log" \
        || fail "stage 6 failed; see ${logdir}/aggregate.log."
    rm -rf "${mos_stats_dir}/train" "${mos_stats_dir}/valid"
    mv "${mos_stats_dir}/.new/train" "${mos_stats_dir}/.new/valid" "${mos_stats_dir}"
    rmdir "${mos_stats_dir}/.new"
fi

if in_stage 7; then
    log "Stage 7: Training; to see it: tail -F ${mos_exp}/train.log"
    need "${mos_stats_dir}/train/speech_shape" 6
    need "${mos_stats_dir}/valid/speech_shape" 6
    opts=()
    if ${use_tokens}; then
        need "${tokens_dir}/${train_set}/tokens.scp" 5
        need "${tokens_dir}/${valid_set}/tokens.scp" 5
        opts+=(--token_info "${tokens_dir}/${train_set}/tokens.json")
        opts+=(--train_data_path_and_name_and_type "${tokens_dir}/${train_set}/tokens.scp,tokens,npy")
        opts+=(--valid_data_path_and_name_and_type "${tokens_dir}/${valid_set}/tokens.scp,tokens,npy")
        if [ ${#token_upstreams[@]} -gt 0 ]; then
            how=
            [ "${token_aggregate}" = heads ] || how="${token_aggregate}:"
            opts+=(--token_source "${how}$(IFS=,; echo "${token_upstreams[*]}")")
        fi
    fi
    if ${use_votes}; then
        need "${train_dir}/votes.scp" 1
        # ESPnet wants a line for every utterance.
        mkdir -p "${mos_exp}"
        awk 'NR == FNR { votes[$1] = $0; next } { print ($1 in votes) ? votes[$1] : $1 " []" }' \
            "${train_dir}/votes.scp" "${train_dir}/wav.scp" > "${mos_exp}/.votes.scp"
        mv "${mos_exp}/.votes.scp" "${mos_exp}/votes.scp"
        opts+=(--train_data_path_and_name_and_type "${mos_exp}/votes.scp,votes,text")
    fi
    if ${use_corpora}; then
        need "${train_dir}/utt2domain" 1
        opts+=(--train_data_path_and_name_and_type "${train_dir}/utt2domain,corpus,text")
        [ ! -s "${valid_dir}/utt2domain" ] || opts+=(--valid_data_path_and_name_and_type "${valid_dir}/utt2domain,corpus,text")
    fi
    if [ -n "${train_weights}" ]; then
        opts+=(--sampling_categories "${train_dir}/utt2set" --sampling_weights "${train_weights}")
    fi
    [ ! -s "${valid_dir}/utt2sys" ] || opts+=(--valid_utt2sys "${valid_dir}/utt2sys")
    job_name="${mos_exp}/train.log"
    if [[ "${cuda_cmd}" == *queue*.pl* ]]; then job_name=$(basename "${mos_exp}"); fi # SGE: no "/"

    [ ! -e "${mos_exp}/run.sh" ] || mv "${mos_exp}/run.sh" "${mos_exp}/.run.sh"
    write_run "${mos_exp}" 7
    # shellcheck disable=SC2086  # train_args are several options
    if ! OMP_NUM_THREADS=${train_threads} "${python}" -m espnet2.bin.launch \
        --cmd "${cuda_cmd} --name ${job_name}" --log "${mos_exp}/train.log" \
        --ngpu "${ngpu}" --num_nodes "${num_nodes}" --init_file_prefix "${mos_exp}/.dist_init_" \
        --multiprocessing_distributed true -- \
        "${python}" -m espnet2_distilmos.bin.mos_train --resume true --fold_length "${audio_fold_length}" \
            --train_shape_file "${mos_stats_dir}/train/speech_shape" \
            --valid_shape_file "${mos_stats_dir}/valid/speech_shape" \
            --output_dir "${mos_exp}" "${train_opts[@]}" "${opts[@]}" ${train_args} \
        2> "${mos_exp}/launch.log"; then
        # Refused, it left the model that is there alone, and so shall its run.sh be left.
        if [ -e "${mos_exp}/.run.sh" ] && [ ! "${mos_exp}/config.yaml" -nt "${mos_exp}/run.sh" ]; then
            mv "${mos_exp}/.run.sh" "${mos_exp}/run.sh"
        fi
        fail "stage 7 failed, see ${mos_exp}/train.log; $(scripts/utils/why_failed.sh "${mos_exp}")"
    fi
    rm -f "${mos_exp}/.run.sh"
    # One line an epoch, without the times and layers.
    sed -n 's/^.* \([0-9]*\)epoch results: .*\[valid\] \(.*\)$/epoch \1 (validation): \2/p' "${mos_exp}/train.log" \
        | sed 's/, \(mix_\|token_acc_\|time=\|total_count=\)[^,]*//g'
fi

# ========================== Evaluation ==========================
if [ -n "${download_model}" ]; then
    mos_exp="${expdir}/$(basename "${download_model}" .zip)"
    mkdir -p "${mos_exp}"
    log "Use ${download_model} for inference: ${mos_exp}"
    inference_model=$("${python}" -m espnet2_distilmos.bin.mos_pack --unpack "${download_model}" --output_dir "${mos_exp}")
fi
# Models in the same directory as this one.
other_models=()
if ${all_models} && [ "$(dirname "${mos_exp}")" = "${expdir}" ]; then
    for file in "${expdir}"/mos_*/"${inference_model}"; do
        dir=$(dirname "${file}")
        if [ "${dir}" != "${mos_exp}" ] && [ -s "${dir}/config.yaml" ]; then other_models+=("${dir}"); fi
    done
fi
failed=() # Predictions by these that failed.
# is_predicted EXP SET: the set's predictions are newer than the model and the audio
is_predicted() {
    local predicted="$1/${inference_tag}/$2/metric.scp"
    [ "${predicted}" -nt "$1/${inference_model}" ] && [ "${predicted}" -nt "${data_feats}/$2/wav.scp" ]
}
infer() { # infer EXP SET: exit code 3 for bad utterances
    scripts/infer.sh --train_config "$1/config.yaml" --model_file "$1/${inference_model}" \
        --inference_config "${inference_config}" --inference_args "${inference_args}" \
        --nj "${inference_nj}" --ngpu "${gpu}" --cmd "${cmd}" --python "${python}" \
        "${data_feats}/$2/wav.scp" "$1/${inference_tag}/$2"
}

if in_stage 8; then
    log "Stage 8: Inference with ${mos_exp}/${inference_model}: ${mos_exp}/${inference_tag}"
    need "${mos_exp}/config.yaml" 7
    need_model
    write_run "${mos_exp}/${inference_tag}" 8
    cmd=${decode_cmd}
    gpu=0
    if ${gpu_inference}; then
        cmd="${cuda_cmd} --gpu 1"
        gpu=1
    fi
    bad_sets=()
    for dset in "${test_sets[@]}"; do
        need "${data_feats}/${dset}/wav.scp" 2
        log "${dset}, log: ${mos_exp}/${inference_tag}/${dset}/log/mos_inference.*.log"
        infer "${mos_exp}" "${dset}" || {
            [ $? -eq 3 ] || fail "stage 8 failed for ${dset}; see the lines above."
            bad_sets+=("${dset}")
        }
    done
    if [ -n "${calibration_set}" ]; then
        cal="${data_feats}/${calibration_set}"
        need "${cal}/wav.scp" 4
        need "${train_dir}/wav.scp" 4
        logfile="${mos_exp}/${inference_tag}/calibrate.log"
        log "Calibration on ${calibration_set}, log: ${logfile}"
        rm -f "${mos_exp}/calibration.npz" # of an earlier model, maybe
        opts=()
        ! ${gpu_inference} || opts+=(--device cuda)
        if ! ${cmd} "${logfile}" "${python}" -m espnet2_distilmos.bin.calibrate "${mos_exp}/${inference_model}" \
            --labels "${cal}" --train "${train_dir}/wav.scp" --output "${mos_exp}/calibration.npz" "${opts[@]}"; then
            [ -e "${mos_exp}/calibration.npz" ] || fail "the calibration failed; see ${logfile}."
            bad_sets+=("${calibration_set}")
        fi
        sed -n 's/^.*calibration\.npz: //p' "${logfile}"
    fi
    stop_for_bad 8 "${bad_sets[@]}"
    for exp in "${other_models[@]}"; do
        for dset in "${test_sets[@]}"; do
            if is_predicted "${exp}" "${dset}"; then continue; fi
            log "${dset} by ${exp}"
            infer "${exp}" "${dset}" || {
                [ $? -eq 3 ] || failed+=("${dset} by ${exp}")
            }
        done
    done
fi

# score_options EXP: sets scores to the options of mos_scoring for a model on all test sets
score_options() {
    scores=()
    for dset in "${test_sets[@]}"; do
        scores+=(--score "$(basename "$1")" "${dset}" "${data_feats}/${dset}" "$1/${inference_tag}/${dset}/metric.scp")
    done
}
score() { # score DIR [OPTION ...]: a table in DIR
    # shellcheck disable=SC2086  # score_range is two numbers
    "${python}" -m espnet2_distilmos.bin.mos_scoring "${@:2}" --score_range ${score_range} \
        --output_dir "$1" --bootstrap "${bootstrap}" --command "${run_args}"
}

if in_stage 9; then
    log "Stage 9: Scoring: ${mos_exp}/RESULTS.md"
    [ ${#test_sets[@]} -gt 0 ] || fail "--test_sets is empty; name the sets to score."
    for dset in "${test_sets[@]}"; do
        need "${data_feats}/${dset}/metric.scp" 2
        need "${mos_exp}/${inference_tag}/${dset}/metric.scp" 8
    done
    score_options "${mos_exp}"
    opts=("${scores[@]}")
    # Models to compare with: lines "NAME DIRECTORY_OF_PREDICTIONS".
    rm -f "${mos_exp}/extra_predictions"
    if ${baselines} && [ -x local/baselines.sh ]; then
        log "Baselines: local/baselines.sh ${mos_exp}"
        local/baselines.sh --python "${python}" --data_feats "${data_feats}" --train_set "${train_set}" \
            --test_sets "${test_sets[*]}" --nj "${inference_nj}" "${mos_exp}"
    fi
    if [ -s "${mos_exp}/extra_predictions" ]; then
        while read -r name dir; do
            for dset in "${test_sets[@]}"; do
                opts+=(--score "${name}" "${dset}" "${data_feats}/${dset}" "${dir}/${dset}/metric.scp")
            done
        done < "${mos_exp}/extra_predictions"
    fi
    if [ -r conf/results_notes.txt ]; then
        while read -r line; do
            [ -z "${line}" ] || opts+=(--note "${line}")
        done < conf/results_notes.txt
    fi
    log "Elapsed time: ${SECONDS} s" # before the table, which comes last
    score "${mos_exp}" "${opts[@]}"

    opts=()
    for exp in "${other_models[@]}"; do
        for dset in "${test_sets[@]}"; do
            if ! is_predicted "${exp}" "${dset}"; then
                log "${exp} is left out of ${expdir}/RESULTS.md: ${dset} is not predicted yet (--stage 8)"
                continue 2
            fi
        done
        score_options "${exp}"
        opts+=("${scores[@]}")
    done
    if [ ${#opts[@]} -gt 0 ]; then
        score_options "${mos_exp}"
        score "${expdir}" "${scores[@]}" "${opts[@]}"
    fi
fi

# ========================== Packing and upload ==========================
packed_model="${mos_exp}/$(basename "${mos_exp}")_${inference_model%.pth}.zip"
if in_stage 10; then
    log "Stage 10: Pack the model: ${packed_model}"
    need "${mos_exp}/config.yaml" 7
    need_model
    opts=(--card conf/model_card.yaml)
    if [ ! -r conf/model_card.yaml ]; then
        opts=()
        log "conf/model_card.yaml is not there: the model's README states no data and no licence"
    fi
    "${python}" -m espnet2_distilmos.bin.mos_pack --train_config "${mos_exp}/config.yaml" \
        --model_file "${mos_exp}/${inference_model}" --results "${mos_exp}" --outpath "${packed_model}" "${opts[@]}"
fi
if in_stage 11; then
    log "Stage 11: Upload to the hub: ${hf_repo}"
    [ -n "${hf_repo}" ] || fail "--hf_repo is missing; give the name of your repository on the hub, as in 'user/name'."
    need "${packed_model}" 10
    "${python}" -m espnet2_distilmos.bin.mos_pack --upload "${packed_model}" --hf_repo "${hf_repo}"
fi
in_stage 9 || log "Finished, elapsed time: ${SECONDS} s"
[ ${#failed[@]} -eq 0 ] || fail "the inference failed for: ${failed[*]} (see the lines above); mend these models, or leave them out with --all_models false."
