# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
import re
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark_serve.py"
spec = importlib.util.spec_from_file_location("benchmark_serve", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.mark.slow
def test_nothing_is_lost_when_the_server_is_killed(capsys):
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        pytest.importorskip(package)
    options = ["--model", "box", "--requests", "160", "--clients", "16"]
    assert tool.main([*options, "--lengths", "0.2", "0.8"]) == 0
    head, here, there, killed, end = capsys.readouterr().out.splitlines()
    assert head == "160 files, 8 of them bad, 152 different scores; 16 clients"
    for line in (there, killed):
        assert "0 lost, 0 answered twice, 0 wrong, 8 refused" in line
    assert float(re.search(r"([\d.]+) files a batch", there)[1]) >= 1
    assert end == "exit code after SIGTERM: 0"
