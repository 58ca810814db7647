#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Fetches urgent24 into downloads/; run in the recipe's directory.
set -euo pipefail

"${python:-python3}" local/download.py --output_dir downloads
