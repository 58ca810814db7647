#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

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
train_threads=       # CPU threads of training; all cores when ngpu is 0, else 1.

# Data preparation
local_data_opts=       # Options for local/data.sh.
fs=16000               # Sampling rate of the upstream, Hz.
audio_format=flac      # Format of the audio in dumpdir: flac or wav.
min_wav_duration=0.1   # Shortest utterance in training and validation, seconds.
max_wav_duration=30    # Longest utterance in training and validation, seconds.
score_range="1 5"      # Lowest and highest label; data/<set>/score_range says so of one test set.
need_systems=true      # Whether every utterance must have a system in utt2sys.
map_scores=false       # Map labels of sets of --train_sets on another scale linearly to score_range.
calibration_share=0    # Share of the validation set that calibrates intervals and does not choose the checkpoint.

# Tokens
use_tokens=true        # Whether tokens are made and given to the training.
num_clusters=200       # Centroids a codebook.
token_layers=all       # Layers with a codebook: all, or a list such as 1,3,5.
max_frames=100000      # Frames of the training set that the codebooks are fitted to.
import_km=             # Take ESPnet's k-means models instead of fitting: "6=km6.mdl 9=km9.mdl".
tokens_tag=            # Name of the token directory; made from the settings if empty.

# Adaptation of the upstream to audio without labels, before anything else is trained
adapt_config=          # Configuration of that training, such as conf/tuning/adapt_wavlm.yaml; empty: no adaptation.
adapt_args=            # Options that override it.
adapt_sets=            # Sets whose audio it hears (labels are not read); the training set if empty.
adapt_tokens=original  # Whose tokens the training on labels predicts: original or adapted.
adapt_exp=             # Directory of the adaptation; made from the above if empty.

# Training
train_config=          # Configuration of the model and its training.
train_args=            # Options that override it, e.g. "--seed 3" or "--init_model exp/mos_x" (fine-tuning).
tag=                   # Name of the experiment; made from the two above if empty.
mos_exp=               # Directory of the experiment; if given, tag is not used.
mos_stats_dir=         # Directory of the statistics.
audio_fold_length=256000 # Used by batch_type "folded" only, samples.
use_votes=false        # Give votes.scp to the training, for model_conf.listener_embedding.
use_corpora=false      # Give utt2domain to the training, for model_conf.corpus_embedding.

# Inference and scoring
inference_config=      # Configuration of the inference.
inference_args=        # Options that override it.
inference_tag=         # Name of the directory of predictions.
inference_model=valid.sys_srcc.best.pth # Model file in the experiment.
download_model=        # Use this model instead: a packed .zip file or a name in the model zoo.
bootstrap=1000         # Resamples for the 95 % intervals.
baselines=true         # Whether local/baselines.sh, if there, adds models to the table.
results_notes=conf/results_notes.txt # A line of it becomes a note in RESULTS.md.

# Data sets
train_set=             # Training set.
train_sets=            # Several instead, each with its sampling weight or none with one: "train:1 somos/train:0.5".
unlabelled_sets=       # Sets of audio alone that train besides, with weights or without: "unlab:1" (the labelled set has 1 then).
valid_set=             # Validation set.
test_sets=             # Test sets, in-domain and out-of-domain.

# Packing and upload
model_card=conf/model_card.yaml # What a packed model's README states: licence, data, limits.
hf_repo=               # Repository on the Hugging Face hub.

help_message="Usage: $0 --train_set T --valid_set V --test_sets \"A B\" [--name value ...]

Stages: 1 data preparation, 2 audio formatting, 3 check of labels and ids, 4 duration
filter, 5 tokens (codebooks, then dump; before them the adaptation of the upstream, if
there is an --adapt_config), 6 statistics, 7 training, 8 inference, 9 scoring,
10 packing, 11 upload.

Options and their defaults (explained at the top of the script):
$(sed -n '/^# General/,/^help_message/s/^\([a-z_]*\)=\("[^"]*"\|[^ #]*\) *# \(.*\)$/  --\1 (\2) \3/p' "$0")"

log "$0 $*"
run_args=$(scripts/utils/print_args.sh "$0" "$@")
. utils/parse_options.sh

