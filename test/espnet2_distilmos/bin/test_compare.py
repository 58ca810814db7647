# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
from scipy import stats

from espnet2_distilmos.bin.compare import get_parser, main


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    true = rng.uniform(1, 5, 60).round(4)
    values = {"labels": true}
    for name, sd in (("good", 0.3), ("close", 0.3), ("bad", 2.0)):
        values[name] = (true + rng.normal(0, sd, 60)).round(4)
    for name, scores in values.items():
        rows = "".join(f"utt{k:02d},{v}\n" for k, v in enumerate(scores))
        (tmp_path / f"{name}.txt").write_text(rows)
    return values


def run(*options, models=("good", "close", "bad")):
    paths = [f"{name}.txt" for name in ("labels", *models)]
    return main([*paths, "--systems", r"^(utt\d)", "--bootstrap", "200", *options])


def test_differences_tests_and_verdicts(files, capsys):
    assert run("--output", "out") == 0
    with open("out/comparison.json") as file:
        document = json.load(file)
    rows = {
        (r["level"], r["metric"], r["model_a"], r["model_b"]): r
        for r in document["comparisons"]
    }
    # Two levels, three metrics, three pairs.
    assert len(rows) == 18 and document["num_utts"] == 60
    row = rows["utt", "srcc", "good", "bad"]
    good, bad = (
        stats.spearmanr(files[name], files["labels"])[0] for name in ("good", "bad")
    )
    assert row["difference"] == pytest.approx(good - bad)
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
    with open("out/COMPARISON.md") as file:
        page = file.read()
    assert "60 utterances" in page and "distilmos compare" in page
    # The models' own scores are those of results.json.
    assert [r["model"] for r in document["results"]] == ["good", "close", "bad"]
    assert document["results"][0]["utt_mos_srcc"] == pytest.approx(good)


def test_with_clusters_on_what_all_models_scored(files, capsys):
    with open("bad.txt") as file:
        lines = file.readlines()[10:]
    with open("bad.txt", "w") as file:
        file.writelines(lines)
    options = ["--baseline", "good", "--metrics", "ktau,lcc", "--output", "out"]
    assert run("--cluster", r"^utt\d(\d)$", *options) == 1
    assert "10 utterances that another model did not" in capsys.readouterr().err
    with open("out/comparison.json") as file:
        document = json.load(file)
    assert document["num_utts"] == 50
    rows = {(r["level"], r["metric"], r["model_a"]): r for r in document["comparisons"]}
    # Two levels, two metrics, two models against the baseline.
    assert len(rows) == 8 and {r["model_b"] for r in rows.values()} == {"good"}
    # The bootstrap decides alone: clips of a cluster are not independent.
    row = rows["utt", "lcc", "bad"]
    expected = stats.pearsonr(files["good"][10:], files["labels"][10:])[0]
    assert row["value_b"] == pytest.approx(expected)
    assert row["p_correlation"] is None and row["p_bootstrap"] is not None
    with open("out/COMPARISON.md") as file:
        assert row["reason_correlation"] in file.read()


def test_smallest_difference_that_could_be_found(files, capsys):
    """SRCC: 2.80 standard errors; of two equal models nothing is known."""
    assert run("--output", "out", models=("good", "bad")) == 0
    out = capsys.readouterr().out
    with open("out/comparison.json") as file:
        document = json.load(file)
    row = document["comparisons"][0]
    (line,) = [line for line in out.splitlines() if line.startswith("| utt SRCC")]
    cells = [cell.strip() for cell in line.split("|")]
    for test, column in (("bootstrap", 9), ("correlation", 12)):
        value = row[f"detectable_{test}"]
        assert cells[column] == f"{value:.3f}" and 0 < value < row["difference"]
    # Williams' t is the difference in standard errors, with n - 3 degrees of freedom.
    error = row["difference"] / row["statistic"]
    quantiles = stats.t.ppf([0.975, 0.8], row["degrees_of_freedom"]).sum()
    assert row["detectable_correlation"] == pytest.approx(quantiles * error, rel=1e-4)
    assert row["detectable_bootstrap"] == pytest.approx(
        2.8016 / 3.92 * np.diff(row["interval"])[0], rel=0.2
    )
    assert document["detectable"]["power"] == 0.8
    formula = document["detectable"]["formula"]
    with open("out/COMPARISON.md") as file:
        assert "2.80 SE" in formula and formula in out and formula in file.read()


@pytest.mark.parametrize("number", [2, 5])
def test_a_handful_of_clips_tells_no_models_apart(number, files, capsys):
    for name in ("labels", "good", "bad"):
        with open(f"{name}.txt") as file:
            lines = file.readlines()[:number]
        with open(f"{name}.txt", "w") as file:
            file.writelines(lines)
    assert run("--output", "out", models=("good", "bad")) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith(("| utt", "| sys"))]
    assert len(rows) == 6 and all(row.split("|")[-2].strip() == "n.t." for row in rows)
    assert f"found {number} of the at least 6 utterances" in out and "[" not in rows[2]
    assert "detectable: " not in out  # no value of which it would be the definition
    with open("out/comparison.json") as file:
        document = json.load(file, parse_constant=pytest.fail)
    for row in document["comparisons"]:
        assert row["interval"] is row["p_bootstrap"] is row["p_correlation"] is None
        assert row["reason"]


def test_too_few_resamples_and_a_constant_model_are_said_by_name(files, capsys):
    with open("flat.txt", "w") as file:
        file.writelines(f"utt{k:02d},3\n" for k in range(60))
    assert run("--bootstrap", "5", models=("good", "bad", "flat")) == 0
    out = capsys.readouterr().out
    rows = [line.split("|") for line in out.splitlines() if line.startswith("| utt")]
    assert len(rows) == 9 and "[" not in "".join(row[6] for row in rows)
    assert all(row[-2].strip() == "n.t." for row in rows)
    assert "found 5 of the at least 100 resamples" in out
    assert "undefined for flat: the predictions are constant" in out
    assert "- sys srcc" not in out and "model b:" not in out
    assert "detectable: " in out  # Williams' test has some


def test_a_model_of_another_scale_has_no_difference_of_errors(files, capsys):
    rows = "".join(f"utt{k:02d},{20 * v}\n" for k, v in enumerate(files["good"]))
    with open("large.txt", "w") as file:
        file.write(rows)
    options = ["--metrics", "mse,srcc", "--output", "out"]
    assert run(*options, models=("good", "close", "large")) == 0
    assert "undefined for large: the labels go from" in capsys.readouterr().out
    with open("out/comparison.json") as file:
        rows = json.load(file)["comparisons"]
    for row in rows:
        has_value = row["metric"] == "srcc" or row["model_b"] != "large"
        assert (row["difference"] is not None) == has_value
        assert (row["p_bootstrap"] is not None) == has_value


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
    assert run(*options, models=models) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


def test_parser_has_a_description():
    assert get_parser().description
