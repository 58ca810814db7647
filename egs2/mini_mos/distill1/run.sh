#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# shellcheck disable=SC2154  # cmd.sh sets train_cmd
# A small upstream distilled from one or several large ones, without labels:
#   ./run.sh --local_data_opts "--speech_dir DIR" --teachers "microsoft/wavlm-base-plus" --cdm setup2
set -euo pipefail
cd "$(dirname "$0")"

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
nj=2                 # Number of parallel jobs for audio.
dumpdir=dump         # Directory for formatted audio.
expdir=exp           # Directory for experiments.
tag=                 # Name of the experiment; made of the options below if empty.
python=python3       # Python interpreter.
train_threads=1      # CPU threads of training.

# Data
local_data_opts=     # Options for local/data.sh, such as "--speech_dir DIR".
audio_format=wav     # Format of the audio in dumpdir: wav or flac; wav reads faster.
min_wav_duration=1   # Shortest utterance, seconds.
max_wav_duration=20  # Longest utterance, seconds.

# Teachers and student
teachers=../mos1/upstream/hubert_tiny # Upstreams, directories or hub ids.
aggregate=heads      # Of several teachers: heads, average or concat.
layers=              # Layers that are predicted, such as "[4,8,12]", or "[[1,3],[4,8]]" of two teachers; thirds if empty.
student=             # Upstream whose convolutions and first layers the student begins with; the first teacher if empty.
student_layers=2     # Layers of the student; all: the whole network.

# Distortions
cdm=none             # Cross-distortion mapping: none, same, setup1 or setup2.
scheme=double        # What distorts: double or single, or names of systems of the package distortion.
noisy_args=          # Further options of noisy_view, such as "--noisy_view noise_scp=F".
dat=none             # Domain-adversarial training: none, reversal or alternating.
dat_domain=          # distortion, or teacher_student; the former if empty and there is one.
dat_weight=0.1       # Of the adversary.
equivariant=none     # Weight of the loss that asks for the distortion, or none.

# Training
train_config=conf/train_distill.yaml # Configuration of the training.
train_args=          # Options that override it.
export_dtype=float32 # Weights of the exported checkpoint: float16 or float32.

# Probes
probe_opts=          # Options of local/probe_students.py.

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: $0 --local_data_opts \"--speech_dir DIR\" [--name value ...]

Stages: 1 data preparation, 2 audio formatting, 3 distillation, 4 export, 5 probes.

Options and their defaults (explained at the top of the script):
$(sed -n '/^# General/,/^# shellcheck/s/^\([a-z_]*\)=\("[^"]*"\|[^ #]*\) *# \(.*\)$/  --\1 (\2) \3/p' run.sh)"

log "$0 $*"
# shellcheck source=/dev/null
. utils/parse_options.sh
[ $# -eq 0 ] || fail "'$*' is not an option; '$0 --help' lists the options."
# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./cmd.sh

in_stage() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}
need() { # need FILE STAGE: FILE was made by that stage
    [ -s "$1" ] || fail "$1 is missing or empty; run stage $2 first (--stage $2)."
}
one_of() { # one_of OPTION VALUE ...
    local value=${!1}
    [[ " ${*:2} " == *" ${value} "* ]] || fail "--$1 is '${value}', expected one of: ${*:2}."
}
one_of cdm none same setup1 setup2
one_of dat none reversal alternating
one_of aggregate heads average concat
read -ra each <<< "${teachers}"
[ ${#each[@]} -gt 0 ] || fail "--teachers is empty; give one upstream or several."
if [ "${cdm}" = none ]; then
    # They would do nothing.
    [ "${scheme}" = double ] || fail "--scheme ${scheme} with --cdm none, expected a distorted view: --cdm same, setup1 or setup2."
    [ -z "${noisy_args}" ] || fail "--noisy_args with --cdm none, expected a distorted view: --cdm same, setup1 or setup2."
    [ "${dat_domain}" != distortion ] || fail "--dat_domain distortion with --cdm none, expected a distorted view: --cdm same, setup1 or setup2."
fi
[[ "${student_layers}" =~ ^([1-9][0-9]*|all)$ ]] || fail "--student_layers is '${student_layers}', expected a number from 1, or all."

first=${each[0]}
student=${student:-${first}}
options=(--frontend_conf "upstream=${student}" --frontend_conf "num_layers=${student_layers/all/null}")
options+=(--losses "layer_distill.teachers=[$(IFS=,; echo "${each[*]}")]" --losses "layer_distill.aggregate=${aggregate}")
[ -z "${layers}" ] || options+=(--losses "layer_distill.layers=${layers// /}")
if [ "${cdm}" != none ]; then
    case "${cdm}" in
        same) hears=same ;;
        setup1) hears=clean ;;
        setup2) hears=own ;;
    esac
    options+=(--losses layer_distill.view=masked --noisy_view "teacher=${hears}")
    if [ "${scheme}" = double ] || [ "${scheme}" = single ]; then
        options+=(--noisy_view "scheme=${scheme}")
    else
        read -ra names <<< "${scheme}"
        options+=(--noisy_view scheme=systems --noisy_view "systems=[$(IFS=,; echo "${names[*]}")]")
    fi
    # shellcheck disable=SC2206  # several options
    options+=(${noisy_args})
