#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Accuracy against size: the networks of conf/ablation/sizes.txt, trained on one set each,
# tested on its test part and on all other sets; exp/sizes/RESULTS.md and RESULTS.png. What
# is done is skipped. Options are those of scripts/mos_ablation.sh. See README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

folds="only_p835 only_yourtts"
seeds="0 1 2"
bootstrap=1000
expdir=exp
dumpdir=dump/sizes # run_comparison.sh maps the same labels in another way
options=()
# shellcheck source=/dev/null
. scripts/utils/take_options.sh
command="local/run_sizes.sh $*"
take_options "folds seeds bootstrap expdir dumpdir" "$@"
# shellcheck source=/dev/null
. ./path.sh
case " ${options[*]:-} " in
    *" --help "* | *" -h "*) exec scripts/mos_ablation.sh --help ;;
esac
mkdir -p "${expdir}/sizes"
# shellcheck disable=SC2086  # several folds
python3 local/folds.py ${folds} --columns --test_parts false > "${expdir}/sizes/.columns.txt"
mv "${expdir}/sizes/.columns.txt" "${expdir}/sizes/columns.txt" # see run_comparison.sh

# Labels on the scale of 1 to 5, so that the spread of the scores says something.
code=0
scripts/mos_ablation.sh \
    --list conf/ablation/sizes.txt \
    --baseline whisper-distilled_4 \
    --folds "${folds}" \
    --seeds "${seeds}" \
    --columns "${expdir}/sizes/columns.txt" \
    --metrics utt_mos_srcc \
    --bootstrap "${bootstrap}" \
    --expdir "${expdir}" \
    --dumpdir "${dumpdir}" \
    --fold "{fold}" \
    --labels linear \
    --test_parts false \
    --train_threads 1 \
    --use_corpora false \
    "${options[@]}" || code=$?
# With what is done, if something failed; but not if nothing was begun.
[ ! "${expdir}/ablation_sizes/runs.txt" -nt "${expdir}/sizes/columns.txt" ] \
    || python3 local/sizes.py "${expdir}/ablation_sizes/runs.txt" --output "${expdir}/sizes" \
        --note "Command: \`${command}\`"
exit "${code}"
