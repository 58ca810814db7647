# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import json

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.bin.mos_scoring import get_parser, main
from espnet2_distilmos.data.datadir import (
    read_metric_scp,
    read_scp,
    write_metric_scp,
    write_scp,
)

N = 60


@pytest.fixture
def sets(tmp_path):
    """Two test sets with 60 utterances, 6 systems and 10 sentences, and predictions."""
    for number, name in enumerate(["dev", "ood"]):
        generator = np.random.default_rng(number)
        true = generator.uniform(1, 5, N)
        pred = true + generator.normal(0, 0.5, N)
        ids = [f"{name}-{i:02d}" for i in range(N)]
        ref = tmp_path / name
        write_metric_scp(ref / "metric.scp", dict(zip(ids, true)))
        write_scp(ref / "utt2sys", {u: f"sys{i % 6}" for i, u in enumerate(ids)})
        write_scp(ref / "utt2src", {u: f"sent{i // 6}" for i, u in enumerate(ids)})
        # another order than the reference's: the alignment must go by id
        scores = dict(zip(reversed(ids), reversed(list(pred))))
        write_metric_scp(tmp_path / f"{name}.pred", scores, sort=False)
    return tmp_path


def run(tmp_path, *rows, options=()):
    out = tmp_path / "out"
    cmd = ["--output_dir", str(out), "--bootstrap", "50", *options]
    for model, name in rows:
        cmd += ["--score", model, name, f"{tmp_path}/{name}", f"{tmp_path}/{name}.pred"]
    code = main(cmd)

    def refuse(constant):
        raise ValueError(constant)

    return code, json.loads((out / "results.json").read_text(), parse_constant=refuse)


def read(path):
    pairs = (line.split(maxsplit=1) for line in path.read_text().splitlines())
    return {utt_id: json.loads(text)["mos"] for utt_id, text in pairs}


def test_metrics_match_scipy(sets, capsys):
    code, document = run(sets, ("m", "dev"), ("m", "ood"))
    assert code == 0 and document["format_version"] == 1
    for result, name in zip(document["results"], ["dev", "ood"]):
        assert (result["model"], result["test_set"]) == ("m", name)
        true, pred = read(sets / name / "metric.scp"), read(sets / f"{name}.pred")
        x = np.array([pred[u] for u in sorted(true)])
        y = np.array([true[u] for u in sorted(true)])
        for level, a, b in (
            ("utt", x, y),
            ("sys", x.reshape(-1, 6).mean(0), y.reshape(-1, 6).mean(0)),
        ):
            expected = {
                "mse": np.mean((a - b) ** 2),
                "lcc": scipy.stats.pearsonr(a, b)[0],
                "srcc": scipy.stats.spearmanr(a, b)[0],
                "ktau": scipy.stats.kendalltau(a, b)[0],
            }
            for metric, value in expected.items():
                key = f"{level}_mos_{metric}"
                assert result[key] == pytest.approx(value)
                low, high = result["intervals"][key]
                assert low <= high
        assert result["num_utts"] == N and result["num_systems"] == 6
        assert result["num_clusters"] == 10 and result["undefined"] == {}
    printed = capsys.readouterr().out.splitlines()
    srcc = document["results"][1]["utt_mos_srcc"]
    assert f"{srcc:.3f} [" in printed[-2]
    assert printed[-1].endswith("RESULTS.md")


def test_intervals_resample_the_sources(sets):
    _, with_sources = run(sets, ("m", "dev"))
    (sets / "dev" / "utt2src").unlink()
    _, without = run(sets, ("m", "dev"))
    assert without["results"][0]["num_clusters"] == N
    assert without["results"][0]["resampled"] == "utterances"
    key = "utt_mos_srcc"
    assert without["results"][0][key] == with_sources["results"][0][key]
    assert (
        without["results"][0]["intervals"][key]
        != with_sources["results"][0]["intervals"][key]
    )


def test_two_runs_give_the_same_but_the_environment(sets):
    _, first = run(sets, ("m", "dev"))
    _, second = run(sets, ("m", "dev"), options=["--command", "./run.sh"])
    assert second["environment"]["command"] == "./run.sh"
    del first["environment"], second["environment"]
    assert first == second


