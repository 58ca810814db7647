#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""What a training step costs beyond its upstream: forward and backward pass.

A padded batch of noises goes through the bare network of transformers, which gives the
mean of its last hidden state, and through the model of each checkout, with the losses
on labels and, for DistilMOS, on tokens of all layers. The network has base size and
random weights, which change nothing about the time, and trains as a whole. Processes
take turns within a round: a change of the machine's pace meets all alike.

`--rival sheet` adds SHEET's own SSL-MOS (package `sheet-sqa`): the same network through
s3prl, its head and its clipped loss on every frame, and its trainer's step, which reads
the loss and clips gradients.

On the CPU seconds are of the process (all of its threads) and memory is what the
resident set grew by at its peak; on a GPU they are seconds until the device is idle,
and of the allocator. "With step" has the optimizer's step and clipping, too; utterances
a second are of that.

Example:

    % OMP_NUM_THREADS=1 python tools/benchmark_training.py
    % git worktree add ../before main~10
    % OMP_NUM_THREADS=1 python tools/benchmark_training.py . ../before --rounds 5
    % pip install --target /tmp/sheet --no-deps sheet-sqa
    % PYTHONPATH=/tmp/sheet python tools/benchmark_training.py --rival sheet
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BARE, SHEET = "bare upstream", "sheet"
FIGURES = ("pass", "wall", "mib", "step")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Compare a training step with the bare upstream.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "checkouts", nargs="*", default=[str(ROOT)], help="roots of the package"
    )
    parser.add_argument("--model_type", default="hubert")
    parser.add_argument(
        "--upstream_config",
        type=json.loads,
        default={},
        help="JSON; changes to the base size",
    )
    parser.add_argument("--heads", nargs="+", default=["ssl_mos", "distilmos"])
    parser.add_argument(
        "--seconds",
        type=float,
        nargs="+",
        default=[4.0, 3.7, 3.4, 3.1],
        help="of the utterances of the batch",
    )
    parser.add_argument("--clusters", type=int, default=200, help="of the tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dtype", default="fp32", choices=["fp32", "bf16"], help="bf16 is autocast"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    text = "what else is measured; needs the package sheet-sqa on PYTHONPATH"
    parser.add_argument("--rival", choices=[SHEET], help=text)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


class Step:
    """A network, its optimizer and its batch.

    Args:
        args: of the tool.
        what: a head, ``BARE`` or ``SHEET``.

    Raises:
        RuntimeError: SHEET is not there, or does not take the network.
    """

    def __init__(self, args: argparse.Namespace, what: str):
        import torch

        from espnet2_distilmos.mos.build import build_frontend, build_model

        self.torch, self.args = torch, args
        torch.manual_seed(0)
        conf = {"upstream_config": {"model_type": args.model_type}}
        conf["upstream_config"].update(args.upstream_config)
        frontend = build_frontend("hf", conf)
        generator = torch.Generator().manual_seed(0)
        lengths = torch.tensor([round(16000 * n) for n in args.seconds])
        valid = torch.arange(int(lengths.max())) < lengths[:, None]
        noise = 0.1 * torch.randn(valid.shape, generator=generator)
        batch: Dict[str, Any] = {"speech": noise * valid}
        if what == BARE:
            from transformers import AutoModel

            config = frontend.model.config
            config.mask_time_prob = config.mask_feature_prob = 0.0
            self.network = AutoModel.from_config(config, dtype=torch.float32)
            batch["mask"] = valid.long()
            self.loss: Callable = self._bare
        elif what == SHEET:
            self.network, self.loss = _sheet(frontend.model)
            batch["speech_lengths"] = lengths
            batch["mos"] = 1 + 4 * torch.rand(len(lengths), generator=generator)
        else:
            layers, clusters = range(1, frontend.num_layers + 1), args.clusters
            columns = [{"stream": "x", "layer": i, "K": clusters} for i in layers]
            losses = {"mos_l1": {"weight": 1.0}}
            if what == "distilmos":
                losses["token_ce"] = {"weight": 0.1}
            config = {
                "frontend": "hf",
                "frontend_conf": frontend.resolved_conf(),
                "head": what,
                "head_conf": {},
                "losses": losses,
                "token_info": {"format_version": 1, "columns": columns},
                "model_conf": {},
            }
            self.network = build_model(config, load_pretrained=True)
            batch["speech_lengths"] = lengths
            numbers = {
                "num_samples": lengths.tolist(),
                "utt_id": list(map(str, lengths)),
            }
            batch["mos"] = 1 + 4 * torch.rand(len(lengths), generator=generator)
            size = len(lengths), frontend.num_frames(int(lengths.max())), len(columns)
            batch["tokens"] = torch.randint(clusters, size, generator=generator)
            self.loss = lambda network, **batch: network(**batch)["loss"]
        self.batch = {name: value.to(args.device) for name, value in batch.items()}
        if what not in (BARE, SHEET):
            # as the trainer gives them
            self.batch.update(numbers)
        self.network.to(args.device).train()
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5)
        self.called = torch.compile(self.network) if args.compile else self.network

    @staticmethod
    def _bare(network, speech, mask):
        return network(speech, attention_mask=mask).last_hidden_state.mean()

    def _seconds(self) -> float:
        if self.args.device == "cpu":
            return time.process_time()
        self.torch.cuda.synchronize()
        return time.perf_counter()

    def _memory(self, peak: bool) -> int:
        if self.args.device == "cuda":
            cuda = self.torch.cuda
            return cuda.max_memory_allocated() if peak else cuda.memory_allocated()
        key = "VmHWM:" if peak else "VmRSS:"
        status = Path("/proc/self/status").read_text().split()
        return 1024 * int(status[status.index(key) + 1])

    def run(self) -> Dict[str, float]:
        """Seconds and MiB of one step."""
        torch, device = self.torch, self.args.device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:  # Linux: sets the high-water mark of the resident set to its size now
            Path("/proc/self/clear_refs").write_text("5")
        before = self._memory(peak=False)
        start, wall = self._seconds(), time.perf_counter()
        use_bf16 = self.args.dtype == "bf16"
        with torch.autocast(device, dtype=torch.bfloat16, enabled=use_bf16):
            loss = self.loss(self.called, **self.batch)
        loss.backward()
        end, wall = self._seconds(), time.perf_counter() - wall
        mib = (self._memory(peak=True) - before) / 2**20
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        step = self._seconds() - start
        return {"pass": end - start, "wall": wall, "mib": mib, "step": step}


