#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# The paper's comparisons: conf/ablation/paper.txt with several seeds, see README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/mos_ablation.sh --list conf/ablation/paper.txt "$@"
