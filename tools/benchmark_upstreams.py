#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""Size, speed and memory of the upstreams, as ratios to WavLM-base.

Networks have their real size and random weights: neither speed nor memory depends on
the weights' values, and nothing is downloaded. What runs is the frontend as training
and inference use it: padded batches, normalised under the mask, all hidden states kept.

Every measurement has a process of its own, and rounds are interleaved: round 1 of all
families, then round 2. A ratio is the median over rounds of what a family took to what
the reference took in the same round, so that a machine that gets slower meanwhile does
not favour anyone.

Time: seconds per second of audio, padding not counted as audio. On the CPU with one
thread it is the process's CPU time, which other jobs on the machine hardly change; with
more threads or on a GPU it is the clock on the wall.

Memory: the weights and what the passes add to them at the peak. On the CPU from the
resident set of the process, on a GPU from the allocator. "train" is a forward and a
backward pass with the gradients of all weights; AdamW adds 8 bytes a weight.

Batches are the same for all families. They are filled longest first while count x
longest stays within --batch_seconds, and while the attention weights of 12 layers of 12
heads at 50 frames a second, as the reference has them, stay within --attention_mib in 4
bytes each: 4 x 144 x count x (50 x longest)^2. The first limit is that of the
convolutions, the second is quadratic in the length.

"padded - alone": the largest difference between the hidden states of the utterances of
the last batch in it and alone, in fp32 and relative to the RMS of the layer.

Example:

    % python tools/benchmark_upstreams.py --output_dir exp/upstreams
    % python tools/benchmark_upstreams.py --output_dir exp/upstreams_gpu \
        --device cuda --dtype bf16 --train_below 1e9
    % python tools/benchmark_upstreams.py --output_dir exp/adapting --families \
        wavlm-base wavlm-base:lora wavlm-base:gradient-checkpointing
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

FORMAT_VERSION = 2
SAMPLE_RATE = 16000
# What the rule for batches takes for granted of a network.
RULE_HEADS = 12 * 12
RULE_FRAMES_PER_SECOND = 50
MIB = 2**20

_LARGE = dict(
    hidden_size=1024,
    num_hidden_layers=24,
    num_attention_heads=16,
    intermediate_size=4096,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
)


def _whisper(dim: int, layers: int, heads: int, mels: int = 80) -> Dict[str, Any]:
    return dict(
        model_type="whisper",
        d_model=dim,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * dim,
        num_mel_bins=mels,
    )


class Upstream(NamedTuple):
    """A network of the hub: its name there, and its configuration.

    What the configuration does not say is transformers' default, which is the base
    size of each family.
    """

    hub_id: str
    config: Dict[str, Any]
    # Other options of the frontend: how it is trained.
    frontend_conf: Mapping[str, Any] = MappingProxyType({})


UPSTREAMS = {
    "wavlm-base": Upstream("microsoft/wavlm-base", dict(model_type="wavlm")),
    "wav2vec2-base": Upstream("facebook/wav2vec2-base", dict(model_type="wav2vec2")),
    "hubert-base": Upstream("facebook/hubert-base-ls960", dict(model_type="hubert")),
    "data2vec-audio-base": Upstream(
        "facebook/data2vec-audio-base", dict(model_type="data2vec-audio")
    ),
    "unispeech-sat-base": Upstream(
        "microsoft/unispeech-sat-base", dict(model_type="unispeech-sat")
    ),
    "whisper-tiny": Upstream("openai/whisper-tiny", _whisper(384, 4, 6)),
    "whisper-base": Upstream("openai/whisper-base", _whisper(512, 6, 8)),
    "whisper-small": Upstream("openai/whisper-small", _whisper(768, 12, 12)),
    "xls-r-300m": Upstream(
        "facebook/wav2vec2-xls-r-300m",
        dict(_LARGE, model_type="wav2vec2", conv_bias=True),
    ),
    "wavlm-large": Upstream("microsoft/wavlm-large", dict(_LARGE, model_type="wavlm")),
    "w2v-bert-2.0": Upstream("facebook/w2v-bert-2.0", dict(model_type="wav2vec2-bert")),
    "whisper-large-v3": Upstream(
        "openai/whisper-large-v3", _whisper(1280, 32, 20, mels=128)
    ),
}
REFERENCE = "wavlm-base"
# The reference, trained in other ways; measured when named by --families.
ADAPTED = {
    f"{REFERENCE}:{way}": UPSTREAMS[REFERENCE]._replace(frontend_conf=conf)
    for way, conf in {
        "freeze-cnn": {"freeze": "cnn"},
        "gradient-checkpointing": {"gradient_checkpointing": True},
        "lora": {"lora": {"rank": 8}},
        "lora,gradient-checkpointing": {
            "lora": {"rank": 8},
            "gradient_checkpointing": True,
        },
    }.items()
}
CHOICES = {**UPSTREAMS, **ADAPTED}
# Measured figures that have a ratio to the reference, with their column's title.
FIGURES = {
    "forward_seconds": "forward, s per s",
    "train_seconds": "train, s per s",
    "forward_mib": "forward, MiB",
    "train_mib": "train, MiB",
}


