# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers

from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.frontend.hf import FAMILIES

TOOLS = Path(__file__).resolve().parents[2] / "tools"
TINY = {
    "model_type": "hubert",
    "conv_dim": [8, 8],
    "conv_kernel": [20, 16],
    "conv_stride": [20, 16],
    "num_feat_extract_layers": 2,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
# Millions, from SUPERB's table or the size of the hub's checkpoint; for Whisper these
# count the decoder too, so that its encoders are counted by hand.
PUBLISHED = {
    "wavlm-base": 94.70,
    "wav2vec2-base": 95.04,
    "hubert-base": 94.68,
    "data2vec-audio-base": 373 / 4,
    "unispeech-sat-base": 94.68,
    "whisper-tiny": 8.21,
    "whisper-base": 20.59,
    "whisper-small": 88.15,
    "xls-r-300m": 317.38,
    "wavlm-large": 316.62,
    "w2v-bert-2.0": 2330 / 4,
    "whisper-large-v3": 636.97,
}


@pytest.fixture
def tool(monkeypatch):
    # Processes of their own import it by name.
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("benchmark_upstreams")


def test_networks_have_the_published_size(tool):
    found = {}
    for name, config in tool.UPSTREAMS.items():
        hf_config = transformers.AutoConfig.for_model(**config)
        with torch.device("meta"):
            model = FAMILIES[hf_config.model_type].build(hf_config)
        found[name] = sum(p.numel() for p in model.parameters()) / 1e6
    assert found == pytest.approx(PUBLISHED, rel=0.01)


def test_students_are_as_small_as_they_say(tool):
    found = {}
    for name, (frontend, conf) in tool.STUDENTS.items():
        network = build_frontend(frontend, conf)
        found[name] = sum(p.numel() for p in network.parameters()) / 1e6
    assert [found[f"spec_cnn-{size}"] for size in "sml"] == pytest.approx(
        [0.34, 1.34, 3.95], abs=0.01
    )
    # A layer of Whisper-tiny: four maps of 384 x 384 with three biases, two of
    # 384 x 1536, two norms. The norm behind the last layer goes, too.
    layer = 4 * 384**2 + 3 * 384 + 2 * 384 * 1536 + 384 + 1536 + 4 * 384
    for kept in (2, 3):
        left = PUBLISHED["whisper-tiny"] - ((4 - kept) * layer + 2 * 384) / 1e6
        name = f"whisper-tiny:{kept}-layers"
        assert found[name] == pytest.approx(left, abs=0.01)


def test_measurement_of_a_student(tool):
    conf = {"channels": [4, 4], "hidden_size": 16, "num_attention_heads": 1}
    found = tool.measure(conf, [[0.5, 0.25]], frontend="spec_cnn")
    assert (found["num_layers"], found["dimension"]) == (3, 16)
    assert found["frames_per_second"] == 50.0 and found["padding_difference"] < 1e-4


def test_measurement_of_a_tiny_network(tool):
    found = tool.measure({"upstream_config": TINY}, [[0.5, 0.25], [0.25]])
    assert (found["num_layers"], found["dimension"]) == (3, 16)
    assert found["frames_per_second"] == 50.0 and found["padding_difference"] < 1e-4
    assert found["forward_seconds"] > 0 and found["train_seconds"] > 0
    # A training keeps what a forward pass frees: 16 000 frames x 256 channels x 4 bytes
    # are 16 MiB, kept several times. In a process of its own, as the tool does it: this
    # one reuses what earlier tests have freed, which no resident set shows.
    wide = {"upstream_config": {**TINY, "conv_dim": [256, 8]}}
    wide["upstream_config"]["feat_extract_norm"] = "layer"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        found = process.submit(tool.measure, wide, [[20.0]]).result()
    assert found["forward_mib"] > 20 and found["train_mib"] > found["forward_mib"] + 20
    # A and B of rank 8 at four maps of 16 x 16 in each of three layers.
    lora = {"upstream_config": TINY, **tool.ADAPTED["wavlm-base:lora"]}
    found = tool.measure(lora, [[0.25]], train_below=1)
    assert found["trained"] == 3 * 4 * 8 * (16 + 16)
    assert found["train_seconds"] is found["train_mib"] is None


def test_padding_difference_is_that_of_the_worst_frame(tool):
    """By a stand-in that lets the padding into one frame of one utterance."""

    def frontend(speech, lengths):
        states = speech.unsqueeze(-1).expand(-1, -1, 2).clone()
        if len(speech) > 1:
            states[1, 0, 0] += 0.3
        return [speech.unsqueeze(-1), states], lengths

    speech = torch.tensor([[1.0, 1.0, 1.0], [3.0, 4.0, 7.0]])
    found = tool.padding_difference(frontend, speech, torch.tensor([3, 2]))
    # Over the RMS of 3 and 4, the valid frames of the second utterance.
    assert found == pytest.approx(0.3 / 12.5**0.5)


def test_ratios_are_medians_of_the_rounds_own_ratios(tool):
    def figures(forward, train):
        constants = {"parameters": 2e6, "trained": 1.5e6, "num_layers": 3}
        constants.update(dimension=16, frames_per_second=50.0, padding_difference=2e-6)
        values = (forward, train, 100.0, train)
        return {**constants, **dict(zip(tool.FIGURES, values))}

    rounds = {
        "wavlm-base": [figures(1.0, 3.0), figures(4.0, 12.0), figures(2.0, 6.0)],
        "small": [{**figures(0.01, 1.0), "parameters": 3.4e5}] * 3,
        # Twice as long in each round but the second, which failed.
        "new": [figures(2.0, 3.0), None, figures(4.0, 6.0)],
        "big": [figures(9.0, None), figures(8.0, None), figures(10.0, None)],
        "none": [None, None, None],
    }
    lines = tool.markdown_table(rounds).splitlines()
    start = "| 2.0 | 1.5 | 3 | 16 | 50 |"
    assert lines[3].startswith("| small | 0.34 | 1.5 | 3 | 16 | 50 | 0.01 (0.005) |")
    assert lines[4] == (  # the ratio of the medians would be 1.5
        f"| new {start} 3 (2.00) | 4.5 (1.00) | 100 (1.00) | 4 (1.00) | 2.0e-06 |"
    )
    # 9 / 1, 8 / 4 and 10 / 2
    assert lines[5] == f"| big {start} 9 (5.00) | – | 100 (1.00) | – | 2.0e-06 |"
    assert not any("none" in line for line in lines)


@pytest.mark.slow
def test_a_failure_does_not_cost_the_others(tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(tool.UPSTREAMS, "wavlm-base", TINY)
    monkeypatch.setitem(tool.UPSTREAMS, "hubert-base", {"model_type": "nothing"})
    command = ["--output_dir", str(tmp_path), "--rounds", "1", "--batches", "0.5,0.3"]
    assert tool.main([*command, "--families", "hubert-base"]) == 1
    output = capsys.readouterr()
    assert any(line.startswith("hubert-base: ") for line in output.err.splitlines())
    assert "wavlm-base" in output.out and "hubert-base" not in output.out
    assert (tmp_path / "upstreams.md").read_text() == output.out
    rounds = json.loads((tmp_path / "upstreams.json").read_text())["rounds"]
    assert rounds["wavlm-base"][0]["num_layers"] == 3 and rounds["hubert-base"] == [
        None
    ]
