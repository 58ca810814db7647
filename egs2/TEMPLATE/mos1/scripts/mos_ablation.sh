#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Trains every run of a list with every seed by the recipe's run.sh, and compares them.
# Data and statistics are made once, tokens once for all runs that need the same; what is
# done is skipped; a run that fails leaves the others alone and is named at the end.
set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${0##*/}) $*"
}
fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

list=        # The runs: lines "name | train config | options of the training | options about tokens".
seeds="0 1 2" # Seeds to train every run with.
only=        # Names of the runs to train, all of the list if empty.
baseline=    # Run that the others are compared with, the first of the list if empty.
runs_nj=1    # Trainings at once. On a cluster as many as it takes: cmd.sh sends each there.
stage=       # First stage: 1 data, 5 tokens, 7 training, 8 inference, 9 table; by itself 1, and 5 when the data are there.
stop_stage=9 # Last stage.
metrics=utt_mos_srcc,utt_mos_lcc,utt_mos_mse,sys_mos_srcc,sys_mos_lcc,sys_mos_mse # Metrics in the table.
# Those options of mos.sh that matter here.
train_args=
# shellcheck disable=SC2034  # read by their names
num_clusters='' token_layers='' max_frames=''
expdir=exp
dumpdir=dump
python=python3
bootstrap=1000
score_range="1 5"

help_message="Usage: $0 --list FILE [--seeds \"0 1 2\"] [--name value ...]

$(sed -n '/^list=/,/^metrics=/s/^\([a-z_]*\)=\("[^"]*"\|[^ #]*\) *# \(.*\)$/  --\1 (\2) \3/p' "$0")

Other options are those of run.sh, for every run. The result is EXPDIR/ablation_LIST/RESULTS.md."
run_args=$(scripts/utils/print_args.sh "$0" "$@")
forwarded=()
while [ $# -gt 0 ]; do
    name=${1#--}
    name=${name//-/_}
    case "${name}" in
        help|h)
            echo "${help_message}"
            exit 0 ;;
        train_config|tag|mos_exp|tokens_tag|use_tokens)
            fail "--${name} is different for every run; write it into the list." ;;
    esac
    [ $# -gt 1 ] || fail "option $1 needs a value."
    case "${name}" in
        list|seeds|only|baseline|runs_nj|stage|stop_stage|metrics|train_args|num_clusters|token_layers|max_frames|python)
            printf -v "${name}" '%s' "$2" ;;
        *)
            case "${name}" in
                expdir|dumpdir|bootstrap|score_range) printf -v "${name}" '%s' "$2" ;;
            esac
            forwarded+=("$1" "$2") ;;
    esac
    shift 2
done
[ -n "${list}" ] || fail "--list is missing; give a list of runs such as conf/ablation/paper.txt."
for number in ${seeds} "${runs_nj}" "${stage:-1}" "${stop_stage}"; do
    [[ "${number}" =~ ^[0-9]+$ ]] || fail "'${number}' in --seeds, --runs_nj, --stage or --stop_stage is not a whole number."
done
[ "${runs_nj}" -gt 0 ] || fail "--runs_nj is 0, expected the number of trainings at once."

. ./path.sh
token_options=
for name in num_clusters token_layers max_frames; do
    [ -z "${!name}" ] || token_options+=" --${name} ${!name}"
done
runs=$("${python}" -m espnet2_distilmos.bin.ablation_runs "${list}" --only "${only}" \
    --train_args="${train_args}" --token_options="${token_options}")
all_names=$(cut -d '|' -f 1 <<< "${runs}")
[ -z "${only}" ] || all_names=$("${python}" -m espnet2_distilmos.bin.ablation_runs "${list}" | cut -d '|' -f 1)
baseline=${baseline:-$(head -n 1 <<< "${all_names}")}
grep -qxF -e "${baseline}" <<< "${all_names}" || fail "--baseline ${baseline} is no run of ${list}."

exp="${expdir}/ablation_$(basename "${list}" .txt)"
mkdir -p "${exp}"
settings=$(scripts/utils/print_args.sh "${forwarded[@]}")
if [ -z "${stage}" ]; then
    stage=1
    if [ -e "${exp}/prepared" ] && [ "$(cat "${exp}/prepared")" = "${settings}" ]; then stage=5; fi
