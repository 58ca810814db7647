#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""Size, speed and memory of the upstreams, as ratios to WavLM-base.

Networks have their real size and random weights: neither speed nor memory depends on
the weights' values, and nothing is downloaded. What runs is the frontend as training
and inference use it: padded batches, normalised under the mask, all hidden states kept.

Every measurement has a process of its own, and rounds are interleaved. A ratio is the
median over rounds of what a network took to what WavLM-base took in the same round, so
that a machine that gets slower meanwhile favours none.

Time: seconds per second of audio, padding not counted as audio; CPU time of one thread,
or wall-clock time on a GPU. Memory: the weights and what the passes add to them at the
peak, from the resident set of the process or the allocator of the GPU. "train" is a
forward and a backward pass with the gradients of all trained weights; AdamW adds 8
bytes a weight. "padded - alone": the largest difference between the hidden states of
the utterances of the last batch in it and alone, relative to the RMS of the layer.

Example:

    % python tools/benchmark_upstreams.py --output_dir exp/upstreams
    % python tools/benchmark_upstreams.py --output_dir exp/upstreams_gpu \
        --device cuda --dtype bf16 --train_below 1e9
    % python tools/benchmark_upstreams.py --output_dir exp/adapting --families \
        wavlm-base:lora wavlm-base:gradient-checkpointing
    % python tools/benchmark_upstreams.py --output_dir exp/students --families \
        spec_cnn-s spec_cnn-m spec_cnn-l whisper-tiny:2-layers
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SAMPLE_RATE = 16000
MIB = 2**20

_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}


def _whisper(dim: int, layers: int, heads: int, mels: int = 80) -> Dict[str, Any]:
    return {
        "model_type": "whisper",
        "d_model": dim,
        "encoder_layers": layers,
        "encoder_attention_heads": heads,
        "encoder_ffn_dim": 4 * dim,
        "num_mel_bins": mels,
    }


# Configurations by the name on the hub; the rest is transformers' default, which is the
# base size of each family.
UPSTREAMS: Dict[str, Dict[str, Any]] = {
    "wavlm-base": {"model_type": "wavlm"},
    "wav2vec2-base": {"model_type": "wav2vec2"},
    "hubert-base": {"model_type": "hubert"},
    "data2vec-audio-base": {"model_type": "data2vec-audio"},
    "unispeech-sat-base": {"model_type": "unispeech-sat"},
    "whisper-tiny": _whisper(384, 4, 6),
    "whisper-base": _whisper(512, 6, 8),
    "whisper-small": _whisper(768, 12, 12),
    "xls-r-300m": {**_LARGE, "model_type": "wav2vec2", "conv_bias": True},
    "wavlm-large": {**_LARGE, "model_type": "wavlm"},
    "w2v-bert-2.0": {"model_type": "wav2vec2-bert"},
    "whisper-large-v3": _whisper(1280, 32, 20, mels=128),
}
REFERENCE = "wavlm-base"
# The reference trained in other ways, measured only when named by --families.
ADAPTED: Dict[str, Dict[str, Any]] = {
    f"{REFERENCE}:freeze-cnn": {"freeze": "cnn"},
    f"{REFERENCE}:gradient-checkpointing": {"gradient_checkpointing": True},
    f"{REFERENCE}:lora": {"lora": {"rank": 8}},
}
# What is small: frontend and frontend_conf.
STUDENTS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    **{f"spec_cnn-{size}": ("spec_cnn", {"size": size}) for size in "sml"},
    **{
        f"whisper-tiny:{n}-layers": (
            "hf",
            {"upstream_config": UPSTREAMS["whisper-tiny"], "num_layers": n},
        )
        for n in (2, 3)
    },
}
# What has a ratio to the reference, with the title of its column.
FIGURES = {
    "forward_seconds": "forward, s per s",
    "train_seconds": "train, s per s",
    "forward_mib": "forward, MiB",
    "train_mib": "train, MiB",
}


