#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Turn "utterance speaker" lines into "speaker utterance utterance ..." lines.

Usage: utt2spk_to_spk2utt.pl [UTT2SPK] > SPK2UTT

Speakers come in the order of their first utterance. The name ends in .pl because
Kaldi's does.
"""

import sys


def main(argv):
    if len(argv) > 1:
        sys.exit(__doc__)
    name = argv[0] if argv and argv[0] != "-" else 0
    speakers = {}
    with open(name, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            fields = line.split()
            if len(fields) != 2:
                sys.exit(
                    f"utt2spk_to_spk2utt.pl: line {number} has {len(fields)} fields "
                    "instead of an utterance and its speaker."
                )
            speakers.setdefault(fields[1], []).append(fields[0])
    for speaker, utterances in speakers.items():
        print(speaker, *utterances)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
