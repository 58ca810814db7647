#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Makes a training set of unlabelled speech: degraded copies, and teachers' scores as
# labels (arXiv 2502.05356). Run it in a recipe's directory. What is done is kept; killed,
# it goes on.
set -euo pipefail

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

speech_dir=       # Speech: a directory, a wav.scp or a table.csv:column.
copies=4          # Degraded copies of each file.
teachers=         # Such as "distillmos dnsmos exp/mos_big"; see distilmos pseudo_label --help.
target=mean       # The label: a teacher's key, mean or router.
labelled=         # Data directories with human labels, which the choices are compared on: "data/dev".
balance=          # Ranges of the label that give equally many clips; all clips if empty.
pseudo_set=pseudo # Name of the set, in data.
score_range="1 5" # Lowest and highest label.
nj=2              # Number of processes.
skip_bad=false    # Go on without speech that has no copies, and copies without a label.
python=python3    # Python interpreter.

# shellcheck disable=SC2034  # parse_options.sh prints it
help_message="Usage: $0 --speech_dir DIR --teachers \"distillmos dnsmos\" [--name value ...]

Options and their defaults:
$(sed -n '/^speech_dir=/,/^python=/s/^\([a-z_]*\)=\("[^"]*"\|[^ #]*\) *# \(.*\)$/  --\1 (\2) \3/p' "$0")"
. utils/parse_options.sh
[ $# -eq 0 ] || fail "'$*' is not an option; '$0 --help' lists the options."
[ -n "${speech_dir}" ] || fail "--speech_dir is missing; give a directory of speech."
[ -n "${teachers}" ] || fail "--teachers is missing; give some such as \"distillmos dnsmos\"."
. ./path.sh

distorted="data/${pseudo_set}_copies"
mkdir -p data
begun=$(mktemp data/.begun.XXXXXX) # beside what is compared with it: one clock
trap 'rm -f "${begun}"' EXIT
good() { # good DIR: whether a step that left something out, but wrote, may be gone on from
    ${skip_bad} && [ -s "$1/wav.scp" ] && [ "$1/wav.scp" -nt "${begun}" ]
}
"${python}" -m espnet2_distilmos.bin.distilmos distort "${speech_dir}" \
    --copies "${copies}" --nj "${nj}" --output "${distorted}" \
    || good "${distorted}" \
    || fail "some speech has no copies, see above; mend it and run this again, or go on without it with --skip_bad true."
opts=()
[ -z "${balance}" ] || opts+=(--balance "${balance}")
# shellcheck disable=SC2086  # score_range is two numbers
"${python}" -m espnet2_distilmos.bin.distilmos pseudo_label "${distorted}" \
    --teachers "${teachers}" --target "${target}" --labelled "${labelled}" "${opts[@]}" \
    --score_range ${score_range} --nj "${nj}" --output "data/${pseudo_set}" \
    || good "data/${pseudo_set}" \
    || fail "some copies have no label, see above; mend it and run this again, or go on without them with --skip_bad true."
cat << EOM
To train on it alone, or besides the set of the recipe, four times as often:
    ./run.sh --train_set "${pseudo_set}"
    ./run.sh --further_sets "${pseudo_set}:4"
Besides it without the label, by the teachers' scores alone (losses: aux_scores: {keys: [...]}):
    ./run.sh --unlabelled_sets "${pseudo_set}"
EOM
