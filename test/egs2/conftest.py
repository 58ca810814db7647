# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipes in a directory of their own, for fabricated corpora."""

import atexit
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[2]
# A developer's own settings must not reach the tests.
CORPORA = re.findall(
    r"^([A-Z0-9_]+)=", (ROOT / "egs2/TEMPLATE/mos1/db.sh").read_text(), re.MULTILINE
)


def load_script(path):
    """Import a script of egs2 by its path there, without leaving its folder behind."""
    path = ROOT / "egs2" / path
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def write_tone(path, seconds=0.3, rate=16000, hertz=220.0):
    """Write a short tone; the pitch differs from file to file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, 0.1 * np.sin(2 * np.pi * hertz * time), rate)


@functools.cache
def quick_python():
    """A folder with a python3 that imports nothing anew; see fork_server.py."""
    folder = Path(tempfile.mkdtemp(prefix="python"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    script = Path(__file__).with_name("fork_server.py")
    socket = folder / "socket"
    # It ends when this process does, which holds its stdin.
    server = subprocess.Popen(
        [sys.executable, script, socket],
        stdin=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    while not socket.exists():
        assert server.poll() is None, "the server of quick_python ended"
        time.sleep(0.05)
    for name in ("python", "python3"):
        command = f'exec "{sys.executable}" -IS "{script}" "{socket}"'
        text = f'#!/bin/sh\n{command} "{sys.executable}" "$@"\n'
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def make_tree(root):
    """Make an empty repository whose TEMPLATE is this one's, with this Python."""
    (root / "tools").mkdir()
    path = f"{quick_python()}:{Path(sys.executable).parent}"
    activate = f'export PATH="{path}:$PATH"\n'
    (root / "tools" / "activate_python.sh").write_text(activate)
    (root / "tools" / "extra_path.sh").write_text("")
    (root / "egs2").mkdir()
    (root / "egs2" / "TEMPLATE").symlink_to(ROOT / "egs2" / "TEMPLATE")


class Recipes:
    """Copies of recipes in ``root/egs2``; the TEMPLATE is the repository's own."""

    repository = ROOT

    def __init__(self, root: Path):
        self.root = root
        make_tree(root)

    def add(self, corpus: str) -> Path:
        """Copy a recipe as it is checked in; return its directory."""
        ignore = shutil.ignore_patterns("data", "dump", "exp", "downloads")
        target = self.root / "egs2" / corpus
        shutil.copytree(ROOT / "egs2" / corpus, target, symlinks=True, ignore=ignore)
        return target / "mos1"

    def run(self, corpus, command, *options, code=0, **variables):
        """Run a script of a recipe; ``variables`` are those of db.sh."""
        environment = {
            name: value for name, value in os.environ.items() if name not in CORPORA
        }
        environment["PYTHONPATH"] = str(ROOT)
        environment.update({name: str(value) for name, value in variables.items()})
        result = subprocess.run(
            [command, *map(str, options)],
            cwd=self.root / "egs2" / corpus / "mos1",
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result

    def table(self, corpus, path):
        """Return a file of the recipe's lines ``id value`` as a dict."""
        text = (self.root / "egs2" / corpus / "mos1" / path).read_text()
        return dict(line.split(maxsplit=1) for line in text.splitlines())

    def scores(self, corpus, data_dir):
        """Return the labels of a data directory."""
        table = self.table(corpus, f"{data_dir}/metric.scp")
        return {i: json.loads(text).get("mos") for i, text in table.items()}


@pytest.fixture
def recipes(tmp_path):
    return Recipes(tmp_path)


@pytest.fixture(scope="module")
def module_recipes(tmp_path_factory):
    return Recipes(tmp_path_factory.mktemp("recipes"))


@pytest.fixture(scope="session")
def tone():
    return write_tone


@pytest.fixture(scope="session")
def whisper(tmp_path_factory):
    """A tiny random Whisper as a local directory."""
    import transformers

    folder = tmp_path_factory.mktemp("whisper")
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        vocab_size=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.set_seed(0)
    transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder
