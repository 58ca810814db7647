# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest

from espnet2_distilmos.bin.ablation_runs import get_parser, main, read_runs
from espnet2_distilmos.data.datadir import DataError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "frontend: hf\nfrontend_conf: {upstream: a}\n"
    (tmp_path / "a.yaml").write_text(text + "losses: {token_ce: {weight: 1}}\n")
    (tmp_path / "frozen.yaml").write_text(text + "seed: 3\n")
    (tmp_path / "b.yaml").write_text(text.replace(": a}", ": b}"))

    def write(*lines):
        (tmp_path / "runs.txt").write_text("\n".join(lines) + "\n")
        return "runs.txt"

    return write


def test_runs_share_the_tokens_that_they_can(write):
    path = write(
        "# a comment",
        "",
        "first|a.yaml",
        "frozen | frozen.yaml | --frontend_conf freeze=all",
        "weight | a.yaml | --losses token_ce.weight=0.3 --max_epoch 2",
        "upstream | a.yaml | --frontend_conf upstream=b",
        "other | b.yaml",
        "k50 | a.yaml | | --num_clusters 50",
        "last | a.yaml | | --token-layers 3,4 --num_clusters 50",
        "k100 | a.yaml | | --num_clusters 100",
        "none | a.yaml | | --use_tokens false",
    )
    runs = {run.name: run for run in read_runs(path)}
    tags = {name: run.tokens_tag for name, run in runs.items()}
    assert tags["first"] == tags["frozen"] == tags["weight"]
    assert tags["upstream"] == tags["other"] != tags["first"]
    assert tags["k50"].startswith("ablation_k50_")
    assert tags["last"].startswith("ablation_k50_l3-4_")
    assert len(set(tags.values())) == 5
    assert runs["last"].token_options == "--token_layers 3,4 --num_clusters 50"
    assert runs["weight"].train_args == "--losses token_ce.weight=0.3 --max_epoch 2"
    assert [name for name, run in runs.items() if not run.use_tokens] == ["none"]
    hashes = {name: run.config_hash for name, run in runs.items()}
    assert hashes["first"] == hashes["k50"] != hashes["other"]
    # What holds for all runs gives way to what a line says.
    common = ("--frontend_conf upstream=b", "--num_clusters 50")
    again = {run.name: run for run in read_runs(path, *common)}
    assert again["k100"].token_options == "--num_clusters 100"
    assert again["first"].token_options == "--num_clusters 50"
    assert again["first"].tokens_tag == again["other"].tokens_tag
    assert again["weight"].train_args == f"{common[0]} {runs['weight'].train_args}"


@pytest.mark.parametrize(
    "line, word",
    [
        ("a", "1 fields"),
        ("a|a.yaml| | |", "5 fields"),
        ("a/b | a.yaml", "a/b"),
        ("first | a.yaml", "first"),
        ("a | gone.yaml", "gone.yaml"),
        ("a | a.yaml | lr=3", "lr=3"),
        ("a | a.yaml | --lr $(touch x)", "touch"),
        ("a | a.yaml | --seed=3", "--seed=3"),
        ("a | a.yaml | | --nj 3", "--nj"),
        ("a | a.yaml | | num_clusters 3", "num_clusters"),
        ("a | a.yaml | | --num_clusters", "--num_clusters"),
        ("a | a.yaml | | --unlabelled_sets x:y", "x:y"),
    ],
)
def test_a_bad_line_is_refused(write, line, word, tmp_path):
    path = write("first | a.yaml", line)
    with pytest.raises(DataError) as error:
        read_runs(path)
    sentence = str(error.value)
    assert sentence.startswith("runs.txt, line 2: ") and word in sentence
    assert "\n" not in sentence and not (tmp_path / "x").exists()


def test_what_is_printed(write, capsys):
    path = write("first | a.yaml", "k50 | a.yaml | --max_epoch 2 | --num_clusters 50")
    assert main([path, "--only", "k50"]) == 0
    fields = capsys.readouterr().out.rstrip("\n").split("|")
    assert fields[:4] == ["k50", "a.yaml", "--max_epoch 2", "true"]
    assert fields[5] == "--num_clusters 50" and len(fields) == 7
    for word, command in (("k60", [path, "--only", "k50 k60"]), ("gone", ["gone"])):
        assert main(command) == 1
        assert word in capsys.readouterr().err
    assert main([write("# nothing")]) == 1
    assert "has no run" in capsys.readouterr().err


def test_parser_has_a_description():
    assert get_parser().description
