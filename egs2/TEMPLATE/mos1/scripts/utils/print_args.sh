#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Prints its arguments on one line, quoted so that a shell reads them back the same.
set -euo pipefail

line=
for argument in "$@"; do
    if [[ "${argument}" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
        line+="${argument} "
    else
        line+="'${argument//\'/\'\\\'\'}' "
    fi
done
echo "${line% }"
