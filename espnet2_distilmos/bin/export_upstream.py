#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Write the upstream of a trained model as a checkpoint of transformers."""

import argparse
import os
import sys
import tempfile
from typing import Dict, List, Optional

from espnet2_distilmos.cli import run
from espnet2_distilmos.data.datadir import DataError

# Largest difference of a hidden state, by its layer's RMS: half precision keeps 11 bits
# of each weight, and the layers add up what is lost.
TOLERANCE = {"float32": 1e-4, "float16": 5e-2}
# What a checkpoint is.
FILES = {"config.json", "model.safetensors", "preprocessor_config.json"}


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
        "--dtype", choices=sorted(TOLERANCE), default="float32", help="of the weights"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier export"
    )
    return parser


def write_checkpoint(frontend, folder: str, where: str, dtype: str) -> None:
    """Write the three files of a checkpoint of transformers.

    Args:
        frontend: with the weights.
        folder: to write.
        where: what the frontend is of, for the errors.
        dtype: of the weights.

    Raises:
        DataError: It is none of transformers, has adapters, was pruned, or is a part
            of a Whisper encoder.
    """
    import torch
    import transformers
    from safetensors.torch import save_file

    from espnet2_distilmos.mos.frontend.hf import HFFrontend

    instead = "start from the model itself with --init_model."
    if not isinstance(frontend, HFFrontend):
        raise DataError(
            f"{where} has the upstream {frontend.name}, expected a network of "
            f"transformers; {instead}"
        )
    if frontend.lora is not None:
        raise DataError(
            f"{where} has adapters in its upstream, which a plain checkpoint does not "
            f"hold; {instead}"
        )
    if frontend.pruned is not None:
        raise DataError(
            f"{where} has a pruned upstream, whose layers are of several sizes, which "
            f"no configuration of transformers describes; {instead}"
        )
    family = frontend.family
    if not family.has_config:
        raise DataError(
            f"{where} has the first {frontend.num_layers} layers of {frontend.name} "
            "without the norm behind its last one, which no configuration of "
            f"transformers describes; {instead}"
        )
    conf = {**frontend.config_dict, "num_hidden_layers": frontend.num_layers}
    conf["dtype"] = dtype
    # Not the configuration of the running network: its mask probabilities are zero,
    # and a network built from that has no mask embedding.
    config = transformers.AutoConfig.for_model(conf.pop("model_type"), **conf)
    config.architectures = [transformers.MODEL_MAPPING[type(config)].__name__]
    config.save_pretrained(folder)
    network = family.build(config)
    network.load_state_dict(frontend.model.state_dict())
    weights = network.to(getattr(torch, dtype)).state_dict()
    save_file(
        {family.checkpoint_prefix + k: v.contiguous() for k, v in weights.items()},
        os.path.join(folder, "model.safetensors"),
        metadata={"format": "pt"},
    )
    options = {"return_attention_mask": True, **family.extractor_conf}
    if family.takes_waveform:
        options["do_normalize"] = frontend.normalize_waveform
    getattr(transformers, family.extractor_name)(**options).save_pretrained(folder)
    # safetensors lets nobody else read its files.
    for name in os.listdir(folder):
        os.chmod(os.path.join(folder, name), 0o644)


def largest_difference(a, b) -> float:
    """Largest difference of two frontends' hidden states, by their layer's RMS."""
    import torch

    speech = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        x, y = (f.eval()(speech, torch.tensor([16000]))[0] for f in (a, b))
    worst = [(p - q).abs().max() / p.square().mean().sqrt() for p, q in zip(x, y)]
    return float(max(worst))


def export(args: argparse.Namespace) -> Dict[str, str]:
    """Write, load again, compare, rename.

    Raises:
        DataError, ValueError, OSError: The model cannot be read or exported, or the
            copy differs.
    """
    from espnet2_distilmos.mos.checkpoint import load_model, open_trained_model
    from espnet2_distilmos.mos.frontend.hf import HFFrontend

    output = os.path.abspath(args.output)
    if os.path.exists(output) and not args.overwrite:
        raise DataError(
            f"{args.output} is there already, expected a new directory; choose "
            "another or give --overwrite."
        )
    if os.path.isfile(output):
        raise DataError(f"{args.output} is a file, expected a directory.")
    others = set(os.listdir(output)) - FILES if os.path.isdir(output) else set()
    if others:
        raise DataError(
            f"{args.output} is more than an earlier export, it has "
            f"{', '.join(sorted(others)[:3])}, expected {', '.join(sorted(FILES))} "
            "alone; choose another directory."
        )
    with open_trained_model(args.model) as files:
        model, _ = load_model(*files)
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
            # Aside first: what is there goes only when the new one has its name.
            os.rename(output, f"{folder}.old")
        os.rename(folder, output)
    print(f"{args.output}: hidden states differ by {difference:.1e} of their RMS")
    return {}


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(lambda: export(args), "")


if __name__ == "__main__":
    sys.exit(main())
