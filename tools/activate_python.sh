#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# To be sourced (by path.sh): puts the project's Python first on the PATH. That is the
# environment given as VENV to make, else tools/venv, else the one already active.

_tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
_venv="${_tools}/venv"
if [ -r "${_tools}/venv_path" ]; then
    _venv=$(cat "${_tools}/venv_path")
fi
if [ -x "${_venv}/bin/python" ]; then
    export VIRTUAL_ENV="${_venv}"
    export PATH="${_venv}/bin:${PATH}"
elif ! python3 -c 'import importlib.util as i; raise SystemExit(i.find_spec("espnet2") is None)' 2> /dev/null; then
    echo "No environment with ESPnet is there; run 'make -C ${_tools}', or activate yours after 'pip install -e .'." >&2
    unset _tools _venv
    # shellcheck disable=SC2317  # exit is for when the file is run instead of sourced
    return 1 2> /dev/null || exit 1
fi
unset _tools _venv
