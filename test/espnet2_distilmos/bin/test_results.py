# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
from scipy import stats

from espnet2_distilmos.bin.mos_scoring import main as mos_scoring
from espnet2_distilmos.bin.results import get_parser, main


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    """Two test sets, of which the second has no systems, and three experiments."""
    root = tmp_path_factory.mktemp("experiments")
    rng = np.random.default_rng(0)
    noise = {"good": 0.3, "bad": 2.0, "twin": 0.3}
    for name in ("dev", "test"):
        (root / name).mkdir()
        ids = [f"utt{k:02d}" for k in range(50)]
        true = rng.uniform(1, 5, 50)

        def scp(path, values):
            lines = [f'{i} {{"mos": {v:.4f}}}\n' for i, v in zip(ids, values)]
            path.write_text("".join(lines))

        scp(root / name / "metric.scp", true)
        for model, sd in noise.items():
            scp(root / f"{model}.{name}", true + rng.normal(0, sd, 50))
        if name == "dev":
            lines = [f"{i} s{k % 5}\n" for k, i in enumerate(ids)]
            (root / name / "utt2sys").write_text("".join(lines))
    for model in noise:
        command = ["--output_dir", f"{root}/{model}", "--bootstrap", "50"]
        for name in ("dev", "test"):
            if (model, name) != ("twin", "test"):
                files = [f"{root}/{name}", f"{root}/{model}.{name}"]
                command += ["--score", model, name, *files]
        options = ["--note", f"A note on {model}.", "--command", f"./run.sh {model}"]
        assert mos_scoring(command + options) == 0
    return root


def table(page, title):
    lines = page.split(f"## {title}")[1].split("\n## ")[0].splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    return [[c.strip() for c in row] for row in rows[:1] + rows[2:]]


def files(root, *models):
    return [f"{root}/{model}/results.json" for model in models]


def test_models_are_rows_and_test_sets_columns(experiments, tmp_path, capsys):
    output = tmp_path / "RESULTS.md"
    models = ("good", "bad", "twin")
    assert main([*files(experiments, *models), "--output", str(output)]) == 0
    page = output.read_text()
    assert capsys.readouterr().out == page
    rows = table(page, "Utterances: SRCC")
    assert [row[0] for row in rows] == ["model", *models] and rows[0][1:] == [
        "dev",
        "test",
    ]
    (bad,) = [
        r
        for r in json.loads((experiments / "bad" / "results.json").read_text())[
            "results"
        ]
        if r["test_set"] == "test"
    ]
    low, high = bad["intervals"]["utt_mos_srcc"]
    assert rows[2][2] == f"{bad['utt_mos_srcc']:.3f} [{low:.3f}, {high:.3f}]"
    assert rows[3][2] == "–"
    # No systems in the second set.
    assert [row[2] for row in table(page, "Systems: SRCC")[1:]] == ["–"] * 3
    for model in models:
        assert f"`./run.sh {model}`" in page and f"A note on {model}." in page
    assert "▲" not in page and "▼" not in page


def test_marks_say_what_differs_from_the_baseline(experiments, capsys):
    command = files(experiments, "bad", "good", "twin")
    options = ["--baseline", "good", "--metrics", "utt_mos_lcc,utt_mos_mse"]
    assert main(command + options) == 0
    page = capsys.readouterr().out
    for title in ("Utterances: LCC", "Utterances: MSE"):
        bad, good, twin = table(page, title)[1:]
        assert bad[1].endswith("▼") and bad[2].endswith("▼")
        assert "▼" not in "".join(good + twin) and "▲" not in "".join(good + twin)
    assert main([*files(experiments, "good", "bad"), "--baseline", "bad"]) == 0
    good = table(capsys.readouterr().out, "Utterances: SRCC")[1]
    assert good[1].endswith("▲")


def test_what_cannot_be_compared_is_said(experiments, tmp_path, capsys):
    command = files(experiments, "good", "bad")
    assert main([*command, *files(experiments, "twin"), "--baseline", "twin"]) == 1
    assert "test: twin was not scored on it" in capsys.readouterr().err
    gone = json.loads((experiments / "bad" / "results.json").read_text())
    for row in gone["results"]:
        row["files"]["prediction"] = str(tmp_path / "gone.scp")
    (tmp_path / "results.json").write_text(json.dumps(gone))
    command = [command[0], str(tmp_path / "results.json"), "--baseline", "good"]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "gone.scp" in captured.err and "| bad" in captured.out