fi
if [ "${dat}" != none ]; then
    if [ -z "${dat_domain}" ]; then
        dat_domain=distortion
        [ "${cdm}" != none ] || dat_domain=teacher_student
    fi
    options+=(--losses "domain_adversarial.weight=${dat_weight}" --losses "domain_adversarial.method=${dat}")
    options+=(--losses "domain_adversarial.domain=${dat_domain}")
    [ "${cdm}" = none ] || options+=(--losses domain_adversarial.view=masked)
fi
if [ "${equivariant}" != none ]; then
    [ "${cdm}" != none ] || fail "--equivariant ${equivariant} with --cdm none, expected a distorted view to ask about: --cdm same, setup1 or setup2."
    options+=(--losses "distortion.weight=${equivariant}")
fi
if [ -z "${tag}" ]; then
    tag=$(IFS=+; echo "${each[*]##*/}")_${aggregate}
    [ -z "${layers}" ] || tag+="_layers${layers}"
    [ "${student}" = "${first}" ] || tag+="_student${student##*/}"
    [ "${student_layers}" = 2 ] || tag+="_${student_layers}layers"
    tag+="_${cdm}"
    [ "${scheme}" = double ] || tag+="_${scheme// /+}"
    [ "${dat}" = none ] || tag+="_${dat}${dat_domain}${dat_weight}"
    [ "${equivariant}" = none ] || tag+="_equivariant${equivariant}"
    tag+=$(sed -e 's/--/_/g' -e 's/[^A-Za-z0-9_.+-]//g' <<< "${noisy_args} ${train_args}")
    tag=${tag//[^A-Za-z0-9_.+-]/}
fi
exp="${expdir}/${tag}"
feats="${dumpdir}/raw"

if in_stage 1; then
    log "Stage 1: Data preparation: data/train, data/dev"
    # shellcheck disable=SC2086  # several options in one string
    local/data.sh --python "${python}" ${local_data_opts}
fi

if in_stage 2; then
    log "Stage 2: Format wav.scp: data/ -> ${feats}/"
    for dset in train dev; do
        need "data/${dset}/wav.scp" 1
        mkdir -p "${feats}/${dset}"
        scripts/audio/format_wav_scp.sh --nj "${nj}" --cmd "${train_cmd}" --fs 16000 --python "${python}" \
            --audio-format "${audio_format}" "data/${dset}/wav.scp" "${feats}/${dset}" \
            || log "Going on without the utterances above"
        cp "data/${dset}/utt2spk" "${feats}/${dset}/utt2spk"
    done
fi

if in_stage 3; then
    log "Stage 3: Distillation: ${exp}"
    for dset in train dev; do need "${feats}/${dset}/wav.scp" 2; done
    scripts/pretrain_upstream.sh --steps training --use_tokens false --exp "${exp}" \
        --train_scp "${feats}/train/wav.scp" --valid_scp "${feats}/dev/wav.scp" \
        --train_config "${train_config}" --train_args "${options[*]} ${train_args}" \
        --min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}" \
        --ngpu "${ngpu}" --nj "${nj}" --train_threads "${train_threads}" --python "${python}"
fi

if in_stage 4; then
    log "Stage 4: Export: ${exp}/upstream"
    need "${exp}/config.yaml" 3
    begin="./run.sh --train_args"
    if "${python}" -m espnet2_distilmos.bin.export_upstream --overwrite --dtype "${export_dtype}" "${exp}" "${exp}/upstream"; then
        begin+=" \"--frontend_conf upstream=$(realpath "${exp}/upstream")\""
    else
        begin+=" \"--init_model $(realpath "${exp}") --head distilmos\""
        log "The student is no checkpoint of transformers, see above; it is the model ${exp}"
    fi
    echo "To train on labels from it: ${begin} in ../mos1"
fi

if in_stage 5; then
    log "Stage 5: Probes: ${exp}/probes.md"
    need "${exp}/config.yaml" 3
    # shellcheck disable=SC2086  # several options in one string
    "${python}" local/probe_students.py "student=${exp}" --train "${feats}/train" --dev "${feats}/dev" --teacher "${first}" \
        --output "${exp}/probes" ${probe_opts}
fi
log "Finished, elapsed time: ${SECONDS} s"
