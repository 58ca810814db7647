#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Filter the files of a formatted data directory, SRC, by utterance into DST.

DST may be SRC. Each file is written whole or not at all, and a file that would not
change keeps its date, which says to later stages that nothing is to be done. wav.scp
comes last; it takes a new date when that of SRC is newer, as its audio is then.
"""

import argparse
import codecs
import json
import os
import sys
from pathlib import Path

LABELS = (
    *("utt2spk", "text", "metric.scp", "utt2sys", "utt2src", "utt2domain", "utt2set"),
    "votes.scp",
)
AUDIO = ("utt2num_samples", "wav.scp")


def get_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ids", type=Path, help="File whose lines begin with an id.")
    parser.add_argument("src", type=Path)
    parser.add_argument("dst", type=Path)
    parser.add_argument(
        "--exclude", action="store_true", help="Keep the others instead."
    )
    parser.add_argument(
        "--labels_only",
        action="store_true",
        help="Leave wav.scp and utt2num_samples of DST alone.",
    )
    parser.add_argument(
        "--unlabelled",
        action="store_true",
        help="Leave labels and votes out: every utterance of DST has a line in "
        "metric.scp, with its further scores alone, such as those of other predictors.",
    )
    return parser


def read_lines(path):
    """Return the lines with content; bytes, as other stages check the encoding.

    A byte order mark, of this file or of one joined to it, is no part of an id.
    """
    lines = path.read_bytes().splitlines()
    lines = [line.removeprefix(codecs.BOM_UTF8) for line in lines]
    return [line + b"\n" for line in lines if line.split()]


def write(path, lines, always=False):
    """Write ``lines`` whole or not at all, and only if they differ or ``always``."""
    content = b"".join(lines)
    if not always and path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def speaker_lines(path):
    """Return the lines of spk2utt for a utt2spk."""
    speakers = {}
    for line in read_lines(path):
        fields = line.split()
        if len(fields) != 2:
            sys.exit(
                f"{path} has the line '{line.decode(errors='replace').strip()}', "
                "expected an utterance and its speaker; correct it."
            )
        speakers.setdefault(fields[1], []).append(fields[0])
    return [b" ".join([s, *utts]) + b"\n" for s, utts in sorted(speakers.items())]


def without_labels(dst):
    """Lines of metric.scp for all utterances of DST, as those of an unlabelled set."""
    scores = {}
    for line in read_lines(dst / "metric.scp") if (dst / "metric.scp").exists() else ():
        utt_id, _, text = line.strip().partition(b" ")
        # What cannot be read of labels that nobody wants is no fault.
        try:
            entry = json.loads(text)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entry.pop("mos", None)
            scores[utt_id] = json.dumps(entry).encode()
    ids = [line.split()[0] for line in read_lines(dst / "wav.scp")]
    return [utt_id + b" " + scores.get(utt_id, b"{}") + b"\n" for utt_id in ids]


def main(argv=None):
    args = get_parser().parse_args(argv)
    ids = {line.split()[0] for line in read_lines(args.ids)}
    args.dst.mkdir(parents=True, exist_ok=True)
    for name in LABELS + (() if args.labels_only else AUDIO):
        src, dst = args.src / name, args.dst / name
        if not src.exists():
            dst.unlink(missing_ok=True)
            continue
        lines = read_lines(src)
        lines = [line for line in lines if (line.split()[0] in ids) != args.exclude]
        lines.sort(key=lambda line: line.split()[0])
        newer = (
            name == "wav.scp"
            and dst.exists()
            and os.path.getmtime(src) > os.path.getmtime(dst)
        )
        write(dst, lines, always=newer)
    if args.unlabelled:
        write(args.dst / "metric.scp", without_labels(args.dst))
        (args.dst / "votes.scp").unlink(missing_ok=True)
    if (args.dst / "utt2spk").exists():
        write(args.dst / "spk2utt", speaker_lines(args.dst / "utt2spk"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
