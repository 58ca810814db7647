#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Trains a list of runs with several seeds and compares them: --help says how.
set -euo pipefail

# shellcheck source=/dev/null
. ./path.sh
exec python3 pyscripts/utils/mos_ablation.py "$@"
