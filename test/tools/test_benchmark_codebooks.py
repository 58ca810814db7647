# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark_codebooks.py"
spec = importlib.util.spec_from_file_location("benchmark_codebooks", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_a_row_for_each_checkout(capsys, tmp_path):
    wave = 0.1 * np.random.default_rng(0).normal(size=32000)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    config = {"frontend": "mfcc", "frontend_conf": {}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", f"{tmp_path}/train.yaml", "--num_clusters", "4"]
    options += ["--wav_scp", f"{tmp_path}/wav.scp", "--rounds", "1"]
    assert tool.main(options) == 0
    row = capsys.readouterr().out.splitlines()[-1].split("|")[1:-1]
    learn, dump, both, _, distance = (cell.split("–")[0] for cell in row[1:])
    # the tokens came with the codebooks
    assert float(dump) == 0 < float(learn) == float(both) and float(distance) > 0
    with pytest.raises(RuntimeError, match="(?s)learn_codebooks of .*none.scp"):
        tool.main(options + ["--wav_scp", f"{tmp_path}/none.scp"])
