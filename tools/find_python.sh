#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Prints the path of a Python 3.11 to 3.13 that runs, or says what to install. 3.11, which
# takes ESPnet 202511, is taken where there is no newer one, which takes 202611.
# With PYTHON set, that one is used or refused; nothing else is tried.
set -euo pipefail

# Runs the candidate: a shim of a version that is not installed is on the PATH as well.
is_good() { # path, oldest minor version
    "$1" -c "import sys, venv, ensurepip; sys.exit(not (3, $2) <= sys.version_info[:2] <= (3, 13))" \
        > /dev/null 2>&1
}

accept() {
    "$1" -c 'import sys; print(sys.executable)'
    exit 0
}

if [ -n "${PYTHON:-}" ]; then
    is_good "${PYTHON}" 11 && accept "${PYTHON}"
    echo "PYTHON=${PYTHON} is not a Python 3.11 to 3.13 with its venv module; give another one or leave PYTHON empty." >&2
    exit 1
fi

shopt -s nullglob
for oldest in 12 11; do
    for candidate in \
        python3.13 python3.12 python3.11 python3 \
        "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}"/versions/3.1{3,2,1}*/bin/python3 \
        "${CONDA_PREFIX:-/nonexistent}"/bin/python3 \
        "${CONDA_PREFIX:-/nonexistent}"/envs/*/bin/python3 \
        "${HOME:-/nonexistent}"/{miniconda3,anaconda3,miniforge3,mambaforge,.conda}/{bin,envs/*/bin}/python3; do
        if command -v "${candidate}" > /dev/null && is_good "${candidate}" "${oldest}"; then
            accept "${candidate}"
        fi
    done
done

echo "No Python 3.11 to 3.13 was found; install one (for example 'apt-get install python3.12-venv', 'pyenv install 3.12' or 'conda create -n py312 python=3.12') or give its path: make PYTHON=/path/to/python3.12." >&2
exit 1
