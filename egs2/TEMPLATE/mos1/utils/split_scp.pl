#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Split a list into parts of nearly the same number of lines, order kept.

Usage: split_scp.pl [--utt2spk=FILE] IN OUT1 [OUT2 ...]

With --utt2spk the lines of one speaker stay together. The name ends in .pl because
Kaldi's does.
"""

import os
import sys


def groups_of(lines, utt2spk):
    """Yield lists of lines that may not be separated."""
    if utt2spk is None:
        yield from ([line] for line in lines)
        return
    with open(utt2spk, encoding="utf-8") as f:
        speaker = dict(line.split()[:2] for line in f if line.strip())
    group, current = [], None
    for line in lines:
        utt_id = line.split()[0]
        if utt_id not in speaker:
            sys.exit(f"split_scp.pl: {utt2spk} has no speaker for {utt_id}.")
        if group and speaker[utt_id] != current:
            yield group
            group = []
        current = speaker[utt_id]
        group.append(line)
    if group:
        yield group


def main(argv):
    utt2spk = None
    while argv and argv[0].startswith("--"):
        name, _, value = argv[0].partition("=")
        if name != "--utt2spk" or not value:
            sys.exit(__doc__)
        utt2spk, argv = value, argv[1:]
    if len(argv) < 2:
        sys.exit(__doc__)
    source, parts = argv[0], argv[1:]
    with open(source, encoding="utf-8") as f:
        lines = f.readlines()
    groups = list(groups_of(lines, utt2spk))
    if len(groups) < len(parts):
        sys.exit(
            f"split_scp.pl: {source} has {len(groups)} pieces, too few for "
            f"{len(parts)} parts; use a smaller number of jobs."
        )
    for i, part in enumerate(parts):
        first, last = (len(groups) * k // len(parts) for k in (i, i + 1))
        os.makedirs(os.path.dirname(part) or ".", exist_ok=True)
        with open(part, "w", encoding="utf-8") as f:
            for group in groups[first:last]:
                f.writelines(group)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
