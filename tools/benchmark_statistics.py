#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""What `distilmos score`, `compare` and the help texts cost: CPU seconds and memory.

Drawn labels and predictions are written to files, and every command runs in a process
of its own, from the start of the interpreter to its end; two checkouts in turns. The
table has the median of the CPU seconds with its range, the median of the wall time and
the peak of the resident memory. CPU seconds are of all threads: run with one.

Labels have the steps of a mean of eight votes, and there are 20 systems.

Example:

    % OMP_NUM_THREADS=1 python tools/benchmark_statistics.py
    % git worktree add ../before main~10
    % OMP_NUM_THREADS=1 python tools/benchmark_statistics.py . ../before
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
HELP = ("score", "compare", "results", "predict")
# Runs the command and leaves its peak of memory: that of wait4 would begin with the
# memory of the process that started it.
CODE = """
import sys
from espnet2_distilmos.bin.distilmos import main
try:
    code = main(sys.argv[2:])
except SystemExit as stop:
    code = stop.code
with open("/proc/self/status") as status, open(sys.argv[1], "w") as file:
    file.writelines(line for line in status if line.startswith("VmHWM:"))
sys.exit(code)
"""


class Cost(NamedTuple):
    """CPU and wall seconds of a process, and its peak memory in MiB."""

    cpu: float
    wall: float
    mib: float


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure the statistics' commands.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "checkouts", nargs="*", default=[str(ROOT)], help="roots of the package"
    )
    parser.add_argument(
        "--score", type=int, nargs="*", default=[1000, 10000, 100000], help="rows"
    )
    parser.add_argument("--compare", type=int, nargs="*", default=[20000], help="rows")
    parser.add_argument("--models", type=int, default=10, help="that are compared")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples")
    parser.add_argument("--rounds", type=int, default=1)
    return parser


def write_tables(folder: Path, rows: int, models: int) -> List[str]:
    """Write labels and predictions; return their names, the labels' first."""
    generator = np.random.default_rng(rows)
    quality = generator.uniform(1.5, 4.5, 20)[np.arange(rows) % 20]
    label = np.clip(quality + 0.7 * generator.normal(size=rows), 1, 5)
    label = np.round(8 * label) / 8
    names = [f"labels{rows}.csv"]
    lines = [f"u{i},{value},s{i % 20}\n" for i, value in enumerate(label)]
    (folder / names[0]).write_text("id,mos,system\n" + "".join(lines))
    for k in range(models):
        score = label + (0.5 + 0.02 * k) * generator.normal(size=rows)
        names.append(f"m{k}_{rows}.csv")
        lines = [f"u{i},{value:.4f}\n" for i, value in enumerate(score)]
        (folder / names[-1]).write_text("id,mos\n" + "".join(lines))
    return names


def cost_of(checkout: str, folder: Path, arguments: Sequence[str]) -> Cost:
    """Run the command of a checkout.

    Raises:
        RuntimeError: it failed.
    """
    peak = folder / "peak"
    command = [sys.executable, "-c", CODE, str(peak), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.path.abspath(checkout)}
    start = time.perf_counter()
    with open(folder / "output", "w+") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(process.pid, 0)
        # known: there is nothing left to wait for
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - start
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{' '.join(arguments)}: {output.read()}")
    mib = int(peak.read_text().split()[1]) / 1024
    return Cost(usage.ru_utime + usage.ru_stime, wall, mib)


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        resamples = ["--bootstrap", str(args.bootstrap)]
        commands = {f"{name} --help": [name, "--help"] for name in HELP}
        for rows in args.score:
            files = write_tables(folder, rows, 1)
            commands[f"score, {rows} rows"] = ["score", *files, *resamples]
        for rows in args.compare:
            files = write_tables(folder, rows, args.models)
            what = f"compare, {args.models} × {rows} rows"
            commands[what] = ["compare", *files, *resamples]
        costs: Dict[str, List[List[Cost]]] = {}
        for what, command in commands.items():
            # in turns, so that a change of the machine's pace meets all alike
            costs[what] = [
                [cost_of(checkout, folder, command) for checkout in args.checkouts]
                for _ in range(args.rounds)
            ]
    print("| command | checkout | CPU s | range | wall s | MiB |")
    print("|---|---|---:|---:|---:|---:|")
    for what, rounds in costs.items():
        for checkout, found in zip(args.checkouts, zip(*rounds)):
            cpu, wall, mib = np.array(found).T
            print(
                f"| {what} | {checkout} | {np.median(cpu):.2f} | {cpu.min():.2f}–"
                f"{cpu.max():.2f} | {np.median(wall):.2f} | {mib.max():.0f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
