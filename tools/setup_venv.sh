#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Makes or completes the environment VENV: setup_venv.sh VENV [EXTRAS]
# A stamp written last says what was installed, so a repeat takes no time and an
# interrupted installation is done again. PYTHON and PIP_OPTIONS are read from the
# environment variables.
set -euo pipefail

venv=${1:?"usage: $0 VENV [EXTRAS]"}
extras=${2:-test,plot,onnx,lora,report,serve}
tools=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "${tools}")

if ! "${venv}"/bin/python -c 'import pip' > /dev/null 2>&1; then
    # A directory that this script did not begin belongs to the user.
    if [ -d "${venv}" ] && [ ! -e "${venv}/.unfinished" ] && [ -n "$(ls -A "${venv}")" ]; then
        echo "${venv} is there and has no Python with pip; install pip into it, or give VENV a new directory." >&2
        exit 1
    fi
    python=$("${tools}"/find_python.sh)
    echo "Making ${venv} with ${python}"
    mkdir -p "${venv}"
    touch "${venv}/.unfinished"
    "${python}" -m venv "${venv}" || {
        echo "${python} cannot make the environment ${venv}; see the lines above." >&2
        exit 1
    }
    rm "${venv}/.unfinished"
fi
venv=$(cd "${venv}" && pwd)
stamp="${venv}/.espnet2_distilmos"
wanted="$("${venv}"/bin/python --version) ${extras} $(cksum < "${root}/setup.py") ${root}"
if [ "$(cat "${stamp}" 2> /dev/null)" != "${wanted}" ]; then
    rm -f "${stamp}"
    # Python 3.11 takes ESPnet 202511, which newer pips refuse for a dependency's URL.
    if ! "${venv}"/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
        "${venv}"/bin/python -m pip install --quiet --disable-pip-version-check 'pip<24' || {
            echo "pip older than 24 cannot be installed into ${venv}; see the lines above." >&2
            exit 1
        }
    fi
    echo "Installing espnet2_distilmos[${extras}] into ${venv} (some minutes the first time)"
    # shellcheck disable=SC2086  # PIP_OPTIONS are several words
    "${venv}"/bin/python -m pip install --quiet --disable-pip-version-check ${PIP_OPTIONS:-} \
        -e "${root}[${extras}]" || {
        echo "The installation into ${venv} failed; see pip's lines above, then run make again: it goes on from there." >&2
        exit 1
    }
    "${venv}"/bin/python -c 'import espnet2, espnet2_distilmos, torch, torchaudio, transformers' || {
        echo "The packages in ${venv} do not import; see the lines above." >&2
        exit 1
    }
    printf '%s\n' "${wanted}" > "${stamp}"
fi

# path.sh finds an environment elsewhere through this file.
if [ "${venv}" = "${tools}/venv" ]; then
    rm -f "${tools}/venv_path"
else
    printf '%s\n' "${venv}" > "${tools}/venv_path"
fi
echo "The environment is ${venv}"
