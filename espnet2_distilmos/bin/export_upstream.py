#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write the upstream of a trained model as a checkpoint of transformers."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from typing import List, Optional

import torch

from espnet2_distilmos.cli import run
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.trained_model import open_trained_model
from espnet2_distilmos.mos.build import load_model
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.hf import HFFrontend

DTYPES = {"float32": torch.float32, "float16": torch.float16}
# Largest difference of a hidden state, by its layer's RMS: half precision keeps 11 bits
# of each weight, and the layers add up what is lost.
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write the upstream of a model that mos_train trained as a "
        "directory that `frontend: hf` and transformers load: config.json, "
        "model.safetensors, preprocessor_config.json. It is loaded again and compared "
        "before it gets its name.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="experiment directory, model file or packed .zip"
    )
    parser.add_argument("output", metavar="OUTPUT_DIR", help="must not be there yet")
    parser.add_argument(
        "--dtype", choices=sorted(DTYPES), default="float32", help="of the weights"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing directory"
    )
    return parser


def plain_network(frontend: AbsLayerFrontend, where: str) -> torch.nn.Module:
    """Build the network as transformers knows it, with the weights of ``frontend``.

    Raises:
        DataError: It is none of transformers, hears no waveform or has adapters.
    """
    if not isinstance(frontend, HFFrontend) or not frontend.family.takes_waveform:
        raise DataError(
            f"{where} has the upstream {frontend.name}, expected a network of "
            "transformers that hears the waveform; start from the model itself with "
            "--init_model."
        )
    if frontend.lora is not None:
        raise DataError(
            f"{where} has adapters in its upstream, which a plain checkpoint does not "
            "hold; start from the model itself with --init_model."
        )
    from transformers import AutoConfig

    conf = dict(frontend.config_dict)
    # Not the configuration of the running network: its mask probabilities are zero,
    # and a network built from that has no mask embedding.
    network = frontend.family.build(
        AutoConfig.for_model(conf.pop("model_type"), **conf)
    )
    network.load_state_dict(frontend.model.state_dict())
    return network


def write_checkpoint(frontend: HFFrontend, folder: str, where: str, dtype: str) -> None:
    """Write the three files of a checkpoint into an empty ``folder``."""
    network = plain_network(frontend, where)
    network.to(DTYPES[dtype]).save_pretrained(folder)
    # safetensors lets nobody else read its files.
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)
    extractor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": frontend.sample_rate,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": frontend.normalize_waveform,
        "return_attention_mask": True,
    }
    path = os.path.join(folder, "preprocessor_config.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(extractor, indent=2) + "\n")


@torch.inference_mode()
def largest_difference(a: HFFrontend, b: HFFrontend) -> float:
    """Largest difference of a hidden state of seeded noise, by its layer's RMS."""
    lengths = torch.tensor([16000, 9000])
    speech = 0.1 * torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    speech[1, 9000:] = 0
    expected, frames = a.eval()(speech, lengths)
    found, _ = b.eval()(speech, lengths)
    worst = 0.0
    for x, y in zip(expected, found):
        for i, count in enumerate(frames.tolist()):
            rms = x[i, :count].square().mean().sqrt()
            worst = max(worst, float((x - y)[i, :count].abs().max() / rms))
    return worst


def export(args: argparse.Namespace) -> None:
    """Write, load again, compare, rename.

    Raises:
        DataError: The model cannot be exported, or the copy differs.
    """
    output = os.path.abspath(args.output)
    if os.path.exists(output) and not args.overwrite:
        raise DataError(
            f"{args.output} is there already, expected a new directory; choose "
            "another or give --overwrite."
        )
    with open_trained_model(args.model) as files:
        model, _ = load_model(files.train_config, files.model_file)
    os.makedirs(os.path.dirname(output), exist_ok=True)
    # Beside the target: a rename stays on one file system.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(output)) as folder:
        folder = os.path.join(folder, "checkpoint")
        write_checkpoint(model.frontend, folder, args.model, args.dtype)
        difference = largest_difference(model.frontend, HFFrontend(upstream=folder))
        if not difference <= TOLERANCE[args.dtype]:
            raise DataError(
                f"{args.model}: found hidden states of the copy that differ by "
                f"{difference:.1e} of their RMS, expected {TOLERANCE[args.dtype]:.0e} "
                "at most; nothing was written: try --dtype float32."
            )
        if os.path.exists(output):
            shutil.rmtree(output)
        os.rename(folder, output)
    size = sum(os.path.getsize(os.path.join(output, f)) for f in os.listdir(output))
    print(
        f"{args.output}: {size / 1e6:.1f} MB; hidden states differ by {difference:.1e} "
        "of their RMS"
    )


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(lambda: export(args) or {}, "")


if __name__ == "__main__":
    sys.exit(main())
