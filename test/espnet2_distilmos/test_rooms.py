# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Imports go one way: see the README."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import espnet2_distilmos

PACKAGE = Path(espnet2_distilmos.__file__).parent
# What a room may import of the package beside itself, also inside of functions.
MAY_IMPORT = {
    "data": set(),
    "evaluation": {"data"},
    "named_models": {"data"},
    "mos": set(),
    "distortion": set(),
    "train": {"mos", "data", "evaluation", "distortion"},
    "tasks": {"train", "mos", "data"},
    "abs_predictor": {"mos", "data", "evaluation"},
    "onnx_predictor": {"abs_predictor", "predictor", "data"},
    "predictor": {"abs_predictor", "onnx_predictor", "mos", "data", "evaluation"},
    "teachers": {"predictor", "data"},
    "service": {"data"},
    "remote": {"abs_predictor", "data", "evaluation"},
    "on_ray": {"abs_predictor", "onnx_predictor", "remote", "service", "data"},
    "cli": {"data", "evaluation", "named_models", "onnx_predictor", "remote"}
    | {"abs_predictor", "on_ray"},
    "bin": {"cli", "tasks", "predictor", "train", "mos", "data", "evaluation"}
    | {"distortion", "teachers", "named_models", "onnx_predictor", "abs_predictor"}
    | {"service"},
}
# The one module of mos that knows files.
EXCEPTIONS = {"mos/checkpoint.py": {"data", "named_models"}}


def imported(path):
    """(module of the package, outside modules) that a file imports anywhere."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else []
            if node.module == "espnet2_distilmos":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            (ours if parts[0] == "espnet2_distilmos" else others).add(tuple(parts))
    return ours, others


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE]
FILES += [path for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    name = str(path.relative_to(PACKAGE))
    room = name.split("/")[0].removesuffix(".py")
    allowed = MAY_IMPORT[room] | EXCEPTIONS.get(name, set())
    ours, others = imported(path)
    rooms = {parts[1] for parts in ours if len(parts) > 1} & set(MAY_IMPORT)
    assert rooms - {room} <= allowed
    if room == "bin":  # a command imports no command
        assert "bin" not in rooms
    if room == "evaluation":
        assert not {"torch", "torchaudio", "transformers"} & {o[0] for o in others}


def test_what_a_scorer_without_torch_needs_does_not_import_it():
    """Data, statistics and the command line; nor does the package itself."""
    paths = [PACKAGE / "cli.py", PACKAGE / "named_models.py"]
    paths += [
        path for room in ("data", "evaluation") for path in PACKAGE.glob(room + "/*.py")
    ]
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in paths
    ]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    assert not {'torch', 'espnet2'} & set(sys.modules), name\n"
    )
    command = [sys.executable, "-c", code, "espnet2_distilmos", *modules]
    subprocess.run(command, check=True)


def test_a_bare_espnet_imports_every_module():
    """torchaudio may not fit its torch, and the others may not be there at all."""
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
    ]
    code = (
        "import importlib, sys\n"
        "absent, *modules = sys.argv[1:]\n"
        "sys.modules.update(dict.fromkeys(absent.split()))\n"
        "for name in modules:\n"
        "    importlib.import_module(name)\n"
    )
    absent = "entmax soxr peft s3prl matplotlib onnx onnxruntime tensorboard ray"
    absent += " fastapi uvicorn python_multipart prometheus_client"
    subprocess.run([sys.executable, "-c", code, absent, *modules], check=True)
    # ESPnet's own tasks import torchaudio themselves.
    ours = [m for m in modules if not re.search(r"tasks|\.train\.|mos_train", m)]
    subprocess.run([sys.executable, "-c", code, "torchaudio", *ours], check=True)
