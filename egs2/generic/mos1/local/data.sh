#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of generic: write data/{train,dev,test} from a table of ratings and check them,
# audio too. Nothing is trained, and every fault is told at once. All options but --python
# are those of local/prepare_data.py: local/data.sh --help.
set -euo pipefail
cd "$(dirname "$0")/.."

python=python3
out=data
score_range=(1 5)
systems=true
arguments=()
while [ $# -gt 0 ]; do
    case "$1" in
        --python) python=$2; shift 2; continue ;;
        --download) shift 2; continue ;; # there is nothing to download
        --out) out=$2 ;;
        --systems) systems=$2 ;;
        --score_range) score_range=("${2-}" "${3-}") ;;
    esac
    arguments+=("$1")
    shift
done
. ./path.sh

started=$(mktemp)
trap 'rm -f "${started}"' EXIT
bad=0
"${python}" local/prepare_data.py "${arguments[@]}" || bad=$?
[ "${bad}" -le 1 ] || exit "${bad}"
for wav_scp in "${out}"/*/wav.scp; do
    [ "${wav_scp}" -nt "${started}" ] || continue # of another run
    "${python}" -m espnet2_distilmos.bin.check_data --data_dir "$(dirname "${wav_scp}")" \
        --score_range "${score_range[@]}" --need_systems "${systems}" \
        --check_audio true || bad=1
done
if [ "${bad}" -eq 0 ]; then
    echo "All is well; go on with ./run.sh --stage 2" >&2
fi
exit "${bad}"
