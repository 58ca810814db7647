#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Split a list into parts of nearly the same number of lines, order kept.

Usage: split_scp.pl IN OUT1 [OUT2 ...]

The name ends in .pl because Kaldi's does.
"""

import os
import sys


def main(argv):
    if len(argv) < 2 or argv[0].startswith("-"):
        sys.exit(__doc__)
    source, parts = argv[0], argv[1:]
    with open(source, encoding="utf-8") as f:
        lines = f.readlines()
    if len(lines) < len(parts):
        sys.exit(
            f"split_scp.pl: {source} has {len(lines)} lines, too few for {len(parts)} "
            "parts; use a smaller number of jobs."
        )
    for i, part in enumerate(parts):
        first, last = (len(lines) * k // len(parts) for k in (i, i + 1))
        os.makedirs(os.path.dirname(part) or ".", exist_ok=True)
        with open(part, "w", encoding="utf-8") as f:
            f.writelines(lines[first:last])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
