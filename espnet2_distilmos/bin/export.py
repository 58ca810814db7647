#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Export a trained model to ONNX, checked in onnxruntime."""

import argparse
import contextlib
import io
import itertools
import json
import os
import sys
import warnings
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.abs_predictor import digest
from espnet2_distilmos.cli import add_condition_arguments, run
from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.evaluation.trust import scale_fingerprint
from espnet2_distilmos.onnx_predictor import DIGEST, OUTPUTS, read_digests

# Greatest difference of a score between torch and onnxruntime.
TOLERANCE = 1e-4
# Types that a weight is stored as.
WEIGHTS = ("fp32", "fp16", "int8")
# Smaller tensors, and those of fewer outputs, stay in fp32.
_SMALLEST, _FEWEST_OUTPUTS = 1024, 16
# What the graph is checked on, beside the shortest utterance that is possible.
SECONDS = (0.7, 3.1, 11.3)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos export",
        description="Write a trained model as an ONNX graph: one utterance of any "
        "length in (`speech`, 1 x samples, 16 kHz), its score and frame scores out "
        "(`utt_mos`, `frame_mos`). The graph is checked in onnxruntime at several "
        "lengths and is not written if a score differs by more than 1e-4. Its "
        "metadata have the rate, the shortest and longest input, and the frame shift. "
        "`distilmos predict --model OUTPUT.onnx` scores with it and does not load "
        "torch; a calibration or datastore of the model may be copied beside it, "
        "unless --weights rounded it.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="experiment directory, model file or packed .zip"
    )
    parser.add_argument("output", metavar="OUTPUT.onnx")
    parser.add_argument(
        "--opset", type=int, default=17, help="version of ONNX's operators (17)"
    )
    parser.add_argument(
        "--weights",
        choices=list(WEIGHTS),
        default="fp32",
        help="how matrices are stored: fp16 halves the file, int8 (a scale for each "
        "output) quarters it; computed is in fp32 (default: %(default)s)",
    )
    text = "give the scores on this scale, of `distilmos calibrate --fit-scale linear`"
    parser.add_argument("--scale", metavar="scale.json", help=text)
    text = "a line that `distilmos predict` prints before it scores: what it is for"
    parser.add_argument("--about", default="", metavar="TEXT", help=text)
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


def round_weights(model, weights: str) -> None:
    """Round the matrices of a model, in place, to what ``pack_weights`` can store.

    Args:
        model: any module; its parameters of at least two dimensions are rounded.
        weights: of ``WEIGHTS``. With ``int8`` a value is one of 255 multiples of a
            step, which each row (the weights of an output) has for itself.
    """
    import torch

    for weight in model.parameters():
        is_small = weight.numel() < _SMALLEST or len(weight) < _FEWEST_OUTPUTS
        if weight.dim() < 2 or is_small or weight.dtype != torch.float32:
            continue
        with torch.no_grad():
            if weights == "fp16":
                weight.copy_(weight.half())
            elif weights == "int8":
                inner = tuple(range(1, weight.dim()))
                step = weight.abs().amax(inner, keepdim=True) / 127
                weight.copy_((weight / step.clamp(min=1e-12)).round() * step)


