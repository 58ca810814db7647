# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import shutil

import numpy as np
import pytest
from scipy import stats

from espnet2_distilmos.bin.mos_scoring import main as mos_scoring
from espnet2_distilmos.bin.results import get_parser, main


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two test sets, methods of three seeds (good, bad) and one (twin), their list.

    The second set has another scale than the predictions. Models of one run have a
    results.json, of which twin has none of the second set.
    """
    root = tmp_path_factory.mktemp("results")
    rng = np.random.default_rng(1)

    def scp(path, values):
        lines = [f'utt{k:02d} {{"mos": {v:.4f}}}\n' for k, v in enumerate(values)]
        path.write_text("".join(lines))

    runs = ["# three methods\n"]
    for name in ("near", "far"):
        (root / name).mkdir()
        true = rng.uniform(1, 5, 60)
        scp(root / name / "metric.scp", true)
        systems = [f"utt{k:02d} s{k % 6}\n" for k in range(60)]
        (root / name / "utt2sys").write_text("".join(systems))
        for method, seeds, sd in (
            ("good", "012", 0.5),
            ("bad", "012", 2.5),
            ("twin", "-", 0.5),
        ):
            for seed in seeds:
                path = root / f"{method}_{seed}_{name}.scp"
                scp(path, true + rng.normal(0, sd, 60))
                runs.append(f"{method} {seed} {name} {root / name} {path}\n")
    (root / "far" / "score_range").write_text("0 100\n")
    (root / "runs.txt").write_text("".join(runs))
    for model, seed in (("good", "0"), ("bad", "0"), ("twin", "-")):
        command = ["--output_dir", f"{root}/{model}", "--bootstrap", "20"]
        for name in ("near", "far")[: 1 if model == "twin" else 2]:
            files = [f"{root}/{name}", f"{root}/{model}_{seed}_{name}.scp"]
            command += ["--score", model, name, *files]
        options = ["--note", f"A note on {model}.", "--command", f"./run.sh {model}"]
        assert mos_scoring(command + options) == 0
    return root


def table(page, title):
    """Cells of the first table after a title, without its rule."""
    lines = page.split(title)[1].split("|\n\n")[0].splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    return [[c.strip() for c in row] for row in rows[:1] + rows[2:]]


def files(root, *models):
    return [f"{root}/{model}/results.json" for model in models]


def test_models_by_test_sets_with_marks(root, tmp_path, capsys):
    command = [*files(root, "bad", "good", "twin"), "--output", f"{tmp_path}/page"]
    command += ["--metrics", "utt_mos_srcc,utt_mos_mse"]
    assert main(command) == 0
    page = (tmp_path / "page").read_text()
    assert capsys.readouterr().out == page
    assert "▲" not in page and "▼" not in page
    row = json.loads((root / "bad" / "results.json").read_text())["results"][1]
    low, high = row["intervals"]["utt_mos_srcc"]
    head, bad, good, twin = table(page, "## Utterances: SRCC")
    assert head == ["model", "near", "far"]
    assert bad[2] == f"{row['utt_mos_srcc']:.3f} [{low:.3f}, {high:.3f}]"
    assert twin[2] == "–"
    for model in ("good", "bad", "twin"):
        assert f"`./run.sh {model}`" in page and f"A note on {model}." in page
    assert main([*command, "--baseline", "good"]) == 0
    page = capsys.readouterr().out
    for title, undefined in (("Utterances: SRCC", False), ("Utterances: MSE", True)):
        _, bad, good, twin = table(page, f"## {title}")
        assert bad[1].endswith("▼") and (bad[2] == "–") == undefined
        assert "▼" not in "".join(good + twin) and "▲" not in "".join(good + twin)
        differences = table(page.split(title)[1], "Minus good")
        assert [row[0] for row in differences[1:]] == ["bad", "twin"]
    assert main([*files(root, "good", "bad"), "--baseline", "bad"]) == 0
    assert table(capsys.readouterr().out, "## Utterances: SRCC")[1][1].endswith("▲")


def test_what_cannot_be_compared_is_said(root, tmp_path, capsys):
    assert main([*files(root, "good", "twin"), "--baseline", "twin"]) == 1
    assert "far: twin was not scored on it" in capsys.readouterr().err
    other = json.loads((root / "bad" / "results.json").read_text())
    other["results"][0]["utt_mos_srcc"] = 0.5
    for row in other["results"]:
        row["files"]["prediction"] = str(tmp_path / "gone.scp")
    path = tmp_path / "results.json"
    path.write_text(json.dumps(other))
    assert main([*files(root, "good"), str(path), "--baseline", "good"]) == 1
    captured = capsys.readouterr()
    assert "gone.scp" in captured.err and "gone.scp" not in captured.out
    assert "over the runs" not in captured.err
    (row,) = table(captured.out.split("Utterances: SRCC")[1], "Minus good")[1:]
    assert (
        row[1].endswith(", n.t.") and "n.t.: bad on near, bad on far:" in captured.out
    )
    assert main([*files(root, "bad"), str(path)]) == 1
    line = capsys.readouterr().err.splitlines()[0]
    assert str(path) in line and "bad on near" in line


def test_files_are_found_from_another_directory(root, tmp_path, capsys, monkeypatch):
    pages = []
    for model in ("good", "bad"):
        path = tmp_path / "recipe" / "exp" / model / "results.json"
        path.parent.mkdir(parents=True)
        text = (root / model / "results.json").read_text()
        path.write_text(text.replace(f'"{root}/', '"'))
    for file in root.glob("*_0_*.scp"):
        shutil.copy(file, tmp_path / "recipe")
    for name in ("near", "far"):
        shutil.copytree(root / name, tmp_path / "recipe" / name)
    for directory, pattern in (
        (tmp_path, "recipe/exp/*/results.json"),
        (tmp_path / "recipe", "exp/*/results.json"),
    ):
        monkeypatch.chdir(directory)
        paths = sorted(map(str, directory.glob(pattern)))
        assert main([*paths, "--baseline", "good"]) == 0
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1] and "▼" in pages[0]


def test_a_list_of_runs_gets_tables_and_figures(root, tmp_path, capsys):
    command = ["--list", f"{root}/runs.txt", "--baseline", "good", "--bootstrap", "100"]
    command += ["--metrics", "utt_mos_srcc,utt_mos_mse"]
    assert main([*command, "--output_dir", f"{tmp_path}", "--note", "Mind this."]) == 0
    page = (tmp_path / "RESULTS.md").read_text()
    assert capsys.readouterr().out == page and "- Mind this." in page
    rows = {row[0]: row[1:] for row in table(page, "## Utterances: SRCC")[1:]}

    def read(path):
        return [float(line.split()[2][:-1]) for line in path.open()]

    def srcc(method, name):
        paths = sorted(root.glob(f"{method}_*_{name}.scp"))
        true = read(root / name / "metric.scp")
        return [stats.spearmanr(read(path), true).statistic for path in paths]

    for k, name in enumerate(("near", "far")):
        mean, sd = np.mean(srcc("good", name)), np.std(srcc("good", name), ddof=1)
        assert rows["good"][k].startswith(f"{mean:.3f} ± {sd:.3f} (3) [")
        assert rows["twin"][k].startswith(f"{srcc('twin', name)[0]:.3f} (1) [")
        assert rows["bad"][k].endswith("▼") and "▼" not in rows["twin"][k]
    # Two scales have no error.
    assert [row[2] for row in table(page, "## Utterances: MSE")[1:]] == ["–"] * 3
    document = json.loads((tmp_path / "results.json").read_text())
    (row,) = [
        row
        for row in document["comparisons"]
        if (row["method"], row["test_set"], row["metric"])
        == ("bad", "near", "utt_mos_srcc")
    ]
    difference = np.mean(srcc("bad", "near")) - np.mean(srcc("good", "near"))
    assert row["difference"] == pytest.approx(difference) and row["paired"]
    assert row["interval"][0] < difference < row["interval"][1]
    assert row["p_holm"] >= row["p_value"] and row["better"] == "good"
    # What was written can be put into a table again.
    again = [f"{tmp_path}/results.json", "--seeds", "_seed[0-9]+$", *command[2:]]
    assert main(again) == 0
    tables = [text.split("## How")[0] for text in (capsys.readouterr().out, page)]
    assert tables[0] == tables[1].replace("- Mind this.\n\n", "")
    pytest.importorskip("matplotlib")
    names = {path.name for path in (tmp_path / "images").iterdir()}
    assert names == {"utt_mos_srcc.png", "utt_mos_mse.png"}


@pytest.mark.parametrize(
    "options, word",
    [
        (["good/results.json", "--metrics", "srcc"], "--metrics has srcc"),
        (["good/results.json", "--baseline", "best"], "--baseline is best"),
        (["good/results.json", "--seeds", "("], "--seeds ("),
        (["--list", "gone.txt"], "gone.txt"),
        (["--list", "runs.txt", "--columns", "gone.txt"], "gone.txt"),
        (["good/results.json", "--columns", "c.txt"], "--columns needs the runs"),
        (["gone.json"], "gone.json"),
        ([], "--list FILE"),
    ],
)
def test_refusals(root, options, word, capsys, monkeypatch):
    monkeypatch.chdir(root)
    assert main(options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert word in line


def test_parser_has_a_description():
    assert get_parser().description
