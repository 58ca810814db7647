# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Recipe bvcc on a fabricated VoiceMOS Challenge 2022."""

import importlib.util
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

SETS = {"train": ("TRAINSET", 30), "val": ("DEVSET", 12), "test": ("TESTSET", 18)}


def fabricate(folder, write_tone, prefix="", wav=".wav", counts=None, votes=8):
    """Write DATA of a track; return {set: {utt_id: [(listener, score)]}}."""
    dice = random.Random(prefix)
    listeners = [f"L{n}_id" if n == 3 else f"bZPQE7w4Zl{n}g" for n in range(12)]
    truth = {}
    sets = folder / "DATA" / "sets"
    sets.mkdir(parents=True)
    for name, (file, count) in SETS.items():
        count = (counts or {}).get(name, count)
        lines, means, truth[name] = [], [], {}
        for i in range(count):
            system = f"sys{prefix}{i % 6:05x}"
            utt_id = f"{system}-utt{name[:2]}{i:05x}"
            who = dice.sample(listeners, votes)
            given = [(listener, dice.randint(1, 5)) for listener in who]
            truth[name][utt_id] = given
            mean = sum(score for _, score in given) / votes
            means.append(f"{utt_id}.wav,{mean}\n")
            for n, (listener, score) in enumerate(given):
                info = f"{{}}_30-39_{listener}_Female_Valid_1_No"
                if prefix:
                    info = f"{{}}_na_{listener}_na_na_na_EP"
                lines.append(
                    f"{system},{utt_id}{wav},{score},VDP1ovyrBzg8_{n},{info}\n"
                )
            write_tone(folder / "DATA" / "wav" / f"{utt_id}.wav", hertz=100 + 20 * i)
        dice.shuffle(lines)  # the owner's lines are in no order
        (sets / file).write_text("".join(lines) + "\n")
        (sets / f"{name}_mos_list.txt").write_text("".join(means))
    (folder / "DATA" / "mydata_system.csv").write_text("system_ID,mean\n")
    return truth


@pytest.fixture
def bvcc(recipes, tone, tmp_path):
    recipes.add("bvcc")
    truth = fabricate(tmp_path / "main", tone)
    return recipes, tmp_path / "main", truth


def prepare(recipes, main, code=0, *options):
    options = ("--skip_bad", "true") if not options else options
    return recipes.run("bvcc", "local/data.sh", *options, code=code, BVCC=main)


def test_every_vote_and_listener_is_kept(bvcc):
    recipes, main, truth = bvcc
    result = prepare(recipes, main)
    for name, data in (("train", "train"), ("val", "dev"), ("test", "test")):
        expected = {u: sum(s for _, s in v) / 8 for u, v in truth[name].items()}
        assert recipes.scores("bvcc", f"data/{data}") == expected
        votes = recipes.table("bvcc", f"data/{data}/votes.scp")
        assert {u: sorted(map(tuple, json.loads(v))) for u, v in votes.items()} == {
            u: sorted(v) for u, v in truth[name].items()
        }
        systems = recipes.table("bvcc", f"data/{data}/utt2sys")
        assert systems == {u: u.split("-")[0] for u in truth[name]}
        audio = recipes.table("bvcc", f"data/{data}/wav.scp")
        assert list(audio) == sorted(audio)
        assert audio == {u: f"{main}/DATA/wav/{u}.wav" for u in truth[name]}
    assert "data/train: 30 clips, 6 systems, 240 votes of 12 listeners" in result.stderr


def test_counts_are_held_against_the_published_ones(bvcc):
    recipes, main, _ = bvcc
    # The same without --skip_bad, which the fabricated corpus needs.
    result = prepare(recipes, main, 1, "--out", "data")
    for sentence in (
        "train: the lists have 30 clips, expected the 4974 that were published",
        "dev: the lists have 12 clips, expected the 1066",
        "test: the lists have 18 clips, expected the 1066",
        "3 faults: the rest is in data",
    ):
        assert sentence in result.stderr
    assert len(recipes.scores("bvcc", "data/train")) == 30


