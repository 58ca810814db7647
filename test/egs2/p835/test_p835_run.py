# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The driver of p835 and one fold of it from the data to the scores."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import transformers
import yaml

from espnet2_distilmos.mos.tokens import Codebooks

ROOT = Path(__file__).resolve().parents[3]
EGS2 = ROOT / "egs2"
TALKERS = ("f1", "f2", "f3", "m1", "m2", "m3")


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
        (root / "tools").mkdir()
        # The interpreter that runs the tests is the environment.
        (root / "tools" / "activate_python.sh").write_text(
            f'export PATH="{Path(sys.executable).parent}:$PATH"\n'
        )
        (root / "tools" / "extra_path.sh").write_text("")
        (root / "egs2" / "p835").mkdir(parents=True)
        (root / "egs2" / "TEMPLATE").symlink_to(EGS2 / "TEMPLATE")
        self.dir = root / "egs2" / "p835" / "mos1"
        self.dir.mkdir()
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
        assert result.returncode == code, result.stdout + result.stderr
        return result

    def table(self, path):
        lines = (self.dir / path).read_text().splitlines()
        return {
            k: json.loads(v)["mos"] for k, v in (x.split(maxsplit=1) for x in lines)
        }


# Everything that makes it quick; the rest is as in the recipe.
QUICK = (
    *("--num_clusters", 4, "--bootstrap", 20, "--nj", 1, "--train_threads", 1),
    *("--train_args", "--max_epoch 1 --batch_bins 200000", "--tag", "quick"),
)
EXP = "exp/quick_talkers"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, corpora, whisper):
    recipe = Recipe(tmp_path_factory.mktemp("finished"), corpora, whisper)
    return recipe, recipe.run("--folds", "f2", *QUICK)


def test_one_fold_from_the_data_to_the_scores(finished):
    recipe, result = finished
    exp = recipe.dir / EXP / "seed0" / "f2"
    rows = {
        row["test_set"]: row
        for row in json.loads((exp / "results.json").read_text())["results"]
    }
    assert [rows[n]["num_utts"] for n in ("test_f2", "bvrnn")] == [26, 128]
    assert rows["test_f2"]["utt_mos_mse"] > 0
    assert rows["bvrnn"]["utt_mos_mse"] is None
    assert rows["bvrnn"]["utt_mos_srcc"] is not None
    assert rows["bvrnn"]["num_clusters"] == 16
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["seed"] == 0 and config["losses"]["token_ce"]["weight"] == 0.1
    assert config["frontend_conf"]["upstream"] == recipe.variables["WHISPER_TINY"]
    assert config["frontend_conf"]["upstream_config"]["d_model"] == 16
    # Of the other folds nothing is there yet, so nothing is scored together.
    assert "Not scored together yet" in result.stdout
    assert "seed0/f1 seed0/f3 seed0/m1 seed0/m2 seed0/m3" in result.stdout
    assert not (recipe.dir / EXP / "results.json").exists()


def test_codebooks_know_the_training_talkers_only(finished):
    recipe, _ = finished
    (path,) = (recipe.dir / "dump" / "f2" / "tokens").glob("*/codebooks.npz")
    ids = [
        line.split()[0]
        for line in (recipe.dir / "dump/f2/raw/train_f2/wav.scp")
        .read_text()
        .splitlines()
    ]
    assert len(ids) == 104 and {i[-2:] for i in ids} == {"f1", "m1", "m2", "m3"}
    settings = Codebooks.load(str(path)).settings
    digest = hashlib.blake2b("\n".join(sorted(ids)).encode(), digest_size=8)
    assert settings["data"] == digest.hexdigest()
    assert settings["num_clusters"] == 4 and settings["layers"] == [1, 2]


def test_what_is_done_is_skipped_and_all_folds_are_scored_together(finished):
    recipe, _ = finished
    truth = recipe.table("data/p835/metric.scp")
    rng = np.random.default_rng(0)
    held_out = recipe.table(f"{EXP}/seed0/f2/inference/test_f2/metric.scp")
    for fold in set(TALKERS) - {"f2"}:
        exp = recipe.dir / EXP / "seed0" / fold
        for name in (f"test_{fold}", "bvrnn"):
            scores = {
                u: rng.uniform(1, 5) for u in recipe.table(f"data/{name}/metric.scp")
            }
            if name != "bvrnn":
                held_out.update(scores)
            (exp / "inference" / name).mkdir(parents=True)
            lines = [f"{u} {json.dumps({'mos': s})}\n" for u, s in scores.items()]
            (exp / "inference" / name / "metric.scp").write_text("".join(lines))
        text = (recipe.dir / EXP / "seed0" / "f2" / "results.json").read_text()
        (exp / "results.json").write_text(
            text.replace('"f2"', f'"{fold}"').replace("test_f2", f"test_{fold}")
        )
    result = recipe.run(*QUICK)
    for fold in TALKERS:
        assert f"Fold {fold}, seed 0 is done already" in result.stdout
    assert "Stage 1" not in result.stdout
    document = json.loads((recipe.dir / EXP / "results.json").read_text())
    rows = {(r["model"], r["test_set"]): r for r in document["results"]}
    expected = scipy.stats.spearmanr(
        [held_out[u] for u in truth], [truth[u] for u in truth]
    )[0]
    row = rows["seed0", "p835"]
    assert row["num_utts"] == 156 and row["num_clusters"] == 6
    assert row["utt_mos_srcc"] == pytest.approx(expected, abs=1e-4)
    assert rows["seed0", "bvrnn"]["num_utts"] == 128
    assert rows["condition_mean", "p835"]["num_utts"] == 156

    # A changed configuration is not done.
    config = recipe.dir / "conf" / "train_distilmos.yaml"
    later = os.stat(recipe.dir / EXP / "seed0" / "f2" / "results.json").st_mtime + 60
    os.utime(config, (later, later))
    again = recipe.run("--folds", "f2", *QUICK, P835="", code=1)
    assert "Stage 1" in again.stdout and "set P835=" in again.stderr