class Meter:
    """Time and peak memory of a device.

    Args:
        device: ``cpu`` or ``cuda``.
        weights: bytes of the network, which is there already.
    """

    def __init__(self, device: str, weights: int):
        self.on_gpu = device == "cuda"
        # Interpreter and libraries.
        self.others = 0 if self.on_gpu else self._resident("VmRSS") - weights

    @staticmethod
    def _resident(key: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return 1024 * int(line.split()[1])
        raise OSError(f"/proc/self/status has no {key}")

    def seconds(self) -> float:
        if not self.on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def reset(self) -> None:
        """Begin to look for the peak."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            # Linux: sets the high-water mark of the resident set to its size now.
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        """Bytes at the peak since ``reset``, the weights included."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        return self._resident("VmHWM") - self.others


def measure(
    frontend_conf: Mapping[str, Any],
    batches: Sequence[Sequence[float]],
    device: str = "cpu",
    dtype: str = "fp32",
    train_below: float = float("inf"),
    frontend: str = "hf",
) -> Dict[str, Any]:
    """Measure one network once, on the CPU in one thread.

    Args:
        frontend_conf: options of the frontend.
        batches: seconds of the utterances of each batch.
        device: ``cpu`` or ``cuda``.
        dtype: ``fp32``, or ``bf16`` for autocast (the weights stay fp32).
        train_below: networks with as many parameters or more do not train.
        frontend: its name.

    Returns:
        Properties of the network, ``padding_difference``, and ``FIGURES``; those of the
        training are None where it was not measured.
    """
    from espnet2_distilmos.mos.build import build_frontend

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    network = build_frontend(frontend, frontend_conf).to(device)
    weights = list(network.parameters())
    meter = Meter(device, sum(p.numel() * p.element_size() for p in weights))

    def noise(batch: Sequence[float]) -> List[torch.Tensor]:
        lengths = torch.tensor([round(SAMPLE_RATE * seconds) for seconds in batch])
        size = len(lengths), int(lengths.max())
        speech = 0.1 * torch.randn(size, generator=generator)
        return [speech.to(device), lengths.to(device)]

    def forward(batch: Sequence[float]) -> List[torch.Tensor]:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bf16"):
            hidden_states, _ = network(*noise(batch))
        return hidden_states

    def train(batch: Sequence[float]) -> None:
        sum(h.float().square().mean() for h in forward(batch)[1:]).backward()

    def run(name: str, step) -> Dict[str, float]:
        step(batches[-1])  # the first pass chooses kernels; it is not counted
        meter.reset()
        start = meter.seconds()
        for batch in batches:
            step(batch)
        seconds = (meter.seconds() - start) / sum(map(sum, batches))
        return {f"{name}_seconds": seconds, f"{name}_mib": meter.peak() / MIB}

    figures: Dict[str, Any] = {
        "parameters": sum(p.numel() for p in weights),
        "trained": sum(p.numel() for p in weights if p.requires_grad),
        "num_layers": network.num_layers,
        "dimension": network.output_size(),
        "frames_per_second": SAMPLE_RATE / network.frame_shift,
        "train_seconds": None,
        "train_mib": None,
    }
    network.eval()
    with torch.inference_mode():
        figures.update(run("forward", forward))
        difference = padding_difference(network, *noise(batches[-1]))
    figures["padding_difference"] = difference
    if figures["parameters"] < train_below:
        network.train()
        figures.update(run("train", train))
    return figures


def padding_difference(frontend, speech, lengths) -> float:
    """Largest difference of hidden states in a padded batch and alone.

    Args:
        frontend: an ``AbsLayerFrontend``.
        speech: (B, N) waveforms.
        lengths: valid samples, (B,).

    Returns:
        Maximum over utterances, layers, frames and dimensions, relative to the RMS of
        the layer for the utterance alone.
    """
    padded, frames = frontend(speech, lengths)
    largest = 0.0
    for i, (samples, count) in enumerate(zip(lengths.tolist(), frames.tolist())):
        alone, _ = frontend(speech[i : i + 1, :samples], lengths[i : i + 1])
        for a, b in zip(padded, alone):
            difference = (a[i, :count] - b[0]).abs().max() / b.square().mean().sqrt()
            largest = max(largest, float(difference))
    return largest


def markdown_table(rounds: Mapping[str, Sequence[Optional[Mapping[str, Any]]]]) -> str:
    """Medians over rounds; in brackets the median ratio to the reference.

    Args:
        rounds: by network its measurement of each round, or None where one failed.
    """
    titles = ["upstream", "parameters, M", "trained, M", "layers", "dimension"]
    titles += ["frames per s", *FIGURES.values(), "padded - alone"]
    lines = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    for name, measured in rounds.items():
        found = [one for one in measured if one]
        if not found:
            continue
        row = found[0]
        sizes = (row["parameters"] / 1e6, row["trained"] / 1e6)
        cells = [name, *(f"{n:.1f}" if n >= 1 else f"{n:.2f}" for n in sizes)]
        cells += [str(row["num_layers"]), str(row["dimension"])]
        cells.append(f"{row['frames_per_second']:g}")
        for figure in FIGURES:
            if row[figure] is None:
                cells.append("–")
                continue
            value = statistics.median(one[figure] for one in found)
            cell = f"{value:.3g}" if figure.endswith("seconds") else f"{value:.0f}"
            ratios = [
                mine[figure] / reference[figure]
                for mine, reference in zip(measured, rounds[REFERENCE])
                if mine and reference and reference[figure] is not None
            ]
            cells.append(
                f"{cell} ({_ratio(statistics.median(ratios))})" if ratios else cell
            )
        cells.append(f"{row['padding_difference']:.1e}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\nIn brackets: ratio to {REFERENCE}.\n"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Size, speed and memory of the upstreams, as ratios to "
        f"{REFERENCE}. Writes OUTPUT_DIR/upstreams.{{json,md}}.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--families",
        nargs="+",
        default=list(UPSTREAMS),
        choices=[*UPSTREAMS, *STUDENTS, *ADAPTED],
        metavar="NAME",
        help="what is measured besides the reference",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--batches",
        type=lambda text: [float(seconds) for seconds in text.split(",")],
        nargs="+",
        default=[[12.0, 8.0], [5.0, 3.0, 2.0]],
        help="seconds of the utterances of each batch, such as 12,8 5,3,2",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dtype", default="fp32", choices=["fp32", "bf16"], help="bf16 is autocast"
    )
    parser.add_argument(
        "--train_below",
        type=float,
        default=2e8,
        help="networks with as many parameters or more are run forward only",
    )
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys([REFERENCE, *args.families]))
    rounds: Dict[str, List[Optional[Dict[str, Any]]]] = {name: [] for name in names}
    context = multiprocessing.get_context("spawn")
    for name in tqdm(names * args.rounds, unit="measurement"):
        options = [args.batches, args.device, args.dtype, args.train_below]
        if name in STUDENTS:
            frontend, conf = STUDENTS[name]
            options.append(frontend)
        else:
            family = name.partition(":")[0]
            conf = {"upstream_config": UPSTREAMS[family], **ADAPTED.get(name, {})}
        try:
            with ProcessPoolExecutor(1, context) as process:
                rounds[name].append(process.submit(measure, conf, *options).result())
        # Also a process that was killed for want of memory; the others are measured.
        except Exception as error:
            rounds[name].append(None)
            tqdm.write(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        text = json.dumps({**vars(args), "rounds": rounds}, indent=1, default=str)
        (args.output_dir / "upstreams.json").write_text(text)
        (args.output_dir / "upstreams.md").write_text(markdown_table(rounds))
    print(markdown_table(rounds), end="")
    return 0 if all(map(all, rounds.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
