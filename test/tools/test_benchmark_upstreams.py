# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The benchmark of the upstreams in tools/."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers

from espnet2_distilmos.mos.frontend.hf import FAMILIES

TOOL = Path(__file__).resolve().parents[2] / "tools" / "benchmark_upstreams.py"
spec = importlib.util.spec_from_file_location("benchmark_upstreams", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

TINY = dict(
    model_type="hubert",
    conv_dim=[8, 8],
    conv_kernel=[20, 16],
    conv_stride=[20, 16],
    num_feat_extract_layers=2,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=16,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)


def test_batches_keep_the_limit_on_padded_seconds():
    plan = tool.plan_batches([2, 12, 5, 3, 8], batch_seconds=30, attention_mib=1e9)
    assert plan == [[12, 8], [5, 3, 2]]
    # 3 x 12 > 30; six of five seconds are 30.
    assert tool.plan_batches([5] * 7, 30, 1e9) == [[5] * 6, [5]]
    assert tool.plan_batches([40, 1], 30, 1e9) == [[40], [1]]
    assert tool.plan_batches([], 30, 1e9) == []


def test_batches_keep_the_limit_on_attention():
    # 10 s are 500 frames: 144 heads x 500 x 500 x 4 bytes = 144e6 bytes = 137.3 MiB.
    assert tool.plan_batches([10] * 3, 1e9, 2 * 137.4) == [[10, 10], [10]]
    assert tool.plan_batches([10] * 3, 1e9, 2 * 137.3) == [[10], [10], [10]]
    # Half the length: a quarter of the memory, four times the count.
    assert len(tool.plan_batches([5] * 8, 1e9, 2 * 137.4)[0]) == 8
    assert len(tool.plan_batches([5] * 9, 1e9, 2 * 137.4)[0]) == 8


def figures(forward, train=None, mib=100.0):
    return dict(
        parameters=2_000_000,
        trained=1_500_000,
        num_layers=3,
        dimension=16,
        frames_per_second=50.0,
        padding_difference=2.04e-6,
        forward_seconds=forward,
        train_seconds=train,
        forward_mib=mib,
        train_mib=None if train is None else 2 * mib,
    )


def test_ratios_are_medians_of_the_rounds_own_ratios():
    rounds = {
        "ref": [figures(1.0, 3.0), figures(4.0, 12.0), figures(2.0, 6.0)],
        # Twice as long in each round, but for the second, which failed.
        "new": [figures(2.0, 3.0, 50.0), {}, figures(4.0, 6.0, 50.0)],
        "big": [figures(9.0), figures(8.0), figures(10.0)],
        "none": [{}, {}, {}],
    }
    summary = tool.summarise(rounds, "ref")
    assert list(summary) == ["ref", "new", "big"]
    assert summary["ref"]["forward_seconds"] == 2.0
    assert summary["ref"]["forward_seconds_ratio"] == 1.0
    assert summary["new"]["rounds"] == 2
    assert summary["new"]["forward_seconds"] == 3.0
    # The ratio of the medians would be 1.5.
    assert summary["new"]["forward_seconds_ratio"] == 2.0
    assert summary["new"]["train_seconds_ratio"] == 1.0
    assert summary["new"]["train_mib_ratio"] == 0.5
    # 9 / 1, 8 / 4 and 10 / 2.
    assert summary["big"]["forward_seconds_ratio"] == 5.0
    assert summary["big"]["train_seconds"] is None
    assert summary["big"]["train_seconds_ratio"] is None
    assert tool.summarise(rounds, "absent")["new"]["forward_seconds_ratio"] is None


def test_table():
    rounds = {"ref": [figures(0.5, 3.0)], "new": [figures(0.1234)]}
    lines = tool.markdown_table(tool.summarise(rounds, "ref"), "ref").splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2] == (
        "| ref | 2.0 | 1.5 | 3 | 16 | 50 | 0.5 (1.00) | 3 (1.00) | 100 (1.00) |"
        " 200 (1.00) | 2.0e-06 |"
    )
    assert lines[3] == (
        "| new | 2.0 | 1.5 | 3 | 16 | 50 | 0.123 (0.25) | – | 100 (1.00) | – |"
        " 2.0e-06 |"
    )
    assert "ratio to ref" in lines[-1]


