#!/usr/bin/env bash

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Prints, as Markdown, the environment that results were made with.
set -euo pipefail

python=${1:-python3}
version_of() {
    "${python}" -c "import importlib.metadata as m; print(m.version('$1'))" 2> /dev/null || echo "not installed"
}
cat << EOM
## Environments
- date: \`$(LC_ALL=C date)\`
- python version: \`$("${python}" -c 'import sys; print(sys.version.replace("\n", " "))')\`
- espnet version: \`espnet $(version_of espnet)\`
- pytorch version: \`pytorch $(version_of torch)\`
- transformers version: \`transformers $(version_of transformers)\`
- Git hash: \`$(git rev-parse HEAD 2> /dev/null || echo unknown)\`
  - Commit date: \`$(git log -1 --format=%cd 2> /dev/null || echo unknown)\`
EOM
