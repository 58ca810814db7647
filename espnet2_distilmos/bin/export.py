#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Export a trained model to ONNX, checked in onnxruntime."""

import argparse
import contextlib
import io
import json
import os
import sys
import warnings
from typing import Dict, Iterator, List, Optional, Sequence

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.cli import add_condition_arguments, run
from espnet2_distilmos.data.datadir import DataError, atomic_write

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
    add_condition_arguments(parser)
    return parser


@contextlib.contextmanager
def _no_stdout() -> Iterator[None]:
    """Drop what C++ prints: torch prints the whole graph that it cannot export."""
    sys.stdout.flush()
    saved = os.dup(1)
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def to_onnx(model, opset: int = 17) -> bytes:
    """Export a model in eval mode, on the CPU.

    The graph takes ``speech``, (1, samples) fp32 in [-1, 1], and gives ``utt_mos`` (1,)
    and ``frame_mos`` (1, frames). A batch is one utterance: then no mask is needed, and
    the graph is as exact as a single file. Its metadata say the rest: ``sample_rate``,
    ``minimum_samples``, ``maximum_samples`` (empty: no limit), ``frame_shift`` (samples
    from one frame score to the next), ``format_version``.

    Args:
        model: an ``ESPnetMOSModel``; check the result at several lengths, for what a
            frontend decides in Python is fixed by the traced utterance.
        opset: version of ONNX's operators, at least 17.

    Returns:
        The serialised ``ModelProto``.

    Raises:
        ValueError: the model holds an operation that ONNX lacks.
    """
    import onnx
    import torch

    class SingleUtterance(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, speech):
            # Made of the input's shape, so that it follows it in the graph.
            lengths = torch.zeros(1, dtype=torch.long) + speech.shape[1]
            prediction = model.inference(speech, lengths)
            return prediction.utt_mos, prediction.frame_mos

    frontend = model.frontend
    speech = torch.randn(1, frontend.minimum_samples + 16000)
    stride = model.inference(speech, torch.tensor([speech.size(1)])).frame_stride
    buffer = io.BytesIO()
    try:
        with _no_stdout(), warnings.catch_warnings():
            # Every branch on a tensor's value is warned of. With one utterance and no
            # padding there is one way through all of them. The newer exporter, which
            # could verify the graph itself, refuses such branches.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                SingleUtterance().eval(),
                (speech,),
                buffer,
                dynamo=False,
                opset_version=opset,
                input_names=["speech"],
                output_names=["utt_mos", "frame_mos"],
                dynamic_axes={"speech": {1: "samples"}, "frame_mos": {1: "frames"}},
            )
    except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"found an operation of {frontend.name} that --opset {opset} of ONNX lacks "
            f"({reason}), expected a tested upstream of `frontend: hf` and an "
            "opset that torch knows; --opset 17 is tested."
        ) from error
    proto = onnx.load_model_from_string(buffer.getvalue())
    metadata = {
        "format_version": FORMAT_VERSION,
        "sample_rate": frontend.sample_rate,
        "minimum_samples": frontend.minimum_samples,
        "maximum_samples": frontend.maximum_samples,
        "frame_shift": frontend.frame_shift * stride,
    }
    onnx.helper.set_model_props(
        proto, {k: "" if v is None else json.dumps(v) for k, v in metadata.items()}
    )
    return proto.SerializeToString()


def largest_difference(model, graph: bytes, lengths: Sequence[int]) -> float:
    """Largest difference of an utterance score in onnxruntime from torch's.

    Args:
        model: in eval mode on the CPU.
        graph: as ``to_onnx`` returns it.
        lengths: of the noises that are scored, in samples.
    """
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = []
    for num_samples in lengths:
        speech = 0.1 * torch.randn(1, num_samples, generator=generator)
        expected = model.inference(speech, torch.tensor([num_samples])).utt_mos
        found = session.run(["utt_mos"], {"speech": speech.numpy()})[0]
        differences.append(abs(float(found[0]) - float(expected[0])))
    return max(differences)


def check_lengths(frontend) -> List[int]:
    """Numbers of samples that the graph is checked with."""
    lengths = [round(seconds * frontend.sample_rate) for seconds in SECONDS]
    shortest, longest = frontend.minimum_samples, frontend.maximum_samples or max(
        lengths
    )
    return [shortest, *(n for n in lengths if shortest < n <= longest)]


def export(args: argparse.Namespace) -> Dict[str, str]:
    """Export, check, write.

    Raises:
        DataError, ValueError, OSError: The model cannot be read or exported, or the
            graph differs.
    """
    if os.path.isdir(args.output) or not args.output.lower().endswith(".onnx"):
        raise DataError(
            f"the output is {args.output}, expected a file that ends in .onnx."
        )
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"the package {error.name} is missing, expected onnx and onnxruntime; run "
            "'pip install onnx onnxruntime'."
        ) from error
    from espnet2_distilmos.mos.checkpoint import load_model, open_trained_model

    with open_trained_model(args.model) as files:
        model, _ = load_model(*files)
    model.set_corpus(args.corpus)
    model.set_listener(args.listener)
    graph = to_onnx(model, args.opset)
    lengths = check_lengths(model.frontend)
    difference = largest_difference(model, graph, lengths)
    if not difference <= TOLERANCE:
        raise DataError(
            f"{args.model}: found scores in onnxruntime that differ by "
            f"{difference:.1e}, expected {TOLERANCE:.0e} at most; nothing was written: "
            "use the model in torch."
        )
    with atomic_write(args.output, "wb") as file:
        file.write(graph)
    seconds = ", ".join(f"{n / model.frontend.sample_rate:.2f}" for n in lengths)
    print(
        f"{args.output}: {len(graph) / 1e6:.1f} MB; scores in onnxruntime differ by "
        f"{difference:.1e} at most ({seconds} s of noise)"
    )
    return {}


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(lambda: export(args), "")


if __name__ == "__main__":
    sys.exit(main())
