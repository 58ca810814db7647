#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Copies a data directory, with a prefix or suffix on its ids when asked.
set -euo pipefail

utt_prefix=
utt_suffix=
spk_prefix=
spk_suffix=
validate_opts= # Options for validate_data_dir.sh

help_message="Usage: $0 [--utt-prefix P] [--utt-suffix S] [--spk-prefix P] [--spk-suffix S] [--validate_opts OPTS] SRC_DIR DST_DIR"
. "$(dirname "$0")"/parse_options.sh

if [ $# -ne 2 ]; then
    echo "${help_message}" >&2
    exit 2
fi
src=$1
dst=$2
if [ ! -f "${src}/utt2spk" ]; then
    echo "$0: ${src}/utt2spk is not there; ${src} is not a data directory yet, run the recipe's stage 1." >&2
    exit 1
fi
mkdir -p "${dst}"

# rename FILE UTT SPK: prefix and suffix the first field as an utterance ("utt") or a
# speaker ("spk") id, and the second one too where SPK or UTT says so.
rename() {
    awk -v first="$2" -v second="$3" \
        -v up="${utt_prefix}" -v us="${utt_suffix}" -v sp="${spk_prefix}" -v ss="${spk_suffix}" '
        function id(kind, x) { return kind == "utt" ? up x us : kind == "spk" ? sp x ss : x }
        { rest = $0; sub(/^[ \t]*[^ \t]+[ \t]*/, "", rest)
          if (second != "") { n = split(rest, f, /[ \t]+/); rest = ""
              for (i = 1; i <= n; i++) if (f[i] != "") rest = rest (i > 1 ? " " : "") id(second, f[i]) }
          print id(first, $1) " " rest }' "$1" | LC_ALL=C sort -k1,1 -s
}

rename "${src}/utt2spk" utt spk > "${dst}/utt2spk"
for f in wav.scp segments text metric.scp utt2sys utt2src utt2domain votes.scp \
         utt2num_samples utt2dur utt2lang feats.scp reco2file_and_channel; do
    if [ ! -f "${src}/${f}" ]; then
        rm -f "${dst}/${f}"
    elif [ "${f}" = wav.scp ] && [ -f "${src}/segments" ]; then
        LC_ALL=C sort -k1,1 -s "${src}/${f}" > "${dst}/${f}" # recordings, not utterances
    else
        rename "${src}/${f}" utt "" > "${dst}/${f}"
    fi
done
[ -f "${src}/spk2gender" ] && rename "${src}/spk2gender" spk "" > "${dst}/spk2gender"
"$(dirname "$0")"/utt2spk_to_spk2utt.pl "${dst}/utt2spk" | LC_ALL=C sort -k1,1 > "${dst}/spk2utt"
echo "$0: copied data from ${src} to ${dst}" >&2

if [ -n "${validate_opts}" ]; then
    # shellcheck disable=SC2086  # several options in one string
    "$(dirname "$0")"/validate_data_dir.sh ${validate_opts} --no-feats --no-text "${dst}"
fi
