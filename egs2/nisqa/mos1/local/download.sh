#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Fetches nisqa into downloads/; run in the recipe's directory.
set -euo pipefail

scripts/utils/download.sh \
    https://depositonce.tu-berlin.de/bitstream/11303/13012.5/9/NISQA_Corpus.zip \
    downloads/NISQA_Corpus.zip
"${python:-python3}" -m zipfile -e downloads/NISQA_Corpus.zip downloads
rm downloads/NISQA_Corpus.zip
