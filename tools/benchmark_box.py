#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""What the scorer in the box costs, against the command of another predictor.

Each command is a process of its own, with one thread. Rounds are interleaved, and all
CPU seconds of a process count, loading too.

- first score: `distilmos predict` of one short file, against a process that imports
  NumPy, soundfile and onnxruntime and does nothing;
- throughput: `distilmos predict` of all files, less its first score, against --rival,
  a command that takes a folder or a file, less what it takes for one file.

Example, with `pip install distillmos`:

    % python tools/benchmark_box.py FOLDER_OF_WAV --rival distillmos
"""

import argparse
import os
import resource
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import soundfile

PREDICT = [sys.executable, "-m", "espnet2_distilmos.bin.distilmos", "predict"]
IMPORTS = [sys.executable, "-c", "import numpy, soundfile, onnxruntime"]


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="WAV files of any length")
    parser.add_argument("--rival", metavar="COMMAND", help="takes a folder or a file")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def cpu_seconds(command: Sequence[str]) -> float:
    """CPU seconds of a command and its children, with one thread.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    root = Path(__file__).resolve().parent.parent
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def summary(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    files = sorted(str(path) for path in Path(args.folder).rglob("*.wav"))
    if not files:
        get_parser().error(f"{args.folder} has no .wav, expected some")
    seconds = {path: soundfile.info(path).duration for path in files}
    shortest, total = min(files, key=seconds.get), sum(seconds.values())
    commands: Dict[str, List[str]] = {
        "imports": IMPORTS,
        "first": [*PREDICT, "--model", "box", shortest],
        "all": [*PREDICT, "--model", "box", args.folder],
    }
    if args.rival:
        rival = shlex.split(args.rival)
        commands["rival, first"] = [*rival, shortest]
        commands["rival, all"] = [*rival, args.folder]
    found: Dict[str, List[float]] = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            found[name].append(cpu_seconds(command))
    print(f"{len(files)} files, {total:.0f} s of audio; CPU seconds, median [range]")
    for name, values in found.items():
        print(f"{name:13s} {summary(values)}")
    median = {name: statistics.median(values) for name, values in found.items()}
    print(f"first score / imports: {median['first'] / median['imports']:.2f}")
    rate = total / (median["all"] - median["first"])
    print(f"throughput: {rate:.0f} s of audio a CPU second")
    if args.rival:
        theirs = total / (median["rival, all"] - median["rival, first"])
        print(f"rival: {theirs:.0f}; ratio {rate / theirs:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