class BenchmarkError(ValueError):
    """One sentence for the user."""


def plan_batches(
    lengths: Sequence[float], batch_seconds: float, attention_mib: float
) -> List[List[float]]:
    """Divide utterances into padded batches.

    Args:
        lengths: seconds of each utterance.
        batch_seconds: limit on count x longest.
        attention_mib: limit on 4 x 144 x count x (50 x longest)^2 bytes.

    Returns:
        Batches of lengths, longest first. An utterance that exceeds a limit alone is
        a batch of its own.
    """
    batches: List[List[float]] = []
    for seconds in sorted(lengths, reverse=True):
        if batches:
            longest, count = batches[-1][0], len(batches[-1]) + 1
            frames = RULE_FRAMES_PER_SECOND * longest
            attention = 4 * RULE_HEADS * count * frames**2
            if count * longest <= batch_seconds and attention <= attention_mib * MIB:
                batches[-1].append(seconds)
                continue
        batches.append([seconds])
    return batches


def summarise(
    rounds: Mapping[str, Sequence[Mapping[str, Any]]], reference: str
) -> Dict[str, Dict[str, Any]]:
    """Medians over rounds, and the median ratio to the reference.

    Args:
        rounds: measurements of each family by round, as :func:`measure` returns them;
            ``{}`` where one failed.
        reference: the family that ratios are to.

    Returns:
        For each family with a measurement its constants, ``FIGURES`` as medians
        (None where not measured), and ``<figure>_ratio`` as the median over those
        rounds in which both were measured (None where there is none).
    """
    summary = {}
    for family, measured in rounds.items():
        found = [one for one in measured if one]
        if not found:
            continue
        row = {k: v for k, v in found[0].items() if k not in FIGURES}
        row["rounds"] = len(found)
        for figure in FIGURES:
            values = [m[figure] for m in found if m[figure] is not None]
            row[figure] = statistics.median(values) if values else None
            pairs = zip(measured, rounds.get(reference, ()))
            ratios = [
                mine[figure] / theirs[figure]
                for mine, theirs in pairs
                if mine.get(figure) and theirs.get(figure)
            ]
            row[f"{figure}_ratio"] = statistics.median(ratios) if ratios else None
        summary[family] = row
    return summary