def test_one_model_with_two_results(experiments, tmp_path, capsys):
    other = json.loads((experiments / "good" / "results.json").read_text())
    other["results"][0]["utt_mos_srcc"] = 0.5
    (tmp_path / "results.json").write_text(json.dumps(other))
    assert main([*files(experiments, "good"), str(tmp_path / "results.json")]) == 1
    assert "good on dev with other values" in capsys.readouterr().err


@pytest.fixture
def seeds(tmp_path):
    """Two methods with three seeds and one without, on one set."""
    values = {
        "new_seed0": 0.80,
        "new_seed1": 0.83,
        "new_seed2": 0.84,
        "old_seed0": 0.70,
        "old_seed1": 0.75,
        "old_seed2": 0.71,
        "other_seed7": 0.5,
        "other_seed8": 0.6,
        "fixed": 0.1,
    }
    row = {"test_set": "dev", "sys_mos_srcc": None, "intervals": {}}
    document = {
        "format_version": 1,
        "notes": [],
        "results": [dict(row, model=m, utt_mos_srcc=v) for m, v in values.items()],
        "environment": dict.fromkeys(
            ("espnet", "torch", "espnet2_distilmos", "git_hash", "date", "command")
        ),
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document))
    return str(path), values


def test_runs_of_a_method_are_its_mean_and_deviation(seeds, capsys):
    path, values = seeds
    command = [path, "--seeds", "_seed[0-9]+$", "--metrics", "utt_mos_srcc"]
    assert main(command) == 0
    page = capsys.readouterr().out
    rows = dict(table(page, "Utterances: SRCC")[1:])
    new = [values[f"new_seed{k}"] for k in range(3)]
    old = [values[f"old_seed{k}"] for k in range(3)]
    low, high = stats.t.interval(0.95, 2, np.mean(new), stats.sem(new))
    text = f"{np.mean(new):.3f} ± {np.std(new, ddof=1):.3f} (3) "
    assert rows["new"] == f"{text}[{low:.3f}, {high:.3f}]"
    # The files are not there to draw from.
    assert "dev: intervals and tests are over the runs alone" in page
    assert rows["fixed"] == "0.100 (1)" and list(rows) == [
        "new",
        "old",
        "other",
        "fixed",
    ]
    assert main([*command, "--baseline", "old"]) == 0
    page = capsys.readouterr().out
    first, second = page.split("Minus old [95 %]")
    second = table(f"## x{second}", "x")
    rows = dict(second[1:])
    change = np.subtract(new, old)
    low, high = stats.t.interval(0.95, 2, change.mean(), stats.sem(change))
    # Holm: the less of two p-values counts twice.
    p_new = stats.ttest_rel(new, old).pvalue
    other = stats.ttest_ind([0.5, 0.6], old, equal_var=False)
    p_other = other.pvalue
    least = 2 * min(p_new, p_other)
    assert p_new < p_other
    text = f"{change.mean():+.3f} [{low:+.3f}, {high:+.3f}], p = {least:.3f}"
    assert rows["new"] == text
    # Other seeds: Welch's interval.
    span = other.confidence_interval()
    text = f"[{span.low:+.3f}, {span.high:+.3f}], p = {max(least, p_other):.3f}"
    assert rows["other"].endswith(f"{text}, unpaired") and "old" not in rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A list of runs: a method of three seeds, a worse one, and one without seed."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(1)
    ids = [f"utt{k:02d}" for k in range(60)]

    def scp(path, values):
        lines = [f'{i} {{"mos": {v:.4f}}}\n' for i, v in zip(ids, values)]
        path.write_text("".join(lines))

    lines, found = ["# three methods\n"], {}
    for name in ("near", "far"):
        (root / name).mkdir()
        true = rng.uniform(1, 5, 60)
        scp(root / name / "metric.scp", true)
        systems = [f"{i} s{k % 6}\n" for k, i in enumerate(ids)]
        (root / name / "utt2sys").write_text("".join(systems))
        if name == "far":
            (root / name / "score_range").write_text("0 100\n")
        for method, seed, sd in [
            *(("good", str(k), 0.5) for k in range(3)),
            *(("bad", str(k), 2.5) for k in range(3)),
            ("peer", "-", 0.5),
        ]:
            path = root / f"{method}_{seed}_{name}.scp"
            pred = true + rng.normal(0, sd, 60)
            scp(path, pred)
            found.setdefault((method, name), []).append((np.round(pred, 4), true))
            lines.append(f"{method} {seed} {name} {root / name} {path}\n")
    (root / "runs.txt").write_text("".join(lines))
    return root, found


