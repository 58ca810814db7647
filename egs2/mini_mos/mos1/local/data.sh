#!/usr/bin/env bash
# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
#
# Stage 1 of mini_mos: render the degraded speech, write data/{train,dev,test,test_ood}.
# No network; everything comes from corpus/. Run it from the recipe's folder.

set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}) $*"
}

nj=2                          # rendering processes
audio_dir=downloads/mini_mos  # where the rendered audio goes
out=data                      # where the data directories go

# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. utils/parse_options.sh

# One thread a process: the processes are the parallelism.
export OMP_NUM_THREADS=1

log "The labels are SIMULATED MOS: ITU-T P.862.2 MOS-LQO, not listeners' votes."
python3 local/prepare_data.py \
    --corpus corpus --audio_dir "${audio_dir}" --out "${out}" --nj "${nj}"
log "Done: ${out}/{train,dev,test,test_ood}"
