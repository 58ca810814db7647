# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import benchmark_training  # noqa: E402
import check_gpu  # noqa: E402

TINY = {
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
OPTIONS = ["--upstream_config", json.dumps(TINY)]


def test_all_checks_on_the_cpu():
    environment = {**os.environ, "PYTHONPATH": str(TOOLS.parent)}
    command = [TOOLS / "check_gpu.sh", sys.executable, "--device", "cpu", *OPTIONS]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| cpu")]
    assert [row[0].split(",")[1].strip() for row in rows] == ["fp32", "bf16"]
    # the same device, the same numbers; and coarser ones
    assert all(float(cell) == 0 for cell in rows[0][1:])
    assert all(0 < float(cell) < 0.1 for cell in rows[1][1:])
    assert "All is as on the CPU" in lines
    start = lines.index("hubert, cpu, fp32; batch of 1, 0.8 s")
    cells = [line.split("|")[1:-1] for line in lines[start + 4 : start + 6]]
    assert [row[0].strip() for row in cells] == ["bare upstream", "distilmos"]
    for row in cells:
        assert float(row[2]) > 0 and float(row[7]) >= float(row[2])


def test_a_difference_is_found(monkeypatch, capsys):
    found = check_gpu.differences
    monkeypatch.setattr(
        check_gpu, "differences", lambda *both: {**found(*both), "gradients": 0.03}
    )
    options = ["--device", "cpu", "--processes", "1", *OPTIONS]
    assert check_gpu.main(options) == 1
    assert "Something differs" in capsys.readouterr().out


def test_a_process_that_fails():
    process = benchmark_training.start(str(TOOLS.parent), "no_head", OPTIONS)
    with pytest.raises(RuntimeError, match="no_head failed"):
        benchmark_training.measure([process], 1)
    process.stdin.close()
    process.wait()
