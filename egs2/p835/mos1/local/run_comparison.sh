#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# The comparison of README.md: every method on the same folds and seeds, and one table.
# What is done already is skipped, so it goes on where it was stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (run_comparison.sh) $*"
}
fail() {
    echo "run_comparison.sh: $*" >&2
    exit 1
}

methods="distilmos lambda0 frozen ssl_mos ridge distill-mos" # The first is compared with the others.
list=conf/ablation/methods.txt # What can be trained; also lambda_1, k_200, ...
seeds="0 1 2"
folds=all        # Folds to run: all, or some of them such as "f2 m1".
leave=talkers    # What is held out: talkers, or conditions (talkers and conditions).
num_clusters=100 # Centroids a codebook.
train_args=      # Options of every training, such as "--use_amp true".
table=           # Name of the table's directory, which may be of some folds; comparison_<leave> if empty.
nj=1             # Trainings at a time, each with one CPU thread.
expdir=exp
dumpdir=dump
bootstrap=1000   # Resamples for the 95 % intervals.
python=python3

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: $0 [--methods \"distilmos lambda0 frozen ssl_mos ridge distill-mos\"] [--seeds \"0 1 2\"] [--folds all|\"f1 f2\"] [--leave talkers|conditions] [--num_clusters K] [--train_args OPTIONS] [--table NAME] [--nj N]"
# shellcheck source=/dev/null
. utils/parse_options.sh
# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./db.sh

case "${leave}" in
    talkers) all_folds="f1 f2 f3 m1 m2 m3" ;;
    # Six of the 18: every talker is tested once, every group of conditions twice.
    conditions) all_folds="f1_g0 f2_g1 f3_g2 m1_g0 m2_g1 m3_g2" ;;
    *) fail "--leave is '${leave}', expected talkers or conditions." ;;