def test_missing_audio_is_named(bvcc):
    recipes, main, truth = bvcc
    lost = sorted(truth["train"])[:12]
    for utt_id in lost:
        (main / "DATA" / "wav" / f"{utt_id}.wav").unlink()
    result = prepare(recipes, main)
    sentence = next(s for s in result.stderr.splitlines() if "audio of" in s)
    assert "train: the audio of 12 of 30 clips is missing" in sentence
    assert f"{next(u for u in truth['train'] if u in lost)}" in sentence
    assert "and 2 more" in sentence
    listed = (recipes.root / "egs2/bvcc/mos1/data/train/missing_audio.txt").read_text()
    assert sorted(listed.split()) == [f"{main}/DATA/wav/{u}.wav" for u in lost]
    kept = set(truth["train"]) - set(lost)
    for file in ("wav.scp", "metric.scp", "utt2sys", "votes.scp", "utt2spk"):
        assert set(recipes.table("bvcc", f"data/train/{file}")) == kept
    # Once it is there, nothing of the old run is left.
    for utt_id in lost:
        shutil.copy(
            main / "DATA" / "wav" / f"{min(kept)}.wav",
            main / "DATA" / "wav" / f"{utt_id}.wav",
        )
    prepare(recipes, main)
    assert len(recipes.scores("bvcc", "data/train")) == 30
    assert not (recipes.root / "egs2/bvcc/mos1/data/train/missing_audio.txt").exists()


def test_every_bad_line_gets_a_sentence(bvcc):
    recipes, main, truth = bvcc
    path = main / "DATA" / "sets" / "TRAINSET"
    lines = path.read_text().splitlines()
    by_clip = {
        u: [n for n, l in enumerate(lines) if f",{u}.wav," in l] for u in truth["train"]
    }
    first, second, third, fourth, fifth, *_ = sorted(truth["train"])
    by_clip[first].sort(key=lambda n: "L3_id" in lines[n])
    changed = list(lines)
    changed[by_clip[first][0]] = lines[by_clip[first][0]].replace("{}_", "", 1)
    fields = lines[by_clip[second][0]].split(",")
    changed[by_clip[second][0]] = ",".join([*fields[:2], "6", *fields[3:]])
    changed[by_clip[third][0]] = ",".join(lines[by_clip[third][0]].split(",")[:4])
    changed[by_clip[fourth][7]] = lines[by_clip[fourth][7]].replace("sys", "other", 1)
    changed.append(lines[by_clip[fifth][0]])
    path.write_text("\n".join(changed) + "\n")
    result = prepare(recipes, main)
    for number, sentence in (
        (by_clip[first][0] + 1, "has the listener ''"),
        (by_clip[second][0] + 1, f"clip {second} has the score '6', expected a number"),
        (by_clip[third][0] + 1, "has 4 fields, expected 5"),
        (len(lines) + 1, "is the same line as an earlier one"),
    ):
        assert f"{path}:{number}" in result.stderr and sentence in result.stderr
    assert f"clip {fourth} is of" in result.stderr
    votes = recipes.table("bvcc", "data/train/votes.scp")
    counts = {u: len(json.loads(v)) for u, v in votes.items()}
    assert counts == {
        u: 7 if u in (first, second, third, fourth) else 8 for u in counts
    }


def test_votes_are_held_against_the_published_means(bvcc):
    recipes, main, truth = bvcc
    votes = main / "DATA" / "sets" / "TRAINSET"
    lines = votes.read_text().splitlines()
    clip = next(u for u, v in truth["train"].items() if {s for _, s in v} >= {1, 5})
    gone = next(s for s in lines if s.split(",")[1:3] == [f"{clip}.wav", "5"])
    votes.write_text("\n".join(s for s in lines if s != gone))
    means = main / "DATA" / "sets" / "val_mos_list.txt"
    lost, *rest = means.read_text().splitlines()
    means.write_text("\n".join([*rest, "sys00000-uttnone.wav,3.0"]))
    result = prepare(recipes, main)
    assert f"clip {clip} has the published mean" in result.stderr
    assert "but 7 votes with the mean" in result.stderr
    lost = lost.split(".wav")[0]
    assert f"lacks 1 clips that have votes ({lost})" in result.stderr
    assert "has 1 clips without votes (sys00000-uttnone)" in result.stderr


