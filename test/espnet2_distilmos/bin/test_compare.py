# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
from scipy import stats

from espnet2_distilmos.bin.compare import get_parser, main


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    true = rng.uniform(1, 5, 60)
    models = {
        "good": true + rng.normal(0, 0.3, 60),
        "close": true + rng.normal(0, 0.3, 60),
        "bad": true + rng.normal(0, 2.0, 60),
    }
    for name, values in {"labels": true, **models}.items():
        rows = "".join(f"utt{k:02d},{v:.6f}\n" for k, v in enumerate(values))
        (tmp_path / f"{name}.txt").write_text(rows)
    return tmp_path


def run(root, *options, models=("good", "close", "bad")):
    paths = [str(root / f"{name}.txt") for name in ("labels", *models)]
    return main([*paths, "--systems", r"^(utt\d)", "--bootstrap", "400", *options])


def read(path):
    return np.array([float(line.split(",")[1]) for line in path.open()])


def test_differences_tests_and_verdicts(files, capsys):
    assert run(files, "--output", str(files / "out")) == 0
    document = json.loads((files / "out" / "comparison.json").read_text())
    rows = {
        (r["level"], r["metric"], r["model_a"], r["model_b"]): r
        for r in document["comparisons"]
    }
    # Two levels, three metrics, three pairs.
    assert len(rows) == 18 and document["num_utts"] == 60
    row = rows["utt", "srcc", "good", "bad"]
    true = read(files / "labels.txt")
    values = [
        stats.spearmanr(read(files / f"{n}.txt"), true)[0] for n in ("good", "bad")
    ]
    assert row["difference"] == pytest.approx(values[0] - values[1])
    assert row["better"] == "good" and row["p_bootstrap_holm"] < 0.05
    low, high = row["interval"]
    assert 0 < low < row["difference"] < high
    out = capsys.readouterr().out
    verdicts = {
        tuple(c.strip() for c in line.split("|")[2:4]): line.split("|")[-2].strip()
        for line in out.splitlines()
        if line.startswith("| utt SRCC")
    }
    assert verdicts["good", "bad"] == "good" and verdicts["good", "close"] == "n.s."
    page = (files / "out" / "COMPARISON.md").read_text()
    assert "60 utterances" in page and "distilmos compare" in page
    # The models' own scores are those of results.json.
    assert [r["model"] for r in document["results"]] == ["good", "close", "bad"]
    assert document["results"][0]["utt_mos_srcc"] == pytest.approx(values[0])


def test_a_baseline_and_chosen_metrics(files, capsys):
    assert run(files, "--baseline", "close", "--metrics", "ktau") == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if "KTAU" in x]
    assert [line.split("|")[3].strip() for line in lines] == ["close"] * 4


def test_with_clusters_on_what_all_models_scored(files, capsys):
    lines = (files / "bad.txt").read_text().splitlines(True)
    (files / "bad.txt").write_text("".join(lines[10:]))
    assert run(files, "--cluster", r"^utt\d(\d)$", "--output", f"{files}/out") == 1
    document = json.loads((files / "out" / "comparison.json").read_text())
    assert document["num_utts"] == 50
    expected = read(files / "good.txt")[10:], read(files / "labels.txt")[10:]
    (row,) = [r for r in document["results"] if r["model"] == "good"]
    assert row["utt_mos_lcc"] == pytest.approx(stats.pearsonr(*expected)[0])
    assert "10 utterances that another model did not" in capsys.readouterr().err
    # The bootstrap decides alone: clips of a cluster are not independent.
    for row in document["comparisons"]:
        if row["level"] == "utt" and row["metric"] != "mse":
            assert row["p_correlation"] is None and row["p_bootstrap"] is not None
    assert "Not computed" in (files / "out" / "COMPARISON.md").read_text()


@pytest.mark.parametrize(
    "options, models, word",
    [
        (["--metrics", "srcc,scc"], ("good", "bad"), "scc"),
        (["--baseline", "best"], ("good", "bad"), "best"),
        (["--bootstrap", "0"], ("good", "bad"), "--bootstrap"),
        ([], ("good",), "at least 2"),
    ],
)
def test_refusals(files, options, models, word, capsys):
    assert run(files, *options, models=models) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


def test_parser_has_a_description():
    assert get_parser().description