def test_results_md(sets):
    note = "The labels are simulated | not heard."
    run(sets, ("a|b", "dev"), options=["--note", note, "--command", "./run.sh -x"])
    text = (sets / "out" / "RESULTS.md").read_text()
    lines = text.splitlines()
    for word in (
        "- date:",
        "python version:",
        "espnet version:",
        "pytorch version",
        "Git hash:",
    ):
        assert sum(word in line for line in lines) == 1
    rows = [i for i, line in enumerate(lines) if line.startswith("|")]
    # Two tables of three lines.
    assert [i - rows[0] for i in rows[:3]] == [0, 1, 2] and len(rows) == 6
    assert lines.index("- " + note) < rows[0]
    assert "`./run.sh -x`" in text and "10 sources (utt2src) of dev" in text
    columns = [lines[i].replace("\\|", "").count("|") for i in rows]
    assert columns == [13] * 3 + [10] * 3
    assert "RESULTS" not in "".join(lines[rows[0] :])


def test_plots(sets):
    pytest.importorskip("matplotlib")
    run(sets, ("a/b", "dev"))
    images = sorted((sets / "out" / "images").iterdir())
    assert [image.name for image in images] == [
        f"{kind}_a%2Fb_dev.png" for kind in ("residuals", "scatter", "systems")
    ]
    for image in images:
        assert image.read_bytes().startswith(b"\x89PNG")


def test_table_of_systems(sets):
    run(sets, ("a/b", "dev"))
    with open(sets / "out" / "systems_a%2Fb_dev.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    systems = read_scp(str(sets / "dev" / "utt2sys"))
    labels = read_metric_scp(str(sets / "dev" / "metric.scp"))
    means = {
        s: np.mean([labels[i] for i in labels if systems[i] == s])
        for s in set(systems.values())
    }
    best_first = sorted(means, key=lambda s: -means[s])
    assert [row["system"] for row in rows] == best_first
    assert [float(row["label_rank"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        assert float(row["label"]) == pytest.approx(means[row["system"]], abs=1e-5)
        assert float(row["label_low"]) < float(row["label"]) < float(row["label_high"])
        difference = float(row["prediction_rank"]) - float(row["label_rank"])
        assert float(row["rank_difference"]) == difference


def test_pairs_of_systems_that_listeners_tell_apart(tmp_path):
    """Votes tell a from b and c, but not b from c; the model has c below a."""
    means = {"a": (2.0, 3.1), "b": (4.0, 4.0), "c": (4.1, 3.0)}
    labels = {f"{s}{i}": label for s, (label, _) in means.items() for i in range(2)}
    scores = {f"{s}{i}": score for s, (_, score) in means.items() for i in range(2)}
    write_metric_scp(str(tmp_path / "dev" / "metric.scp"), labels)
    write_metric_scp(str(tmp_path / "dev.pred"), scores)
    write_scp(str(tmp_path / "dev" / "utt2sys"), {i: i[0] for i in labels})
    (row,) = run(tmp_path, ("m", "dev"))[1]["results"]
    # Labels of two equal clips a system have no variance: every pair is told apart.
    assert row["significant_pairs"]["num_significant"] == 3
    assert row["significant_pairs"]["ratings"] == "labels of clips"
    votes = {
        i: json.dumps([["l1", v - 0.5], ["l2", v + 0.5], ["l3", v], ["l4", v]])
        for i, v in labels.items()
    }
    write_scp(str(tmp_path / "dev" / "votes.scp"), votes)
    (row,) = run(tmp_path, ("m", "dev"))[1]["results"]
    assert row["significant_pairs"] == {
        "accuracy": 0.5,
        "reason": None,
        "num_significant": 2,
        "num_tested": 3,
        "ratings": "votes",
    }
    assert "0.500 (2 of 3)" in (tmp_path / "out" / "RESULTS.md").read_text()


def drop_line(path, number):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:number] + lines[number + 1 :]) + "\n")


def test_missing_predictions_are_named_and_the_rest_is_scored(sets, capsys):
    drop_line(sets / "dev.pred", 0)
    drop_line(sets / "dev.pred", 0)
    code, document = run(sets, ("m", "dev"), ("m", "ood"))
    assert code == 1
    assert [r["num_utts"] for r in document["results"]] == [N - 2, N]
    (problem,) = document["problems"]
    assert "no prediction for 2 utterances (the first is dev-58)" in problem
    assert problem in capsys.readouterr().err


def test_unknown_predictions_are_named(sets):
    with open(sets / "dev.pred", "a") as file:
        file.write('stranger {"mos": 3}\n')
    code, document = run(sets, ("m", "dev"))
    assert code == 1 and document["results"][0]["num_utts"] == N
    assert "1 utterance (the first is stranger)" in document["problems"][0]


def test_utterance_without_system_counts_at_utterance_level(sets):
    drop_line(sets / "dev" / "utt2sys", 3)
    code, document = run(sets, ("m", "dev"))
    assert code == 1 and document["results"][0]["num_utts"] == N
    assert "no system for 1 utterance (the first is dev-03)" in document["problems"][0]


def test_unlabelled_utterances_are_left_out_in_silence(sets):
    path = sets / "dev" / "metric.scp"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["dev-00 {}"] + lines[1:]))
    code, document = run(sets, ("m", "dev"))
    assert code == 0
    assert document["results"][0]["num_utts"] == N - 1
    assert document["results"][0]["num_unlabelled"] == 1


