# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
from scipy import stats

from espnet2_distilmos.bin.mos_scoring import main as mos_scoring
from espnet2_distilmos.bin.score import get_parser, main
from espnet2_distilmos.cli import split_name


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Forty clips of four systems and ten sentences, with predictions."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    ids = [f"sys{k % 4}-utt{k // 4}" for k in range(40)]
    true = rng.uniform(1, 5, 40).round(2)
    pred = (true + rng.normal(0, 0.3, 40)).round(3)
    (tmp_path / "test").mkdir()
    for path, values in (("test/metric.scp", true), ("metric.scp", pred)):
        lines = [f'{i} {{"mos": {v}}}\n' for i, v in zip(ids, values)]
        (tmp_path / path).write_text("".join(lines))
    (tmp_path / "test/utt2sys").write_text("".join(f"{i} {i[:4]}\n" for i in ids))
    (tmp_path / "test/utt2src").write_text("".join(f"{i} {i[5:]}\n" for i in ids))
    # VoiceMOS's format, in another order, names with the ending of the audio.
    rows = [f"{i}.wav,{p}\n" for i, p in zip(ids[::-1], pred[::-1])]
    (tmp_path / "answer.txt").write_text("".join(rows))
    # SHEET's results have both.
    rows = [f"{i}.wav,{t},x,{i},{p}\n" for i, t, p in zip(ids, true, pred)]
    head = "wav_path,avg_score,system_id,sample_id,answer\n"
    (tmp_path / "sheet.csv").write_text(head + "".join(rows))
    return stats.spearmanr(pred, true)[0]


def results(path):
    with open(f"{path}/results.json") as file:
        return json.load(file)["results"]


def test_the_recipe_gives_the_same_numbers_whatever_the_formats(files, capsys):
    options = ["--bootstrap", "50"]
    recipe = ["--score", "answer", "test", "test", "metric.scp"]
    assert mos_scoring([*recipe, "--output_dir", "recipe", *options]) == 0
    assert main(["test", "answer.txt", "m=sheet.csv", "--output", "out", *options]) == 0
    assert "RESULTS.md" in capsys.readouterr().out.splitlines()[-1]
    with open("out/RESULTS.md") as file:
        assert "`distilmos score test answer.txt" in file.read()
    (theirs,), ours = results("recipe"), results("out")
    assert [row["model"] for row in ours] == ["answer", "m"]
    for row in (theirs, *ours):
        row.pop("model")
        assert row.pop("files")["reference"] == "test"
    assert ours == [theirs] * 2 and theirs["num_clusters"] == 10
    assert theirs["utt_mos_srcc"] == pytest.approx(files)


def test_labels_and_predictions_of_one_file(files):
    command = ["sheet.csv", "sheet.csv", "--reference-metric", "avg_score"]
    command += ["--systems", "^(sys[0-9])-", "--resample", "systems"]
    assert main([*command, "--output", "out", "--bootstrap", "20"]) == 0
    (row,) = results("out")
    assert row["utt_mos_srcc"] == pytest.approx(files)
    assert row["num_systems"] == row["num_clusters"] == 4


def test_what_is_missing_is_said_and_the_rest_scored(files, capsys, tmp_path):
    lines = (tmp_path / "answer.txt").read_text().splitlines(True)
    (tmp_path / "answer.txt").write_text("".join(lines[3:]))
    before = sorted(tmp_path.iterdir())
    assert main(["test", "answer.txt", "--bootstrap", "0"]) == 1
    captured = capsys.readouterr()
    assert "3 utterances" in captured.err and "|   37 |" in captured.out
    # Nothing is written unasked.
    assert sorted(tmp_path.iterdir()) == before


def test_few_clips_get_a_sentence_instead_of_an_interval(files, capsys, tmp_path):
    lines = (tmp_path / "answer.txt").read_text().splitlines(True)
    labels = sorted((tmp_path / "test" / "metric.scp").read_text().splitlines(True))
    for number, srcc in ((2, "–"), (5, ".")):
        (tmp_path / "few.txt").write_text("".join(lines[:number]))
        ids = tuple(line.partition(".wav")[0] for line in lines[:number])
        text = "".join(line for line in labels if line.startswith(ids))
        (tmp_path / "labels.scp").write_text(text)
        assert main(["labels.scp", "few.txt", "--output", "out"]) == 0
        out = capsys.readouterr().out
        row = next(line for line in out.splitlines() if line.startswith("| labels"))
        assert "[" not in row and srcc in row.split("|")[6]
        assert f"found {number} of the at least 6 utterances" in out
        assert ("2 items, at least 3 needed" in out) == (number == 2)
        assert set(results("out")[0]["intervals"].values()) == {None}


def test_labels_of_another_scale_get_no_error(files, capsys, tmp_path):
    lines = [line.split(",") for line in (tmp_path / "answer.txt").open()]
    rows = [f"{name},{25 * float(score):.2f}\n" for name, score in lines]
    (tmp_path / "percent.txt").write_text("".join(rows))
    for labels, pred in (("percent", "answer"), ("answer", "percent")):
        assert main([f"{labels}.txt", f"{pred}.txt", "--output", "out"]) == 0
        out = capsys.readouterr().out
        assert "_mos_mse: the labels go from " in out
        (row,) = results("out")
        assert row["utt_mos_mse"] is None and row["utt_mos_srcc"] == pytest.approx(1)
        assert row["utt_mos_rmse_first_order"] < 1


@pytest.mark.parametrize(
    "command, word",
    [
        (["test", "a=answer.txt", "a=metric.scp"], "a"),
        (["test", "nothing.csv"], "nothing.csv"),
        (["metric.scp", "metric.scp", "--resample", "systems"], "systems"),
    ],
)
def test_refusals(files, command, word, capsys):
    assert main(command) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a=b/c.csv", ("a", "b/c.csv")),
        ("b/lr=1/c.results.csv", ("c", "b/lr=1/c.results.csv")),
        ("dump/test/", ("test", "dump/test/")),
    ],
)
def test_names(text, expected):
    assert split_name(text) == expected


def test_parser_has_a_description():
    assert get_parser().description
