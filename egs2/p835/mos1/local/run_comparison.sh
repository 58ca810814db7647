#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# The comparison of README.md: methods of conf/ablation/methods.txt on the same folds and
# seeds, and one table, exp/<leave>/ablation_methods/RESULTS.md. What is done is skipped.
# Options are those of scripts/mos_ablation.sh, after --leave talkers|conditions.
set -euo pipefail
cd "$(dirname "$0")/.."

leave=talkers
if [ "${1:-}" = --leave ] && [ $# -gt 1 ]; then
    leave=$2
    shift 2
fi
case "${leave}" in
    talkers) folds="f1 f2 f3 m1 m2 m3" ;;
    # Six of the 18: every talker is tested once, every group of conditions twice.
    conditions) folds="f1_g0 f2_g1 f3_g2 m1_g0 m2_g1 m3_g2" ;;
    *) echo "run_comparison.sh: --leave is '${leave}', expected talkers or conditions." >&2; exit 1 ;;
esac
# shellcheck source=/dev/null
. ./db.sh
export WHISPER_TINY # local/predict.py reads it

scripts/mos_ablation.sh \
    --list conf/ablation/methods.txt \
    --only "distilmos lambda0 frozen ssl_mos ridge distill-mos condition_mean" \
    --folds "${folds}" \
    --expdir "exp/${leave}" \
    --metrics utt_mos_srcc,utt_mos_lcc,sys_mos_srcc,sys_mos_lcc \
    --fold "{fold}" \
    --train_threads 1 \
    "$@"
