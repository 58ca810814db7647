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
def files(tmp_path):
    """Forty clips of four systems and ten sentences, with two models."""
    rng = np.random.default_rng(0)
    ids = [f"sys{k % 4}-utt{k // 4}" for k in range(40)]
    true = rng.uniform(1, 5, 40).round(2)
    good = (true + rng.normal(0, 0.3, 40)).round(3)
    bad = (true + rng.normal(0, 2.0, 40)).round(3)
    data = tmp_path / "test"
    data.mkdir()
    lines = [f'{i} {{"mos": {t}}}\n' for i, t in zip(ids, true)]
    (data / "metric.scp").write_text("".join(lines))
    (data / "utt2sys").write_text("".join(f"{i} {i[:4]}\n" for i in ids))
    (data / "utt2src").write_text("".join(f"{i} {i[5:]}\n" for i in ids))
    # VoiceMOS's format, in another order, names with the ending of the audio.
    rows = [f"{i}.wav,{p}\n" for i, p in zip(ids[::-1], good[::-1])]
    (tmp_path / "good.txt").write_text("".join(rows))
    rows = [json.dumps({"key": i, "mos": p}) + "\n" for i, p in zip(ids, bad)]
    (tmp_path / "bad.jsonl").write_text("".join(rows))
    return tmp_path, ids, true, good, bad


def results(folder):
    return json.loads((folder / "results.json").read_text())["results"]


def test_metrics_are_those_of_scipy_whatever_the_formats(files, capsys):
    root, ids, true, good, bad = files
    command = [f"{root}/test", f"{root}/good.txt", f"noisy={root}/bad.jsonl"]
    assert main([*command, "--output", f"{root}/out", "--bootstrap", "50"]) == 0
    rows = {r["model"]: r for r in results(root / "out")}
    assert list(rows) == ["good", "noisy"]
    for name, pred in (("good", good), ("noisy", bad)):
        row = rows[name]
        assert row["test_set"] == "test" and row["num_utts"] == 40
        assert row["utt_mos_srcc"] == pytest.approx(stats.spearmanr(pred, true)[0])
    assert "RESULTS.md" in capsys.readouterr().out.splitlines()[-1]
    assert "distilmos score" in (root / "out" / "RESULTS.md").read_text()
    assert rows["good"]["files"]["prediction"] == f"{root}/good.txt"


def test_the_recipe_gives_the_same_numbers(files):
    root, ids, _, good, _ = files
    lines = [f'{i} {{"mos": {p}}}\n' for i, p in zip(ids, good)]
    (root / "metric.scp").write_text("".join(lines))
    recipe = ["good", "test", f"{root}/test", f"{root}/metric.scp"]
    options = ["--bootstrap", "50"]
    command = ["--score", *recipe, "--output_dir", f"{root}/recipe"]
    assert mos_scoring([*command, *options]) == 0
    command = [f"{root}/test", f"{root}/good.txt", "--output", f"{root}/out"]
    assert main([*command, *options]) == 0
    ours, theirs = results(root / "out")[0], results(root / "recipe")[0]
    ours.pop("files"), theirs.pop("files")
    assert ours == theirs and ours["num_clusters"] == 10


def test_labels_systems_and_predictions_of_one_file(files):
    root, ids, true, good, _ = files
    head = "wav_path,avg_score,system_id,sample_id,answer\n"
    rows = [f"{i}.wav,{t},x,{i},{p}\n" for i, t, p in zip(ids, true, good)]
    (root / "results.csv").write_text(head + "".join(rows))
    command = [f"{root}/results.csv"] * 2 + ["--reference-metric", "avg_score"]
    command += ["--systems", "^(sys[0-9])-", "--resample", "systems"]
    assert main([*command, "--output", f"{root}/out", "--bootstrap", "20"]) == 0
    (row,) = results(root / "out")
    assert row["utt_mos_srcc"] == pytest.approx(stats.spearmanr(good, true)[0])
    assert row["num_systems"] == row["num_clusters"] == 4
    assert row["resampled"] == "systems"


def test_what_is_missing_is_said_and_the_rest_scored(files, capsys):
    root = files[0]
    lines = (root / "good.txt").read_text().splitlines(True)
    (root / "good.txt").write_text("".join(lines[3:]))
    assert main([f"{root}/test", f"{root}/good.txt", "--bootstrap", "0"]) == 1
    captured = capsys.readouterr()
    assert "3 utterances" in captured.err and "|   37 |" in captured.out
    # Nothing is written unasked.
    assert not (root / "results.json").exists()


@pytest.mark.parametrize(
    "predictions, options, word",
    [
        (["good.txt", "good=bad.jsonl"], [], "good"),
        (["nothing.csv"], [], "nothing.csv"),
        (["bad.jsonl"], ["--resample", "systems"], "systems"),
    ],
)
def test_refusals(files, predictions, options, word, capsys, monkeypatch):
    monkeypatch.chdir(files[0])
    (files[0] / "test" / "utt2sys").unlink()
    assert main(["test", *predictions, *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a=b/c.csv", ("a", "b/c.csv")),
        ("b/c.results.csv", ("c", "b/c.results.csv")),
        ("b/lr=1/c.csv", ("c", "b/lr=1/c.csv")),
        ("dump/test/", ("test", "dump/test/")),
    ],
)
def test_names(text, expected):
    assert split_name(text) == expected


def test_parser_has_a_description():
    assert get_parser().description
