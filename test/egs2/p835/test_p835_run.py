# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""One fold of p835 from the data to the scores, and the comparison of methods."""

import hashlib
import json
import re

import pytest
import scipy.stats
import yaml

from espnet2_distilmos.mos.tokens import Codebooks

from ..conftest import Recipes


class Recipe:
    """The recipe in a tree of its own, with bvrnn's beside it."""

    def __init__(self, root, corpora, whisper):
        self.recipes = Recipes(root)
        self.dir = self.recipes.add("p835")
        self.recipes.add("bvrnn")
        self.variables = {"P835": corpora["extract"], "BVRNN": corpora["bvrnn"]}
        self.variables["WHISPER_TINY"] = whisper

    def run(self, *options, script="./run.sh", code=0, **variables):
        variables = {**self.variables, **variables}
        # The fabricated bvrnn has not the published count.
        options = (*options, "--skip_bad", "true")
        return self.recipes.run("p835", script, *options, code=code, **variables)

    def table(self, path):
        """Return the scores of a metric.scp."""
        return self.recipes.scores("p835", path)


# Everything that makes it quick; the rest is as in the recipe.
QUICK = (
    *("--num_clusters", 4, "--bootstrap", 20, "--nj", 1, "--train_threads", 1),
    *("--train_args", "--max_epoch 1 --batch_bins 200000"),
)
COMPARISON = "local/run_comparison.sh"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpora, whisper):
    """The comparison of two methods on one fold: everything is run once."""
    recipe = Recipe(tmp_path_factory.mktemp("finished"), corpora, whisper)
    options = ("--only", "distilmos ridge condition_mean", "--seeds", "7")
    recipe.run(*options, "--folds", "f2", *QUICK, script=COMPARISON)
    return recipe, recipe.dir / "exp/talkers/ablation_methods"


@pytest.mark.slow
def test_one_fold_from_the_data_to_the_scores(finished):
    recipe, folder = finished
    exp = folder / "distilmos/seed7/f2"
    rows = {
        row["test_set"]: row
        for row in json.loads((exp / "results.json").read_text())["results"]
    }
    assert [rows[n]["num_utts"] for n in ("test_f2", "bvrnn/test")] == [26, 8]
    assert rows["test_f2"]["utt_mos_mse"] > 0
    assert rows["bvrnn/test"]["utt_mos_mse"] is None  # of two scales
    assert rows["bvrnn/test"]["num_clusters"] == 2
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["seed"] == 7 and config["losses"]["token_ce"]["weight"] == 0.1
    assert config["frontend_conf"]["upstream"] == str(recipe.variables["WHISPER_TINY"])
    assert config["frontend_conf"]["upstream_config"]["d_model"] == 16


@pytest.mark.slow
def test_codebooks_know_the_training_talkers_only(finished):
    recipe, _ = finished
    (path,) = (recipe.dir / "dump/f2/tokens").glob("*/codebooks.npz")
    lines = (recipe.dir / "dump/f2/raw/train_f2/wav.scp").read_text().splitlines()
    ids = [line.split()[0] for line in lines]
    assert len(ids) == 104 and {i[-2:] for i in ids} == {"f1", "m1", "m2", "m3"}
    settings = Codebooks.load(str(path)).settings
    digest = hashlib.blake2b("\n".join(sorted(ids)).encode(), digest_size=8)
    assert settings["data"] == digest.hexdigest()
    assert settings["num_clusters"] == 4 and settings["layers"] == [1, 2]


@pytest.mark.slow
def test_the_table(finished):
    recipe, folder = finished
    rows = json.loads((folder / "results.json").read_text())["methods"]
    found = {
        (r["method"], r["test_set"]): r["mean"]
        for r in rows
        if r["metric"] == "utt_mos_srcc"
    }
    truth = recipe.table("data/test_f2")
    for run in ("distilmos/seed7", "ridge/seed0", "condition_mean/seed0"):
        path = (folder / run).relative_to(recipe.dir)
        own = recipe.table(f"{path}/f2/inference/test_f2")
        expected = scipy.stats.spearmanr([own[u] for u in truth], [*truth.values()])[0]
        for name in ("test, pooled", "test, within folds"):
            value = found[run.split("/")[0], name]
            assert value == pytest.approx(expected, abs=1e-6)
    assert found["ridge", "bvrnn/test"] is not None
    # The same for every clip: undefined.
    assert found.get(("condition_mean", "bvrnn/test")) is None


@pytest.mark.slow
def test_speech_without_ratings_trains_besides(finished, corpora):
    recipe, folder = finished
    # Any folder of speech; the clips of p835 are it here.
    variables = {"SPEECH": corpora["P.808"], "BVRNN": ""}
    options = ("--only", "more_speech", "--seeds", 0, "--folds", "m1", *QUICK[:-2])
    options += ("--train_args", "--max_epoch 1")
    recipe.run(*options, script=COMPARISON, **variables)
    log = (folder / "more_speech/seed0/m1/train.log").read_text()
    counts = re.search(r"(\d+) labelled and (\d+) unlabelled utterances", log)
    labelled, unlabelled = int(counts[1]), int(counts[2])
    assert labelled == pytest.approx(unlabelled, rel=0.05) and labelled > 50
    (tokens,) = (recipe.dir / "dump/m1/tokens").glob("*/train_m1+speech/tokens.scp")
    assert len(tokens.read_text().splitlines()) == 104 + 156


@pytest.mark.parametrize(
    "options, variables, words",
    [
        (("--fold", "f9"), {}, "data/train_f9/wav.scp is missing"),
        ((), {"P835": ""}, "github.com/microsoft/P.808"),
        ((), {"WHISPER_TINY": "nowhere"}, "openai/whisper-tiny"),
        ((), {"WHISPER_TINY": "a b"}, "expected a path without spaces"),
        (("--nonsense", "1"), {}, "there is no option --nonsense"),
    ],
)
def test_what_cannot_work_is_said(
    tmp_path, corpora, whisper, options, variables, words
):
    recipe = Recipe(tmp_path, corpora, whisper)
    assert words in recipe.run(*options, code=1, **variables).stderr
    assert not (recipe.dir / "dump" / "f1" / "raw").exists()


def test_conditions_left_out_and_no_bvrnn(tmp_path, corpora, whisper):
    recipe = Recipe(tmp_path, corpora, whisper)
    options = ("--fold", "m3_g2", "--stop_stage", 3, "--nj", 1)
    result = recipe.run(*options, BVRNN="")
    assert "bvrnn/test is left out: " in result.stderr
    assert "--num_iters_per_epoch 22" in result.stdout  # smaller sets, as many steps
    formatted = recipe.dir / "dump" / "m3_g2" / "raw"
    assert (formatted / "test_m3_g2" / "wav.scp").exists()
    assert not (formatted / "bvrnn").exists()
