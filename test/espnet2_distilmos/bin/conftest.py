# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A tiny upstream and a small set of noises, for the command-line tools."""

import numpy as np
import pytest
import soundfile
import yaml

from espnet2_distilmos.data.datadir import write_scp

TINY = {
    "init_seed": 0,
    "upstream_config": {
        "model_type": "hubert",
        "conv_dim": [8, 8, 8],
        "conv_kernel": [20, 8, 4],
        "conv_stride": [10, 8, 4],
        "num_feat_extract_layers": 3,
        "feat_extract_norm": "group",
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
    },
}


@pytest.fixture
def tiny_conf():
    return TINY


@pytest.fixture
def corpus(tmp_path):
    """wav.scp of twelve noises of 0.3 to 1.4 s and train.yaml of the tiny upstream."""
    generator = np.random.default_rng(0)
    paths = {}
    for k in range(12):
        n = 4800 + 1600 * ((5 * k) % 12) + 7 * k
        shape = np.sin(np.arange(n) / (20 + 3 * k)) * np.linspace(0.1, 1, n)
        path = tmp_path / "wav" / f"u{k:02d}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.3 * shape * generator.normal(size=n), 16000)
        paths[f"u{k:02d}"] = str(path)
    write_scp(tmp_path / "wav.scp", paths)
    config = {"frontend": "hf", "frontend_conf": TINY}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    return tmp_path
