#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The command `distilmos`: what one does with a trained model."""

import argparse
import importlib
import sys
from typing import List, Optional

# Name: module with main(arguments) -> exit code, and a line of help. Modules are
# imported only when they are called: help comes at once.
COMMANDS = {
    "predict": ("espnet2_distilmos.bin.predict", "score audio files with a model"),
    "merge": ("espnet2_distilmos.bin.merge", "the tables of `predict --shard` to one"),
    "serve": ("espnet2_distilmos.bin.serve", "score what is sent over HTTP"),
    "calibrate": (
        "espnet2_distilmos.bin.calibrate",
        "intervals, flag of novelty and scale of a model",
    ),
    "score": ("espnet2_distilmos.bin.score", "predictions against labels"),
    "compare": ("espnet2_distilmos.bin.compare", "models on the same items"),
    "results": ("espnet2_distilmos.bin.results", "one table of many experiments"),
    "plot": ("espnet2_distilmos.bin.plot", "figures"),
    "report": (
        "espnet2_distilmos.bin.report",
        "a page on scores, to look at and to listen to",
    ),
    "convert": (
        "espnet2_distilmos.bin.convert",
        "labels and predictions from one format to another",
    ),
    "distort": ("espnet2_distilmos.bin.distort", "degraded copies of speech"),
    "pseudo_label": (
        "espnet2_distilmos.bin.pseudo_label",
        "label speech with the scores of teachers",
    ),
    "prune": (
        "espnet2_distilmos.bin.prune",
        "a trained model to a smaller and faster one",
    ),
    "export": ("espnet2_distilmos.bin.export", "a trained model to ONNX"),
}


def get_parser() -> argparse.ArgumentParser:
    """Parser of what comes before a command's own arguments; see :func:`main`."""
    width = max(map(len, COMMANDS))
    lines = ["What one does with a trained model.", "", "Commands:"]
    lines += [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="distilmos",
        usage="distilmos COMMAND ...",
        description="\n".join(lines),
        epilog="`distilmos COMMAND --help` tells a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    return parser


def main(cmd: Optional[List[str]] = None) -> int:
    cmd = sys.argv[1:] if cmd is None else cmd
    if not cmd:
        get_parser().print_help(sys.stderr)
        return 2
    name, *arguments = cmd
    if name in ("-h", "--help"):
        get_parser().print_help()
        return 0
    if name == "--version":
        from espnet2_distilmos import __version__

        print(__version__)
        return 0
    if name not in COMMANDS:
        print(
            f"distilmos: found the command {name}, expected one of "
            f"{', '.join(COMMANDS)}; see `distilmos --help`.",
            file=sys.stderr,
        )
        return 2
    # argparse names the program after it.
    sys.argv[0] = f"distilmos {name}"
    return importlib.import_module(COMMANDS[name][0]).main(arguments)


if __name__ == "__main__":
    sys.exit(main())
