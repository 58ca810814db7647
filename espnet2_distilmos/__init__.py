# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""DistilMOS for ESPnet2: MOS predictors trained with token distillation."""

__version__ = "0.1.0"

# Of everything that the package writes and reads again: config.yaml, tokens.json,
# codebooks, calibrations, results.json, frames.json, journals, ONNX metadata.
FORMAT_VERSION = 1

__all__ = ["MOSPredictor", "RemoteMOSPredictor", "load_predictor"]


def __getattr__(name: str):
    # Not imported at the top: help texts and the scorer in the box need no torch.
    if name == "MOSPredictor":
        from espnet2_distilmos.predictor import MOSPredictor

        return MOSPredictor
    if name == "load_predictor":
        from espnet2_distilmos.onnx_predictor import load_predictor

        return load_predictor
    if name == "RemoteMOSPredictor":
        from espnet2_distilmos.remote import RemoteMOSPredictor

        return RemoteMOSPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
