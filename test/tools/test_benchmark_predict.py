# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark_predict.py"
spec = importlib.util.spec_from_file_location("benchmark_predict", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

TINY = {
    "conv_dim": [8, 8],
    "conv_kernel": [20, 16],
    "conv_stride": [20, 16],
    "num_feat_extract_layers": 2,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.mark.parametrize("batch_seconds", [0, 2.5])
def test_the_bare_upstream_gets_the_same_audio(batch_seconds):
    generator = np.random.default_rng(0)
    lengths = (8000, 16000, 16000, 4001, 40000)
    waves = [generator.normal(size=n).astype(np.float32) for n in lengths]
    found = []
    for speech, mask in tool.bare_batches(waves, batch_seconds):
        assert len(speech) == 1 or speech.numel() <= batch_seconds * 16000
        for i, row in enumerate(speech):
            n = speech.size(1) if mask is None else int(mask[i].sum())
            found.append(row[:n].numpy())
            assert not row[n:].any()
    expected = sorted(waves, key=len, reverse=True)
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_all_of_it_on_a_tiny_network(capsys):
    options = ["--upstream_config", json.dumps(TINY), "--audio_seconds", "3"]
    assert tool.main([*options, "--lengths", "0.3", "1", "--rounds", "1"]) == 0
    size, throughput, _, heading, _, row = capsys.readouterr().out.splitlines()
    assert size.endswith(" files, 3 s of audio; CPU seconds")
    ours, bare = re.findall(r"(?:predict|upstream) (\S+)", throughput)
    ratio = float(re.search(r"(\d+) %", throughput)[1]) / 100
    assert ratio == pytest.approx(float(bare) / float(ours), abs=0.01)
    names, cells = ([c.strip() for c in r.split("|")[2:-1]] for r in (heading, row))
    seconds = {n: float(c) for n, c in zip(names, cells) if n != "range"}
    total = sum(seconds[part] for part in ("imports", "loading", "first"))
    assert seconds["first score"] == pytest.approx(total, abs=0.02)
    own = seconds["loading"] + seconds["first"] - seconds["again"]
    assert seconds["start's own"] == pytest.approx(own, abs=0.02)