def test_constant_predictions_are_null_with_a_reason(sets):
    write_metric_scp(sets / "dev.pred", {f"dev-{i:02d}": 3.0 for i in range(N)})
    code, document = run(sets, ("m", "dev"))
    (result,) = document["results"]
    assert code == 0
    assert result["utt_mos_srcc"] is None and result["utt_mos_mse"] > 0
    assert result["intervals"]["utt_mos_srcc"] is None
    assert "predictions are constant" in result["undefined"]["sys_mos_ktau"]
    text = (sets / "out" / "RESULTS.md").read_text()
    assert " – |" in text and "the predictions are constant." in text


@pytest.mark.parametrize("text", ["3.5", '{"mos": NaN}', '{"mos": "good"}'])
def test_bad_prediction_spoils_only_its_own_row(sets, text):
    (sets / "dev.pred").write_text(f"dev-00 {text}\n")
    code, document = run(sets, ("m", "dev"), ("m", "ood"))
    assert code == 1
    assert [r["test_set"] for r in document["results"]] == ["ood"]
    assert "utterance dev-00" in document["problems"][0]


def test_missing_files_and_rows_given_twice(sets):
    code, document = run(sets, ("m", "none"), ("m", "dev"), ("m", "dev"))
    assert code == 1 and len(document["results"]) == 1
    assert "none/metric.scp cannot be read" in document["problems"][0]
    assert "twice" in document["problems"][1]


def test_no_utt2sys_and_no_bootstrap(sets):
    (sets / "dev" / "utt2sys").unlink()
    code, document = run(sets, ("m", "dev"), options=["--bootstrap", "0"])
    (result,) = document["results"]
    assert code == 0 and result["num_systems"] == 0 and result["intervals"] == {}
    assert result["undefined"]["sys_mos_srcc"] == "no utterance has a system"


def test_another_scale_keeps_its_correlations_and_has_no_error(sets):
    _, same = run(sets, ("m", "ood"))
    true = read(sets / "ood" / "metric.scp")
    scores = {utt_id: 25 * (score - 1) for utt_id, score in true.items()}
    write_metric_scp(sets / "ood" / "metric.scp", scores)
    (sets / "ood" / "score_range").write_text("0 100\n")
    code, document = run(sets, ("m", "dev"), ("m", "ood"))
    dev, ood = document["results"]
    assert code == 0 and dev["utt_mos_mse"] > 0 and dev["undefined"] == {}
    for level in ("utt", "sys"):
        assert ood[f"{level}_mos_mse"] is None
        assert f"{level}_mos_mse" not in ood["intervals"]
        assert ood["undefined"][f"{level}_mos_mse"] == (
            "the labels are on the scale 0 to 100, the predictions on 1 to 5"
        )
        for metric in ("lcc", "srcc", "ktau"):
            key = f"{level}_mos_{metric}"
            assert ood[key] == pytest.approx(same["results"][0][key])
    text = (sets / "out" / "RESULTS.md").read_text()
    assert "ood, m: utt_mos_mse, sys_mos_mse: the labels are on the scale" in text
    # a model of that scale has errors
    _, document = run(sets, ("m", "ood"), options=["--score_range", "0", "100"])
    assert document["results"][0]["utt_mos_mse"] > 0


def test_a_broken_scale_is_named(sets):
    (sets / "ood" / "score_range").write_text("0-100")
    code, document = run(sets, ("m", "dev"), ("m", "ood"))
    assert code == 1 and [r["test_set"] for r in document["results"]] == ["dev"]
    assert "ood/score_range does not hold two numbers" in document["problems"][0]


def test_unwritable_output(sets, capsys):
    (sets / "file").touch()
    rows = ["--score", "m", "dev", f"{sets}/dev", f"{sets}/dev.pred"]
    assert main(["--output_dir", f"{sets}/file/out", "--bootstrap", "0", *rows]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "written" in x]
    assert "cannot be written" in line


def test_parser_has_a_description():
    assert get_parser().description