def pack_weights(proto, weights: str) -> None:
    """Store what ``round_weights`` rounded in fewer bytes, in place.

    Each initializer that is exactly so in fp16 or int8 is replaced by that, a Cast and
    for int8 a Mul, which onnxruntime computes once when it loads the graph. Others, as
    the basis of a Fourier transform, stay as they are: weights are told from them by
    their values, since the exporter transposes and reorders.

    Args:
        proto: an onnx ``ModelProto``.
        weights: of ``WEIGHTS``.
    """
    import onnx

    if weights == "fp32":
        return
    graph, nodes = proto.graph, []
    for tensor in list(graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2 or values.size < _SMALLEST:
            continue
        packed = _packed(values, weights)
        if packed is None:
            continue
        name = tensor.name
        graph.initializer.remove(tensor)
        parts = [f"{name}_{weights}", f"{name}_step", f"{name}_cast"]
        for part, array in zip(parts, packed):
            graph.initializer.append(onnx.numpy_helper.from_array(array, part))
        cast = name if len(packed) == 1 else parts[2]
        make = onnx.helper.make_node
        nodes.append(make("Cast", parts[:1], [cast], to=onnx.TensorProto.FLOAT))
        if len(packed) == 2:
            nodes.append(make("Mul", [cast, parts[1]], [name]))
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _packed(values, weights: str) -> Optional[List]:
    """The array in fp16, or in int8 and its steps; None where it was not rounded."""
    if weights == "fp16":
        half = values.astype(np.float16)
        return [half] if (half.astype(np.float32) == values).all() else None
    axes = range(values.ndim)
    for size in range(1, values.ndim):
        for inner in itertools.combinations(axes, size):
            step = np.abs(values).max(inner, keepdims=True) / np.float32(127)
            levels = values / np.maximum(step, 1e-12)
            whole = np.rint(levels)
            if np.abs(levels - whole).max() < 1e-3:
                return [whole.astype(np.int8), step]
    return None


def to_onnx(
    model,
    opset: int = 17,
    weights: str = "fp32",
    properties: Optional[Mapping[str, Any]] = None,
    slope: float = 1.0,
    intercept: float = 0.0,
) -> bytes:
    """Export a model in eval mode, on the CPU.

    The graph takes ``speech``, (1, samples) fp32 in [-1, 1], and gives ``utt_mos``
    (1,), ``frame_mos`` (1, frames) and ``embedding`` (1, H). A batch is one utterance:
    then no mask is needed, and the graph is as exact as a single file. Its metadata say
    the rest: ``sample_rate``, ``minimum_samples``, ``maximum_samples`` (empty: no
    limit), ``frame_shift`` (samples from one frame score to the next),
    ``frame_centre``, ``format_version``, and ``graph_sha256``, which tells a damaged
    file.

    Args:
        model: an ``ESPnetMOSModel``; check the result at several lengths, for what a
            frontend decides in Python is fixed by the traced utterance.
        opset: version of ONNX's operators, at least 17.
        weights: how matrices that ``round_weights`` rounded are stored.
        properties: further metadata, ready for JSON.
        slope, intercept: of a linear map of the scores.

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
            utt_mos, frame_mos, embedding = (getattr(prediction, x) for x in OUTPUTS)
            if (slope, intercept) != (1.0, 0.0):
                utt_mos, frame_mos = (
                    intercept + slope * scores for scores in (utt_mos, frame_mos)
                )
            return utt_mos, frame_mos, embedding

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
                output_names=list(OUTPUTS),
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
        "frame_centre": frontend.frame_centre,
        **(properties or {}),
    }
    pack_weights(proto, weights)
    metadata[DIGEST], _ = read_digests(proto.SerializeToString())
    onnx.helper.set_model_props(
        proto, {k: "" if v is None else json.dumps(v) for k, v in metadata.items()}
    )
    return proto.SerializeToString()


def largest_difference(
    model,
    graph: bytes,
    lengths: Sequence[int],
    slope: float = 1.0,
    intercept: float = 0.0,
) -> float:
    """Largest difference of an utterance score in onnxruntime from torch's.

    Args:
        model: in eval mode on the CPU.
        graph: as ``to_onnx`` returns it.
        lengths: of the noises that are scored, in samples.
        slope, intercept: the map that the graph holds.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    differences = []
    for speech, expected in zip(_noises(lengths), noise_scores(model, lengths)):
        (found,) = session.run(["utt_mos"], {"speech": speech})[0]
        differences.append(abs(float(found) - intercept - slope * expected))
    return max(differences)


def noise_scores(model, lengths: Sequence[int]) -> List[float]:
    """Scores in torch of the noises that ``largest_difference`` compares."""
    import torch

    waves = map(torch.from_numpy, _noises(lengths))
    return [
        float(model.inference(wave, torch.tensor([wave.size(1)])).utt_mos[0])
        for wave in waves
    ]


def _noises(lengths: Sequence[int]) -> List[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        0.1 * generator.standard_normal((1, num_samples), dtype=np.float32)
        for num_samples in lengths
    ]


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
    from espnet2_distilmos.predictor import MOSPredictor

    # It is what knows the fingerprint that calibrations and datastores name.
    options = {"corpus": args.corpus, "listener": args.listener, "scale": args.scale}
    predictor = MOSPredictor.from_pretrained(args.model, **options)
    if not isinstance(predictor, MOSPredictor):
        raise DataError(f"{args.model} is exported already, expected a trained model.")
    model = predictor.model
    fingerprint = predictor.model_fingerprint
    lengths = check_lengths(model.frontend)
    unrounded = noise_scores(model, lengths)
    if args.weights != "fp32":
        round_weights(model, args.weights)
        fingerprint = digest({"model": fingerprint, "weights": args.weights})
    slope, intercept = 1.0, 0.0
    score_range, scale = predictor.score_range, predictor.confidence.scale
    if scale is not None:
        if scale["kind"] != "linear":
            raise DataError(
                f"{args.scale} is a {scale['kind']} scale, expected a linear one; fit "
                "it with --fit-scale linear."
            )
        slope, intercept = scale["slope"], scale["intercept"]
        fingerprint = digest({"model": fingerprint, "scale": scale_fingerprint(scale)})
        score_range = scale.get("score_range")
    properties = {
        "fingerprint": fingerprint,
        "score_range": score_range,
        "about": " ".join(args.about.split()),
    }
    graph = to_onnx(model, args.opset, args.weights, properties, slope, intercept)
    difference = largest_difference(model, graph, lengths, slope, intercept)
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
    if args.weights != "fp32":
        moved = np.subtract(noise_scores(model, lengths), unrounded)
        print(
            f"rounding to {args.weights} moved them by {abs(moved).max():.1e} at most"
        )
    return {}


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(lambda: export(args), "")


if __name__ == "__main__":
    sys.exit(main())
