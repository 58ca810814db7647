#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Leaves every talker out in turn: a fold is a run of mos.sh with training, validation and
# test sets of its own. When all folds are done, their held-out predictions are scored
# together: exp/<tag>_<leave>/RESULTS.md.
set -euo pipefail
cd "$(dirname "$0")"

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (run.sh) $*"
}
fail() {
    echo "run.sh: $*" >&2
    exit 1
}

folds=all        # Folds to run: all, or some of them such as "f2 m1".
seeds=0          # Seeds to train with, such as "0 1 2".
leave=talkers    # What is held out: talkers, or conditions (talkers and conditions).
stage=1          # First stage of mos.sh; from 1 on, what is done already is skipped.
stop_stage=9     # Last stage of mos.sh.
train_config=conf/train_distilmos.yaml
train_args=      # Options that override it, the same for all folds and seeds.
tag=             # Name of the experiment; made from the two above if empty.
num_clusters=100 # Centroids a codebook: 250 frames for each in a fold's training set.
unlabelled_sets= # Audio without labels that trains besides: "speech:1" is of each batch half.
expdir=exp
dumpdir=dump
bootstrap=1000   # Resamples for the 95 % intervals.
python=python3

help_message="Usage: $0 [--folds all|\"f1 f2 f3 m1 m2 m3\"] [--seeds \"0 1 2\"] [--leave talkers|conditions] [--stage N] [--stop_stage N] [--name value ...]

Other options are those of mos.sh, for every fold; see ./mos.sh --help.
"
mos_args=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help|-h)
            echo "${help_message}"
            exit 0 ;;
        --folds|--seeds|--leave|--stage|--stop_stage|--stop-stage|--train_config|--train_args|--tag|--num_clusters|--unlabelled_sets|--expdir|--dumpdir|--bootstrap|--python)
            [ $# -gt 1 ] || fail "option $1 needs a value."
            name=${1#--}
            printf -v "${name//-/_}" '%s' "$2"
            shift 2 ;;
        *)
            mos_args+=("$1")
            shift ;;
    esac
done

talkers="f1 f2 f3 m1 m2 m3"
steps_args=
case "${leave}" in
    talkers) all_folds=${talkers} ;;
    conditions)
        all_folds=$(for t in ${talkers}; do echo "${t}_g0 ${t}_g1 ${t}_g2"; done | xargs)
        # As many steps as with all conditions, which schedules are made for.
        steps_args="--num_iters_per_epoch 22" ;;
    *) fail "--leave is '${leave}', expected talkers or conditions." ;;
esac
[ "${folds}" != all ] || folds=${all_folds}
for fold in ${folds}; do
    [[ " ${all_folds} " == *" ${fold} "* ]] || fail "there is no fold '${fold}', expected some of ${all_folds} in --folds."
done
for seed in ${seeds} "${stage}" "${stop_stage}"; do
    [[ "${seed}" =~ ^[0-9]+$ ]] || fail "'${seed}' in --seeds, --stage or --stop_stage is not a whole number."
done
[ -r "${train_config}" ] || fail "--train_config ${train_config} cannot be read."

# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./db.sh

unlabelled_tag=${unlabelled_sets//[ :\/]/_}
unlabelled_tag=${unlabelled_tag:+_${unlabelled_tag}}
if [ -z "${tag}" ]; then
    tag=$(basename "${train_config}" .yaml)$(sed -e 's/--/_/g' -e 's/[ |=/]//g' <<< "${train_args}")${unlabelled_tag}
fi
exp="${expdir}/${tag}_${leave}"

upstream_args=
if [ -n "${WHISPER_TINY}" ]; then
    [[ "${WHISPER_TINY}" != *[[:space:]]* ]] || fail "WHISPER_TINY is '${WHISPER_TINY}', expected a path without spaces; rename or link it."
    [ -r "${WHISPER_TINY}/config.json" ] || \
        fail "WHISPER_TINY is '${WHISPER_TINY}', expected a directory with config.json and weights of openai/whisper-tiny (MIT); download it with 'hf download openai/whisper-tiny config.json model.safetensors preprocessor_config.json --local-dir downloads/whisper-tiny' and set WHISPER_TINY=downloads/whisper-tiny in db.sh or in the environment, or empty it to use the hub."
    upstream_args="--frontend_conf upstream=${WHISPER_TINY}"
fi
ood_sets=
[ -z "${BVRNN}" ] || ood_sets=bvrnn

for fold in ${folds}; do
    # Data, tokens and statistics of a fold serve all its seeds.
    first=${stage}
    for seed in ${seeds}; do
        fold_exp="${exp}/seed${seed}/${fold}"
        if [ "${stage}" -eq 1 ] && [ "${stop_stage}" -ge 9 ] && [ "${fold_exp}/results.json" -nt "${train_config}" ]; then
            log "Fold ${fold}, seed ${seed} is done already: ${fold_exp}"
            continue
        fi
        [ "${first}" -le "${stop_stage}" ] || continue
        log "Fold ${fold}, seed ${seed}: ${fold_exp}"
        ./mos.sh \
            --ngpu 0 \
            --nj 2 \
            --inference_nj 1 \
            --local_data_opts "--leave ${leave}" \
            --train_set "train_${fold}" \
            --valid_set "dev_${fold}" \
            --test_sets "test_${fold} ${ood_sets}" \
            --dumpdir "${dumpdir}/${fold}" \
            --unlabelled_sets "${unlabelled_sets}" \
            --mos_stats_dir "${dumpdir}/${fold}/mos_stats${unlabelled_tag}" \
            --expdir "${expdir}" \
            --mos_exp "${fold_exp}" \
            --train_config "${train_config}" \
            --train_args "${steps_args} ${train_args} --seed ${seed} ${upstream_args}" \
            --num_clusters "${num_clusters}" \
            --inference_config conf/decode.yaml \
            --inference_tag inference \
            --inference_model latest.pth \
            --bootstrap "${bootstrap}" \
            --python "${python}" \
            --stage "${first}" \
            --stop_stage "${stop_stage}" \
            "${mos_args[@]}"
        first=$((stage > 7 ? stage : 7))
    done
done
[ "${stop_stage}" -ge 9 ] || exit 0

missing=
for seed in ${seeds}; do
    for fold in ${all_folds}; do
        [ -s "${exp}/seed${seed}/${fold}/results.json" ] || missing+=" seed${seed}/${fold}"
    done
done
if [ -n "${missing}" ]; then
    log "Not scored together yet, these folds are missing in ${exp}:${missing}"
    exit 0
fi
log "Score the held-out predictions of all folds together: ${exp}/RESULTS.md"
# shellcheck disable=SC2086  # these are lists
"${python}" local/score_folds.py --exp "${exp}" --seeds ${seeds} --folds ${all_folds} \
    --data data --ood_sets ${ood_sets} --bootstrap "${bootstrap}"
