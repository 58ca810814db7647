#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# The comparison of README.md: methods of conf/ablation/methods.txt on the same folds and
# seeds, and one table, exp/ablation_methods/RESULTS.md. What is done is skipped. Options
# are those of scripts/mos_ablation.sh; without --folds every set is left out once, and all
# of them train one model.
set -euo pipefail
cd "$(dirname "$0")/.."

folds="$(awk '!/^#/ && NF { print "no_" $1 }' conf/sets.txt | xargs) all"
options=()
while [ $# -gt 0 ]; do
    if [ "$1" = --folds ] && [ $# -gt 1 ]; then
        folds=$2
        shift 2
    else
        options+=("$1")
        shift
    fi
done
# shellcheck source=/dev/null
. ./path.sh
case " ${options[*]:-} " in
    *" --help "* | *" -h "*) exec scripts/mos_ablation.sh --help ;;
esac
mkdir -p exp
# shellcheck disable=SC2086  # several folds
python3 local/folds.py ${folds} --columns > exp/.columns.txt
mv exp/.columns.txt exp/columns.txt # a wrong fold leaves those of a run that goes on

scripts/mos_ablation.sh \
    --list conf/ablation/methods.txt \
    --baseline l1 \
    --folds "${folds}" \
    --columns exp/columns.txt \
    --metrics utt_mos_srcc,sys_mos_srcc \
    --fold "{fold}" \
    --train_threads 1 \
    --use_corpora false \
    "${options[@]}"
