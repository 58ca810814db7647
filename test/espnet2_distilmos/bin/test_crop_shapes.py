# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest

from espnet2_distilmos.bin.crop_shapes import main
from espnet2_distilmos.data.datadir import read_scp


@pytest.fixture
def samples(tmp_path):
    seconds = {"a": 0.5, "b": 2, "c": 3, "d": 5, "e": 20, "f": 20.001}
    path = tmp_path / "utt2num_samples"
    path.write_text("".join(f"{u} {round(s * 16000)}\n" for u, s in seconds.items()))
    return path


def shapes(samples, *options):
    output = samples.parent / "shape"
    command = ["--utt2num_samples", samples, "--output", output, *options]
    assert main([str(part) for part in command]) == 0
    return {u: int(n) / 16000 for u, n in read_scp(str(output)).items()}


def test_lengths_are_those_that_a_crop_leaves(samples):
    found = shapes(samples, "--crop_seconds", 3)
    assert found == {"b": 2, "c": 3, "d": 3, "e": 3}
    assert shapes(samples) == {"b": 2, "c": 3, "d": 5, "e": 20}
    found = shapes(samples, "--min_seconds", 4, "--max_seconds", 30)
    assert found == pytest.approx({"d": 5, "e": 20, "f": 20.001})


def test_the_order_is_drawn_and_repeats(samples):
    samples.write_text("".join(f"u{i:03} {16000 + i}\n" for i in range(200)))
    first = list(shapes(samples))
    assert first == list(shapes(samples))
    assert sorted(first) != first
    assert list(shapes(samples, "--seed", 1)) != first


def test_the_crop_is_that_of_the_training_unless_given(samples, capsys):
    config = samples.parent / "train.yaml"
    config.write_text("crop_seconds: 2.5\n")
    assert shapes(samples, "--config", config)["d"] == 2.5
    assert shapes(samples, "--config", config, "--crop_seconds", 4)["d"] == 4
    config.write_text("seed: 0\n")
    assert shapes(samples, "--config", config)["d"] == 5
    for text in ("crop_seconds: [\n", "- 1\n"):
        config.write_text(text)
        command = ["--utt2num_samples", samples, "--output", samples, "--config"]
        assert main([str(part) for part in (*command, config)]) == 1
        assert str(config) in capsys.readouterr().err.splitlines()[-1]


def test_nothing_left_is_said(samples, capsys):
    command = ["--utt2num_samples", str(samples), "--output", str(samples) + "x"]
    assert main([*command, "--min_seconds", "60"]) == 1
    assert "no utterance of 60.0 to 20.0 s" in capsys.readouterr().err
    assert not samples.with_name("utt2num_samplesx").exists()
