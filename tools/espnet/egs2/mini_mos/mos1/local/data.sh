#!/usr/bin/env bash
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

set -euo pipefail

. ./path.sh
python3 local/data_prep.py downloads data
