# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""One fold of p835 from the data to the scores, and the comparison of methods."""

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import scipy.stats
import transformers
import yaml

from espnet2_distilmos.mos.tokens import Codebooks

from ..conftest import make_tree

ROOT = Path(__file__).resolve().parents[3]
EGS2 = ROOT / "egs2"


@pytest.fixture(scope="session")
def whisper(tmp_path_factory):
    """A tiny random Whisper as a local directory."""
    folder = tmp_path_factory.mktemp("whisper")
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        vocab_size=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.set_seed(0)
    transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return folder


class Recipe:
    """A copy of the recipe, beside the TEMPLATE that its links lead to."""

    def __init__(self, root, corpora, whisper):
        make_tree(root)
        self.dir = root / "egs2" / "p835" / "mos1"
        self.dir.mkdir(parents=True)
        for path in (EGS2 / "p835" / "mos1").iterdir():
            if path.is_symlink():
                (self.dir / path.name).symlink_to(os.readlink(path))
            elif path.name in ("conf", "local"):
                shutil.copytree(path, self.dir / path.name)
            elif path.is_file():
                shutil.copy(path, self.dir)
        self.variables = {
            "P835": str(corpora["p835"]),
            "BVRNN": str(corpora["bvrnn"]),
            "WHISPER_TINY": str(whisper),
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *options, script="./run.sh", code=0, **variables):
        result = subprocess.run(
            [script, *map(str, options)],
            cwd=self.dir,
            env={**os.environ, **self.variables, **variables},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        good = code is None or result.returncode == code
        assert good, result.stdout + result.stderr
        return result

    def table(self, path):
        lines = (self.dir / path).read_text().splitlines()
        return {
            k: json.loads(v)["mos"] for k, v in (x.split(maxsplit=1) for x in lines)
        }


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
    assert [rows[n]["num_utts"] for n in ("test_f2", "bvrnn")] == [26, 128]
    assert rows["test_f2"]["utt_mos_mse"] > 0
    assert rows["bvrnn"]["utt_mos_mse"] is None
    assert rows["bvrnn"]["num_clusters"] == 16
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["seed"] == 7 and config["losses"]["token_ce"]["weight"] == 0.1
    assert config["frontend_conf"]["upstream"] == recipe.variables["WHISPER_TINY"]
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
    truth = recipe.table("data/test_f2/metric.scp")
    for run in ("distilmos/seed7", "ridge/seed0", "condition_mean/seed0"):
        path = (folder / run).relative_to(recipe.dir)
        own = recipe.table(f"{path}/f2/inference/test_f2/metric.scp")
        expected = scipy.stats.spearmanr([own[u] for u in truth], [*truth.values()])[0]
        for name in ("test, pooled", "test, within folds"):
            value = found[run.split("/")[0], name]
            assert value == pytest.approx(expected, abs=1e-6)
    assert found["ridge", "bvrnn"] is not None
    assert found["condition_mean", "bvrnn"] is None  # the same for every clip


@pytest.mark.slow
def test_speech_without_ratings_trains_besides(finished, corpora):
    recipe, folder = finished
    # Any folder of speech; the clips of the codecs are it here.
    variables = {"SPEECH": str(corpora["bvrnn"]), "BVRNN": ""}
    options = ("--only", "more_speech", "--seeds", 0, "--folds", "m1", *QUICK[:-2])
    options += ("--train_args", "--max_epoch 1")
    recipe.run(*options, script=COMPARISON, **variables)
    log = (folder / "more_speech/seed0/m1/train.log").read_text()
    counts = re.search(r"(\d+) labelled and (\d+) unlabelled utterances", log)
    labelled, unlabelled = int(counts[1]), int(counts[2])
    assert labelled == pytest.approx(unlabelled, rel=0.05) and labelled > 50
    (tokens,) = (recipe.dir / "dump/m1/tokens").glob("*/train_m1+speech/tokens.scp")
    assert len(tokens.read_text().splitlines()) == 104 + 128


@pytest.mark.parametrize(
    "options, variables, words",
    [
        (("--fold",), {}, "option --fold needs a value"),
        (("--fold", "f9"), {}, "data/train_f9/wav.scp is missing"),
        (("--leave", "both"), {}, "both"),
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
    result = recipe.run(*options, code=None, **variables)
    assert result.returncode != 0 and words in result.stderr
    assert not (recipe.dir / "dump" / "f1" / "raw").exists()


def test_conditions_left_out_and_no_bvrnn(tmp_path, corpora, whisper):
    recipe = Recipe(tmp_path, corpora, whisper)
    options = ("--fold", "m3_g2", "--leave", "conditions", "--stop_stage", 3)
    result = recipe.run(*options, "--nj", 1, BVRNN="")
    assert "data/bvrnn, the out-of-domain test set, is left out" in result.stderr
    assert "--num_iters_per_epoch 22" in result.stdout  # smaller sets, as many steps
    formatted = recipe.dir / "dump" / "m3_g2" / "raw"
    assert (formatted / "test_m3_g2" / "wav.scp").exists()
    assert not (formatted / "bvrnn").exists()