def test_a_list_of_runs_gets_tables_and_figures(runs, tmp_path, capsys):
    root, found = runs
    command = ["--list", f"{root}/runs.txt", "--baseline", "good", "--bootstrap", "200"]
    command += ["--metrics", "utt_mos_srcc,sys_mos_lcc,utt_mos_mse"]
    assert main([*command, "--output_dir", f"{tmp_path}", "--note", "Mind this."]) == 0
    page = (tmp_path / "RESULTS.md").read_text()
    assert capsys.readouterr().out == page and "- Mind this." in page
    rows = {row[0]: row[1:] for row in table(page, "Utterances: SRCC")[1:4]}
    for k, name in enumerate(("near", "far")):
        values = [stats.spearmanr(*pair).statistic for pair in found["good", name]]
        mean, sd = np.mean(values), np.std(values, ddof=1)
        assert rows["good"][k].startswith(f"{mean:.3f} ± {sd:.3f} (3) [")
        (value,) = [stats.spearmanr(*pair).statistic for pair in found["peer", name]]
        assert rows["peer"][k].startswith(f"{value:.3f} (1) [")
        assert rows["bad"][k].endswith("▼") and "▼" not in rows["peer"][k]
    # Two scales have no error.
    assert [row[2] for row in table(page, "Utterances: MSE")[1:4]] == ["–"] * 3
    document = json.loads((tmp_path / "results.json").read_text())
    (row,) = [
        row
        for row in document["comparisons"]
        if (row["method"], row["test_set"], row["metric"])
        == ("bad", "near", "sys_mos_lcc")
    ]

    def sys_lcc(pred, true):
        means = [v.reshape(10, 6).mean(0) for v in (pred, true)]
        return stats.pearsonr(*means).statistic

    values = {m: [sys_lcc(*p) for p in found[m, "near"]] for m in ("good", "bad")}
    difference = np.mean(values["bad"]) - np.mean(values["good"])
    assert row["difference"] == pytest.approx(difference, abs=1e-4) and row["paired"]
    assert row["interval"][0] < difference < row["interval"][1]
    assert row["p_holm"] >= row["p_value"] and row["better"] == "good"
    names = {path.name for path in (tmp_path / "images").iterdir()}
    assert names == {f"{m}.png" for m in command[-1].split(",")}
    # What was written can be put into a table again.
    again = [f"{tmp_path}/results.json", "--seeds", "_seed[0-9]+$", *command[2:]]
    assert main(again) == 0
    text = capsys.readouterr().out
    assert (
        text.split("## How")[0]
        == page.replace("- Mind this.\n\n", "").split("## How")[0]
    )


@pytest.mark.parametrize(
    "line, message, code",
    [
        ("{0}", "line 2 has 4 fields, expected five", 1),
        ("good 0 {1}/gone", "line 2: left out: {1}/gone/results.json cannot be", 1),
        ("{0} {1}/gone.scp", "line 2: left out: ", 1),
        ("{0} {1}/good_0_near.scp\n{0} {1}/good_1_near.scp", "near again", 1),
    ],
)
def test_a_bad_line_of_the_list(runs, tmp_path, line, message, code, capsys):
    root, _ = runs
    first = f"good 0 near {root}/near"
    good = f"bad 0 near {root}/near {root}/bad_0_near.scp\n"
    path = tmp_path / "runs.txt"
    path.write_text(good + line.format(first, root) + "\n")
    assert main(["--list", str(path), "--bootstrap", "20"]) == code
    captured = capsys.readouterr()
    assert message.format(first, root) in captured.err
    # One file less does not end the table, an unreadable list does.
    assert ("| bad" in captured.out) == ("fields" not in message)


def test_nothing_is_no_table(capsys, tmp_path):
    assert main([]) == 1 and "--list FILE" in capsys.readouterr().err
    (tmp_path / "empty").write_text("# nothing\n")
    assert main(["--list", f"{tmp_path}/empty"]) == 1
    assert "no run that can be scored" in capsys.readouterr().err
    assert main(["--list", f"{tmp_path}/gone"]) == 1
    assert "expected a list of runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--seeds", "("], "--seeds ( is no regular expression"),
        (["--seeds", "_seed.$", "--baseline", "best"], "one of the methods new, old"),
    ],
)
def test_refusals_over_seeds(seeds, options, message, capsys):
    assert main([seeds[0], *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--metrics", "srcc"], "--metrics has srcc, expected some of utt_mos_mse"),
        (["--baseline", "best"], "--baseline is best, expected one of good"),
    ],
)
def test_refusals(experiments, options, message, capsys):
    assert main([*files(experiments, "good"), *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 9, "results": []}'])
def test_another_file(text, tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(text)
    assert main([str(path)]) == 1
    assert "run stage 9 again" in capsys.readouterr().err


def test_parser_has_a_description():
    assert get_parser().description
