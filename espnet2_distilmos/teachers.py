# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Predictors whose scores others learn from: models of ours and released packages."""

import contextlib
import importlib
import importlib.metadata
import os
import sys
from typing import Callable, Dict, Iterator, NamedTuple, Tuple

import numpy as np

from espnet2_distilmos.data.datadir import DataError

SAMPLE_RATE = 16000
# From audio (N,) float32 at 16 kHz to the score by key.
ScoreFunction = Callable[[np.ndarray], Dict[str, float]]
# Packages of the extra `teachers`, by the teacher's name.
PACKAGES = {"distillmos": "distillmos", "dnsmos": "speechmos", "plcmos": "speechmos"}


class Teacher(NamedTuple):
    """A predictor of quality.

    Attributes:
        name: of the teacher, and of its scores unless it has several.
        keys: what its scores are called in ``metric.scp``; the first is its overall
            score.
        fingerprint: identifies what scores: package and version, or network, weights
            and policies.
        score: gives a score of each key.
    """

    name: str
    keys: Tuple[str, ...]
    fingerprint: str
    score: ScoreFunction


def load_teacher(name: str, model: str = "", device: str = "cpu") -> Teacher:
    """Load a teacher.

    ============  ===================================================================
    name          what it is
    ============  ===================================================================
    distillmos    Distill-MOS (arXiv 2502.05356), package distillmos
    dnsmos        DNSMOS P.835 (arXiv 2110.01763): dnsmos_ovrl, dnsmos_sig and
                  dnsmos_bak; and P.808 (arXiv 2010.15258): dnsmos_p808; package
                  speechmos
    plcmos        PLCMOS v2 (arXiv 2305.15127), package speechmos
    any other     a model of ours, as MOSPredictor.from_pretrained takes it
    ============  ===================================================================

    Args:
        name: of a package's teacher, or of the scores of ``model``.
        model: directory, zip or hub tag of a model of ours; "" for a package's.
        device: for a model of ours; the packages run on the CPU.

    Raises:
        DataError: the package is not there.
        ValueError, OSError: the model cannot be loaded.
    """
    if model:
        return _own_model(name, model, device)
    return {"distillmos": _distillmos, "dnsmos": _dnsmos, "plcmos": _plcmos}[name]()


def teach(teacher: Teacher, audio: np.ndarray, name: str) -> Dict[str, float]:
    """Score one clip.

    Args:
        teacher: who scores.
        audio: (N,) float32 at 16 kHz, in [-1, 1], N >= 1.
        name: of the clip, for the message.

    Returns:
        A finite score by key, at six decimals.

    Raises:
        DataError: the teacher cannot score the clip; one sentence.
    """
    try:
        scores = teacher.score(audio)
    # Packages raise whatever they like; the others of a batch go on.
    except Exception as error:  # noqa: B902
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: {teacher.name} cannot score it: {reason}") from error
    if not np.isfinite(list(scores.values())).all():
        raise DataError(
            f"{name}: {teacher.name} gives it {scores}, expected finite scores; leave "
            "it out."
        )
    return {key: round(float(scores[key]), 6) for key in teacher.keys}


def _own_model(name: str, model: str, device: str) -> Teacher:
    # Imports torch, which takes seconds.
    from espnet2_distilmos.predictor import MOSPredictor

    predictor = MOSPredictor.from_pretrained(model, device=device)

    def score(audio: np.ndarray) -> Dict[str, float]:
        return {name: float(predictor(audio, SAMPLE_RATE).score)}

    return Teacher(name, (name,), predictor.fingerprint, score)


def _package(teacher: str, module: str):
    """A module of an optional package, and its version."""
    package = PACKAGES[teacher]
    try:
        # distillmos greets on standard output, which may be a table's.
        with contextlib.redirect_stdout(sys.stderr):
            found = importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"the teacher {teacher} needs the package {package}, which cannot be "
            f"imported ({error}); install it with `pip install {package}` or "
            "`pip install espnet2_distilmos[teachers]`."
        ) from error
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return found, f"{package} {version}"


def _distillmos() -> Teacher:
    module, version = _package("distillmos", "distillmos")
    import torch

    with contextlib.redirect_stdout(sys.stderr):
        model = module.ConvTransformerSQAModel().eval()

    def score(audio: np.ndarray) -> Dict[str, float]:
        with torch.no_grad():
            return {"distillmos": float(model(torch.from_numpy(audio)[None]))}

    return Teacher("distillmos", ("distillmos",), version, score)


def _dnsmos() -> Teacher:
    module, version = _package("dnsmos", "speechmos.dnsmos")
    names = {f"dnsmos_{k}": f"{k}_mos" for k in ("ovrl", "sig", "bak", "p808")}

    def score(audio: np.ndarray) -> Dict[str, float]:
        # Louder than full scale is not allowed.
        found = module.run(np.clip(audio, -1, 1), SAMPLE_RATE)
        return {key: float(found[name]) for key, name in names.items()}

    return Teacher("dnsmos", tuple(names), version, score)


def _plcmos() -> Teacher:
    module, version = _package("plcmos", "speechmos.plcmos")

    def score(audio: np.ndarray) -> Dict[str, float]:
        # It draws raters from NumPy's global generator: the same ones for every clip.
        with _seeded():
            found = module.run(np.clip(audio, -1, 1), SAMPLE_RATE)
        return {"plcmos": float(found["plcmos"])}

    return Teacher("plcmos", ("plcmos",), version, score)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def is_table(path: str) -> bool:
    """Whether a path is a file of scores (or a directory with metric.scp), no model."""
    if os.path.isdir(path):
        return os.path.isfile(os.path.join(path, "metric.scp"))
    return os.path.isfile(path) and not path.endswith(
        (".zip", ".pth", ".yaml", ".onnx")
    )