fi
in_stage() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}
recipe() { # recipe FIRST LAST [--name value ...]: run.sh with what all runs share
    ./run.sh "${forwarded[@]}" --python "${python}" --stage "$1" --stop_stage "$2" "${@:3}" < /dev/null
}
what_it_is() { # a run's settings, to be held against those of a training that is there
    echo "${config} (${config_hash}) | ${args} | $([ "${use_tokens}" = true ] && echo "${tokens_tag}" || echo "no tokens")"
}
is_done() { # is_done DIR: the run was trained and scored as it is asked for now
    [ -e "$1/done" ] && [ "$(cat "$1/done")" = "${settings}" ] && [ "$(cat "$1/settings" 2> /dev/null)" = "$(what_it_is)" ]
}

# ========================== What the runs share ==========================
IFS='|' read -r name config args use_tokens tokens_tag options config_hash <<< "${runs%%$'\n'*}"
if in_stage 1; then
    log "Data: stages 1 to 4 and 6"
    rm -f "${exp}/prepared"
    recipe 1 4 --train_config "${config}"
    recipe 6 6 --train_config "${config}" --train_args "${args}" --use_tokens false
    echo "${settings}" > "${exp}/prepared"
fi

failed=()
bad_tokens=" "
if in_stage 5; then
    known=" "
    while IFS='|' read -r name config args use_tokens tokens_tag options config_hash; do
        needed=false
        for seed in ${seeds}; do
            is_done "${exp}/${name}/seed${seed}" || needed=true
        done
        if ! ${needed} || ! ${use_tokens} || [[ "${known}" == *" ${tokens_tag} "* ]]; then continue; fi
        known+="${tokens_tag} "
        log "Tokens of ${name}: ${dumpdir}/tokens/${tokens_tag}"
        # Audio without labels is prepared and measured too, not only turned to tokens.
        first=5
        last=5
        if [[ " ${options} " == *" --unlabelled_sets "* ]]; then
            first=1
            last=6
        fi
        # shellcheck disable=SC2086  # options are several words
        if ! recipe "${first}" "${last}" --train_config "${config}" --train_args "${args}" --tokens_tag "${tokens_tag}" ${options}; then
            bad_tokens+="${tokens_tag} "
        fi
    done <<< "${runs}"
fi

# ========================== The runs ==========================
declare -A running=() # "name/seedN" by process
num_done=0
total=0
spent=0
num_ended=0

