# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe bvcc, from a fabricated VoiceMOS Challenge 2022 to the scores."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .. import corpora
from ..TEMPLATE.mos1.conftest import CONFIG

ROOT = Path(__file__).resolve().parents[3]

# Out of domain


def known_sets():
    text = (ROOT / "egs2/bvcc/mos1/run.sh").read_text()
    return re.search(r'--known_ood "([^"]*)"', text).group(1).split()


def test_all_that_is_not_there_is_left_out_with_a_sentence(recipes):
    sets = known_sets()
    assert len(sets) > 10
    for corpus in {"bvcc", *(name.split("/")[0] for name in sets)}:
        recipes.add(corpus)
    result = recipes.run(*("bvcc", "scripts/utils/prepare_test_sets.sh", "test", *sets))
    assert result.stdout == "test\n"
    lines = result.stderr.splitlines()
    for name, line in zip(sets, lines):
        variable = name.split("/")[0].upper()
        assert line.startswith(f"{name} is left out: ")
        assert f"{variable} of db.sh is empty" in line
    assert len(lines) == len(sets)


def test_all_known_sets_are_sets_of_their_recipes(recipes, tmp_path):
    """An empty corpus is refused, but not for the name of the set."""
    for name in known_sets():
        corpus, dset = name.split("/")
        script = ROOT / "egs2" / corpus / "mos1/local/prepare_data.py"
        command = [sys.executable, script, tmp_path, "--sets", dset, "--out", tmp_path]
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT)},
        )
        assert result.returncode == 1
        assert str(tmp_path) in result.stderr and "--sets has" not in result.stderr


# The whole path


CONFIG = CONFIG.replace("batch_size: 2", "batch_size: 16")
CONFIG = CONFIG.replace("max_epoch: 2", "max_epoch: 1").replace(
    "utt_mse, min", "sys_srcc, max"
)


class Run:
    """Recipe bvcc with two corpora to test on and one that is not there."""

    def __init__(self, recipes, folder):
        self.recipes = recipes
        for corpus in ("bvcc", "vmc22_ood", "somos"):
            recipes.add(corpus)
        self.dir = recipes.root / "egs2" / "bvcc" / "mos1"
        (self.dir / "conf" / "train_tiny.yaml").write_text(CONFIG)
        corpora.bvcc(folder / "main")
        corpora.vmc22_ood(folder / "ood")
        corpora.somos(folder / "somos", counts=(1, 1, 5))
        self.corpora = dict(BVCC=folder / "main", SOMOS=folder / "somos")
        self.corpora["VMC22_OOD"] = folder / "ood"

    def run(self, *options, code=0):
        # The fabricated corpora have not the published counts, hence skip_bad.
        return self.recipes.run(
            *("bvcc", "./run.sh", "--ngpu", 0, "--nj", 1, "--inference_nj", 1),
            *("--train_threads", 1, "--train_config", "conf/train_tiny.yaml"),
            *("--num_clusters", 4, "--bootstrap", 20, "--skip_bad", "true"),
            *("--local_data_opts", "--skip_bad true"),
            *("--test_sets", "test somos/test", "--ood", "vmc22_ood/test none/test"),
            *options,
            code=code,
            **self.corpora,
        )

    def results(self, folder):
        with open(self.dir / folder / "results.json") as file:
            return json.load(file)["results"]


@pytest.fixture(scope="module")
def finished(module_recipes, tmp_path_factory):
    run = Run(module_recipes, tmp_path_factory.mktemp("corpora"))
    return run, run.run()


EXP = "exp/mos_train_tiny_raw"
COUNTS = {"test": 18, "somos/test": 5, "vmc22_ood/test": 6}


