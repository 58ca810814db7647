#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Export a trained model to ONNX, checked in onnxruntime."""

import argparse
import sys
from typing import List, Optional, Sequence

import torch

from espnet2_distilmos.cli import add_corpus_argument, start_logging
from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.data.trained_model import open_trained_model
from espnet2_distilmos.mos.build import load_model
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.mos.onnx_graph import to_onnx

# Greatest difference of a score between torch and onnxruntime.
TOLERANCE = 1e-4
# What the graph is checked on, beside the shortest utterance that is possible.
SECONDS = (0.7, 3.1, 11.3)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos export",
        description="Write a trained model as an ONNX graph: one utterance of any "
        "length in (`speech`, 1 x samples, 16 kHz), its score and frame scores out "
        "(`utt_mos`, `frame_mos`). The graph is checked in onnxruntime at several "
        "lengths and is not written if a score differs by more than 1e-4. Its "
        "metadata have the rate, the shortest and longest input, and the frame shift.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="experiment directory, model file or packed .zip"
    )
    parser.add_argument("output", metavar="OUTPUT.onnx")
    parser.add_argument(
        "--opset", type=int, default=17, help="version of ONNX's operators (17)"
    )
    add_corpus_argument(parser)
    return parser


def check_lengths(model: ESPnetMOSModel) -> List[int]:
    """Numbers of samples that the graph is checked with."""
    frontend = model.frontend
    longest = frontend.maximum_samples or max(SECONDS) * frontend.sample_rate
    lengths = [frontend.minimum_samples]
    lengths += [round(seconds * frontend.sample_rate) for seconds in SECONDS]
    return sorted({n for n in lengths if frontend.minimum_samples <= n <= longest})


def largest_difference(model: ESPnetMOSModel, graph: bytes) -> float:
    """Compare onnxruntime's scores of seeded noise with torch's.

    Args:
        model: In eval mode on the CPU.
        graph: As ``to_onnx`` returns it.

    Returns:
        The largest absolute difference of an utterance score.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = []
    for num_samples in check_lengths(model):
        speech = 0.1 * torch.randn(1, num_samples, generator=generator)
        expected = model.inference(speech, torch.tensor([num_samples])).utt_mos
        found = session.run(["utt_mos"], {"speech": speech.numpy()})[0]
        differences.append(abs(float(found[0]) - float(expected[0])))
    return max(differences)


def export(args: argparse.Namespace) -> None:
    """Export, check, write.

    Raises:
        DataError: The model cannot be read or exported, or the graph differs.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"the package {error.name} is missing, expected onnx and onnxruntime; run "
            "'pip install onnx onnxruntime'."
        ) from error
    try:
        with open_trained_model(args.model) as files:
            model, _ = load_model(files.train_config, files.model_file)
        model.set_corpus(args.corpus)
        graph = to_onnx(model, args.opset)
    except (OSError, ValueError) as error:
        raise DataError(f"{args.model} cannot be exported: {error}") from error
    difference = largest_difference(model, graph)
    if not difference <= TOLERANCE:
        raise DataError(
            f"{args.model}: found scores in onnxruntime that differ by "
            f"{difference:.1e}, expected {TOLERANCE:.0e} at most; nothing was written: "
            "use the model in torch."
        )
    with atomic_write(args.output, "wb") as file:
        file.write(graph)
    lengths = ", ".join(
        f"{n / model.frontend.sample_rate:.2f}" for n in check_lengths(model)
    )
    print(
        f"{args.output}: {len(graph) / 1e6:.1f} MB; scores in onnxruntime differ by "
        f"{difference:.1e} at most ({lengths} s of noise)"
    )


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    start_logging()
    try:
        export(args)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
