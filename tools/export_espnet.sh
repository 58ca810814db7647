#!/usr/bin/env bash
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Commits the part of this repository that ESPnet would take to a branch of an ESPnet
# checkout; see export_espnet.py.
set -euo pipefail

tools=$(cd "$(dirname "$0")" && pwd)
. "${tools}"/activate_python.sh
exec python3 "${tools}"/export_espnet.py "$@"
