# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
import json
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


# A script that keeps its command line and makes what the next one reads.
SCRIPT = """
import json, os, sys
with open({log!r}, "a") as file:
    print(json.dumps(sys.argv), file=file)
assert "ARK" not in sys.argv[-1] and os.path.isdir("pyscripts")
print("total intertia: 2.5")
for word in sys.argv:
    if word.startswith("scp:"):
        assert os.path.exists(word[4:]), word
    elif word.startswith("ark,scp:"):
        open(word.split(",")[-1], "w").close()
"""


def test_espnets_scripts_in_turn(capsys, tmp_path):
    wave = 0.1 * np.random.default_rng(0).normal(size=32000)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\n")
    upstream = dict(model_type="hubert", conv_dim=[8, 8], conv_kernel=[20, 16])
    upstream.update(conv_stride=[20, 16], num_feat_extract_layers=2, hidden_size=16)
    upstream.update(num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    upstream.update(num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2)
    config = {"frontend": "hf", "frontend_conf": {"upstream_config": upstream}}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", f"{tmp_path}/train.yaml", "--num_clusters", "4"]
    options += ["--wav_scp", f"{tmp_path}/wav.scp", "--rounds", "1"]
    options += ["--rival", f"{tmp_path}/espnet"]
    with pytest.raises(RuntimeError, match="espnet: found no .*, expected the root"):
        tool.main(options)
    log = tmp_path / "log"
    for name in (tool.DUMP, tool.LEARN, tool.LABEL):
        script = tmp_path / "espnet" / tool.RECIPE / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(SCRIPT.format(log=str(log)))
    assert tool.main(options) == 0
    ours, theirs = capsys.readouterr().out.splitlines()[-2:]
    name, learn, dump, both, _, distance = (c.strip() for c in theirs.split("|")[1:-1])
    assert name == f"{tmp_path}/espnet" and float(distance) == 2.5
    assert float(both) == pytest.approx(float(learn) + float(dump), abs=0.11)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    # all three for a layer, then for the next one
    assert [line[0] for line in lines] == [tool.DUMP, tool.LEARN, tool.LABEL] * 2
    for line, layer in zip(lines[::3], (1, 2)):
        conf = line[line.index("--feature_conf") + 1]
        assert conf.endswith(f",layer={layer}}}}}") and "hf_hubert_custom" in conf
    assert lines[1][lines[1].index("--n_clusters") + 1] == "4"
