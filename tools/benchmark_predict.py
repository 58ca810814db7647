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

First score: a fresh process that imports, loads the model and scores a file of 3 s,
against one that imports torch and the transformers model class and does nothing.

Rounds are interleaved, and the least of each side counts: other work on the machine
only adds. With one thread, CPU time of the process (all threads of it, decoding too)
is hardly changed by others; both it and the clock on the wall are given.

Example:

    % python tools/benchmark_predict.py
    % python tools/benchmark_predict.py --model_type wavlm --audio_seconds 120
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import numpy as np

CLASSES = {"hubert": "HubertModel", "wav2vec2": "Wav2Vec2Model", "wavlm": "WavLMModel"}
# Padded seconds of the bare upstream's batches; 0 is one utterance at a time.
BATCH_SECONDS = (0, 6, 12, 24)
SHORT_SECONDS = 3.0


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare distilmos predict with the bare upstream.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model_type", choices=CLASSES, default="hubert")
    parser.add_argument(
        "--upstream_config", default="{}", help="JSON; changes to the base size"
    )
    parser.add_argument("--head", default="distilmos")
    parser.add_argument("--audio_seconds", type=float, default=60)
    parser.add_argument(
        "--lengths", type=float, nargs=2, default=(1.0, 12.0), help="seconds"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="decoding threads")
    parser.add_argument("--output", help="JSON file for the figures")
    return parser


def make_model(folder: Path, args: argparse.Namespace) -> None:
    """Write an experiment directory with random weights."""
    import torch
    import yaml

    from espnet2_distilmos.mos.build import build_frontend, build_model

    conf = {"model_type": args.model_type, **json.loads(args.upstream_config)}
    frontend = build_frontend("hf", {"upstream_config": conf})
    config = {
        "mos_format_version": 1,
        "frontend": "hf",
        "frontend_conf": frontend.resolved_conf(),
        "head": args.head,
        "head_conf": {},
        "losses": {"mos_l1": {"weight": 1.0}},
        "token_info": None,
        "model_conf": {},
    }
    model = build_model(config, load_pretrained=True)
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def make_audio(folder: Path, args: argparse.Namespace) -> List[np.ndarray]:
    """Write noises of many lengths, in no order, and return them."""
    import soundfile

    generator = np.random.default_rng(0)
    low, high = np.log(args.lengths)
    waves: List[np.ndarray] = []
    while sum(map(len, waves)) < args.audio_seconds * 16000:
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


def measure(work: Callable[[], None]) -> Dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
    }


def least(times: Sequence[Dict[str, float]]) -> Dict[str, float]:
    return {key: min(t[key] for t in times) for key in times[0]}


def throughput(folder: Path, args: argparse.Namespace) -> Dict[str, object]:
    """Measure both sides, interleaved."""
    import torch
    import transformers

    from espnet2_distilmos.bin import predict
    from espnet2_distilmos.data.inputs import collect_inputs
    from espnet2_distilmos.predictor import MOSPredictor

    torch.set_num_threads(args.num_threads)
    (folder / "wav").mkdir()
    waves = make_audio(folder / "wav", args)
    seconds = sum(map(len, waves)) / 16000
    predictor = MOSPredictor.from_pretrained(str(folder))
    upstream = getattr(transformers, CLASSES[args.model_type])(
        predictor.model.frontend.model.config
    ).eval()

    def bare(batch_seconds: float) -> None:
        with torch.inference_mode():
            for speech, mask in bare_batches(waves, batch_seconds):
                upstream(speech, attention_mask=mask)

    def command() -> None:
        options = predict.get_parser().parse_args(
            [str(folder / "wav"), "--model", str(folder), "--jobs", str(args.jobs)]
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
    times: Dict[object, List[Dict[str, float]]] = {}
    for _ in range(args.rounds):
        for batch_seconds in BATCH_SECONDS:
            found = measure(lambda: bare(batch_seconds))
            times.setdefault(batch_seconds, []).append(found)
        times.setdefault("predict", []).append(measure(command))
    best = {key: least(found) for key, found in times.items()}
    ours = best.pop("predict")
    result: Dict[str, object] = {"audio_seconds": seconds, "files": len(waves)}
    for kind in ("cpu", "wall"):
        batch = min(best, key=lambda key: best[key][kind])
        result[kind] = {
            "predict": ours[kind],
            "upstream": best[batch][kind],
            "upstream_batch_seconds": batch,
            "ratio": best[batch][kind] / ours[kind],
            "times_real_time": seconds / ours[kind],
        }
    return result


_FIRST_SCORE = """
import resource, sys, time
start = time.perf_counter()
{body}
usage = resource.getrusage(resource.RUSAGE_SELF)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime)
"""


def first_score(folder: Path, args: argparse.Namespace) -> Dict[str, object]:
    """Time of two fresh processes, from the start of Python."""
    import soundfile

    n = int(SHORT_SECONDS * 16000)
    noise = 0.1 * np.random.default_rng(1).normal(size=n)
    soundfile.write(folder / "short.wav", noise, 16000)
    bodies = {
        "imports": f"import torch\nfrom transformers import {CLASSES[args.model_type]}",
        "first_score": "from espnet2_distilmos import MOSPredictor\n"
        f"predictor = MOSPredictor.from_pretrained({str(folder)!r})\n"
        f"next(predictor.predict_files([{str(folder / 'short.wav')!r}]))",
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.num_threads)}
    times: Dict[str, List[Dict[str, float]]] = {name: [] for name in bodies}
    for _ in range(args.rounds):
        for name, body in bodies.items():
            done = subprocess.run(
                [sys.executable, "-c", _FIRST_SCORE.format(body=body)],
                check=True,
                capture_output=True,
                text=True,
                env=environment,
            )
            wall, cpu = map(float, done.stdout.split())
            times[name].append({"wall": wall, "cpu": cpu})
    return {name: least(found) for name, found in times.items()}


def report(result: Dict[str, Dict]) -> str:
    lines = []
    throughput, first = result["throughput"], result["first_score"]
    for kind in ("cpu", "wall"):
        t = throughput[kind]
        batch = t["upstream_batch_seconds"]
        batch = f"{batch} s" if batch else "one"
        lines.append(
            f"{kind:4}: predict {t['predict']:.2f} s ({t['times_real_time']:.1f} x "
            f"real time), bare upstream {t['upstream']:.2f} s (batches of {batch}): "
            f"{100 * t['ratio']:.0f} %"
        )
        lines.append(
            f"{kind:4}: first score after {first['first_score'][kind]:.2f} s, torch "
            f"and the model class alone {first['imports'][kind]:.2f} s"
        )
    head = f"{throughput['files']} files, {throughput['audio_seconds']:.0f} s of audio"
    return "\n".join([head, *lines])


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder, args)
        result = {
            "first_score": first_score(folder, args),
            "throughput": throughput(folder, args),
        }
    print(report(result))
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
