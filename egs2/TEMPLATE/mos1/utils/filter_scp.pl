#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Keep the lines whose id is in a list.

Usage: filter_scp.pl [--exclude] [-f FIELD] ID_LIST [IN] > OUT

IN is the standard input when not given. -f is the field, from 1, that holds the id
in IN. The first field of ID_LIST is its id. The name ends in .pl because Kaldi's does.
"""

import sys


def main(argv):
    exclude, field = False, 1
    while argv and argv[0].startswith("-") and argv[0] != "-":
        if argv[0] == "--exclude":
            exclude, argv = True, argv[1:]
        elif argv[0] == "-f" and len(argv) > 1 and argv[1].isdigit():
            field, argv = int(argv[1]), argv[2:]
        else:
            sys.exit(__doc__)
    if len(argv) not in (1, 2) or field < 1:
        sys.exit(__doc__)
    with open(argv[0], encoding="utf-8") as f:
        ids = {line.split()[0] for line in f if line.strip()}
    name = argv[1] if len(argv) == 2 and argv[1] != "-" else 0
    with open(name, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            fields = line.split()
            if len(fields) < field:
                shown = "the standard input" if name == 0 else name
                sys.exit(
                    f"filter_scp.pl: line {number} of {shown} has {len(fields)} "
                    f"fields, and field {field} is asked for."
                )
            if (fields[field - 1] in ids) != exclude:
                sys.stdout.write(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