def test_a_release_with_means_only(bvcc):
    recipes, main, truth = bvcc
    (main / "DATA" / "sets" / "TESTSET").unlink()
    prepare(recipes, main)
    expected = {u: sum(s for _, s in v) / 8 for u, v in truth["test"].items()}
    assert recipes.scores("bvcc", "data/test") == expected
    assert not (recipes.root / "egs2/bvcc/mos1/data/test/votes.scp").exists()


@pytest.mark.parametrize(
    "path, sentence",
    [
        ("", "BVCC of db.sh is empty, expected the corpus; get it from"),
        ("none", "is no directory, expected the corpus"),
        (".", "has no DATA/sets"),
    ],
)
def test_a_corpus_that_is_not_there(recipes, tmp_path, path, sentence):
    recipes.add("bvcc")
    value = path and str(tmp_path / path)
    result = recipes.run("bvcc", "local/data.sh", code=1, BVCC=value)
    assert sentence in result.stderr and len(result.stderr.splitlines()) == 1


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


CONFIG = """
frontend: hf
frontend_conf:
  init_seed: 0
  upstream_config:
    model_type: hubert
    conv_dim: [8, 8, 8]
    conv_kernel: [20, 16, 8]
    conv_stride: [10, 8, 4]
    num_feat_extract_layers: 3
    feat_extract_norm: group
    hidden_size: 16
    num_hidden_layers: 2
    num_attention_heads: 2
    intermediate_size: 32
    num_conv_pos_embeddings: 8
    num_conv_pos_embedding_groups: 2
head: distilmos
head_conf: {}
losses:
  mos_l1: {weight: 1.0}
  token_ce: {weight: 0.1}
seed: 0
optim: adamw
optim_conf: {lr: 1.0e-3}
upstream_lr: 1.0e-3
batch_type: sorted
batch_size: 16
max_epoch: 1
num_workers: 0
use_matplotlib: false
use_tensorboard: false
best_model_criterion:
- [valid, sys_srcc, max]
"""


def fabricate_somos(folder, tone):
    """As the test of recipe somos does it."""
    path = Path(__file__).parents[1] / "somos" / "test_somos.py"
    spec = importlib.util.spec_from_file_location("test_somos", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.fabricate(folder, tone, {"train": 1, "valid": 1, "test": 5})


class Run:
    """Recipe bvcc with two corpora to test on and one that is not there."""

    def __init__(self, recipes, tone, folder):
        self.recipes = recipes
        for corpus in ("bvcc", "vmc22_ood", "somos"):
            recipes.add(corpus)
        self.dir = recipes.root / "egs2" / "bvcc" / "mos1"
        (self.dir / "conf" / "train_tiny.yaml").write_text(CONFIG)
        self.clips = fabricate(folder / "main", tone)
        counts = {"train": 2, "val": 2, "test": 6}
        fabricate(folder / "ood", tone, "ood", "", counts, 10)
        fabricate_somos(folder / "somos", tone)
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
def finished(module_recipes, tone, tmp_path_factory):
    run = Run(module_recipes, tone, tmp_path_factory.mktemp("corpora"))
    return run, run.run()


EXP = "exp/mos_train_tiny_raw"
COUNTS = {"test": 18, "somos/test": 5, "vmc22_ood/test": 6}


def test_stages_1_to_9_and_two_sets_out_of_domain(finished):
    run, result = finished
    assert sum(map(len, run.clips.values())) == 60
    assert "none/test is left out: there is no recipe egs2/none/mos1" in result.stderr
    results = run.results(EXP)
    assert {r["test_set"]: r["num_utts"] for r in results} == COUNTS
    # The labels that were scored against are the corpora's own.
    labels = run.recipes.scores("bvcc", "dump/raw/vmc22_ood/test")
    assert labels == run.recipes.scores("bvcc", "data/vmc22_ood/test")
    assert len(run.recipes.table("bvcc", "dump/raw/test/votes.scp")) == 18
    # One model: its table is the one of stage 9.
    assert not (run.dir / "exp" / "results.json").exists()


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
        (["--test_sets", "none/test"], 1, "data/train/wav.scp is missing or empty"),
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