esac
[ "${folds}" != all ] || folds=${all_folds}
ood_sets=
[ -z "${BVRNN}" ] || ood_sets=bvrnn
upstream=${WHISPER_TINY:-openai/whisper-tiny}
runs=$("${python}" -m espnet2_distilmos.bin.ablation_runs "${list}")
# settings_of METHOD: sets config, args (of its training), mos_args (an array) and tokens_tag
settings_of() {
    local line use_tokens options
    line=$(grep "^$1|" <<< "${runs}") || \
        fail "--methods has '$1', expected some of $(cut -d '|' -f 1 <<< "${runs}" | xargs) ridge distill-mos."
    IFS='|' read -r _ config args use_tokens _ options _ <<< "${line}"
    # One token directory a fold serves all methods that want the same tokens.
    tokens_tag=whisper_tiny_k${num_clusters}${options//--/_}
    tokens_tag=${tokens_tag//[ :\/]/_}
    mos_args=(--use_tokens "${use_tokens}" --tokens_tag "${tokens_tag}" --num_clusters "${num_clusters}")
    # shellcheck disable=SC2206  # options are several words
    mos_args+=(${options})
}
is_trained() {
    [ "$1" != ridge ] && [ "$1" != distill-mos ]
}
# run_folds METHOD [OPTION ...]: run.sh with the settings of a method
run_folds() {
    local method=$1 name
    shift
    settings_of "${method}"
    for name in expdir leave seed fold; do
        args=${args//"{${name}}"/${!name:-0}}
    done
    ./run.sh --leave "${leave}" --train_config "${config}" \
        --train_args "--use_matplotlib false ${train_args} ${args}" \
        --tag "${method}" --expdir "${expdir}" --dumpdir "${dumpdir}" \
        --bootstrap 0 --python "${python}" --train_threads 1 "${mos_args[@]}" "$@"
}
# starts_later: the method of settings_of starts from another one's model of its fold and seed
starts_later() {
    [[ "${args}" == *"{fold}"* ]]
}
# train_one METHOD FOLD SEED: stages 7 to 9 of one run
train_one() {
    local exp="${expdir}/$1_${leave}/seed$3/$2"
    mkdir -p "${exp}"
    fold=$2
    seed=$3
    if run_folds "$1" --folds "$2" --seeds "$3" --stage 7 --stop_stage 9 > "${exp}/run.log" 2>&1; then
        log "Done: ${exp}"
    else
        log "Failed, see ${exp}/run.log: ${exp}"
        return 1
    fi
}
# score_fold DIR FOLD: results.json of one fold's predictions, as stage 9 writes it
score_fold() {
    local name scores=()
    for name in "test_$2" ${ood_sets}; do
        scores+=(--score "$2" "${name}" "data/${name}" "$1/inference/${name}/metric.scp")
    done
    "${python}" -m espnet2_distilmos.bin.mos_scoring "${scores[@]}" --output_dir "$1" \
        --bootstrap 0 > /dev/null
}

for method in ${methods}; do
    if is_trained "${method}"; then settings_of "${method}"; fi
done

for fold in ${folds}; do
    # Data, statistics and the first tokens, which are of the training set alone. Other
    # methods may want other tokens.
    first=1
    last=6
    for method in distilmos ${methods}; do
        is_trained "${method}" || continue
        settings_of "${method}"
        # Audio without labels is prepared and measured too, not only turned to tokens.
        if [[ " ${mos_args[*]} " == *" --unlabelled_sets "* ]]; then
            first=1
            last=6
        fi
        done_file="${dumpdir}/${fold}/prepared_${tokens_tag}"
        if [[ " ${mos_args[*]} " == *" --use_tokens true "* ]] && [ ! -e "${done_file}" ]; then
            log "Prepare fold ${fold}: stages ${first} to ${last}"
            run_folds "${method}" --folds "${fold}" --stage "${first}" --stop_stage "${last}" > "${dumpdir}_${fold}.log" 2>&1 || \
                { tail -n 3 "${dumpdir}_${fold}.log" >&2; fail "the preparation of fold ${fold} failed, see ${dumpdir}_${fold}.log."; }
            rm -f "${dumpdir}_${fold}.log"
            touch "${done_file}"
        fi
        first=5
        last=5
    done
done

failed=0
running=0
# wait_for NUMBER: until fewer trainings than that are running
wait_for() {
    while [ "${running}" -ge "$1" ]; do
        wait -n || failed=$((failed + 1))
        running=$((running - 1))
    done
}
for later in false true; do
    for seed in ${seeds}; do
        for fold in ${folds}; do
            for method in ${methods}; do
                exp="${expdir}/${method}_${leave}/seed${seed}/${fold}"
                is_trained "${method}" || continue
                settings_of "${method}"
                if starts_later; then "${later}" || continue; else ! "${later}" || continue; fi
                if [ "${exp}/results.json" -nt "${config}" ]; then continue; fi
                wait_for "${nj}"
                log "Train: ${exp}"
                train_one "${method}" "${fold}" "${seed}" &
                running=$((running + 1))
            done
        done
    done
    wait_for 1
done
[ "${failed}" -eq 0 ] || fail "${failed} runs failed, see the lines above; what is done is kept, run the same command again."

for method in ${methods}; do
    is_trained "${method}" && continue
    for fold in ${folds}; do
        exp="${expdir}/${method}_${leave}/seed0/${fold}"
        [ ! -s "${exp}/results.json" ] || continue
        log "Predict: ${exp}"
        tests=("${dumpdir}/${fold}/raw/test_${fold}")
        for name in ${ood_sets}; do
            # The peer is one model: its scores of a set that every fold has are made once.
            first="${expdir}/${method}_${leave}/seed0/${all_folds%% *}/inference/${name}"
            if [ "${method}" = distill-mos ] && [ -s "${first}/metric.scp" ]; then
                mkdir -p "${exp}/inference"
                [ "${first}" = "${exp}/inference/${name}" ] || cp -r "${first}" "${exp}/inference"
            else
                tests+=("${dumpdir}/${fold}/raw/${name}")
            fi
        done
        if [ "${method}" = ridge ]; then
            "${python}" local/ridge.py --train "${dumpdir}/${fold}/raw/train_${fold}" \
                --test "${tests[@]}" --upstream "${upstream}" --out "${exp}/inference"
        else
            "${python}" local/score_peer.py --test "${tests[@]}" --out "${exp}/inference"
        fi
        score_fold "${exp}" "${fold}"
    done
done

if [ "${folds}" != "${all_folds}" ] && [ -z "${table}" ]; then
    log "The table wants all folds, these ran: ${folds}; of these alone with --table NAME"
    exit 0
fi
out="${expdir}/${table:-comparison_${leave}}"
pooled_opts=()
log "Score: ${out}"
rows=()
for method in ${methods}; do
    if is_trained "${method}"; then method_seeds=${seeds}; else method_seeds=0; fi
    joined="${expdir}/${method}_${leave}"
    # What another table says of a method stays as it is.
    if [ -n "${table}" ]; then
        joined="${out}/${method}"
        pooled_opts=(--pooled "${out}")
    fi
    # shellcheck disable=SC2086  # these are lists
    "${python}" local/score_folds.py --exp "${expdir}/${method}_${leave}" --seeds ${method_seeds} \
        --out "${joined}" --folds ${folds} --data data --ood_sets ${ood_sets} --bootstrap "${bootstrap}" > /dev/null
    for seed in ${method_seeds}; do
        row=${method}_seed${seed}
        if ! is_trained "${method}"; then row=${method}; fi
        pooled="${joined}/pooled"
        rows+=(--score "${row}" p835 "${pooled}/reference" "${pooled}/seed${seed}/p835/metric.scp")
        for dset in ${ood_sets}; do
            rows+=(--score "${row}" "${dset}" "data/${dset}" "${pooled}/seed${seed}/${dset}/metric.scp")
        done
    done
done
"${python}" -m espnet2_distilmos.bin.mos_scoring "${rows[@]}" --output_dir "${out}" \
    --bootstrap "${bootstrap}" > /dev/null
# shellcheck disable=SC2086  # these are lists
"${python}" local/compare_folds.py --expdir "${expdir}" --leave "${leave}" --methods ${methods} \
    --folds ${folds} --seeds ${seeds} --ood_sets ${ood_sets} "${pooled_opts[@]}" --out "${out}"