# Millions as SUPERB's table or the size of the hub's checkpoint gives them; for Whisper
# these count the decoder too, so that its encoders are counted by hand below.
PUBLISHED = {
    "wavlm-base": 94.70,
    "wav2vec2-base": 95.04,
    "hubert-base": 94.68,
    "data2vec-audio-base": 373 / 4,
    "unispeech-sat-base": 94.68,
    "xls-r-300m": 317.38,
    "wavlm-large": 316.62,
    "w2v-bert-2.0": 2330 / 4,
}


def whisper_encoder(dim, layers, mels, positions=1500):
    convolutions = 3 * mels * dim + dim + 3 * dim * dim + dim
    # Query, value and output have a bias, the key has none.
    attention = 4 * dim * dim + 3 * dim
    layer = attention + 2 * 4 * dim * dim + 4 * dim + dim + 2 * 2 * dim
    return convolutions + positions * dim + layers * layer + 2 * dim


@pytest.mark.parametrize("family", tool.UPSTREAMS)
def test_networks_have_the_published_size(family):
    config = dict(tool.UPSTREAMS[family].config)
    hf_config = transformers.AutoConfig.for_model(config.pop("model_type"), **config)
    with torch.device("meta"):
        model = FAMILIES[hf_config.model_type].build(hf_config)
    found = sum(p.numel() for p in model.parameters())
    if family.startswith("whisper"):
        expected = whisper_encoder(
            hf_config.d_model, hf_config.encoder_layers, hf_config.num_mel_bins
        )
        assert found == expected
    else:
        assert found / 1e6 == pytest.approx(PUBLISHED[family], rel=0.01)
    assert tool.UPSTREAMS[family].hub_id.count("/") == 1


def test_measurement_of_a_tiny_network():
    batches = [[0.5, 0.25], [0.25]]
    found = tool.measure(TINY, batches)
    assert found["num_layers"] == 3 and found["dimension"] == 16
    assert found["frames_per_second"] == 50.0
    assert set(tool.FIGURES) < set(found)
    # No memory here: what tests before this one freed may be more than this network.
    assert found["forward_seconds"] > 0 and found["train_seconds"] > 0
    assert found["padding_difference"] < 1e-4
    forward_only = tool.measure(TINY, batches, train_below=found["parameters"])
    assert forward_only["parameters"] == found["parameters"]
    assert forward_only["train_seconds"] is forward_only["train_mib"] is None


@pytest.mark.parametrize("name", tool.ADAPTED)
def test_the_reference_trained_in_other_ways(name):
    adapted = tool.CHOICES[name]
    assert adapted.config == tool.UPSTREAMS["wavlm-base"].config
    found = tool.measure(TINY, [[0.25]], frontend_conf=adapted.frontend_conf)
    plain = tool.measure(TINY, [[0.25]])
    if "lora" in name:
        # A and B of rank 8 at four maps of 16 x 16 in each of three layers.
        assert found["trained"] == 3 * 4 * 8 * (16 + 16)
        assert found["parameters"] == plain["parameters"] + found["trained"]
    elif "cnn" in name:
        assert 0 < found["trained"] < plain["trained"]
    else:
        assert found["trained"] == plain["trained"] < plain["parameters"]


def test_padding_difference_is_that_of_the_worst_frame():
    """By a stand-in that hears the padding in one frame of one utterance."""

    def frontend(speech, lengths):
        states = speech.unsqueeze(-1).expand(-1, -1, 2).clone()
        if len(speech) > 1:
            states[1, 0, 0] += 0.3
        return [speech.unsqueeze(-1), states], lengths

    speech = torch.tensor([[1.0, 1.0, 1.0], [3.0, 4.0, 7.0]])
    found = tool.padding_difference(frontend, speech, torch.tensor([3, 2]))
    # Over the RMS of 3 and 4, the valid frames of the second utterance.
    assert found == pytest.approx(0.3 / 12.5**0.5)


