#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Turn "speaker utterance utterance ..." lines into "utterance speaker" lines.

Usage: spk2utt_to_utt2spk.pl [SPK2UTT] > UTT2SPK

The name ends in .pl because Kaldi's does.
"""

import sys


def main(argv):
    if len(argv) > 1:
        sys.exit(__doc__)
    name = argv[0] if argv and argv[0] != "-" else 0
    with open(name, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            fields = line.split()
            if len(fields) < 2:
                sys.exit(
                    f"spk2utt_to_utt2spk.pl: line {number} has {len(fields)} fields "
                    "instead of a speaker and at least one utterance."
                )
            for utterance in fields[1:]:
                print(utterance, fields[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
