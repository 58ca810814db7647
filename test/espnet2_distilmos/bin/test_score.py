# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
from scipy import stats

from espnet2_distilmos.bin.mos_scoring import main as mos_scoring
from espnet2_distilmos.bin.score import get_parser, main, split_name


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
    (tmp_path / "utt2src").write_text("".join(f"{i} {i[5:]}\n" for i in ids))
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
        assert row["utt_mos_mse"] == pytest.approx(np.mean((pred - true) ** 2))
        means = [
            [
                np.mean([v for i, v in zip(ids, x) if i.startswith(s)])
                for x in (pred, true)
            ]
            for s in ("sys0", "sys1", "sys2", "sys3")
        ]
        assert row["sys_mos_lcc"] == pytest.approx(stats.pearsonr(*zip(*means))[0])
        line = stats.linregress(pred, true)
        residual = true - line.intercept - line.slope * pred
        expected = np.sqrt(residual @ residual / 38)
        assert row["utt_mos_rmse_first_order"] == pytest.approx(expected)
    out = capsys.readouterr().out
    assert "RESULTS.md" in out.splitlines()[-1]
    page = (root / "out" / "RESULTS.md").read_text()
    assert "pairs right" in page and "distilmos score" in page
    assert rows["good"]["files"]["prediction"] == f"{root}/good.txt"


def test_the_recipe_gives_the_same_numbers(files):
    root = files[0]
    lines = [f'{i} {{"mos": {p}}}\n' for i, p in zip(files[1], files[3])]
    (root / "metric.scp").write_text("".join(lines))
    (root / "test" / "utt2src").write_text((root / "utt2src").read_text())
    recipe = ["good", "test", f"{root}/test", f"{root}/metric.scp"]
    assert mos_scoring(["--score", *recipe, "--output_dir", f"{root}/recipe"]) == 0
    command = [f"{root}/test", f"{root}/good.txt", "--cluster", f"{root}/utt2src"]
    assert main([*command, "--output", f"{root}/out"]) == 0
    ours, theirs = results(root / "out")[0], results(root / "recipe")[0]
    ours.pop("files"), theirs.pop("files")
    assert ours == theirs and ours["num_clusters"] == 10


def test_systems_by_expression_and_what_is_drawn(files):
    root = files[0]
    (root / "test" / "utt2sys").unlink()
    command = [f"{root}/test", f"{root}/bad.jsonl", "--output", f"{root}/out"]
    main([*command, "--bootstrap", "20"])
    assert results(root / "out")[0]["num_systems"] == 0
    main([*command, "--systems", "^(sys[0-9])-", "--resample", "systems"])
    (row,) = results(root / "out")
    assert row["num_systems"] == row["num_clusters"] == 4
    assert row["resampled"] == "systems"


def test_labels_and_predictions_of_one_file(files):
    root, ids, true, good, _ = files
    head = "wav_path,avg_score,system_id,sample_id,answer\n"
    rows = [f"{i}.wav,{t},{i[:4]},{i},{p}\n" for i, t, p in zip(ids, true, good)]
    (root / "results.csv").write_text(head + "".join(rows))
    command = [f"{root}/results.csv"] * 2 + ["--reference-metric", "avg_score"]
    assert main([*command, "--output", f"{root}/out", "--bootstrap", "0"]) == 0
    (row,) = results(root / "out")
    assert row["utt_mos_srcc"] == pytest.approx(stats.spearmanr(good, true)[0])
    assert row["num_systems"] == 4


def test_drawing_systems_needs_systems(files, capsys):
    root = files[0]
    (root / "test" / "utt2sys").unlink()
    assert main([f"{root}/test", f"{root}/bad.jsonl", "--resample", "systems"]) == 1
    assert "--resample systems needs systems" in capsys.readouterr().err


def test_what_is_missing_is_said_and_the_rest_scored(files, capsys):
    root = files[0]
    lines = (root / "good.txt").read_text().splitlines(True)
    (root / "good.txt").write_text("".join(lines[3:]))
    assert main([f"{root}/test", f"{root}/good.txt", "--bootstrap", "0"]) == 1
    captured = capsys.readouterr()
    assert "3 utterances" in captured.err and "|   37 |" in captured.out
    # Nothing is written unasked.
    assert not (root / "results.json").exists()


def test_two_models_of_one_name(files, capsys):
    root = files[0]
    assert main([f"{root}/test", f"{root}/good.txt", f"good={root}/bad.jsonl"]) == 1
    assert "both the name good" in capsys.readouterr().err


def test_a_missing_file(files, capsys):
    root = files[0]
    assert main([f"{root}/test", f"{root}/nothing.csv"]) == 1
    assert "nothing.csv" in capsys.readouterr().err


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
