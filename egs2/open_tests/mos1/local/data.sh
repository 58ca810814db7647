#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Stage 1 of open_tests: data/CORPUS/SET of the sets in conf/sets.txt, by the recipes they
# are of, and from them what the fold trains on, validates and tests. Nothing is copied.
set -euo pipefail
cd "$(dirname "$0")/.."

fold=
labels=ranks   # Of training: ranks or linear, see local/folds.py.
skip_bad=false # Go on without clips that are missing.

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: local/data.sh --fold FOLD [--labels ranks|linear] [--skip_bad true|false]"
. utils/parse_options.sh
. ./path.sh

mapfile -t sets < <(awk '!/^#/ && NF { print $2 }' conf/sets.txt)
available=$(scripts/utils/prepare_test_sets.sh --skip_bad "${skip_bad}" "${sets[@]}")
if [ "${available}" != "${sets[*]}" ]; then
    echo "local/data.sh: found '${available}' of conf/sets.txt, expected all of it; set the variables of the others in db.sh (see the lines above), or take their lines out." >&2
    exit 1
fi
exec python3 local/folds.py "${fold}" --labels "${labels}" --write data
