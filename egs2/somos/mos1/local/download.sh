#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Fetches somos into downloads/; run in the recipe's directory.
set -euo pipefail

scripts/utils/download.sh --md5 bdfde4cae256549dfab05d713136e4af \
    https://zenodo.org/records/7378801/files/somos.zip downloads/somos.zip
"${python:-python3}" -m zipfile -e downloads/somos.zip downloads
"${python:-python3}" -m zipfile -e downloads/audios.zip downloads
rm downloads/somos.zip downloads/audios.zip
