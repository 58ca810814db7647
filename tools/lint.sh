#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Runs black, isort, flake8 and shellcheck over the files of the repository:
# lint.sh [DIRECTORY_OF_THE_TOOLS]. All four run before it fails.
set -euo pipefail

bin=${1:+$(cd "$1" && pwd)/}
cd "$(dirname "$0")/.."

# Tracked files and new ones that git does not ignore; links are checked where they lead.
files() {
    git ls-files --cached --others --exclude-standard -- "$@" | sort -u | while read -r f; do
        if [ -f "${f}" ] && [ ! -L "${f}" ]; then echo "${f}"; fi
    done
}
mapfile -t python_files < <(
    files '*.py'
    files '*.pl' | while read -r f; do if head -n 1 "${f}" | grep -q python; then echo "${f}"; fi; done
)
mapfile -t shell_files < <(files '*.sh' '.ci/run')

failed=0
"${bin}black" --quiet --check --diff "${python_files[@]}" || failed=1
"${bin}isort" --quiet --check-only --diff "${python_files[@]}" || failed=1
"${bin}flake8" "${python_files[@]}" || failed=1
"${bin}shellcheck" "${shell_files[@]}" || failed=1
if [ "${failed}" -ne 0 ]; then
    echo "lint failed; 'black .' and 'isort .' mend what the first two found." >&2
    exit 1
fi
echo "lint: ${#python_files[@]} Python and ${#shell_files[@]} shell files are clean"
