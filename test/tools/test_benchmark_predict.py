# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The benchmark of distilmos predict in tools/."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark_predict.py"
spec = importlib.util.spec_from_file_location("benchmark_predict", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

TINY = dict(
    conv_dim=[8, 8],
    conv_kernel=[20, 16],
    conv_stride=[20, 16],
    num_feat_extract_layers=2,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=16,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)


@pytest.mark.parametrize("batch_seconds", [0, 1, 2.5])
def test_the_bare_upstream_hears_the_same_audio(batch_seconds):
    generator = np.random.default_rng(0)
    lengths = (8000, 16000, 16000, 4001, 40000)
    waves = [generator.normal(size=n).astype(np.float32) for n in lengths]
    heard = []
    for speech, mask in tool.bare_batches(waves, batch_seconds):
        assert len(speech) == 1 or speech.numel() <= batch_seconds * 16000
        for i, row in enumerate(speech):
            n = speech.size(1) if mask is None else int(mask[i].sum())
            heard.append(row[:n].numpy())
            assert not row[n:].any()
    expected = sorted(waves, key=len, reverse=True)
    assert len(heard) == len(expected)
    for a, b in zip(heard, expected):
        np.testing.assert_array_equal(a, b)


def test_least_takes_each_kind_from_its_best_round():
    times = [{"cpu": 2.0, "wall": 9.0}, {"cpu": 3.0, "wall": 4.0}]
    assert tool.least(times) == {"cpu": 2.0, "wall": 4.0}


def test_all_of_it_on_a_tiny_network(tmp_path, capsys):
    options = ["--upstream_config", json.dumps(TINY), "--audio_seconds", "3"]
    options += ["--lengths", "0.3", "1", "--rounds", "1"]
    assert tool.main([*options, "--output", str(tmp_path / "x.json")]) == 0
    result = json.loads((tmp_path / "x.json").read_text())
    throughput = result["throughput"]
    assert throughput["files"] > 3 and 3 <= throughput["audio_seconds"] < 4
    for kind in ("cpu", "wall"):
        figures = throughput[kind]
        assert figures["upstream_batch_seconds"] in tool.BATCH_SECONDS
        ratio = figures["upstream"] / figures["predict"]
        assert figures["ratio"] == pytest.approx(ratio)
        assert result["first_score"]["first_score"][kind] > 0
        assert result["first_score"]["imports"][kind] > 0
    printed = capsys.readouterr().out
    assert f"{throughput['files']} files" in printed and " %" in printed
