#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Fetches pstn into downloads/; run in the recipe's directory.
set -euo pipefail

scripts/utils/download.sh https://challenge.blob.core.windows.net/pstn/train.zip downloads/train.zip
"${python:-python3}" -m zipfile -e downloads/train.zip downloads
rm downloads/train.zip