report() { # report RUN CODE SECONDS
    local left
    num_done=$((num_done + 1))
    left=$((total - num_done))
    spent=$((spent + $3))
    num_ended=$((num_ended + 1))
    local rest="${left} left"
    [ "${left}" -eq 0 ] || rest+=", about $(((spent * left / num_ended / runs_nj + 59) / 60)) min"
    if [ "$2" -eq 0 ]; then
        log "Run ${num_done} of ${total}, $1: done in $3 s; ${rest}"
    else
        failed+=("$1")
        log "Run ${num_done} of ${total}, $1: FAILED after $3 s, see ${exp}/$1/run.log; ${rest}"
        tail -n 3 "${exp}/$1/run.log" >&2
    fi
}
collect() { # collect MOST: waits until at most so many are running
    local pid run code seconds
    while true; do
        for pid in "${!running[@]}"; do
            run=${running[${pid}]}
            if [ -s "${exp}/${run}/status" ]; then
                wait "${pid}" 2> /dev/null || true
                read -r code seconds < "${exp}/${run}/status"
            elif ! kill -0 "${pid}" 2> /dev/null && [ ! -s "${exp}/${run}/status" ]; then
                code=1 # it was killed
                seconds=0
            else
                continue
            fi
            unset "running[${pid}]"
            rm -f "${exp}/${run}/status"
            report "${run}" "${code}" "${seconds}"
        done
        [ ${#running[@]} -gt "$1" ] || return 0
        sleep 0.5
    done
}
train() { # train DIR FIRST SEED: one run, from stage FIRST on
    local start=${SECONDS} code=0
    # shellcheck disable=SC2086  # options are several words
    recipe "$2" "$((stop_stage < 9 ? stop_stage : 9))" --train_config "${config}" \
        --train_args "${args} --seed $3" --mos_exp "$1" --use_tokens "${use_tokens}" \
        --tokens_tag "${tokens_tag}" ${options} --baselines false || code=$?
    if [ "${code}" -eq 0 ] && [ "${stop_stage}" -ge 9 ]; then echo "${settings}" > "$1/done"; fi
    echo "${code} $((SECONDS - start))" > "$1/.status"
    mv "$1/.status" "$1/status"
}
# shellcheck disable=SC2317,SC2329  # the trap calls it
stop() { # every run has a process group of its own
    local pid
    trap - INT TERM
    for pid in "${!running[@]}"; do kill -TERM -- "-${pid}" 2> /dev/null || true; done
    echo "${0##*/}: stopped; the same command goes on from here." >&2
    exit 130
}
trap stop INT TERM

if [ "${stage}" -le 8 ] && [ "${stop_stage}" -ge 7 ]; then
    total=$(($(wc -l <<< "${runs}") * $(wc -w <<< "${seeds}")))
    for seed in ${seeds}; do # a seed of every run first: a table that is stopped is of all
        while IFS='|' read -r name config args use_tokens tokens_tag options config_hash; do
            run="${name}/seed${seed}"
            dir="${exp}/${run}"
            mkdir -p "${dir}"
            if is_done "${dir}"; then
                num_done=$((num_done + 1))
                log "Run ${num_done} of ${total}, ${run}: is done already"
                continue
            fi
            what=$(what_it_is)
            if [ -e "${dir}/checkpoint.pth" ] && [ "$(cat "${dir}/settings" 2> /dev/null)" != "${what}" ]; then
                num_done=$((num_done + 1))
                failed+=("${run}")
                echo "${0##*/}: ${dir} was trained as '$(cat "${dir}/settings")', expected '${what}'; remove the directory, or give the run another name in ${list}." >&2
                continue
            fi
            if ${use_tokens} && [[ "${bad_tokens}" == *" ${tokens_tag} "* ]]; then
                num_done=$((num_done + 1))
                failed+=("${run}")
                log "Run ${num_done} of ${total}, ${run}: FAILED, its tokens could not be made (see above)"
                continue
            fi
            first=$((stage > 7 ? stage : 7))
            # Trained it is already; it was scored with other options, or on other sets.
            if [ -e "${dir}/done" ]; then first=8; fi
            collect $((runs_nj - 1))
            log "${run}, log: ${dir}/run.log"
            echo "${what}" > "${dir}/settings"
            rm -f "${dir}/status"
            set -m # a process group of its own
            train "${dir}" "${first}" "${seed}" > "${dir}/run.log" 2>&1 &
            running[$!]=${run}
            set +m
        done <<< "${runs}"
    done
    collect 0
fi
trap - INT TERM

# ========================== The table ==========================
code=0
if [ "${stop_stage}" -ge 9 ]; then
    has_baseline=false
    while read -r name; do
        for dir in "${exp}/${name}"/seed*; do
            [ -e "${dir}/done" ] || continue
            [ "${name}" != "${baseline}" ] || has_baseline=true
            echo "${name} ${dir##*/seed} ${dir}"
        done
    done <<< "${all_names}" > "${exp}/.runs.txt"
    mv "${exp}/.runs.txt" "${exp}/runs.txt"
    [ -s "${exp}/runs.txt" ] || fail "no run is done, there is no table; see the sentences above."
    opts=()
    if ${has_baseline}; then
        opts+=(--baseline "${baseline}")
    else
        log "No seed of the baseline ${baseline} is done: the table compares nothing"
    fi
    # shellcheck disable=SC2086  # score_range is two numbers
    "${python}" -m espnet2_distilmos.bin.results --list "${exp}/runs.txt" "${opts[@]}" \
        --metrics "${metrics}" --bootstrap "${bootstrap}" --score_range ${score_range} \
        --note "Command: \`${run_args}\`" --output_dir "${exp}" || code=1
    log "The table is in ${exp}/RESULTS.md"
fi
if [ ${#failed[@]} -gt 0 ]; then
    echo "${0##*/}: failed: ${failed[*]}; the same command tries them again." >&2
    exit 1
fi
exit "${code}"
