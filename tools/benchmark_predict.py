#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""What `distilmos predict` costs beyond the upstream: throughput, and the first score.

Throughput: files of many lengths (16 kHz WAV, log-uniform between two durations) are
scored by the command's own code, from the reading of headers to the written table,
and the same audio, already in memory, goes through the bare network of transformers
in ideal batches: of each batch size on a list, the one that is fastest here. Loading
the model counts on neither side. The network has base size and random weights, which
change nothing about the time.

First score: a fresh process of each checkout that imports, loads the model and scores a
file of 3 s, and where its time goes: imports, loading, that score, the same once more
(what the network takes), the fingerprint. What is left of loading and the first score
without the second is the start's own.

Times are CPU seconds of the process (all threads of it, decoding too), with one thread
for torch: other work on the machine hardly changes them. Rounds are interleaved. Of the
throughput the least of each side counts; of the first score medians are shown, and
ranges.

Example:

    % OMP_NUM_THREADS=1 python tools/benchmark_predict.py
    % OMP_NUM_THREADS=1 python tools/benchmark_predict.py --model_type wavlm
    % git worktree add ../before main~10
    % OMP_NUM_THREADS=1 python tools/benchmark_predict.py . ../before \
          --audio_seconds 0 --rounds 5
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CLASSES = {"hubert": "HubertModel", "wav2vec2": "Wav2Vec2Model", "wavlm": "WavLMModel"}
# Padded seconds of the bare upstream's batches; 0 is one utterance at a time.
BATCH_SECONDS = (0, 6, 12, 24)
# What a fresh process does; it prints its clocks, CPU and wall, after each part.
PARTS = ("imports", "loading", "first", "again", "fingerprint")
START = """
import json, time
clocks = [(time.process_time(), time.perf_counter())]
def tick():
    clocks.append((time.process_time(), time.perf_counter()))
import torch
from transformers import {model_class}
from espnet2_distilmos.predictor import MOSPredictor
tick()
predictor = MOSPredictor.from_pretrained({folder!r})
tick()
next(predictor.predict_files([{path!r}]))
tick()
next(predictor.predict_files([{path!r}]))
tick()
predictor.fingerprint
tick()
print(json.dumps(clocks))
"""


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare distilmos predict with the bare upstream.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "checkouts",
        nargs="*",
        default=[str(ROOT)],
        help="roots of the package, for the first score",
    )
    parser.add_argument("--model_type", choices=CLASSES, default="hubert")
    parser.add_argument(
        "--upstream_config",
        type=json.loads,
        default={},
        help="JSON; changes to the base size",
    )
    text = "of the throughput; 0 for the first score alone"
    parser.add_argument("--audio_seconds", type=float, default=60, help=text)
    parser.add_argument(
        "--lengths", type=float, nargs=2, default=(1.0, 12.0), help="seconds"
    )
    parser.add_argument("--rounds", type=int, default=2)
    text = "of predict; the bare upstream computes in fp32"
    parser.add_argument("--precision", default="fp32", help=text)
    return parser


def make_model(folder: Path, upstream_config: Dict[str, Any]) -> None:
    """Write an experiment directory with random weights."""
    import torch
    import yaml

    from espnet2_distilmos.mos.build import build_frontend, build_model

    frontend = build_frontend("hf", {"upstream_config": upstream_config})
    config = {
        "mos_format_version": 1,
        "frontend": "hf",
        "frontend_conf": frontend.resolved_conf(),
        "head": "distilmos",
        "head_conf": {},
        "losses": {"mos_l1": {"weight": 1.0}},
        "token_info": None,
        "model_conf": {},
    }
    model = build_model(config, load_pretrained=True)
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def make_audio(
    folder: Path, audio_seconds: float, lengths: Sequence[float]
) -> List[np.ndarray]:
    """Write noises of many lengths, in no order, and return them."""
    import soundfile

    folder.mkdir()
    generator = np.random.default_rng(0)
    low, high = np.log(lengths)
    waves: List[np.ndarray] = []
    while sum(map(len, waves)) < audio_seconds * 16000:
        n = int(16000 * np.exp(generator.uniform(low, high)))
        wave = (0.1 * generator.normal(size=n)).clip(-1, 1)
        soundfile.write(folder / f"{len(waves):05d}.wav", wave, 16000)
        waves.append(wave.astype(np.float32))
    return waves


