#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Whether a GPU computes what the CPU does: scores, a training step, two processes.

A network of base size with random weights and the DistilMOS head, without dropout, on
a padded batch of noises. It is part of check_gpu.sh.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Dict, List, Optional

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmark_training import Step  # noqa: E402
from benchmark_training import get_parser as step_parser  # noqa: E402

from espnet2_distilmos.train.mos_trainer import EpochRecorder  # noqa: E402

NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout", "attention_dropout", "feat_proj_dropout", "activation_dropout"),
    0.0,
)
# Largest differences to the CPU in fp32: of a score or a loss; of the gradients,
# relative to them all. fp32 convolutions of a GPU may be TF32.
LIMITS = {"fp32": {"scores": 0.01, "loss": 0.01, "gradients": 0.02}}
LIMITS["bf16"] = {"scores": 0.1, "loss": 0.1, "gradients": 0.2}
# Reads of values of the device in a step: transformers looks once into the mask.
MOST_READS = 1


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare scores and a training step on a device with the CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--model_type", default="hubert")
    parser.add_argument(
        "--upstream_config",
        type=json.loads,
        default={},
        help="JSON; changes to the base size",
    )
    parser.add_argument(
        "--processes",
        type=int,
        help="processes that train together; by default one a GPU, up to two",
    )
    return parser


def make_step(args: argparse.Namespace, device: str) -> Step:
    """The network on a device, from one seed, and its batch."""
    config = {**NO_DROPOUT, **args.upstream_config}
    options = ["--model_type", args.model_type, "--device", device]
    options += ["--upstream_config", json.dumps(config)]
    step = Step(step_parser().parse_args(options), "distilmos")
    for module in step.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return step


def outcome(step: Step, device: str, dtype: str) -> Dict[str, torch.Tensor]:
    """Scores (B,), losses of a step and its gradients (P,), on the CPU."""
    # A step moves the statistics of batch norm.
    network, batch = copy.deepcopy(step.network), step.batch
    with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bf16"):
        network.eval()
        lengths = batch["speech_lengths"]
        scores = network.inference(batch["speech"], lengths).utt_mos
        network.train()
        result = network(**batch)
    result["loss"].backward()
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    stats = [result["stats"][name] for name in ("loss", "mos_l1", "token_ce")]
    found = {"scores": scores, "loss": torch.cat(stats)}
    found["gradients"] = torch.cat(gradients)
    return {name: value.detach().float().cpu() for name, value in found.items()}


def differences(
    expected: Dict[str, torch.Tensor], found: Dict[str, torch.Tensor]
) -> Dict[str, float]:
    """Largest differences; that of the gradients is of norms, and relative."""
    gap = {name: (found[name] - expected[name]) for name in expected}
    result = {name: float(gap[name].abs().max()) for name in ("scores", "loss")}
    norm = expected["gradients"].norm()
    result["gradients"] = float(gap["gradients"].norm() / norm)
    return result


def count_reads(step: Step) -> int:
    """How often a step waits for a GPU, from the batch's arrival to the optimizer."""
    recorder = EpochRecorder(step.network).train()
    recorder(**step.batch)["loss"].backward()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            recorder(**step.batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(step.parameters, 1.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    caught = [one for one in caught if "synchroniz" in str(one.message)]
    for one in caught:
        print(f"  waited in {one.filename}:{one.lineno}")
    return len(caught)


def train_together(
    rank: int, args: argparse.Namespace, processes: int, folder: str
) -> None:
    """One of the processes: a step; all must have the same weights then."""
    backend = "nccl" if args.device == "cuda" else "gloo"
    torch.distributed.init_process_group(
        backend, f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    device = args.device
    if device == "cuda":
        torch.cuda.set_device(rank)
    step = make_step(args, device)
    # another batch each
    step.batch["speech"] = step.batch["speech"] * (1 + rank)
    network = torch.nn.parallel.DistributedDataParallel(
        step.network, device_ids=[rank] if device == "cuda" else None
    )
    recorder = EpochRecorder(network, distributed=True).train()
    recorder(**step.batch)["loss"].backward()
    step.optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in step.parameters])
    first = weights.clone()
    torch.distributed.broadcast(first, 0)
    assert torch.equal(weights, first) and weights.isfinite().all()
    torch.distributed.destroy_process_group()


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("found no GPU, expected one: run it where there is one", file=sys.stderr)
        return 1
    good = True
    step = make_step(args, "cpu")
    expected = outcome(step, "cpu", "fp32")
    step = make_step(args, args.device)
    print("| what | scores | loss | gradients |\n|---|---:|---:|---:|")
    for dtype, limits in LIMITS.items():
        found = differences(expected, outcome(step, args.device, dtype))
        cells = " | ".join(f"{found[name]:.1e}" for name in limits)
        print(f"| {args.device}, {dtype}, difference to the CPU in fp32 | {cells} |")
        good &= all(found[name] <= limit for name, limit in limits.items())
    if args.device == "cuda":
        reads = count_reads(step)
        print(
            f"\nA step waits {reads} times for the GPU, expected {MOST_READS} at most"
        )
        good &= reads <= MOST_READS
    processes = args.processes
    if processes is None:
        processes = min(torch.cuda.device_count(), 2)
    if processes > 1:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        del step
        with tempfile.TemporaryDirectory() as folder:
            try:
                torch.multiprocessing.spawn(
                    train_together, (args, processes, folder), processes
                )
                print(f"\n{processes} processes have the same weights after a step")
            except Exception:
                traceback.print_exc()
                good = False
    else:
        print("\nProcesses that train together: not run, there is one GPU")
    print("\nAll is as on the CPU" if good else "\nSomething differs, see above")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
