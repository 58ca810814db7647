#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# To be sourced in a recipe's directory, three levels below the repository.
MAIN_ROOT=$PWD/../../..

export PATH=$PWD/utils:$PATH
export LC_ALL=C

if [ ! -r "${MAIN_ROOT}/tools/activate_python.sh" ]; then
    echo "${MAIN_ROOT}/tools/activate_python.sh is not there; run recipes in egs2/<corpus>/mos1 of the repository." >&2
    exit 1
fi
. "${MAIN_ROOT}"/tools/activate_python.sh && . "${MAIN_ROOT}"/tools/extra_path.sh || exit 1

# The package is found even where it is not installed.
PYTHONPATH="$(cd "${MAIN_ROOT}" && pwd)${PYTHONPATH:+:${PYTHONPATH}}"
export PYTHONPATH

# Jobs run side by side, one thread each; --train_threads gives the training more.
export OMP_NUM_THREADS=1

# Without it Python would read and write ASCII under LC_ALL=C.
export PYTHONIOENCODING=UTF-8

# oneDNN keeps a compiled kernel for each shape that it meets, 1024 of them by default; with
# batches of all lengths that is gigabytes in a CPU training, and gains nothing.
export ONEDNN_PRIMITIVE_CACHE_CAPACITY=${ONEDNN_PRIMITIVE_CACHE_CAPACITY:-64}