def test_comparison_trains_predicts_resumes_and_makes_its_table(finished):
    recipe, _ = finished
    for path in (recipe.dir / "conf").rglob("train_*.yaml"):
        text = path.read_text().replace("max_epoch: 6", "max_epoch: 1")
        path.write_text(text.replace("batch_bins: 320000", "batch_bins: 200000"))
    methods = "ssl_mos ridge"
    options = ("--methods", methods, "--num_clusters", 4, "--bootstrap", 20)
    options += ("--seeds", "0 1", "--python", sys.executable)
    script = "local/run_comparison.sh"

    # The fold was prepared above, which this file says; ssl_mos wants no tokens.
    for fold in TALKERS:
        (recipe.dir / "dump" / fold).mkdir(exist_ok=True)
        (recipe.dir / "dump" / fold / "prepared_whisper_tiny_k4").touch()
    # One fold and seed in earnest, the rest as if they had been run.
    first = recipe.run("--folds", "f2", *options, "--seeds", 0, script=script)
    assert "Prepare fold" not in first.stdout
    assert "The table wants all folds" in first.stdout
    exp = recipe.dir / "exp"
    trained = exp / "ssl_mos_talkers" / "seed0" / "f2"
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["head"] == "ssl_mos" and config["seed"] == 0
    predicted = json.loads((exp / "ridge_talkers/seed0/f2/results.json").read_text())
    assert {r["test_set"] for r in predicted["results"]} == {"test_f2", "bvrnn"}
    rng = np.random.default_rng(0)
    for method, seeds in (("ssl_mos", (0, 1)), ("ridge", (0,))):
        source = exp / f"{method}_talkers" / "seed0" / "f2" / "results.json"
        for seed in seeds:
            for fold in TALKERS:
                folder = exp / f"{method}_talkers" / f"seed{seed}" / fold
                if (folder / "results.json").exists():
                    continue
                for name in (f"test_{fold}", "bvrnn"):
                    scores = recipe.table(f"data/{name}/metric.scp")
                    lines = [
                        f"{u} {json.dumps({'mos': rng.uniform(1, 5)})}\n"
                        for u in scores
                    ]
                    (folder / "inference" / name).mkdir(parents=True)
                    path = folder / "inference" / name / "metric.scp"
                    path.write_text("".join(lines))
                text = source.read_text().replace('"f2"', f'"{fold}"')
                text = text.replace("test_f2", f"test_{fold}")
                (folder / "results.json").write_text(text)
    last = recipe.run(*options, script=script)
    assert "Train:" not in last.stdout and "Predict:" not in last.stdout
    page = (exp / "comparison_talkers" / "COMPARISON.md").read_text()
    assert "| ssl_mos " in page and "| ridge " in page and "# bvrnn" in page
    found = json.loads((exp / "comparison_talkers" / "comparison.json").read_text())
    truth = recipe.table("data/test_f2/metric.scp")
    own = recipe.table(
        f"{trained.relative_to(recipe.dir)}/inference/test_f2/metric.scp"
    )
    expected = scipy.stats.spearmanr([own[u] for u in truth], list(truth.values()))[0]
    value = found["p835"]["ssl_mos"]["utt_mos_srcc_by_fold"]["f2"][0]
    assert value == pytest.approx(expected, abs=1e-4)

    # A table of some folds leaves the whole one's scores as they are.
    before = (exp / "ssl_mos_talkers" / "RESULTS.md").read_bytes()
    recipe.run(*options, "--folds", "f2 m1", "--table", "some", script=script)
    some = json.loads((exp / "some" / "comparison.json").read_text())["p835"]["ssl_mos"]
    by_fold = found["p835"]["ssl_mos"]["utt_mos_srcc_by_fold"]
    assert some["utt_mos_srcc_by_fold"] == {f: by_fold[f] for f in ("f2", "m1")}
    assert (exp / "ssl_mos_talkers" / "RESULTS.md").read_bytes() == before

    wrong = recipe.run("--methods", "nonsense", script=script, code=1)
    assert "--methods has 'nonsense'" in wrong.stderr


