# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What version 0.1 wrote still opens, with the same scores.

``v0_1`` holds a packed model with its calibration, its scores of three noises, and the
results.json of its validation set, all written by version 0.1 (torch 2.14).
"""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.bin.distilmos import main as distilmos
from espnet2_distilmos.bin.mos_pack import main as mos_pack
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.tasks.mos import MOSTask

FOLDER = Path(__file__).parent / "v0_1"


@pytest.mark.parametrize("form", ["zip", "unpacked"])
def test_scores_of_the_packed_model(form, tmp_path, monkeypatch):
    model = FOLDER / "mos_v0_1.zip"
    if form == "unpacked":
        assert mos_pack(["--unpack", str(model), "--output_dir", str(tmp_path)]) == 0
        model = tmp_path
    predictor = MOSPredictor.from_pretrained(str(model))
    for row in json.loads((FOLDER / "scores.json").read_text()):
        noise = np.random.default_rng(row["seed"]).standard_normal(row["samples"])
        result = predictor((row["amplitude"] * noise).astype(np.float32), 16000)
        assert result.score == pytest.approx(row["score"], abs=1e-6)
        np.testing.assert_allclose(result.frames, row["frames"], rtol=0, atol=1e-5)
        assert [result.times[0], result.times[-1]] == pytest.approx(row["times"])
        assert result.interval(0.9) == pytest.approx(row["interval"], abs=1e-5)
        assert result.novelty == pytest.approx(row["novelty"], abs=1e-5)


def test_results_open(tmp_path, capsys):
    shutil.copy(FOLDER / "results.json", tmp_path)
    assert distilmos(["results", str(tmp_path / "results.json")]) == 0
    (found,) = json.loads((FOLDER / "results.json").read_text())["results"]
    table = capsys.readouterr().out
    assert "mos_v0_1" in table and f"{found['utt_mos_srcc']:.3f}" in table


def test_a_training_of_version_0_1_goes_on(mos_corpus, tmp_path, monkeypatch):
    """Its options of that time are there, those of today are not."""
    with zipfile.ZipFile(FOLDER / "mos_v0_1.zip") as file:
        file.extractall(tmp_path)
    (tmp_path / "corpus").symlink_to(mos_corpus.root)
    monkeypatch.chdir(tmp_path)

    def go_on(*options, **changes):
        command = mos_corpus.command("exp/mos_v0_1", *options, **changes)
        command = [c.replace(str(mos_corpus.root), "corpus") for c in command]
        args = MOSTask.parse_args(command)
        MOSTask.check_required_command_args(args)
        MOSTask.build_model(args)

    changes = dict(optim_conf={"lr": 3e-3}, max_epoch=7)
    go_on(**changes)
    with pytest.raises(DataError, match="use_amp False .now True"):
        go_on("--use_amp", "true", **changes)
    with pytest.raises(DataError, match="train_shape_file"):
        go_on("--train_shape_file", "corpus/valid/speech_shape", **changes)
