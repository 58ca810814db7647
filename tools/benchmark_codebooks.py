#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""What the tokens of a training set cost: CPU seconds of `learn_codebooks` and of
`dump_tokens` with its codebooks, and the mean squared distance to the centroids.

Every command runs in a process of its own, from the start of the interpreter to its
end; checkouts take turns. With `--max_frames` of the whole set or more, one pass of the
network is enough for a checkout that can write the tokens along.

Example:

    % git worktree add ../before main~10
    % OMP_NUM_THREADS=1 python tools/benchmark_codebooks.py . ../before \
          --config conf/train_distilmos.yaml --wav_scp dump/raw/train/wav.scp
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("learn_codebooks", "dump_tokens")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure learn_codebooks and dump_tokens.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "checkouts", nargs="*", default=[str(ROOT)], help="roots of the package"
    )
    parser.add_argument("--config", required=True, help="training configuration")
    parser.add_argument("--wav_scp", required=True)
    parser.add_argument("--num_clusters", default="200")
    parser.add_argument("--max_frames", default="100000")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def cpu_seconds(checkout: str, command: str, options: Sequence[str]) -> float:
    """CPU seconds of a command of a checkout.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": os.path.abspath(checkout)}
    module = f"espnet2_distilmos.bin.{command}"
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *options],
            env=environment,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        # known: there is nothing left to wait for
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{command} of {checkout}: {output.read()}")
    return usage.ru_utime + usage.ru_stime


def measure(checkout: str, args: argparse.Namespace) -> Tuple[float, float, float]:
    """CPU seconds of both commands, and the distance, a mean over the layers."""
    with tempfile.TemporaryDirectory() as folder:
        codebooks, tokens = f"{folder}/codebooks.npz", f"{folder}/tokens"
        shared = ["--config", args.config, "--wav_scp", args.wav_scp]
        learn = ["--output", codebooks, "--num_clusters", args.num_clusters]
        learn += ["--max_frames", args.max_frames]
        source = Path(checkout, "espnet2_distilmos", "bin", "learn_codebooks.py")
        if "--tokens_dir" in source.read_text(encoding="utf-8"):
            learn += ["--tokens_dir", tokens]
        dump = ["--codebooks", codebooks, "--output_dir", tokens]
        seconds = [cpu_seconds(checkout, COMMANDS[0], shared + learn)]
        # as scripts/dump_tokens.sh, which looks for this file before anything else
        if not os.path.exists(f"{tokens}/tokens.scp"):
            seconds.append(cpu_seconds(checkout, COMMANDS[1], shared + dump))
        with np.load(codebooks) as arrays:
            metadata = str(arrays["metadata"])
            frames = int(metadata.split('"num_frames": ')[1].split(",")[0])
            distance = float(np.mean(arrays["inertia"]) / frames)
    return seconds[0], sum(seconds[1:]), distance


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    found: Dict[str, List[Tuple[float, float, float]]] = {}
    for _ in range(args.rounds):
        for checkout in args.checkouts:
            found.setdefault(checkout, []).append(measure(checkout, args))
    print("| checkout | learn, s | dump, s | both, s | range | distance |")
    print("|---|---:|---:|---:|---:|---:|")
    for checkout, rounds in found.items():
        learn, dump, distance = np.median(rounds, axis=0)
        both = np.array(rounds)[:, :2].sum(axis=1)
        print(
            f"| {checkout} | {learn:.1f} | {dump:.1f} | {np.median(both):.1f} | "
            f"{both.min():.1f}–{both.max():.1f} | {distance:.4g} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
