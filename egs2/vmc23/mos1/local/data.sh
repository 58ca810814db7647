#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of a new recipe: write data/<set>/{wav.scp,utt2spk,spk2utt,metric.scp,utt2sys}.
set -euo pipefail

echo "$0: write this file for your corpus; it makes data/<set>/ with wav.scp, utt2spk, spk2utt, metric.scp and utt2sys." >&2
exit 1
