# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A trained model as an ONNX graph."""

import io
import json
import warnings
from typing import Tuple

import torch

from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel

# Version of the graph's inputs, outputs and metadata.
ONNX_FORMAT_VERSION = 1


class SingleUtterance(torch.nn.Module):
    """One unpadded utterance in, its scores out: what the graph computes."""

    def __init__(self, model: ESPnetMOSModel):
        super().__init__()
        self.model = model

    def forward(self, speech: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """(1, N) to the utterance score (1,) and the frame scores (1, T)."""
        # Made of the input's shape, so that it follows it in the graph.
        lengths = torch.zeros(1, dtype=torch.long) + speech.shape[1]
        prediction = self.model.inference(speech, lengths)
        return prediction.utt_mos, prediction.frame_mos


def to_onnx(model: ESPnetMOSModel, opset: int = 17) -> bytes:
    """Export a model in eval mode, on the CPU.

    The graph takes ``speech``, (1, samples) fp32 in [-1, 1], and gives ``utt_mos`` (1,)
    and ``frame_mos`` (1, frames). A batch is one utterance: then no mask is needed, and
    the graph is as exact as a single file. Its metadata say the rest: ``sample_rate``,
    ``minimum_samples``, ``maximum_samples`` (empty: no limit), ``frame_shift`` (samples
    from one frame score to the next), ``format_version``.

    Args:
        model: with any length-agnostic frontend; check the result at several lengths,
            for what a frontend decides in Python is fixed by the traced utterance.
        opset: version of ONNX's operators, at least 17.

    Returns:
        The serialised ``ModelProto``.

    Raises:
        ImportError: the package ``onnx`` is missing.
        ValueError: the model holds an operation that ONNX lacks.
    """
    import onnx

    frontend = model.frontend
    speech = torch.randn(1, frontend.minimum_samples + 16000)
    graph = SingleUtterance(model).eval()
    with torch.no_grad():
        stride = model.inference(speech, torch.tensor([speech.size(1)])).frame_stride
        buffer = io.BytesIO()
        try:
            with warnings.catch_warnings():
                # Every branch on a tensor's value is warned of. With one utterance
                # and no padding there is one way through all of them.
                warnings.simplefilter("ignore")
                # The newer exporter refuses such branches.
                torch.onnx.export(
                    graph,
                    (speech,),
                    buffer,
                    dynamo=False,
                    opset_version=opset,
                    input_names=["speech"],
                    output_names=["utt_mos", "frame_mos"],
                    dynamic_axes={"speech": {1: "samples"}, "frame_mos": {1: "frames"}},
                )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            reason = str(error).split("\n")[0]
            raise ValueError(
                f"found an operation of {frontend.name} that ONNX lacks ({reason}), "
                "expected one of the tested upstreams of `frontend: hf`"
            ) from error
    proto = onnx.load_model_from_string(buffer.getvalue())
    metadata = {
        "format_version": ONNX_FORMAT_VERSION,
        "sample_rate": frontend.sample_rate,
        "minimum_samples": frontend.minimum_samples,
        "maximum_samples": frontend.maximum_samples,
        "frame_shift": frontend.frame_shift * stride,
    }
    onnx.helper.set_model_props(
        proto, {k: "" if v is None else json.dumps(v) for k, v in metadata.items()}
    )
    return proto.SerializeToString()
