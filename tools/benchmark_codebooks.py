#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

r"""What the tokens of a training set cost: CPU seconds of `learn_codebooks` and of
`dump_tokens` with its codebooks, and the mean squared distance to the centroids.

Every command runs in a process of its own, from the start of the interpreter to its
end; checkouts take turns. With `--max_frames` of the whole set or more, one pass of the
network is enough for a checkout that can write the tokens along.

`--rival ESPNET_ROOT` takes the scripts of an ESPnet checkout in turn, with the options
of its perform_kmeans.sh: for each layer features of the same network through s3prl are
dumped, clustered (all frames) and labelled. Packages that they need and ours does not
(h5py, kaldiio, librosa) are to be on PYTHONPATH.

Example:

    % git worktree add ../before main~10
    % OMP_NUM_THREADS=1 python tools/benchmark_codebooks.py . ../before \
          --config conf/train_distilmos.yaml --wav_scp dump/raw/train/wav.scp
    % OMP_NUM_THREADS=1 python tools/benchmark_codebooks.py --rival ~/espnet ...
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(ROOT))
COMMANDS = ("learn_codebooks", "dump_tokens")
# ESPnet's scripts, from the folder of a recipe.
RECIPE = "egs2/TEMPLATE/asr1"
DUMP, LEARN, LABEL = (
    f"pyscripts/{name}.py"
    for name in ("feats/dump_ssl_feature", "utils/learn_kmeans", "feats/dump_km_label")
)
# Entries of s3prl that take a checkpoint of transformers, by its model_type.
ENTRIES = {"hubert": "hf_hubert_custom", "wav2vec2": "hf_wav2vec2_custom"}


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
    text = "root of an ESPnet checkout, whose scripts are measured, too"
    parser.add_argument("--rival", metavar="ESPNET_ROOT", help=text)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def run(
    name: str, command: Sequence[str], path: str, folder: Optional[str] = None
) -> Tuple[float, str]:
    """CPU seconds of a Python command, and what it printed.

    Args:
        name: of the command, for the error.
        command: what follows ``python``.
        path: PYTHONPATH.
        folder: where it runs.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, "PYTHONPATH": path},
            cwd=folder,
            stdout=output,
            stderr=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        # known: there is nothing left to wait for
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
        if process.returncode != 0:
            raise RuntimeError(f"{name}: {printed}")
    return usage.ru_utime + usage.ru_stime, printed


def cpu_seconds(checkout: str, command: str, options: Sequence[str]) -> float:
    """CPU seconds of a command of a checkout.

    Raises:
        RuntimeError: it failed.
    """
    module = f"espnet2_distilmos.bin.{command}"
    path = os.path.abspath(checkout)
    return run(f"{command} of {checkout}", ["-m", module, *options], path)[0]


class Rival(NamedTuple):
    """What ESPnet's scripts are given."""

    root: str
    layers: int
    # name of an entry of s3prl and a folder with the network's weights
    entry: str
    network: str
    # speech, and how many samples each utterance has
    wav_scp: str
    num_samples: str


def prepare_rival(args: argparse.Namespace, folder: str) -> Rival:
    """Write what the scripts of ``args.rival`` are given.

    Raises:
        RuntimeError: there are no such scripts, or s3prl does not take the network.
    """
    import soundfile

    from espnet2_distilmos.data.datadir import read_scp
    from espnet2_distilmos.mos.checkpoint import initial_frontend

    for script in (DUMP, LEARN, LABEL):
        if Path(args.rival, RECIPE, script).exists():
            continue
        raise RuntimeError(
            f"{args.rival}: found no {RECIPE}/{script}, expected the root of a "
            "checkout of https://github.com/espnet/espnet (the package that pip "
            "installs has no scripts); clone it, or leave --rival out"
        )
    frontend = initial_frontend(args.config)
    if frontend.name not in ENTRIES:
        raise RuntimeError(
            f"{args.config}: found the upstream {frontend.name}, expected "
            f"{' or '.join(ENTRIES)} of transformers, which s3prl takes from a folder"
        )
    from transformers import Wav2Vec2FeatureExtractor

    network = os.path.join(folder, "network")
    frontend.model.save_pretrained(network)
    normalizes = frontend.normalize_waveform
    Wav2Vec2FeatureExtractor(do_normalize=normalizes).save_pretrained(network)
    num_samples = os.path.join(folder, "utt2num_samples")
    with open(num_samples, "w", encoding="utf-8") as file:
        for utterance, wav in read_scp(args.wav_scp).items():
            print(utterance, soundfile.info(wav).frames, file=file)
    wav_scp = os.path.abspath(args.wav_scp)
    entry = ENTRIES[frontend.name]
    return Rival(args.rival, frontend.num_layers, entry, network, wav_scp, num_samples)


def measure_rival(rival: Rival, args: argparse.Namespace) -> Tuple[float, float, float]:
    """As :func:`measure`: features and clusters of all layers, then labels."""
    recipe = os.path.join(os.path.abspath(rival.root), RECIPE)
    path = os.pathsep.join([os.path.abspath(rival.root), *sys.path[1:]])
    seconds, distances = [0.0, 0.0], []
    for layer in range(1, rival.layers + 1):
        conf = f"s3prl_conf={{upstream={rival.entry},path_or_url={rival.network}}}"
        conf = f"{{type=s3prl,conf={{{conf},layer={layer}}}}}"
        with tempfile.TemporaryDirectory() as folder:
            feats, km = f"scp:{folder}/feats.scp", f"{folder}/km.mdl"
            dump = [DUMP, "--feature_conf", conf, "--use_gpu", "false"]
            dump += ["--in_filetype", "sound", "--out_filetype", "mat"]
            dump += ["--utt2num_samples", rival.num_samples]
            dump += ["--write_num_frames", f"ark,t:{folder}/utt2num_frames"]
            dump += [f"scp:{rival.wav_scp}"]
            dump += [f"ark,scp:{folder}/feats.ark,{folder}/feats.scp"]
            learn = [LEARN, "--km_path", km, "--n_clusters", args.num_clusters]
            learn += ["--percent", "-1", "--in_filetype", "mat", feats]
            label = [LABEL, "--in_filetype", "mat", "--out_filetype", "mat"]
            label += ["--km_path", km, "--use_gpu", "false", feats]
            label += [f"ark,t:{folder}/labels.txt"]
            for part, command in enumerate((dump, learn, label)):
                took, printed = run(command[0], command, path, recipe)
                seconds[part // 2] += took
                distances += re.findall(r"total int?ertia: (\S+)", printed)
    return seconds[0], seconds[1], float(np.mean([float(d) for d in distances]))


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
    with tempfile.TemporaryDirectory() as folder:
        rival = prepare_rival(args, folder) if args.rival else None
        for _ in range(args.rounds):
            for checkout in args.checkouts:
                found.setdefault(checkout, []).append(measure(checkout, args))
            if rival is not None:
                found.setdefault(args.rival, []).append(measure_rival(rival, args))
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