if [ $# -ne 0 ]; then
    fail "'$*' is not an option; '$0 --help' lists the options."
fi

. ./path.sh
. ./cmd.sh

# Unlabelled sets are training sets whose labels, if any, are not read.
unlabelled_names=
if [ -n "${unlabelled_sets}" ]; then
    [ -n "${train_sets}${train_set}" ] || fail "--unlabelled_sets has no labelled set beside it; give --train_set."
    if [ -z "${train_sets}" ]; then
        train_sets=${train_set}
        if [[ "${unlabelled_sets}" == *:* ]]; then train_sets+=":1"; fi
    fi
    for part in ${unlabelled_sets}; do
        unlabelled_names+=" ${part%%:*} "
        train_sets+=" ${part}"
    done
fi

# Several training sets become one, whose name says which they are.
train_parts=${train_set}
train_weights= # JSON
if [ -n "${train_sets}" ]; then
    train_parts=
    for part in ${train_sets}; do
        name=${part%%:*}
        train_parts+="${train_parts:+ }${name}"
        [ "${part}" = "${name}" ] || train_weights+="${train_weights:+, }\"${name}\": ${part#*:}"
        [[ "${part#"${name}"}" =~ ^(:[0-9]*\.?[0-9]+)?$ ]] || \
            fail "--train_sets has ${part}, expected a name, or a name and a weight such as ${name}:0.5."
    done
    _weighted=${train_sets//[^:]/}
    [ -z "${_weighted}" ] || [ "${#_weighted}" -eq "$(wc -w <<< "${train_sets}")" ] || \
        fail "--train_sets '${train_sets}' has weights for some, expected one for each or for none."
    [ "$(tr ' ' '\n' <<< "${train_parts}" | sort -u | wc -l)" -eq "$(wc -w <<< "${train_parts}")" ] || \
        fail "--train_sets '${train_sets}' names a set twice, expected each once."
    train_set=${train_parts//\//-}
    train_set=${train_set// /+}
    [ "${train_set}" != "${train_parts}" ] || fail "--train_sets '${train_sets}' is one set; give it as --train_set."
    [ -z "${train_weights}" ] || train_weights="{${train_weights}}"
fi

# A corpus with test sets only has neither; stages 4 to 7 have nothing to do then.
test_only=false
if ${skip_train} && [ -z "${train_set}${valid_set}" ]; then
    test_only=true
    [ -n "${test_sets}" ] || fail "--test_sets is missing; give names of directories in data/."
else
    [ -n "${train_set}" ] || fail "--train_set is missing; give the name of a directory in data/."
    [ -n "${valid_set}" ] || fail "--valid_set is missing; give the name of a directory in data/."
fi
for number in stage stop_stage ngpu num_nodes nj inference_nj num_clusters max_frames bootstrap; do
    [[ "${!number}" =~ ^[0-9]+$ ]] || fail "--${number} ${!number} is not a whole number."
done
[[ "${calibration_share}" =~ ^0?(\.[0-9]+)?$ && "${calibration_share}" =~ [0-9] ]] || \
    fail "--calibration_share ${calibration_share} is not a number from 0 to less than 1."
for name in train_config adapt_config; do
    [ -z "${!name}" ] || [ -r "${!name}" ] || fail "--${name} ${!name} cannot be read."
done
for directory in "${dumpdir}" "${expdir}"; do
    if ! mkdir -p "${directory}" 2> /dev/null || [ ! -w "${directory}" ]; then
        fail "${directory} cannot be written; choose another --dumpdir or --expdir, or change its permissions."
    fi
done

if [ -z "${train_threads}" ]; then
    train_threads=1
    [ "${ngpu}" -gt 0 ] || train_threads=$(nproc)
fi
data_feats="${dumpdir}/raw"
utt_extra_files="utt2spk text metric.scp utt2sys utt2src utt2domain utt2set votes.scp"

# Names: what is made from a setting carries the setting in its name.
suffix_of() { # options as a piece of a file name
    echo "$1" | sed -e 's/--/_/g' -e 's/[ |=/]//g'
}
config_name=$(basename "${train_config:-train}" .yaml)
# The adapted upstream is a trained model, which the training on labels starts from.
adapt_opts=  # What the training on labels is told of it.
token_args=${train_args} # What the tokens depend on.
if [ -n "${adapt_config}" ]; then
    ! ${test_only} || fail "--adapt_config is given and --train_set is not; name the sets that train."
    [[ "${train_args}" != *--init_model* ]] || \
        fail "--adapt_config is given and --train_args has --init_model, expected one of them: both say what the training starts from."
    adapt_sets=${adapt_sets:-${train_set}}
    if [ -z "${adapt_exp}" ]; then
        _name=${adapt_sets//\//-}
        adapt_exp="${expdir}/$(basename "${adapt_config}" .yaml)_${_name// /+}$(suffix_of "${adapt_args}")"
    fi
    adapt_opts="--init_model ${adapt_exp}/valid.loss.best.pth"
    case "${adapt_tokens}" in
        adapted) token_args+=" ${adapt_opts}" ;;
        original) ;;
        *) fail "--adapt_tokens is '${adapt_tokens}', expected original or adapted." ;;
    esac
fi
if [ -z "${tag}" ]; then
    tag="${config_name}_raw$(suffix_of "${train_args}")"
    [ -z "${adapt_config}" ] || tag+="_$(basename "${adapt_exp}")_${adapt_tokens}_tokens"
    if [ -n "${train_sets}" ]; then
        _name=${train_sets//\//-}
        _name=${_name//:/}
        tag+="_${_name// /+}"
    fi
fi
if [ -z "${tokens_tag}" ]; then
    if [ -n "${import_km}" ]; then
        tokens_tag="${config_name}_km$(sed 's/\([0-9]*\)=[^ ]*/\1/g; s/  */-/g' <<< "${import_km}")"
    else
        tokens_tag="${config_name}_k${num_clusters}_l${token_layers//,/-}"
    fi
    # Tokens depend on the frontend only, so that most of train_args changes nothing.
    frontend_args=$(grep -o -e '--frontend[^ ]* [^ ]*' -e '--init_model[ =][^ ]*' <<< "${token_args}" || true)
    tokens_tag+=$(suffix_of "${frontend_args//$'\n'/}")
fi
if [ -z "${inference_tag}" ]; then
    inference_tag="inference"
    [ -z "${inference_config}" ] || inference_tag=$(basename "${inference_config}" .yaml)
    inference_tag+="$(suffix_of "${inference_args}")_${inference_model%.pth}"
fi
mos_stats_dir=${mos_stats_dir:-${expdir}/mos_stats_raw${train_sets:+_${train_set}}}
mos_exp=${mos_exp:-${expdir}/mos_${tag}}
tokens_dir="${dumpdir}/tokens/${tokens_tag}"

in_stage() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}
need() { # need FILE STAGE: FILE was made by that stage
    [ -s "$1" ] || fail "$1 is missing or empty; run stage $2 first (--stage $2)."
}
min() {
    local least=$1 number
    for number in "$@"; do
        if [ "${number}" -lt "${least}" ]; then least=${number}; fi
    done
    echo "${least}"
}
num_lines() {
    wc -l < "$1"
}
# A test set of another listening test may keep its own scale.
range_of() { # range_of SET DIR: lowest and highest label of the set, formatted in DIR
    local range
    if [ ! -s "$2/score_range" ]; then
        echo "${score_range}"
        return
    fi
    range=$(tr -s ' \t\n' ' ' < "$2/score_range" | sed 's/^ //; s/ $//')
    if [ "$1" = "${train_set}" ] || [ "$1" = "${valid_set}" ]; then
        [ "${range}" = "${score_range}" ] || \
            fail "data/$1/score_range is '${range}', and the training is told '${score_range}'; give --score_range '${range}'."
    fi
    echo "${range}"
}
# The directory where stage 2 writes a set: stage 4 filters training and validation.
formatted_dir() {
    case " ${train_parts} ${valid_set} " in
        *" $1 "*) echo "${data_feats}/org/$1" ;;
        *) echo "${data_feats}/$1" ;;
    esac
}
# shellcheck disable=SC2086  # test_sets are several names
all_sets=$(printf '%s\n' ${train_parts:-""} "${valid_set}" ${test_sets} | awk '!seen[$0]++')
# What the adaptation alone hears has no labels to be checked.
adapt_only=
if [ -n "${adapt_config}" ]; then
    for dset in ${adapt_sets}; do
        if [ "${dset}" != "${train_set}" ] && [[ $'\n'"${all_sets}"$'\n' != *$'\n'"${dset}"$'\n'* ]]; then
            adapt_only+=" ${dset}"
            all_sets+=$'\n'"${dset}"
        fi
    done
    unlabelled_names+="${adapt_only// /  } "
fi

# The part of the validation set that is kept back for the calibration.
calibration_set="${valid_set}_calibration"
with_calibration=false
if [[ "${calibration_share}" =~ [1-9] ]] && ! ${test_only}; then
    with_calibration=true
    [ "${train_set}" != "${valid_set}" ] || \
        fail "--calibration_share ${calibration_share} would split the training set, as --train_set and --valid_set are both ${valid_set}; give them two sets."
    [[ $'\n'"${all_sets}"$'\n' != *$'\n'"${calibration_set}"$'\n'* ]] || \
        fail "the set ${calibration_set} is asked for, and --calibration_share ${calibration_share} makes one of this name; rename yours."
fi

# replace FILE: FILE.tmp becomes FILE, whose date stays when nothing changed.
replace() {
    if cmp -s "$1.tmp" "$1"; then rm "$1.tmp"; else mv "$1.tmp" "$1"; fi
}
# filter_set [--exclude] IDS SRC DST: the lines of SRC's files whose id is in IDS
filter_set() {
    local exclude=()
    if [ "$1" = --exclude ]; then exclude=("$1"); shift; fi
    local ids=$1 src=$2 dst=$3 f
    mkdir -p "${dst}"
    for f in ${utt_extra_files}; do
        if [ -f "${src}/${f}" ]; then
            utils/filter_scp.pl "${exclude[@]}" "${ids}" "${src}/${f}" | sort -k1,1 -s > "${dst}/${f}.tmp"
            replace "${dst}/${f}"
        else
            rm -f "${dst}/${f}"
        fi
    done
    if [ -f "${dst}/utt2spk" ]; then
        utils/utt2spk_to_spk2utt.pl "${dst}/utt2spk" | sort -k1,1 > "${dst}/spk2utt.tmp"
        replace "${dst}/spk2utt"
    fi
}
# keep_only IDS DIR: drops every other utterance of a formatted directory
keep_only() {
    local f
    filter_set "$1" "$2" "$2"
    for f in utt2num_samples wav.scp; do # wav.scp last: it is what says the set is done
        utils/filter_scp.pl "$1" "$2/${f}" > "$2/${f}.tmp"
        replace "$2/${f}"
    done
}
# select_set SRC DST: the utterances of SRC that DST/utt2num_samples.tmp names
select_set() {
    replace "$2/utt2num_samples"
    filter_set "$2/utt2num_samples" "$1" "$2"
    utils/filter_scp.pl "$2/utt2num_samples" "$1/wav.scp" > "$2/wav.scp.tmp"
    # Newer audio under the same names gives wav.scp a new date, for stage 5 to see.
    if [ "$1/wav.scp" -nt "$2/wav.scp" ]; then
        mv "$2/wav.scp.tmp" "$2/wav.scp"
    else
        replace "$2/wav.scp"
    fi
}
# stop_for_bad STAGE SETS: ends the script when sets with bad utterances are named
stop_for_bad() {
    [ -n "$2" ] || return 0
    if ${skip_bad}; then
        log "Going on without the bad utterances of:$2"
    else
        fail "stage $1 found bad utterances in:$2 (each has its sentence above); mend them and run stage $1 again, or go on without them with --skip_bad true."
    fi
}
# split_list LIST N PREFIX: LIST in parts PREFIX.1.scp ... PREFIX.N.scp
split_list() {
    local n parts=()
    for n in $(seq "$2"); do parts+=("$3.${n}.scp"); done
    rm -f "$3".[0-9]*.scp
    utils/split_scp.pl "$1" "${parts[@]}"
}

# show_epochs LOG OLDER: prints a line an epoch of a LOG that is newer than OLDER, and
# looks once more when it is told to end (SIGTERM)
show_epochs() {
    local shown=0 lines going=true
    trap 'going=false' TERM
    while ${going} && kill -0 $$ 2> /dev/null; do
        sleep 2 > /dev/null 2>&1 &
        wait $! || true # a signal ends this wait, unlike a sleep in the foreground
        [ "$1" -nt "$2" ] || continue
        lines=$(awk '/epoch results:/ {
            match($0, /[0-9]+epoch results/)
            line = "epoch " substr($0, RSTART, RLENGTH - 13) " (validation):"
            sub(/^.*\[valid\] /, ""); n = split($0, item, ", ")
            for (i = 1; i <= n; i++)
                if (item[i] ~ /^(loss|utt_mse|utt_srcc|sys_srcc)=/) line = line " " item[i]
            print line }' "$1")
        [ -z "${lines}" ] || tail -n "+$((shown + 1))" <<< "${lines}"
        shown=$(grep -c . <<< "${lines}" || true)
    done
}

# Later stages do not quietly go on without what an earlier one refused.
if ! ${skip_bad}; then
    for dset in ${all_sets}; do
        for n in 2 3; do
            if [ "${stage}" -gt "${n}" ] && [ -s "$(formatted_dir "${dset}")/errors_stage${n}.txt" ]; then
                fail "stage ${n} left bad utterances out, see $(formatted_dir "${dset}")/errors_stage${n}.txt; mend them and run stage ${n} again, or go on without them with --skip_bad true."
            fi
        done
    done
fi

# ========================== Data preparation ==========================
if ! ${skip_data_prep}; then
    if in_stage 1; then
        log "Stage 1: Data preparation for $(sed '/^$/d; s#^#data/#' <<< "${all_sets}" | paste -sd " ")"
        # shellcheck disable=SC2086  # several options in one string
        local/data.sh ${local_data_opts}
        for dset in ${train_sets:+${train_parts}} ${adapt_only}; do
            [[ "${dset}" == */* ]] || continue # of this recipe
            _option=--train_sets
            [[ " ${adapt_only} " != *" ${dset} "* ]] || _option=--adapt_sets
            [ -n "$(scripts/utils/prepare_test_sets.sh --skip_bad "${skip_bad}" "${dset}")" ] || \
                fail "${_option} names ${dset}, which cannot be prepared; see the sentence above."
        done
    fi

    if in_stage 2; then
        log "Stage 2: Format wav.scp: data/ -> ${data_feats}/"
        bad_sets=
        for dset in ${all_sets}; do
            need "data/${dset}/wav.scp" 1
            _dir=$(formatted_dir "${dset}")
            _keys="data/${dset}/wav.scp"
            _opts=()
            if [ -e "data/${dset}/segments" ]; then
                _keys="data/${dset}/segments"
                _opts+=(--segments "${_keys}")
            fi
            mkdir -p "${_dir}/logs"
            rm -f "${_dir}/errors.txt" "${_dir}/errors_stage3.txt"
            if ! scripts/audio/format_wav_scp.sh --nj "${nj}" --cmd "${train_cmd}" --fs "${fs}" \
                --audio-format "${audio_format}" "${_opts[@]}" "data/${dset}/wav.scp" "${_dir}"; then
                [ -s "${_dir}/errors.txt" ] && [ -s "${_dir}/wav.scp" ] || \
                    fail "stage 2 failed for ${dset}; see the lines above and ${_dir}/logs."
                bad_sets+=" ${dset}"
            fi
            # Labels of refused audio go; labels without any audio stay for stage 3 to report.
            utils/filter_scp.pl --exclude "${_dir}/wav.scp" "${_keys}" > "${_dir}/logs/refused"
            filter_set --exclude "${_dir}/logs/refused" "data/${dset}" "${_dir}"
            rm -f "${_dir}/score_range"
            if [[ "${unlabelled_names}" == *" ${dset} "* ]]; then
                rm -f "${_dir}/votes.scp"
                awk '{ print $1 " {}" }' "${_dir}/wav.scp" > "${_dir}/metric.scp.tmp"
                replace "${_dir}/metric.scp"
            elif [ -e "data/${dset}/score_range" ]; then
                cp "data/${dset}/score_range" "${_dir}"
            fi
            if [ -s "${_dir}/errors.txt" ]; then
                cp "${_dir}/errors.txt" "${_dir}/errors_stage2.txt"
            else
                rm -f "${_dir}/errors_stage2.txt"
            fi
        done
        stop_for_bad 2 "${bad_sets}"
    fi

    if in_stage 3; then
        log "Stage 3: Check labels, ids, systems and listeners"
        bad_sets=
        for dset in ${all_sets}; do
            _dir=$(formatted_dir "${dset}")
            need "${_dir}/wav.scp" 2
            _errors="${_dir}/errors_stage3.txt"
            rm -f "${_errors}"
            _range=$(range_of "${dset}" "${_dir}")
            _need_systems=${need_systems}
            if [ "${_dir}" = "${data_feats}/${dset}" ] && [ ! -e "${_dir}/utt2sys" ]; then
                # A listening test of others may have none: utterances are scored then.
                log "${dset} has no utt2sys: it is scored by utterances only"
                _need_systems=false
            fi
            _need_labels=true
            if [[ "${unlabelled_names}" == *" ${dset} "* ]]; then
                _need_labels=false
                _need_systems=false
            fi
            # shellcheck disable=SC2086  # it is two numbers
            if "${python}" -m espnet2_distilmos.bin.check_data --data_dir "${_dir}" \
                --score_range ${_range} --need_systems "${_need_systems}" --need_labels "${_need_labels}" \
                --good_list "${_dir}/logs/good" --bad_exit_code 3 \
                2> "${_dir}/logs/check_data.log"; then
                tail -n 1 "${_dir}/logs/check_data.log"
            elif [ $? -eq 3 ]; then
                cat "${_dir}/logs/check_data.log" >&2
                cp "${_dir}/logs/check_data.log" "${_errors}"
                bad_sets+=" ${dset}"
                if ${skip_bad}; then
                    keep_only "${_dir}/logs/good" "${_dir}"
                fi
            else
                cat "${_dir}/logs/check_data.log" >&2
                fail "stage 3 cannot use ${_dir}; see the sentences above."
            fi
        done
        stop_for_bad 3 "${bad_sets}"
    fi

    if in_stage 4 && ! ${test_only}; then
        log "Stage 4: Filter by duration (${min_wav_duration} s to ${max_wav_duration} s): ${data_feats}/org -> ${data_feats}"
        # shellcheck disable=SC2086  # train_parts are several names
        for dset in $(printf '%s\n' ${train_parts} "${valid_set}" | awk '!seen[$0]++'); do
            _org="${data_feats}/org/${dset}"
            _dir="${data_feats}/${dset}"
            need "${_org}/wav.scp" 2
            mkdir -p "${_dir}"
            awk -v low="${min_wav_duration}" -v high="${max_wav_duration}" -v fs="${fs}" \
                '$2 >= low * fs && $2 <= high * fs' "${_org}/utt2num_samples" > "${_dir}/utt2num_samples.tmp"
            [ -s "${_dir}/utt2num_samples.tmp" ] || \
                fail "no utterance of ${dset} lasts between ${min_wav_duration} and ${max_wav_duration} s; change --min_wav_duration or --max_wav_duration."
            if ${with_calibration} && [ "${dset}" = "${valid_set}" ]; then
                _cal="${data_feats}/${calibration_set}"
                mkdir -p "${_cal}"
                _opts=()
                [ ! -s "${_org}/utt2src" ] || _opts+=(--utt2src "${_org}/utt2src")
                "${python}" -m espnet2_distilmos.bin.split_dev --ids "${_dir}/utt2num_samples.tmp" \
                    --share "${calibration_share}" --output "${_cal}/ids" "${_opts[@]}" \
                    || fail "${dset} cannot be split; change --calibration_share ${calibration_share}."
                utils/filter_scp.pl "${_cal}/ids" "${_dir}/utt2num_samples.tmp" > "${_cal}/utt2num_samples.tmp"
                utils/filter_scp.pl --exclude "${_cal}/ids" "${_dir}/utt2num_samples.tmp" > "${_dir}/utt2num_samples.all"
                mv "${_dir}/utt2num_samples.all" "${_dir}/utt2num_samples.tmp"
                select_set "${_org}" "${_cal}"
                log "${calibration_set}: $(num_lines "${_cal}/wav.scp") utterances of ${dset} will calibrate, the others choose the checkpoint"
            fi
            select_set "${_org}" "${_dir}"
            log "${dset}: $(num_lines "${_dir}/wav.scp") of $(num_lines "${_org}/wav.scp") utterances kept"
        done
        if [ -n "${train_sets}" ]; then
            _opts=()
            for dset in ${train_parts}; do
                rm -f "${data_feats}/${dset}/score_range"
                if [ -e "${data_feats}/org/${dset}/score_range" ]; then
                    cp "${data_feats}/org/${dset}/score_range" "${data_feats}/${dset}"
                fi
                _opts+=("${dset}=${data_feats}/${dset}")
            done
            # shellcheck disable=SC2086  # score_range is two numbers
            "${python}" -m espnet2_distilmos.bin.combine_data --output_dir "${data_feats}/${train_set}" \
                --score_range ${score_range} --map_scores "${map_scores}" "${_opts[@]}" \
                || fail "stage 4 cannot combine ${train_sets}; see the sentence above."
        fi
    fi

    if in_stage 5 && [ -n "${adapt_config}" ]; then
        log "Stage 5: Adapt the upstream to ${adapt_sets}: ${adapt_exp}"
        for part in train valid; do
            if [ "${part}" = train ]; then names=${adapt_sets}; else names=${valid_set}; fi
            _dir="${adapt_exp}/data/${part}"
            mkdir -p "${_dir}"
            for f in wav.scp utt2num_samples; do
                for dset in ${names}; do
                    need "${data_feats}/${dset}/${f}" 4
                    cat "${data_feats}/${dset}/${f}"
                done | sort -u -k1,1 > "${_dir}/${f}.tmp"
                replace "${_dir}/${f}"
            done
        done
        # Which upstream it is may be said by --train_args; how it is trained is not meant.
        _upstream=$(grep -o -e '--frontend_conf upstream=[^ ]*' <<< "${train_args}" || true)
        scripts/pretrain_upstream.sh --train_scp "${adapt_exp}/data/train/wav.scp" \
            --valid_scp "${adapt_exp}/data/valid/wav.scp" --exp "${adapt_exp}" \
            --train_config "${adapt_config}" --train_args "${adapt_args} ${_upstream}" \
            --tokens_args "${adapt_args} ${_upstream}" --token_layers "${token_layers}" \
            --num_clusters "${num_clusters}" --max_frames "${max_frames}" \
            --min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}" \
            --fs "${fs}" --ngpu "${ngpu}" --num_nodes "${num_nodes}" --nj "${nj}" \
            --train_threads "${train_threads}" --python "${python}" \
            || fail "the upstream cannot be adapted; see the sentence above."
    fi

    if in_stage 5 && ! ${test_only}; then
        if ! ${use_tokens}; then
            log "Stage 5: No tokens are asked for (--use_tokens false)"
        else
            log "Stage 5: Tokens: ${tokens_dir}"
            for dset in "${train_set}" "${valid_set}"; do
                need "${data_feats}/${dset}/wav.scp" 4
            done
            [ -n "${train_config}" ] || fail "--train_config is missing; stage 5 takes the frontend from it."
            if [ "${ngpu}" -gt 0 ]; then
                _cmd="${cuda_cmd} --gpu 1 --max-jobs-run $((ngpu * num_nodes))"
                _ngpu=1
            else
                _cmd=${train_cmd}
                _ngpu=0
            fi
            _codebooks="${tokens_dir}/codebooks.npz"
            mkdir -p "${tokens_dir}"

            log "Stage 5a: Fit the codebooks, log: ${tokens_dir}/learn_codebooks.log"
            _opts=(--num_clusters "${num_clusters}" --layers "${token_layers}" --max_frames "${max_frames}")
            # shellcheck disable=SC2206  # import_km is one word a layer
            [ -z "${import_km}" ] || _opts=(--import_km ${import_km})
            ${_cmd} "${tokens_dir}/learn_codebooks.log" \
                "${python}" -m espnet2_distilmos.bin.learn_codebooks \
                    --config "${train_config}" \
                    --train_args="${token_args}" \
                    --wav_scp "${data_feats}/${train_set}/wav.scp" \
                    --output "${_codebooks}" \
                    --nj "${nj}" \
                    --ngpu "${_ngpu}" \
                    "${_opts[@]}"

            bad_sets=
            for dset in "${train_set}" "${valid_set}"; do
                _wav="${data_feats}/${dset}/wav.scp"
                _dir="${tokens_dir}/${dset}"
                _nj=$(min "${nj}" "$(num_lines "${_wav}")")
                _split="${_dir}/split${_nj}"
                if [ -s "${_dir}/tokens.scp" ] && [ -s "${_dir}/tokens.json" ] \
                    && [ "${_dir}/tokens.scp" -nt "${_wav}" ] \
                    && [ "${_dir}/tokens.scp" -nt "${_codebooks}" ] \
                    && cmp -s <(cut -d ' ' -f 1 "${_wav}") <(cut -d ' ' -f 1 "${_dir}/tokens.scp"); then
                    log "Stage 5b: The tokens of ${dset} are there already"
                    continue
                fi
                # What a killed run left is of use unless the audio or codebooks are newer.
                if [ ! -e "${_split}/started" ] || [ "${_wav}" -nt "${_split}/started" ] \
                    || [ "${_codebooks}" -nt "${_split}/started" ]; then
                    rm -rf "${_split}"
                    mkdir -p "${_split}"
                    touch "${_split}/started"
                fi
                split_list "${_wav}" "${_nj}" "${_split}/wav"
                log "Stage 5b: Dump the tokens of ${dset}, log: ${_split}/dump_tokens.*.log"
                rm -f "${_split}"/[0-9]*/tokens.scp # written last, so it tells a crash from bad items
                _done=true
                ${_cmd} "JOB=1:${_nj}" "${_split}/dump_tokens.JOB.log" \
                    "${python}" -m espnet2_distilmos.bin.dump_tokens \
                        --config "${train_config}" \
                        --train_args="${token_args}" \
                        --codebooks "${_codebooks}" \
                        --wav_scp "${_split}/wav.JOB.scp" \
                        --output_dir "${_split}/JOB" \
                        --ngpu "${_ngpu}" || _done=false
                for n in $(seq "${_nj}"); do
                    [ -e "${_split}/${n}/tokens.scp" ] || fail "stage 5 failed for ${dset}; see ${_split}/dump_tokens.${n}.log."
                    cat "${_split}/${n}/tokens.scp"
                done | sort -k1,1 > "${_dir}/.tokens.scp"
                if ! ${_done}; then
                    bad_sets+=" ${dset}"
                    ${skip_bad} || continue
                    keep_only "${_dir}/.tokens.scp" "${data_feats}/${dset}"
                fi
                cp "${_split}/1/tokens.json" "${_dir}/.tokens.json"
                mv "${_dir}/.tokens.json" "${_dir}/tokens.json"
                touch "${_dir}/.tokens.scp"
                mv "${_dir}/.tokens.scp" "${_dir}/tokens.scp"
            done
            stop_for_bad 5 "${bad_sets}"
        fi
    fi
else
    log "Skip the stages of data preparation"
fi

# ========================== Training ==========================
_train_dir="${data_feats}/${train_set}"
_valid_dir="${data_feats}/${valid_set}"
# Arguments that statistics and training share.
train_opts=(--use_preprocessor true)
[ -z "${train_config}" ] || train_opts+=(--config "${train_config}")
# shellcheck disable=SC2206  # score_range is two numbers
train_opts+=(--score_range ${score_range})
for _set in train valid; do
    _name="_${_set}_dir"
    train_opts+=("--${_set}_data_path_and_name_and_type" "${!_name}/wav.scp,speech,sound")
    train_opts+=("--${_set}_data_path_and_name_and_type" "${!_name}/metric.scp,mos,text")
done

if ! ${skip_train}; then
    if in_stage 6; then
        log "Stage 6: Statistics of ${_train_dir} and ${_valid_dir}: ${mos_stats_dir}"
        need "${_train_dir}/wav.scp" 4
        need "${_valid_dir}/wav.scp" 4
        _logdir="${mos_stats_dir}/logdir"
        mkdir -p "${_logdir}"
        rm -rf "${_logdir}"/stats.*
        _nj=$(min "${nj}" "$(num_lines "${_train_dir}/wav.scp")" "$(num_lines "${_valid_dir}/wav.scp")")
        split_list "${_train_dir}/wav.scp" "${_nj}" "${_logdir}/train"
        split_list "${_valid_dir}/wav.scp" "${_nj}" "${_logdir}/valid"
        echo "${run_args} --stage 6 \"\$@\"; exit \$?" > "${mos_stats_dir}/run.sh"
        chmod +x "${mos_stats_dir}/run.sh"

        # shellcheck disable=SC2086  # train_args are several options
        ${train_cmd} "JOB=1:${_nj}" "${_logdir}/stats.JOB.log" \
            "${python}" -m espnet2_distilmos.bin.mos_train \
                --collect_stats true \
                --train_shape_file "${_logdir}/train.JOB.scp" \
                --valid_shape_file "${_logdir}/valid.JOB.scp" \
                --output_dir "${_logdir}/stats.JOB" \
                "${train_opts[@]}" ${train_args} \
            || fail "stage 6 failed; see ${_logdir}/stats.*.log."

        _opts=()
        for n in $(seq "${_nj}"); do
            _opts+=(--input_dir "${_logdir}/stats.${n}")
        done
        rm -rf "${mos_stats_dir}/.new"
        "${python}" -m espnet2.bin.aggregate_stats_dirs --skip_sum_stats "${_opts[@]}" \
            --output_dir "${mos_stats_dir}/.new" 2> "${_logdir}/aggregate.log" \
            || fail "stage 6 failed; see ${_logdir}/aggregate.log."
        rm -rf "${mos_stats_dir}/train" "${mos_stats_dir}/valid"
        mv "${mos_stats_dir}/.new/train" "${mos_stats_dir}/.new/valid" "${mos_stats_dir}"
        rmdir "${mos_stats_dir}/.new"
    fi

    if in_stage 7; then
        log "Stage 7: Training, log: ${mos_exp}/train.log"
        need "${mos_stats_dir}/train/speech_shape" 6
        need "${mos_stats_dir}/valid/speech_shape" 6
        _opts=()
        if ${use_tokens}; then
            for dset in "${train_set}" "${valid_set}"; do
                need "${tokens_dir}/${dset}/tokens.scp" 5
            done
            _opts+=(--token_info "${tokens_dir}/${train_set}/tokens.json")
            _opts+=(--train_data_path_and_name_and_type "${tokens_dir}/${train_set}/tokens.scp,tokens,npy")
            _opts+=(--valid_data_path_and_name_and_type "${tokens_dir}/${valid_set}/tokens.scp,tokens,npy")
        fi
        if ${use_votes}; then
            # ESPnet wants a line for every utterance.
            need "${_train_dir}/votes.scp" 1
            mkdir -p "${mos_exp}"
            awk 'NR == FNR { votes[$1] = $0; next } { print ($1 in votes) ? votes[$1] : $1 " []" }' \
                "${_train_dir}/votes.scp" "${_train_dir}/wav.scp" > "${mos_exp}/votes.scp.tmp"
            replace "${mos_exp}/votes.scp"
            _opts+=(--train_data_path_and_name_and_type "${mos_exp}/votes.scp,votes,text")
        fi
        if ${use_corpora}; then
            need "${_train_dir}/utt2domain" 1
            _opts+=(--train_data_path_and_name_and_type "${_train_dir}/utt2domain,corpus,text")
        fi
        if [ -n "${train_weights}" ]; then
            _opts+=(--sampling_categories "${_train_dir}/utt2set" --sampling_weights "${train_weights}")
        fi
        if [ -s "${_valid_dir}/utt2sys" ]; then
            _opts+=(--valid_utt2sys "${_valid_dir}/utt2sys")
        fi
        if [ -n "${adapt_config}" ]; then
            need "${adapt_exp}/valid.loss.best.pth" 5
            if ${use_tokens} && [ "${adapt_tokens}" = original ]; then
                # They are meant to be of the upstream that was adapted, and of no other.
                _opts+=(--token_source "$(sed -n 's/.*"upstream_fingerprint": *"\([^"]*\)".*/\1/p' "${adapt_exp}/tokens/tokens.json")")
            fi
        fi
        mkdir -p "${mos_exp}"
        echo "${run_args} --stage 7 \"\$@\"; exit \$?" > "${mos_exp}/run.sh"
        chmod +x "${mos_exp}/run.sh"
        if [[ "${cuda_cmd}" == *queue*.pl* ]]; then
            _job_name=$(basename "${mos_exp}") # SGE has no "/" in a job's name
        else
            _job_name="${mos_exp}/train.log"
        fi
        if [ -r "${results_notes}" ]; then
            while read -r line; do log "Note: ${line}"; done < "${results_notes}"
        fi

        show_epochs "${mos_exp}/train.log" "${mos_exp}/run.sh" &
        _show=$!
        _trained=true
        # shellcheck disable=SC2086  # train_args are several options
        OMP_NUM_THREADS=${train_threads} "${python}" -m espnet2.bin.launch \
            --cmd "${cuda_cmd} --name ${_job_name}" \
            --log "${mos_exp}/train.log" \
            --ngpu "${ngpu}" \
            --num_nodes "${num_nodes}" \
            --init_file_prefix "${mos_exp}/.dist_init_" \
            --multiprocessing_distributed true -- \
            "${python}" -m espnet2_distilmos.bin.mos_train \
                --resume true \
                --fold_length "${audio_fold_length}" \
                --train_shape_file "${mos_stats_dir}/train/speech_shape" \
                --valid_shape_file "${mos_stats_dir}/valid/speech_shape" \
                --output_dir "${mos_exp}" \
                "${train_opts[@]}" "${_opts[@]}" ${adapt_opts} ${train_args} \
            2> "${mos_exp}/launch.log" || _trained=false
        kill "${_show}" 2> /dev/null || true
        wait "${_show}" 2> /dev/null || true
        if ! ${_trained}; then
            tail -n 20 "${mos_exp}/launch.log" >&2
            fail "stage 7 failed, see ${mos_exp}/train.log; run stage 7 again: it resumes."
        fi
    fi
else
    log "Skip the stages of training"
fi

# ========================== Evaluation ==========================
if [ -n "${download_model}" ]; then
    mos_exp="${expdir}/$(basename "${download_model}" .zip)"
    mkdir -p "${mos_exp}"
    log "Use ${download_model} for inference: ${mos_exp}"
    inference_model=$("${python}" -m espnet2_distilmos.bin.mos_pack --unpack "${download_model}" --output_dir "${mos_exp}")
fi

_predictions="${mos_exp}/${inference_tag}"
_elapsed_told=false
if ! ${skip_eval}; then
    if in_stage 8; then
        log "Stage 8: Inference with ${mos_exp}/${inference_model}: ${_predictions}"
        need "${mos_exp}/config.yaml" 7
        need "${mos_exp}/${inference_model}" 7
        if ${gpu_inference}; then
            _cmd="${cuda_cmd} --gpu 1"
            _ngpu=1
        else
            _cmd=${decode_cmd}
            _ngpu=0
        fi
        mkdir -p "${_predictions}"
        echo "${run_args} --stage 8 \"\$@\"; exit \$?" > "${_predictions}/run.sh"
        chmod +x "${_predictions}/run.sh"
        _opts=()
        [ -z "${inference_config}" ] || _opts+=(--config "${inference_config}")
        bad_sets=
        for dset in ${test_sets}; do
            _wav="${data_feats}/${dset}/wav.scp"
            need "${_wav}" 2
            _dir="${_predictions}/${dset}"
            _logdir="${_dir}/log"
            mkdir -p "${_logdir}"
            rm -rf "${_logdir}"/output.*
            _nj=$(min "${inference_nj}" "$(num_lines "${_wav}")")
            split_list "${_wav}" "${_nj}" "${_logdir}/wav"
            log "${dset}, log: ${_logdir}/mos_inference.*.log"
            # shellcheck disable=SC2086  # inference_args are several options
            if ! ${_cmd} "JOB=1:${_nj}" "${_logdir}/mos_inference.JOB.log" \
                "${python}" -m espnet2_distilmos.bin.mos_inference \
                    --train_config "${mos_exp}/config.yaml" \
                    --model_file "${mos_exp}/${inference_model}" \
                    --wav_scp "${_logdir}/wav.JOB.scp" \
                    --output_dir "${_logdir}/output.JOB" \
                    --ngpu "${_ngpu}" \
                    "${_opts[@]}" ${inference_args}; then
                bad_sets+=" ${dset}"
            fi
            for f in frames.json frames.scp metric.scp; do
                for n in $(seq "${_nj}"); do
                    if [ -e "${_logdir}/output.${n}/${f}" ]; then
                        cat "${_logdir}/output.${n}/${f}"
                        [ "${f}" != frames.json ] || break # one for all
                    elif [ "${f}" = metric.scp ]; then
                        fail "stage 8 failed for ${dset}; see ${_logdir}/mos_inference.${n}.log."
                    fi
                done > "${_dir}/.${f}"
                mv "${_dir}/.${f}" "${_dir}/${f}"
                [ -s "${_dir}/${f}" ] || rm "${_dir}/${f}" # frames are not always asked for
            done
        done
        if ${with_calibration}; then
            _cal="${data_feats}/${calibration_set}"
            need "${_cal}/wav.scp" 4
            need "${_train_dir}/wav.scp" 4
            log "Calibration on ${calibration_set}, log: ${_predictions}/calibrate.log"
            rm -f "${mos_exp}/calibration.npz" # of an earlier model, maybe
            _opts=()
            ! ${gpu_inference} || _opts+=(--device cuda)
            if ! ${_cmd} "${_predictions}/calibrate.log" \
                "${python}" -m espnet2_distilmos.bin.calibrate "${mos_exp}/${inference_model}" \
                    --labels "${_cal}" \
                    --train "${_train_dir}/wav.scp" \
                    --output "${mos_exp}/calibration.npz" "${_opts[@]}"; then
                [ -e "${mos_exp}/calibration.npz" ] || fail "the calibration failed; see ${_predictions}/calibrate.log."
                bad_sets+=" ${calibration_set}"
            fi
            sed -n 's/^.*calibration\.npz: //p' "${_predictions}/calibrate.log" | while read -r line; do log "${line}"; done
        fi
        stop_for_bad 8 "${bad_sets}"
    fi

    if in_stage 9; then
        log "Stage 9: Scoring: ${mos_exp}/RESULTS.md"
        _opts=()
        for dset in ${test_sets}; do
            need "${data_feats}/${dset}/metric.scp" 2
            need "${_predictions}/${dset}/metric.scp" 8
            _opts+=(--score "$(basename "${mos_exp}")" "${dset}" "${data_feats}/${dset}" "${_predictions}/${dset}/metric.scp")
        done
        [ ${#_opts[@]} -gt 0 ] || fail "--test_sets is empty; name the sets to score."
        # Models to compare with: lines "NAME DIRECTORY_OF_PREDICTIONS".
        rm -f "${mos_exp}/extra_predictions"
        if ${baselines} && [ -x local/baselines.sh ]; then
            log "Baselines: local/baselines.sh ${mos_exp}"
            local/baselines.sh --python "${python}" --data_feats "${data_feats}" --train_set "${train_set}" \
                --test_sets "${test_sets}" --nj "${inference_nj}" "${mos_exp}"
        fi
        if [ -s "${mos_exp}/extra_predictions" ]; then
            while read -r _name _dir; do
                for dset in ${test_sets}; do
                    _opts+=(--score "${_name}" "${dset}" "${data_feats}/${dset}" "${_dir}/${dset}/metric.scp")
                done
            done < "${mos_exp}/extra_predictions"
        fi
        if [ -r "${results_notes}" ]; then
            while read -r line; do
                [ -z "${line}" ] || _opts+=(--note "${line}")
            done < "${results_notes}"
        fi
        if [ "${stop_stage}" -lt 10 ] || ${skip_upload}; then
            log "Finished, elapsed time: ${SECONDS} s" # before the table, which comes last
            _elapsed_told=true
        fi
        # shellcheck disable=SC2086  # score_range is two numbers
        "${python}" -m espnet2_distilmos.bin.mos_scoring "${_opts[@]}" --score_range ${score_range} \
            --output_dir "${mos_exp}" --bootstrap "${bootstrap}" --command "${run_args}"
    fi
else
    log "Skip the stages of evaluation"
fi

# ========================== Packing and upload ==========================
packed_model="${mos_exp}/$(basename "${mos_exp}")_${inference_model%.pth}.zip"
if ! ${skip_upload}; then
    if in_stage 10; then
        log "Stage 10: Pack the model: ${packed_model}"
        need "${mos_exp}/config.yaml" 7
        need "${mos_exp}/${inference_model}" 7
        _opts=()
        if [ -r "${model_card}" ]; then
            _opts+=(--card "${model_card}")
        else
            log "${model_card} is not there: the model's README states no data and no licence"
        fi
        "${python}" -m espnet2_distilmos.bin.mos_pack \
            --train_config "${mos_exp}/config.yaml" \
            --model_file "${mos_exp}/${inference_model}" \
            --results "${mos_exp}" \
            --outpath "${packed_model}" \
            "${_opts[@]}"
    fi

    if in_stage 11; then
        log "Stage 11: Upload to the hub: ${hf_repo}"
        [ -n "${hf_repo}" ] || fail "--hf_repo is missing; give the name of your repository on the hub, as in 'user/name'."
        need "${packed_model}" 10
        "${python}" -m espnet2_distilmos.bin.mos_pack --upload "${packed_model}" --hf_repo "${hf_repo}"
    fi
fi
${_elapsed_told} || log "Finished, elapsed time: ${SECONDS} s"
