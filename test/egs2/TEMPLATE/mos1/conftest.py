# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A fabricated recipe of twelve utterances, for the tests of the shell stages."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ...conftest import make_tree

ROOT = Path(__file__).resolve().parents[4]
TEMPLATE = ROOT / "egs2" / "TEMPLATE" / "mos1"

CONFIG = """
frontend: hf
frontend_conf:
  init_seed: 0
  upstream_config:
    model_type: hubert
    conv_dim: [8, 8, 8]
    conv_kernel: [20, 16, 8]
    conv_stride: [10, 8, 4]
    num_feat_extract_layers: 3
    feat_extract_norm: group
    hidden_size: 16
    num_hidden_layers: 2
    num_attention_heads: 2
    intermediate_size: 32
    num_conv_pos_embeddings: 8
    num_conv_pos_embedding_groups: 2
head: distilmos
head_conf: {}
losses:
  mos_l1: {weight: 1.0}
  token_ce: {weight: 0.1}
seed: 0
optim: adamw
optim_conf: {lr: 1.0e-3}
upstream_lr: 1.0e-3
batch_type: sorted
batch_size: 2
max_epoch: 2
num_workers: 0
use_matplotlib: false
use_tensorboard: false
best_model_criterion:
- [valid, utt_mse, min]
"""


class Recipe:
    """A recipe directory with data that stage 1 hands out unchanged.

    ``source/<set>`` is what ``local/data.sh`` copies to ``data/<set>``, so a test that
    wants bad input changes ``source``.
    """

    sets = {"train": 6, "dev": 3, "test": 3}

    def __init__(self, root: Path):
        make_tree(root)
        self.dir = root / "egs2" / "toy" / "mos1"
        subprocess.run([TEMPLATE / "setup.sh", self.dir], check=True)
        (self.dir / "local" / "data.sh").write_text(
            "#!/usr/bin/env bash\nset -eu\nrm -rf data\ncp -r source data\n"
        )
        (self.dir / "conf" / "train_tiny.yaml").write_text(CONFIG)
        rng = np.random.default_rng(0)
        for name, count in self.sets.items():
            folder = self.dir / "source" / name
            (folder / "audio").mkdir(parents=True)
            rows = []
            for i in range(count):
                utt_id = f"{name}{i}"
                path = folder / "audio" / f"{utt_id}.wav"
                seconds = 0.5 + 0.1 * i
                samples = 0.1 * rng.standard_normal(round(16000 * seconds))
                soundfile.write(path, samples, 16000)
                rows.append((utt_id, str(path), f"sys{i % 3}", 1.5 + 0.5 * i))
            self.write(name, "wav.scp", [f"{r[0]} {r[1]}" for r in rows])
            self.write(name, "utt2spk", [f"{r[0]} {r[0]}" for r in rows])
            self.write(name, "utt2sys", [f"{r[0]} {r[2]}" for r in rows])
            labels = [f"{r[0]} {json.dumps({'mos': r[3]})}" for r in rows]
            self.write(name, "metric.scp", labels)

    def copy(self, root: Path) -> "Recipe":
        """Copy the recipe, for a test to spoil; its links keep to the TEMPLATE."""
        old_root = self.dir.parents[2]
        shutil.copytree(old_root, root, symlinks=True, dirs_exist_ok=True)
        copied = Recipe.__new__(Recipe)
        copied.dir = root / self.dir.relative_to(old_root)
        return copied

    def write(self, name, file, lines):
        path = self.dir / "source" / name / file
        path.write_text("".join(f"{line}\n" for line in lines))

    def lines(self, path):
        return (self.dir / path).read_text().splitlines()

    def command(self, *options):
        return [
            *("./mos.sh", "--ngpu", "0", "--nj", "2", "--inference_nj", "2"),
            *("--train_set", "train", "--valid_set", "dev", "--test_sets", "test"),
            *("--train_config", "conf/train_tiny.yaml", "--train_threads", "1"),
            *("--inference_model", "valid.utt_mse.best.pth", "--num_clusters", "4"),
            *("--bootstrap", "20", *map(str, options)),
        ]

    def environment(self):
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(self, *options, code=0, script=None):
        """Run mos.sh with ``options``, or another script with them alone."""
        command = [script, *map(str, options)] if script else self.command(*options)
        result = subprocess.run(
            command,
            cwd=self.dir,
            env=self.environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result


@pytest.fixture
def recipe(tmp_path):
    return Recipe(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A recipe after the stages 1 to 9, to be copied, and what its run printed."""
    recipe = Recipe(tmp_path_factory.mktemp("finished"))
    result = recipe.run("--nj", 1, "--inference_nj", 1)
    return recipe, result