@pytest.mark.slow
def test_stages_1_to_9_and_two_sets_out_of_domain(finished):
    run, result = finished
    assert "none/test is left out: there is no recipe egs2/none/mos1" in result.stderr
    results = run.results(EXP)
    assert {r["test_set"]: r["num_utts"] for r in results} == COUNTS
    # The labels that were scored against are the corpora's own.
    labels = run.recipes.scores("bvcc", "dump/raw/vmc22_ood/test")
    assert labels == run.recipes.scores("bvcc", "data/vmc22_ood/test")
    assert len(run.recipes.table("bvcc", "dump/raw/test/votes.scp")) == 18
    # One model: its table is the one of stage 9.
    assert not (run.dir / "exp" / "results.json").exists()


@pytest.mark.slow
def test_every_trained_model_is_in_one_table(finished):
    run, _ = finished
    other = run.dir / "exp" / "mos_other"
    shutil.copytree(run.dir / EXP, other)
    (predictions,) = other.glob("*/test/metric.scp")
    before = predictions.read_text()
    predictions.unlink()  # the others are there and are not made again
    marked = predictions.parents[1] / "somos" / "test" / "metric.scp"
    for path in marked.parents[2].glob("**/metric.scp"):
        path.touch()
    date = marked.stat().st_mtime_ns
    run.run("--stage", 8)
    results = run.results("exp")
    rows = {(r["model"], r["test_set"]): r["num_utts"] for r in results}
    models = ("mos_other", "mos_train_tiny_raw")
    assert rows == {(m, s): n for m in models for s, n in COUNTS.items()}
    assert predictions.read_text() == before
    assert marked.stat().st_mtime_ns == date
    table = (run.dir / "exp" / "RESULTS.md").read_text()
    assert "| vmc22_ood/test | mos_other " in table


@pytest.mark.parametrize(
    "options, code, words",
    [
        (["--help"], 0, "--num_clusters (200)"),
        (["--stage"], 1, "option --stage needs a value"),
        (["--no_such", 1], 1, "there is no option --no_such"),
        # A value may be the name of an option.
        (["--tag", "ood", "--dumpdir", "run.sh"], 1, "run.sh cannot be written"),
        (
            ["--test_sets", "none/test", "--ngpu", 0],
            1,
            "data/train/wav.scp is missing or empty",
        ),
    ],
)
def test_options_reach_mos_sh(recipes, options, code, words):
    recipes.add("bvcc")
    options = ["--stage", 2, *options]
    result = recipes.run("bvcc", "./run.sh", *options, code=code)
    assert words in result.stdout + result.stderr


# The paper's comparisons


def test_the_ablation_reaches_mos_sh_through_run_sh(recipes):
    folder = recipes.add("bvcc")
    (folder / "mos.sh").unlink()
    (folder / "mos.sh").write_text('#!/bin/sh\nIFS="|"; echo "$*" >> calls\n')
    (folder / "mos.sh").chmod(0o755)
    ood = ("--ood", "somos/test", "--only", "lower_half lambda0", "--seeds", "0 1")
    recipes.run("bvcc", "local/run_ablation.sh", *ood, "--stop_stage", 8)
    calls = []
    for line in (folder / "calls").read_text().splitlines():
        words = line.split("|")
        calls.append(dict(zip(words[::2], words[1::2])))
    stages = [call["--stage"] for call in calls]
    assert stages == ["1", "6", "5", "5", *["7"] * 4]
    for call in calls:
        assert call["--train_set"] == "train" and "--all_models" not in call
    runs = {call["--mos_exp"]: call for call in calls[4:]}
    assert sorted(runs) == [
        f"exp/ablation_paper/{name}/seed{seed}"
        for name in ("lambda0", "lower_half")
        for seed in (0, 1)
    ]
    run = runs["exp/ablation_paper/lower_half/seed1"]
    assert run["--train_args"].split() == ["--seed", "1"]
    assert run["--token_layers"] == "1,2,3,4,5,6"
    assert run["--tokens_tag"] in {call.get("--tokens_tag") for call in calls[2:4]}
    other = runs["exp/ablation_paper/lambda0/seed0"]
    assert other["--train_config"] == "conf/tuning/train_distilmos_lambda0.yaml"