def markdown_table(summary: Mapping[str, Mapping[str, Any]], reference: str) -> str:
    """The summary as a Markdown table; ratios to the reference in brackets."""
    titles = ["upstream", "parameters, M", "trained, M", "layers", "dimension"]
    titles += ["frames per s", *FIGURES.values(), "padded - alone"]
    lines = [
        "| " + " | ".join(titles) + " |",
        "|---|" + "---:|" * (len(titles) - 1),
    ]
    for family, row in summary.items():
        cells = [
            family,
            f"{row['parameters'] / 1e6:.1f}",
            f"{row['trained'] / 1e6:.1f}",
            str(row["num_layers"]),
            str(row["dimension"]),
            f"{row['frames_per_second']:g}",
        ]
        for figure in FIGURES:
            value, ratio = row[figure], row[f"{figure}_ratio"]
            if value is None:
                cells.append("–")
                continue
            cell = f"{value:.3g}" if figure.endswith("seconds") else f"{value:.0f}"
            cells.append(cell if ratio is None else f"{cell} ({ratio:.2f})")
        cells.append(f"{row['padding_difference']:.1e}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\nIn brackets: ratio to {reference}.\n"


# Measuring, in a process of its own


class _Clock:
    """CPU time for one thread on the CPU, the clock on the wall otherwise."""

    def __init__(self, device: str, threads: int):
        self.device = device
        self.now = (
            time.process_time if device == "cpu" and threads == 1 else time.perf_counter
        )

    def __call__(self) -> float:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return self.now()


def _proc_status(key: str) -> int:
    """Bytes that /proc/self/status says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {key}")


class _PeakMemory:
    """Bytes at the peak since :meth:`reset`, the weights included.

    Args:
        device: ``cpu`` or ``cuda``.
        weights: bytes of the network, which is there already.
    """

    def __init__(self, device: str, weights: int):
        self.device = device
        # Interpreter and libraries.
        self.others = 0 if device == "cuda" else _proc_status("VmRSS") - weights

    def reset(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            # Linux: sets the high-water mark of the resident set to its size now.
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> int:
        if self.device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated()
        return _proc_status("VmHWM") - self.others


def measure(
    config: Mapping[str, Any],
    batches: Sequence[Sequence[float]],
    device: str = "cpu",
    dtype: str = "fp32",
    threads: int = 1,
    train_below: float = float("inf"),
    frontend_conf: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Any]:
    """Measure one network with random weights, once.

    Args:
        config: ``upstream_config`` of the frontend ``hf``.
        batches: lengths in seconds of the utterances of each batch, longest first.
        device: ``cpu`` or ``cuda``.
        dtype: ``fp32``, or ``bf16`` for autocast (the weights stay fp32).
        threads: CPU threads.
        train_below: networks with as many parameters or more do not train.
        frontend_conf: other options of the frontend.

    Returns:
        ``parameters``, ``trained`` (how many of them), ``num_layers``, ``dimension``,
        ``frames_per_second``, ``padding_difference`` and ``FIGURES``; those of the
        training are None where it was not measured.
    """
    import torch

    from espnet2_distilmos.mos.build import build_frontend

    torch.set_num_threads(threads)
    conf = {"upstream_config": dict(config), **(frontend_conf or {})}
    frontend = build_frontend("hf", conf).to(device)
    parameters = sum(p.numel() for p in frontend.parameters())
    weights = sum(p.numel() * p.element_size() for p in frontend.parameters())
    memory = _PeakMemory(device, weights)
    clock = _Clock(device, threads)
    generator = torch.Generator().manual_seed(0)

    def noise(batch: Sequence[float]) -> Tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.tensor([round(SAMPLE_RATE * seconds) for seconds in batch])
        size = len(lengths), int(lengths.max())
        speech = 0.1 * torch.randn(size, generator=generator)
        return speech.to(device), lengths.to(device)

    def forward(batch: Sequence[float]) -> List[torch.Tensor]:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bf16"):
            hidden_states, _ = frontend(*noise(batch))
        return hidden_states

    def train(batch: Sequence[float]) -> None:
        hidden_states = forward(batch)
        sum(h.float().square().mean() for h in hidden_states[1:]).backward()

    def run(step) -> Dict[str, float]:
        # The first pass chooses kernels; it is not counted.
        step(batches[-1])
        memory.reset()
        start = clock()
        for batch in batches:
            step(batch)
        seconds = (clock() - start) / sum(map(sum, batches))
        return dict(seconds=seconds, mib=memory.peak() / MIB)

    frontend.eval()
    with torch.inference_mode():
        forward_figures = run(forward)
        difference = padding_difference(frontend, *noise(batches[-1]))
    train_figures: Dict[str, Optional[float]] = dict(seconds=None, mib=None)
    if parameters < train_below:
        frontend.train()
        train_figures.update(run(train))
    return dict(
        parameters=parameters,
        trained=sum(p.numel() for p in frontend.parameters() if p.requires_grad),
        num_layers=frontend.num_layers,
        dimension=frontend.output_size(),
        frames_per_second=SAMPLE_RATE / frontend.frame_shift,
        padding_difference=difference,
        forward_seconds=forward_figures["seconds"],
        train_seconds=train_figures["seconds"],
        forward_mib=forward_figures["mib"],
        train_mib=train_figures["mib"],
    )


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


def measure_apart(family: str, settings: Mapping[str, Any]) -> Dict[str, Any]:
    """:func:`measure` in a fresh process.

    Raises:
        BenchmarkError: the process failed.
    """
    environment = dict(os.environ, OMP_NUM_THREADS=str(settings["threads"]))
    command = [sys.executable, os.path.abspath(__file__), "--measure", family]
    process = subprocess.run(
        command,
        input=json.dumps(settings),
        env=environment,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no message"]
        reason = lines[-1]
        if process.returncode < 0:
            reason = f"ended by signal {-process.returncode}, for want of memory?"
        raise BenchmarkError(
            f"{family}: found no measurement ({reason}), expected one; run the command "
            "again, what is measured is kept."
        )
    return json.loads(process.stdout.splitlines()[-1])


def _measure_here(family: str, settings: Mapping[str, Any]) -> None:
    if settings["device"] == "cpu":
        # The libraries first: they map gigabytes that they do not use.
        import transformers  # noqa: F401

        import espnet2_distilmos.mos.build  # noqa: F401

        limit = _proc_status("VmData") + int(settings["memory_gib"] * 2**30)
        # Too large a network then fails instead of taking the machine down.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    batches = plan_batches(
        settings["lengths"], settings["batch_seconds"], settings["attention_mib"]
    )
    names = ("device", "dtype", "threads", "train_below")
    options = {name: settings[name] for name in names}
    upstream = CHOICES[family]
    options["frontend_conf"] = upstream.frontend_conf
    print(json.dumps(measure(upstream.config, batches, **options)))


# The whole


def read_rounds(path: Path, settings: Mapping[str, Any]) -> Dict[str, List[dict]]:
    """Measurements of an earlier run with the same settings; {} without one.

    Raises:
        BenchmarkError: the file is of a run with other settings, or no such file.
    """
    if not path.exists():
        return {}
    try:
        contents = json.loads(path.read_text())
        found = contents["format_version"], contents["settings"]
        rounds = contents["rounds"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise BenchmarkError(
            f"{path}: found no measurements ({type(error).__name__}), expected those "
            "of an earlier run; remove the file."
        ) from error
    if found != (FORMAT_VERSION, dict(settings)):
        raise BenchmarkError(
            f"{path}: found measurements with other settings ({found[1]}), expected "
            f"{dict(settings)}; choose another --output_dir or remove the file."
        )
    return rounds


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path to write to, which then becomes ``path``."""
    temporary = path.with_name(f".{path.name}")
    yield temporary
    os.replace(temporary, path)


def run(args: argparse.Namespace, measurer=measure_apart) -> int:
    """Measure what is missing, and write the results after each measurement.

    Returns:
        0, or 1 when a family failed.

    Raises:
        BenchmarkError, OSError: the output cannot be used.
    """
    names = ("device", "dtype", "threads", "lengths", "batch_seconds")
    names += ("attention_mib", "train_below", "memory_gib")
    settings = {name: getattr(args, name) for name in names}
    output = Path(args.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "upstreams.json"
    rounds = read_rounds(path, settings)
    families = [args.reference] + [f for f in args.families if f != args.reference]
    for family in families:
        rounds.setdefault(family, [])
        rounds[family] += [{}] * (args.rounds - len(rounds[family]))

    def save() -> str:
        summary = summarise(rounds, args.reference)
        contents = dict(
            format_version=FORMAT_VERSION,
            settings=settings,
            reference=args.reference,
            machine=_machine(args.device),
            batches=plan_batches(args.lengths, args.batch_seconds, args.attention_mib),
            summary=summary,
            rounds=rounds,
        )
        with _beside(path) as temporary:
            temporary.write_text(json.dumps(contents, indent=1) + "\n")
        table = markdown_table(summary, args.reference)
        with _beside(output / "upstreams.md") as temporary:
            temporary.write_text(table)
        return table

    todo = [
        (number, family)
        for number in range(args.rounds)
        for family in families
        if not rounds[family][number]
    ]
    failures: Dict[str, str] = {}
    start = time.monotonic()
    for count, (number, family) in enumerate(todo, 1):
        if family in failures:
            continue
        where = f"[{count}/{len(todo)}] round {number + 1}, {family}"
        print(f"{where} ...", file=sys.stderr, flush=True)
        try:
            rounds[family][number] = measurer(family, settings)
        except BenchmarkError as error:
            failures[family] = str(error)
            print(error, file=sys.stderr, flush=True)
            continue
        save()
        figures = rounds[family][number]
        print(
            f"{where}: forward {figures['forward_seconds']:.3g} s per s, "
            f"{time.monotonic() - start:.0f} s since the start",
            file=sys.stderr,
            flush=True,
        )
    print(save(), end="")
    for sentence in failures.values():
        print(sentence, file=sys.stderr)
    return 1 if failures else 0


def _machine(device: str) -> Dict[str, str]:
    import torch
    import transformers

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
    if device == "cuda":
        name = torch.cuda.get_device_name()
    return dict(
        device=name, torch=torch.__version__, transformers=transformers.__version__
    )


def get_parser() -> argparse.ArgumentParser:
    """Parser of the command."""
    parser = argparse.ArgumentParser(
        description="Size, speed and memory of the upstreams, as ratios to one of "
        "them. Writes OUTPUT_DIR/upstreams.{json,md}; a run that was stopped goes on.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output_dir", help="where the results go")
    parser.add_argument(
        "--families",
        nargs="+",
        default=list(UPSTREAMS),
        choices=list(CHOICES),
        metavar="NAME",
        help="what is measured besides the reference",
    )
    parser.add_argument("--reference", default=REFERENCE, choices=list(UPSTREAMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--lengths",
        type=float,
        nargs="+",
        default=[12.0, 8.0, 5.0, 3.0, 2.0],
        help="seconds of each utterance",
    )
    parser.add_argument(
        "--batch_seconds", type=float, default=30.0, help="padded seconds of a batch"
    )
    parser.add_argument(
        "--attention_mib",
        type=float,
        default=512.0,
        help="attention weights of a batch, in 12 layers of 12 heads",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
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
    parser.add_argument(
        "--memory_gib", type=float, default=8.0, help="limit of a process on the CPU"
    )
    parser.add_argument("--measure", choices=list(CHOICES), help=argparse.SUPPRESS)
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> int:
    """Command line."""
    args = get_parser().parse_args(cmd)
    if args.measure:
        _measure_here(args.measure, json.load(sys.stdin))
        return 0
    try:
        if not args.output_dir:
            raise BenchmarkError("--output_dir is missing; name a directory.")
        if min(args.rounds, args.threads) < 1 or min(args.lengths) <= 0:
            raise BenchmarkError(
                f"found --rounds {args.rounds} --threads {args.threads} --lengths "
                f"{args.lengths}, expected numbers above 0."
            )
        if args.device == "cuda":
            import torch

            if not torch.cuda.is_available():
                raise BenchmarkError(
                    "found no CUDA device, expected one; use --device cpu."
                )
        return run(args)
    except (BenchmarkError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
