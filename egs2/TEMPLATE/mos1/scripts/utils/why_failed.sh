#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# why_failed.sh DIR: after the training in DIR failed, prints the end of its log on stderr
# (of a refusal the one sentence), and what to do about it on stdout.
set -euo pipefail

log="$1/train.log"
# Without this the job was not even started.
grep -q "The last 1000 lines" "$1/launch.log" || log="$1/launch.log"
code=$(sed -n 's/^# Ended (code \([0-9]*\)).*/\1/p' "${log}" | tail -n 1)
if [ "${log}" = "$1/train.log" ] && [ "${code:-137}" -gt 128 ]; then
    echo "it was killed: run the same again, it resumes (if memory ran out, free some first)."
    exit
fi
end=$(grep -v '^#' "${log}" | tail -n 20 || true)
if [[ "${end}" != *"  File "* ]]; then end=$(tail -n 1 <<< "${end}"); fi
echo "${end}" >&2
echo "mend what is said above, then run the same again: what is trained is kept."
