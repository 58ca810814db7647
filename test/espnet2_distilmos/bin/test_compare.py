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
    # Three comparisons: Holm multiplies the least p-value by three.
    least = min(r["p_correlation"] for k, r in rows.items() if k[:2] == ("utt", "srcc"))
    holm = [
        r["p_correlation_holm"] for k, r in rows.items() if k[:2] == ("utt", "srcc")
    ]
    assert min(holm) == pytest.approx(3 * least)
    assert rows["utt", "srcc", "good", "close"]["p_bootstrap"] > 0.05
    out = capsys.readouterr().out
    verdicts = {
        tuple(c.strip() for c in line.split("|")[2:4]): line.split("|")[-2].strip()
        for line in out.splitlines()
        if line.startswith("| utt SRCC")
    }
    assert verdicts["good", "bad"] == "good"
    assert verdicts["good", "close"] == "not told apart"
    page = (files / "out" / "COMPARISON.md").read_text()
    assert "60 utterances" in page and "distilmos compare" in page


def test_two_runs_are_equal(files):
    for name in ("one", "two"):
        run(files, "--output", str(files / name))
    documents = [
        json.loads((files / n / "comparison.json").read_text()) for n in ("one", "two")
    ]
    assert documents[0]["comparisons"] == documents[1]["comparisons"]
    assert documents[0]["results"] == documents[1]["results"]


def test_a_baseline_and_chosen_metrics(files, capsys):
    assert run(files, "--baseline", "close", "--metrics", "ktau") == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if "KTAU" in x]
    assert [line.split("|")[3].strip() for line in lines] == ["close"] * 4


def test_only_what_all_models_scored_is_compared(files, capsys):
    lines = (files / "bad.txt").read_text().splitlines(True)
    (files / "bad.txt").write_text("".join(lines[10:]))
    assert run(files, "--output", str(files / "out")) == 1
    document = json.loads((files / "out" / "comparison.json").read_text())
    assert document["num_utts"] == 50
    expected = read(files / "good.txt")[10:], read(files / "labels.txt")[10:]
    (row,) = [r for r in document["results"] if r["model"] == "good"]
    assert row["utt_mos_lcc"] == pytest.approx(stats.pearsonr(*expected)[0])
    assert "10 utterances that another model did not score" in capsys.readouterr().err


def test_with_clusters_the_bootstrap_decides_alone(files):
    clusters = ["--cluster", r"^utt\d(\d)$", "--output", str(files / "out")]
    run(files, *clusters)
    document = json.loads((files / "out" / "comparison.json").read_text())
    for row in document["comparisons"]:
        if row["level"] == "utt" and row["metric"] != "mse":
            assert row["p_correlation"] is None and row["p_bootstrap"] is not None


@pytest.mark.parametrize(
    "options, message",
    [
        (["--metrics", "srcc,scc"], "the metric scc is unknown"),
        (["--baseline", "best"], "the baseline best is none of the models"),
        (["--bootstrap", "0"], "--bootstrap is 0"),
    ],
)
def test_refusals(files, options, message, capsys):
    assert run(files, *options) == 1
    assert message in capsys.readouterr().err


def test_one_model_is_none_to_compare(files, capsys):
    assert run(files, models=("good",)) == 1
    assert "1 models, at least 2" in capsys.readouterr().err


def test_models_without_a_common_utterance(files, capsys):
    lines = (files / "bad.txt").read_text().splitlines(True)
    (files / "bad.txt").write_text("".join(lines[:5]))
    (files / "good.txt").write_text("".join(lines[5:]))
    assert run(files) == 1
    assert "no utterance was scored by all of" in capsys.readouterr().err


def test_parser_has_a_description():
    assert get_parser().description
