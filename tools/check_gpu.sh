#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# All checks that need a GPU, in at most 8 minutes, as Markdown on the standard output:
# scores and a training step against the CPU, waiting for the device, processes that train
# together, and the speed of a training step beside the bare network, in fp32 and bf16, with
# and without torch.compile. What takes too long is left out and said.
#   check_gpu.sh [PYTHON] [--device cpu] [--upstream_config JSON]
# "--device cpu" and a small network run the same without a GPU.
set -euo pipefail

python=python3
if [ $# -gt 0 ] && [[ "$1" != --* ]]; then
    python=$1
    shift
fi
cd "$(dirname "$0")"
device=cuda
previous=
for argument in "$@"; do
    if [ "${previous}" = --device ]; then device=${argument}; fi
    previous=${argument}
done

failed=0
part() { # part SECONDS COMMAND...; the limit is that of a GPU
    local code=0 limit=$1
    if [ "${device}" = cpu ]; then limit=0; fi
    timeout "${limit}" "${@:2}" || code=$?
    if [ "${code}" -ne 0 ]; then
        failed=1
        if [ "${code}" -eq 124 ]; then echo "not finished in ${limit} s: ${*:3}"; fi
    fi
    echo
}

part 120 "${python}" check_gpu.py "$@"
seconds=(8 7.5 7 6.5 6 5.5 5 4.5 4 3.5 3 3 3 2.5 2 2)
rounds=10
dtypes=(fp32 bf16)
heads=(ssl_mos distilmos)
if [ "${device}" = cpu ]; then
    seconds=(1 0.8)
    rounds=1
    dtypes=(fp32)
    heads=(distilmos)
fi
for dtype in "${dtypes[@]}"; do
    part 75 "${python}" benchmark_training.py "$@" --dtype "${dtype}" --rounds "${rounds}" \
        --seconds "${seconds[@]}" --heads "${heads[@]}"
    if [ "${device}" = cuda ]; then
        part 105 "${python}" benchmark_training.py "$@" --dtype "${dtype}" --rounds "${rounds}" \
            --seconds "${seconds[@]}" --compile --heads distilmos
    fi
done
exit "${failed}"
