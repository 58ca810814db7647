#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# The comparison of README.md: distils the students of conf/students.txt, probes all of them,
# and writes one table, EXPDIR/RESULTS.md. Stages 1 and 2 of run.sh come first. What is done
# is skipped, if it was made in the same way.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

whisper=openai/whisper-tiny # Upstream {whisper} of the list; students begin with its first layers.
hubert=../mos1/upstream/hubert_tiny # Upstream {hubert}.
list=conf/students.txt # Students: NAME | teachers | options of run.sh | options of the training.
only=                # Names of the list; all of it if empty.
seeds="0 1"
steps=200            # Of a training.
batch_bins=384000    # Samples of a step.
expdir=exp/students
dumpdir=dump
runs_nj=2            # Students at a time, each on one thread.
probe_opts=          # Options of local/probe_students.py, such as "--ratings NAME=DIR:utt2spk".

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: $0 [--name value ...]

Options and their defaults:
$(sed -n '/^whisper=/,/^# shellcheck/s/^\([a-z_]*\)=\("[^"]*"\|[^ #]*\) *\(# \(.*\)\)\{0,1\}$/  --\1 (\2) \4/p' "$0")"
# shellcheck source=/dev/null
. utils/parse_options.sh
[ $# -eq 0 ] || fail "'$*' is not an option; '$0 --help' lists the options."
# shellcheck source=/dev/null
. ./path.sh

trimmed() { # trimmed TEXT: without blanks around it
    xargs <<< "$1"
}
student() { # student SEED NAME TEACHERS OPTIONS TRAIN_ARGS: distil one, unless that is done
    local exp="${expdir}/seed$1/$2" options settings="$3 | $4 | $5 | ${steps} steps of ${batch_bins} samples"
    if [ -e "${exp}/.done" ]; then
        [ "$(< "${exp}/.done")" != "${settings}" ] || return 0
        echo "${exp} was made as '$(< "${exp}/.done")', expected '${settings}'; remove the directory, or rename it in the list." >&2
        return 1
    fi
    echo "${exp}: begins, log: ${exp}.log"
    mkdir -p "${exp}"
    read -ra options <<< "$4"
    if ./run.sh --stage 3 --stop_stage 4 --expdir "${expdir}/seed$1" --dumpdir "${dumpdir}" --tag "$2" --teachers "$3" \
        "${options[@]}" --train_args "--seed $1 --max_epoch 1 --num_iters_per_epoch ${steps}
        --batch_bins ${batch_bins} --scheduler_conf total_steps=${steps} --scheduler_conf warmup_steps=$((steps * 7 / 100)) $5" \
        > "${exp}.log" 2>&1; then
        echo "${settings}" > "${exp}/.done"
    else
        echo "${exp}: failed, the last line of ${exp}.log: $(tail -n 1 "${exp}.log")" >&2
        return 1
    fi
}

code=0
done_names=()
for seed in ${seeds}; do
    while IFS='|' read -r name teachers options train_args; do
        name=$(trimmed "${name%%#*}")
        [ -n "${name}" ] || continue
        [ -z "${only}" ] || [[ " ${only} " == *" ${name} "* ]] || continue
        options=$(trimmed "${options}")
        train_args=$(trimmed "${train_args}")
        teachers=$(trimmed "${teachers}")
        teachers=${teachers//'{whisper}'/${whisper}}
        teachers=${teachers//'{hubert}'/${hubert}}
        while [[ "${teachers}" =~ \{([^}]*)\} ]]; do
            other="${expdir}/seed0/${BASH_REMATCH[1]}"
            [ -e "${other}/.done" ] || wait # it is being trained
            [ -e "${other}/.done" ] || fail "${name} is taught by ${BASH_REMATCH[1]} of seed 0, which is not done; add it to --only."
            teachers=${teachers//"${BASH_REMATCH[0]}"/${other}/upstream}
        done
        while [ "$(jobs -rp | wc -l)" -ge "${runs_nj}" ]; do wait -n || code=1; done
        student "${seed}" "${name}" "${teachers}" "${options}" "${train_args}" &
        done_names+=("${seed} ${name}")
    done < "${list}"
done
while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n || code=1; done

# With what is done, if something failed.
models=()
for line in "${done_names[@]}"; do
    exp="${expdir}/seed${line/ //}"
    [ ! -e "${exp}/.done" ] || models+=("${line#* }=${exp}")
done
[ ${#models[@]} -gt 0 ] || fail "no student is done."
# shellcheck disable=SC2086  # several options
OMP_NUM_THREADS=1 python3 local/probe_students.py "${models[@]}" --train "${dumpdir}/raw/train" --dev "${dumpdir}/raw/dev" \
    --teacher "${whisper}" --baseline_layers 2 --nj "${runs_nj}" --output "${expdir}/RESULTS" ${probe_opts}
exit "${code}"