def test_time_and_memory_follow_the_work(monkeypatch):
    """On a clock that counts the frames, and with the graph of a longer utterance."""
    ticks = []

    class Counter:
        def __init__(self, device, threads):
            pass

        def __call__(self):
            return sum(ticks)

    original = torch.nn.Linear.forward

    def counted(self, x):
        ticks.append(x.numel() // x.size(-1))
        return original(self, x)

    monkeypatch.setattr(tool, "_Clock", Counter)
    monkeypatch.setattr(torch.nn.Linear, "forward", counted)
    one = tool.measure(TINY, [[1.0]])
    # Padding is work, but no audio: 2 x 1 s for 1.25 s.
    padded = tool.measure(TINY, [[1.0, 0.25]])
    ratio = padded["forward_seconds"] / one["forward_seconds"]
    assert ratio == pytest.approx(2 / 1.25)
    # 16 000 frames of 256 channels in 4 bytes are 16 MiB, there at least twice in a
    # forward pass; a training keeps several such steps.
    wide = dict(TINY, conv_dim=[256, 8], feat_extract_norm="layer")
    long = tool.measure(wide, [[20.0]])
    assert long["forward_mib"] > one["forward_mib"] + 20
    assert long["train_mib"] > long["forward_mib"] + 20


def arguments(tmp_path, *options):
    command = ["--output_dir", str(tmp_path), "--rounds", "2", *options]
    return tool.get_parser().parse_args(command)


class Measurer:
    """Counts what is asked for; ``bad`` fails."""

    def __init__(self, bad=()):
        self.bad, self.asked = bad, []

    def __call__(self, family, settings):
        self.asked.append(family)
        if family in self.bad:
            raise tool.BenchmarkError(f"{family}: found no measurement")
        return figures(1.0 if family == "wavlm-base" else 2.0)


def test_rounds_are_interleaved_and_a_stopped_run_goes_on(tmp_path, capsys):
    args = arguments(tmp_path, "--families", "whisper-tiny", "hubert-base")
    first = Measurer(bad=["hubert-base"])
    assert tool.run(args, first) == 1
    families = ["wavlm-base", "whisper-tiny", "hubert-base"]
    # One that failed is not tried again in the same run.
    assert first.asked == families + families[:2]
    output = capsys.readouterr()
    assert "| whisper-tiny |" in output.out and "hubert-base" not in output.out
    assert output.err.endswith("hubert-base: found no measurement\n")

    second = Measurer()
    assert tool.run(args, second) == 0
    assert second.asked == ["hubert-base"] * 2
    assert tool.run(args, Measurer()) == 0
    more = Measurer()
    args.rounds = 3
    assert tool.run(args, more) == 0 and more.asked == families
    contents = json.loads((tmp_path / "upstreams.json").read_text())
    assert contents["summary"]["hubert-base"]["forward_seconds_ratio"] == 2.0
    assert contents["batches"] == [[12.0, 8.0], [5.0, 3.0, 2.0]]
    table = (tmp_path / "upstreams.md").read_text()
    assert table in capsys.readouterr().out and table.count("\n| ") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "upstreams.json",
        "upstreams.md",
    ]


def test_another_runs_results_are_not_mixed_in(tmp_path, capsys):
    assert tool.run(arguments(tmp_path), Measurer()) == 0
    with pytest.raises(tool.BenchmarkError, match="other settings.*--output_dir"):
        tool.run(arguments(tmp_path, "--lengths", "3"), Measurer())
    (tmp_path / "upstreams.json").write_text("{}")
    assert tool.main(["--output_dir", str(tmp_path)]) == 1
    assert "found no measurements" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options,sentence",
    [
        ([], "--output_dir is missing"),
        (["--output_dir", "x", "--rounds", "0"], "expected numbers above 0"),
        (["--output_dir", "x", "--lengths", "-1"], "expected numbers above 0"),
    ],
)
def test_wrong_options_get_one_sentence(options, sentence, capsys):
    assert tool.main(options) == 1
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_whole_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TOOL.parents[1]))
    options = ["--output_dir", str(tmp_path), "--reference", "whisper-tiny"]
    options += ["--families", "whisper-tiny", "--rounds", "1", "--lengths", "1"]
    assert tool.main(options) == 0
    contents = json.loads((tmp_path / "upstreams.json").read_text())
    row = contents["summary"]["whisper-tiny"]
    assert row["parameters"] == whisper_encoder(384, 4, 80)
    assert all(row[f"{figure}_ratio"] == 1.0 for figure in tool.FIGURES)
    # At least the weights, in MiB.
    assert row["forward_mib"] > 4 * row["parameters"] / 2**20


def test_too_large_a_network_is_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TOOL.parents[1]))
    options = ["--output_dir", str(tmp_path), "--families", "wavlm-base"]
    # The weights alone are 0.35 GiB.
    assert tool.main([*options, "--memory_gib", "0.2"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "wavlm-base: found no measurement" in error and "memory" in error
