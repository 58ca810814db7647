# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The untrained model that mini_mos compares with."""

import subprocess
import sys
from pathlib import Path

import torch
import yaml
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed

from espnet2_distilmos.mos.build import build_model

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "egs2" / "mini_mos" / "mos1" / "local" / "make_untrained.py"
CONFIG = {
    "mos_format_version": 1,
    "seed": 3,
    "frontend": "hf",
    "frontend_conf": {
        "init_seed": 1,
        "upstream_config": {
            "model_type": "hubert",
            "conv_dim": [8],
            "conv_kernel": [400],
            "conv_stride": [320],
            "num_feat_extract_layers": 1,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
        },
    },
    "head": "ssl_mos",
    "losses": {"mos_l1": {"weight": 1.0}},
}


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )


def test_the_weights_are_those_that_the_training_starts_from(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    result = run(tmp_path, tmp_path / "untrained.pth")
    assert result.returncode == 0, result.stderr
    states = torch.load(tmp_path / "untrained.pth", weights_only=True)
    set_all_random_seed(3)
    expected = build_model(CONFIG, load_pretrained=True).state_dict()
    assert states.keys() == expected.keys()
    assert all(torch.equal(states[key], expected[key]) for key in states)
    set_all_random_seed(4)
    other = build_model(CONFIG, load_pretrained=True).state_dict()
    assert any(not torch.equal(states[key], other[key]) for key in states)


def test_a_fine_tuned_model_started_from_a_trained_one(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    (old / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    set_all_random_seed(11)
    expected = build_model(CONFIG, load_pretrained=True).state_dict()
    torch.save(expected, old / "model.pth")
    config = {**CONFIG, "init_model": str(old)}
    (new / "config.yaml").write_text(yaml.safe_dump(config))
    result = run(new, tmp_path / "untrained.pth")
    assert result.returncode == 0, result.stderr
    states = torch.load(tmp_path / "untrained.pth", weights_only=True)
    assert states.keys() == expected.keys()
    assert all(torch.equal(states[key], expected[key]) for key in states)


def test_a_missing_experiment_is_named(tmp_path):
    result = run(tmp_path / "none", tmp_path / "untrained.pth")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1 and "config.yaml" in result.stderr
