# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark_box.py"
spec = importlib.util.spec_from_file_location("benchmark_box", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_both_sides_are_measured(tmp_path, capsys):
    for k in range(4):
        soundfile.write(tmp_path / f"{k}.wav", np.zeros(160000 + k), 16000)
    # It takes a second for a folder, and nothing for a file.
    code = "import os, sys, time\nwhile os.path.isdir(sys.argv[1]) and "
    rival = [sys.executable, "-c", code + "time.process_time() < 1: pass"]
    options = [str(tmp_path), "--rival", shlex.join(rival), "--rounds", "1"]
    assert tool.main(options) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("4 files, 40 s of audio")
    rates = [int(x) for x in re.findall(r"(?:throughput|rival): (\d+)", printed)]
    assert rates[1] == pytest.approx(40, abs=6)
    assert f"ratio {rates[0] / rates[1]:.1f}"[:-2] in printed


def test_no_files(tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool.main([str(tmp_path)])
    assert "has no .wav" in capsys.readouterr().err
