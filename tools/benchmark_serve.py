#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""What `distilmos serve` gives to many clients at once, and when it is killed.

Files of many lengths, some of them bad, are scored by `predict`'s own code in this
process. Then a server is started on loopback and clients, each a thread with one
request at a time, send the same files, twice over: undisturbed, for the throughput, and
with a kill (SIGKILL) in the middle and a restart. Every answer is compared with
`predict`'s: a score to 1e-4, a bad file's sentence to the letter. Each file has a
content, and so a score, of its own, so that an answer to another client shows.

The network has random weights, which change nothing about the time; `--model` takes
another. Exit code 1 if a request got no answer, several, or another file's.

Example:

    % OMP_NUM_THREADS=1 python tools/benchmark_serve.py
"""

import argparse
import json
import os
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (1, 0)]

from benchmark_predict import make_audio, make_model  # noqa: E402

# Two layers of a third of the base width: many files a second on any machine.
SMALL = {
    "model_type": "hubert",
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "conv_dim": [128] * 7,
}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Throughput and faultlessness of distilmos serve.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", help="a trained model; else random weights")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--bad", type=float, default=0.05, help="share of bad files")
    parser.add_argument(
        "--lengths", type=float, nargs=2, default=(0.5, 3.0), help="seconds"
    )
    parser.add_argument("--upstream_config", type=json.loads, default=SMALL)
    return parser


def make_files(folder: Path, count: int, bad: float, lengths) -> List[str]:
    """Write files, a share of them bad in several ways."""
    mean = sum(lengths) / 2
    made = 0
    while made < count:  # lengths are random
        made = len(make_audio(folder / f"wav{made}", count * mean, lengths))
    files = sorted(str(path) for path in folder.glob("wav*/*.wav"))[:count]
    every = round(1 / bad) if bad else count + 1
    for k, path in enumerate(files):
        if k % every == every - 1:
            size = os.path.getsize(path)
            os.truncate(path, (0, size // 2, 20)[k // every % 3])
    return files


class Server:
    """`distilmos serve` in a process of its own."""

    def __init__(self, model: str):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "espnet2_distilmos.bin.serve"]
        self._command += ["--model", model, "--port", str(self.port)]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        if not self.process.stdout.readline():
            raise RuntimeError("the server ended")

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> int:
        self.process.terminate()
        self.process.communicate()
        return self.process.returncode

    def metric(self, name: str) -> float:
        import urllib3

        text = urllib3.PoolManager().request("GET", self.url + "/metrics").data.decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])


def ask_all(
    server: Server, files: Sequence[str], num_clients: int, kill_at: Optional[int]
) -> Tuple[List[List[Any]], float]:
    """Let clients send all files.

    Args:
        kill_at: number of answers at which the server is killed and started again.

    Returns:
        The answers of each file, and the seconds until the last one.
    """
    from espnet2_distilmos.remote import RemoteMOSPredictor

    remote = RemoteMOSPredictor(server.url, patience=600)
    work: "queue.SimpleQueue[int]" = queue.SimpleQueue()
    for k in range(len(files)):
        work.put(k)
    answers: List[List[Any]] = [[] for _ in files]
    num_answers, changed = [0], threading.Condition()

    def client() -> None:
        while True:
            try:
                k = work.get_nowait()
            except queue.Empty:
                return
            try:
                found = list(remote.predict_files([files[k]]))
            except Exception as error:  # counted as no answer
                print(f"{files[k]}: {error}", file=sys.stderr)
                found = []
            with changed:
                answers[k] += found
                num_answers[0] += 1
                changed.notify_all()

    begun = time.monotonic()
    clients = [threading.Thread(target=client) for _ in range(num_clients)]
    for one in clients:
        one.start()
    if kill_at is not None:
        with changed:
            changed.wait_for(lambda: num_answers[0] >= kill_at)
        server.kill()
        server.start()
    for one in clients:
        one.join()
    return answers, time.monotonic() - begun


def compare(answers: Sequence[Sequence[Any]], expected: Sequence[Any]) -> Dict:
    """Count what is not as `predict` gives it."""
    counts = {"lost": 0, "twice": 0, "wrong": 0, "refused": 0}
    worst = 0.0
    for found, right in zip(answers, expected):
        counts["lost"] += not found
        counts["twice"] += len(found) > 1
        for one in found:
            counts["refused"] += one.result is None
            if one.result is None or right.result is None:
                counts["wrong"] += one.error != right.error
                continue
            difference = abs(one.result.score - right.result.score)
            worst = max(worst, difference)
            counts["wrong"] += difference > 1e-4
    return {**counts, "difference": worst}


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    from espnet2_distilmos import load_predictor

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = make_files(folder, args.requests, args.bad, args.lengths)
        if args.model is None:
            make_model(folder, args.upstream_config)
        model = args.model or str(folder)
        predictor = load_predictor(model)
        list(predictor.predict_files(files[:10]))
        begun, cpu = time.monotonic(), time.process_time()
        expected = list(predictor.predict_files(files))
        seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
        scores = [one.result.score for one in expected if one.result is not None]
        print(
            f"{len(files)} files, {len(files) - len(scores)} of them bad, "
            f"{len(set(scores))} different scores; {args.clients} clients"
        )
        rate = len(files) / seconds
        per_file = f"{1000 * cpu / len(files):.1f} ms of CPU time a file"
        print(f"predict: {rate:.1f} files/s, {per_file}", flush=True)
        del predictor

        server = Server(model)
        server.start()
        is_right = True
        for kill_at in (None, int(0.4 * len(files))):
            cpu = server.metric("process_cpu_seconds_total")
            answers, seconds = ask_all(server, files, args.clients, kill_at)
            found = compare(answers, expected)
            line = f"{len(files) / seconds:.1f} files/s"
            if kill_at is None:
                cpu = server.metric("process_cpu_seconds_total") - cpu
                batches = server.metric("distilmos_batch_files_count")
                together = server.metric("distilmos_batch_files_sum") / batches
                line += f", {1000 * cpu / len(files):.1f} ms of CPU time a file, "
                line += f"{together:.2f} files a batch"
            what = "serve" if kill_at is None else "serve, killed and restarted"
            print(
                f"{what}: {line}; {found['lost']} lost, {found['twice']} answered "
                f"twice, {found['wrong']} wrong, {found['refused']} refused, scores "
                f"differ by at most {found['difference']:.1e}",
                flush=True,
            )
            is_right &= not (found["lost"] or found["twice"] or found["wrong"])
        code = server.end()
        print(f"exit code after SIGTERM: {code}")
    return 0 if is_right and code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