def _sheet(network):
    """SHEET's SSL-MOS with the upstream ``network``, and its loss of a batch.

    Raises:
        RuntimeError: as :class:`Step`.
    """
    from unittest import mock

    import s3prl.nn
    from transformers import Wav2Vec2FeatureExtractor

    try:
        from sheet.losses import ScalarLoss
        from sheet.models.sslmos import SSLMOS
    except ImportError as error:
        raise RuntimeError(
            f"--rival sheet: found no SHEET ({error}), expected it on PYTHONPATH: pip "
            "install --target DIR --no-deps sheet-sqa, and PYTHONPATH=DIR"
        ) from error
    config = network.config
    if config.model_type not in ("hubert", "wav2vec2"):
        raise RuntimeError(
            f"--rival sheet: found {config.model_type}, expected hubert or wav2vec2, "
            "which s3prl takes from a folder"
        )
    entry = f"hf_{config.model_type}_custom"
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)

        # SHEET knows names of s3prl, which would be downloaded, and no folder.
        class Local(s3prl.nn.S3PRLUpstream):
            def __init__(self, name):
                super().__init__(name, path_or_url=folder)

        with mock.patch.object(s3prl.nn, "S3PRLUpstream", Local):
            model = SSLMOS("waveform", "s3prl", entry, config.hidden_size)
    # As in its recipes; without masks, so that all frames of a batch count.
    criterion = ScalarLoss(tau=0.5)

    def loss(network, speech, speech_lengths, mos):
        # Its trainer's step: outputs, loss, and the loss read for the log.
        found = network({"waveform": speech, "waveform_lengths": speech_lengths})
        value = criterion(found["mean_scores"], mos, speech.device)
        value.item()
        return value

    return model, loss


def work(args: argparse.Namespace) -> None:
    """Take a step for each line of the standard input."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    # what libraries print is not to be among the answers
    answers, sys.stdout = sys.stdout, sys.stderr
    step = Step(args, args.worker)
    step.run()
    for _ in sys.stdin:
        print(json.dumps(step.run()), file=answers, flush=True)


def start(checkout: str, what: str, options: Sequence[str]) -> subprocess.Popen:
    """Start a process that takes steps of ``what`` with a checkout's package."""
    # not that of the folder above the tool
    command = [sys.executable, __file__, *options, "--worker", what]
    path = os.path.abspath(checkout)
    if what == SHEET:
        path = os.pathsep.join([path, *sys.path[1:]])
    environment = {**os.environ, "PYTHONPATH": path}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env=environment
    )


def measure(
    processes: Sequence[subprocess.Popen], rounds: int
) -> List[List[Dict[str, float]]]:
    """Steps of each process, in turns: for each process a list over rounds."""
    found: List[List[Dict[str, float]]] = [[] for _ in processes]
    for _ in range(rounds):
        for process, steps in zip(processes, found):
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"{' '.join(process.args)} failed; see above")
            steps.append(json.loads(line))
    return found


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    if args.worker:
        work(args)
        return 0
    options = ["--model_type", args.model_type, "--clusters", str(args.clusters)]
    options += ["--upstream_config", json.dumps(args.upstream_config)]
    options += ["--device", args.device, "--dtype", args.dtype]
    options += ["--compile"] * args.compile
    options += ["--seconds", *map(str, args.seconds)]
    print(
        f"{args.model_type}, {args.device}, {args.dtype}"
        f"{', compiled' if args.compile else ''}; batch of "
        f"{', '.join(f'{n:g}' for n in args.seconds)} s\n"
    )
    columns = ["pass, s", "range", "ratio", "wall s", "MiB", "with step, s", "utt/s"]
    print(f"| what | checkout | {' | '.join(columns)} |")
    print(f"|---|---|{'---:|' * len(columns)}")
    for head in args.heads:
        names = [(BARE, ""), *((head, checkout) for checkout in args.checkouts)]
        names += [(args.rival, "")] if args.rival else []
        processes: List[subprocess.Popen] = []
        try:
            for what, checkout in names:
                place = checkout or args.checkouts[0]
                processes.append(start(place, what, options))
            found = measure(processes, args.rounds)
        finally:
            for process in processes:
                process.stdin.close()
                process.wait()
        reference = np.array([step["pass"] for step in found[0]])
        for (what, checkout), steps in zip(names, found):
            values = {key: np.array([step[key] for step in steps]) for key in FIGURES}
            took, step = values["pass"], np.median(values["step"])
            print(
                f"| {what} | {checkout} | {np.median(took):.3g} | {took.min():.3g}–"
                f"{took.max():.3g} | {np.median(took / reference):.3f} | "
                f"{np.median(values['wall']):.3g} | {values['mib'].max():.0f} | "
                f"{step:.3g} | {len(args.seconds) / step:.3g} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