# Writes down what it was called with; the fold of its training is done at once.
FAKE_RUN = r"""#!{python}
import os, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = "{{--expdir}}/{{--tag}}_{{--leave}}/seed{{--seeds}}/{{--folds}}"
folder = folder.format_map(options)
time.sleep(0.5 if options["--tag"] == "frozen" else 0)
open(folder + "/results.json", "w").close()
with open("calls", "a") as file:
    print(options["--tag"], options["--folds"], options["--train_args"], file=file)
"""


def test_a_method_that_starts_from_another_comes_after_it(tmp_path, corpora, whisper):
    recipe = Recipe(tmp_path, corpora, whisper)
    run = recipe.dir / "run.sh"
    run.write_text(FAKE_RUN.format(python=sys.executable))
    for fold in ("f1", "m3"):
        (recipe.dir / "dump" / fold).mkdir(parents=True)
        (recipe.dir / "dump" / fold / "prepared_whisper_tiny_k9").touch()
    options = ("--methods", "after_frozen frozen lambda_1", "--seeds", 7, "--nj", 3)
    options += ("--folds", "f1 m3", "--num_clusters", 9, "--python", sys.executable)
    recipe.run(*options, script="local/run_comparison.sh")
    calls = [line.split() for line in (recipe.dir / "calls").read_text().splitlines()]
    assert sorted(call[0] for call in calls[:4]) == ["frozen"] * 2 + ["lambda_1"] * 2
    for _, fold, *args in (call for call in calls if call[0] == "after_frozen"):
        path = f"exp/frozen_talkers/seed7/{fold}/latest.pth"
        assert args[-2:] == ["--init_model", path]
    assert [call[0] for call in calls[4:]] == ["after_frozen"] * 2


def test_speech_without_ratings_trains_besides(finished, corpora):
    recipe, _ = finished
    # Any folder of speech; the clips of the codecs are it here.
    variables = {"SPEECH": str(corpora["bvrnn"]), "BVRNN": ""}
    options = ("--methods", "more_speech", "--num_clusters", 4, "--python")
    options += (sys.executable, "--seeds", 0, "--folds", "m1", "--train_args")
    result = recipe.run(
        *(*options, "--max_epoch 1"),
        script="local/run_comparison.sh",
        **variables,
    )
    assert "The table wants all folds" in result.stdout
    exp = recipe.dir / "exp/more_speech_talkers/seed0/m1"
    log = (exp / "train.log").read_text()
    counts = re.search(r"(\d+) labelled and (\d+) unlabelled utterances", log)
    labelled, unlabelled = int(counts[1]), int(counts[2])
    assert labelled == pytest.approx(unlabelled, rel=0.05) and labelled > 50
    dump = recipe.dir / "dump" / "m1"
    assert (dump / "mos_stats_speech_1" / "train" / "speech_shape").exists()
    (tokens,) = (dump / "tokens").glob("*unlabelled*")
    ids = (tokens / "train_m1+speech" / "tokens.scp").read_text().splitlines()
    assert len(ids) == 104 + 128


@pytest.mark.parametrize(
    "options, variables, words",
    [
        (("--folds", "f9"), {}, "no fold 'f9', expected some of f1 f2 f3 m1 m2 m3"),
        (("--leave", "conditions", "--folds", "f2"), {}, "f2_g0 f2_g1 f2_g2"),
        (("--leave", "both"), {}, "expected talkers or conditions"),
        (("--seeds", "x"), {}, "'x' in --seeds, --stage or --stop_stage is not"),
        (("--train_config", "none.yaml"), {}, "none.yaml cannot be read"),
        (("--seeds",), {}, "option --seeds needs a value"),
        ((), {"P835": ""}, "github.com/microsoft/P.808"),
        ((), {"WHISPER_TINY": "nowhere"}, "hf download openai/whisper-tiny"),
        ((), {"WHISPER_TINY": "a b"}, "expected a path without spaces"),
        (("--nonsense", "1"), {}, "there is no option --nonsense"),
    ],
)
def test_what_cannot_work_is_said(
    tmp_path, corpora, whisper, options, variables, words
):
    recipe = Recipe(tmp_path, corpora, whisper)
    result = recipe.run(*options, code=1, **variables)
    assert words in result.stderr
    assert not (recipe.dir / "dump" / "f1" / "raw").exists()


def test_without_bvrnn_it_is_left_out(tmp_path, corpora, whisper):
    recipe = Recipe(tmp_path, corpora, whisper)
    options = ("--folds", "m3_g2", "--leave", "conditions", "--stop_stage", 3)
    result = recipe.run(*options, "--nj", 1, BVRNN="")
    assert "data/bvrnn, the out-of-domain test set, is left out" in result.stderr
    assert "--num_iters_per_epoch 22" in result.stdout  # smaller sets, as many steps
    formatted = recipe.dir / "dump" / "m3_g2" / "raw"
    assert (formatted / "test_m3_g2" / "wav.scp").exists()
    assert not (formatted / "bvrnn").exists()
