#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Downloads URL to FILE, which appears under its name only when it is whole. What a
# broken download left in FILE.part is gone on with. A FILE that is there is kept.
set -euo pipefail

md5= # Checksum that the owner publishes.

help_message="Usage: $0 [--md5 SUM] URL FILE"
. utils/parse_options.sh
if [ $# -ne 2 ]; then
    echo "${help_message}" >&2
    exit 2
fi
url=$1
file=$2

if [ -e "${file}" ]; then
    exit 0
fi
mkdir -p "$(dirname "${file}")"
echo "$0: ${url} -> ${file}" >&2
if command -v curl > /dev/null; then
    fetch=(curl --location --fail --continue-at - --retry 3 --no-progress-meter --output)
else
    fetch=(wget --no-verbose --continue --tries 3 --output-document)
fi
if ! "${fetch[@]}" "${file}.part" "${url}"; then
    echo "$0: ${url} could not be downloaded (see above), expected a whole file; run this again, it goes on where it stopped, or put the file at ${PWD}/${file} by hand." >&2
    exit 1
fi
if [ -n "${md5}" ]; then
    sum=$(md5sum "${file}.part" | cut -d ' ' -f 1)
    if [ "${sum}" != "${md5}" ]; then
        rm "${file}.part"
        echo "$0: ${url} has the checksum ${sum}, expected ${md5}; it was removed, run this again." >&2
        exit 1
    fi
fi
mv "${file}.part" "${file}"