def bare_batches(waves: Sequence[np.ndarray], batch_seconds: float):
    """Sorted by length, padded; the masks that say what is padding."""
    import torch

    waves = sorted(waves, key=len, reverse=True)
    while waves:
        count = max(int(batch_seconds * 16000 // len(waves[0])), 1)
        chosen, waves = waves[:count], waves[count:]
        speech = torch.zeros(len(chosen), len(chosen[0]))
        mask = torch.zeros(len(chosen), len(chosen[0]), dtype=torch.long)
        for row, valid, wave in zip(speech, mask, chosen):
            row[: len(wave)] = torch.from_numpy(wave)
            valid[: len(wave)] = 1
        # No mask where nothing is padded: that is faster.
        yield speech, None if bool(mask.all()) else mask


def cpu_seconds(work: Callable[[], None]) -> float:
    """Return the CPU seconds of this process that ``work`` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def throughput(
    folder: Path, waves: List[np.ndarray], rounds: int, precision: str = "fp32"
) -> Dict[Any, float]:
    """Measure ``predict`` on ``folder``/wav, and the bare upstream on ``waves``.

    Returns:
        CPU seconds of "predict", and of the bare upstream by seconds of its batches.
    """
    import torch
    import transformers

    from espnet2_distilmos.bin import predict
    from espnet2_distilmos.data.inputs import collect_inputs
    from espnet2_distilmos.predictor import MOSPredictor

    torch.set_num_threads(1)
    predictor = MOSPredictor.from_pretrained(str(folder), precision=precision)
    upstream_config = predictor.model.frontend.model.config
    upstream = getattr(transformers, CLASSES[upstream_config.model_type])
    upstream = upstream(upstream_config).eval()

    def bare(batch_seconds: float) -> None:
        with torch.inference_mode():
            for speech, mask in bare_batches(waves, batch_seconds):
                upstream(speech, attention_mask=mask)

    def command() -> None:
        options = predict.get_parser().parse_args(
            [str(folder / "wav"), "--model", str(folder)]
            + ["--output", str(folder / "scores.csv")]
        )
        items = collect_inputs(options.inputs)
        nobody = [None] * len(items)
        records = predict.predict_to_file(predictor, items, options, nobody)
        if any(record.score is None for record in records):
            raise RuntimeError(f"found no score: {records[0].error}")

    # What is done once (memory of the allocator, kernels chosen by size).
    with torch.inference_mode():
        upstream(torch.zeros(1, 32000))
    predictor(np.zeros(32000), 16000)
    times = defaultdict(list)
    for _ in range(rounds):
        for batch_seconds in BATCH_SECONDS:
            times[batch_seconds].append(cpu_seconds(lambda: bare(batch_seconds)))
        times["predict"].append(cpu_seconds(command))
    return {key: min(found) for key, found in times.items()}


def first_score(
    folder: Path, model_class: str, checkouts: Sequence[str], rounds: int
) -> Dict[str, np.ndarray]:
    """Time fresh processes, which take turns.

    Returns:
        Seconds of each checkout's parts, (rounds, len(PARTS), 2), CPU and wall; what
        comes before the first clock counts as import.
    """
    import soundfile

    path = str(folder / "short.wav")
    soundfile.write(path, 0.1 * np.random.default_rng(1).normal(size=48000), 16000)
    code = START.format(model_class=model_class, folder=str(folder), path=path)
    times = defaultdict(list)
    for _ in range(rounds):
        for checkout in checkouts:
            paths = [os.path.abspath(checkout), *sys.path]
            output = subprocess.check_output(
                [sys.executable, "-c", code],
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
            clocks = np.array(json.loads(output))
            parts = np.diff(clocks, axis=0)
            parts[0, 0] += clocks[0, 0]
            times[checkout].append(parts)
    return {checkout: np.array(found) for checkout, found in times.items()}


def print_first_score(times: Dict[str, np.ndarray]) -> None:
    """Print a table, a checkout a row."""
    columns = ["first score", "range", *PARTS, "start's own", "range", "wall"]
    print(f"\n| checkout | {' | '.join(columns)} |")
    print(f"|---|{'---:|' * len(columns)}")
    for checkout, parts in times.items():
        total = parts[:, :3].sum(axis=1)
        own = parts[:, 1] + parts[:, 2] - parts[:, 3]
        cells = []
        for values in (total[:, 0], *parts[:, :, 0].T, own[:, 0], total[:, 1]):
            cells.append(f"{np.median(values):.2f}")
        for place, values in ((1, total[:, 0]), (-1, own[:, 0])):
            cells.insert(place, f"{values.min():.2f}–{values.max():.2f}")
        print(f"| {checkout} | {' | '.join(cells)} |")


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    upstream_config = {"model_type": args.model_type, **args.upstream_config}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, upstream_config)
        first = first_score(
            folder, CLASSES[args.model_type], args.checkouts, args.rounds
        )
        if args.audio_seconds > 0:
            waves = make_audio(folder / "wav", args.audio_seconds, args.lengths)
            times = throughput(folder, waves, args.rounds, args.precision)
            seconds = sum(map(len, waves)) / 16000
            predict = times.pop("predict")
            best = min(times, key=times.__getitem__)
            print(
                f"{len(waves)} files, {seconds:.0f} s of audio; CPU seconds\n"
                f"predict {predict:.3g} ({seconds / predict:.1f} x real time), bare "
                f"upstream {times[best]:.3g} ({best} s a batch): "
                f"{100 * times[best] / predict:.0f} %"
            )
    print_first_score(first)
    return 0


if __name__ == "__main__":
    sys.exit(main())
