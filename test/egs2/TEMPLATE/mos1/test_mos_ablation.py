# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""scripts/mos_ablation.sh: with trainings that are made up, and with a real one."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from scipy import stats

from espnet2_distilmos.data.datadir import DataError, write_metric_scp, write_scp

from ...conftest import load_script, make_tree
from .conftest import ROOT, TEMPLATE

read_runs = load_script("TEMPLATE/mos1/pyscripts/utils/mos_ablation.py").read_runs
SCRIPT = "scripts/mos_ablation.sh"
CONFIG = "frontend: hf\nfrontend_conf: {upstream: a}\n"
LIST = """
# three runs
first | conf/a.yaml
other | conf/b.yaml | --losses token_ce.weight=0
k3    | conf/a.yaml | | --num_clusters 3
"""
# A run.sh that makes predictions up; they depend on run and seed alone.
RUN = r"""#!{python}
import os, random, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open("calls", "a") as file:
    print(*sys.argv[1:], sep="|", file=file)
stage, exp = int(options["--stage"]), options.get("--mos_exp", "")
run = exp.partition("ablation_list/")[2]
fold = options.get("--fold", "")
if stage == 5 and options["--tokens_tag"] in os.listdir("broken"):
    sys.exit("no such tokens")
if stage < 7:
    sys.exit()
print("training", run)
if os.path.exists("hang/" + run.replace("/", "_")):
    with open("hanging.tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename("hanging.tmp", "hanging")
    time.sleep(600)
if run.replace("/", "_") in os.listdir("broken"):
    sys.exit("it went wrong")
open(exp + "/checkpoint.pth", "w").close()
dice = random.Random(run)
noise = {{"first": 0.5, "other": 2.0}}.get(run.split("/")[0], 1.0)
import json
from espnet2_distilmos.evaluation.metrics import evaluate
results = []
for name in ("test_" + fold, "shared") if fold else ("test",):
    ref = "ref/" + name
    lines = [line.split(maxsplit=1) for line in open(ref + "/metric.scp")]
    true = [json.loads(text)["mos"] for _, text in lines]
    pred = [round(value + dice.gauss(0, noise), 4) for value in true]
    systems = [line.split()[1] for line in open(ref + "/utt2sys")]
    predicted = exp + "/inference/" + name + "/metric.scp"
    if os.path.exists(predicted):  # by a script
        texts = [line.split(maxsplit=1)[1] for line in open(predicted)]
        pred = [json.loads(text)["mos"] for text in texts]
    os.makedirs(os.path.dirname(predicted), exist_ok=True)
    with open(predicted, "w") as file:
        for (utt_id, _), value in zip(lines, pred):
            print(utt_id, json.dumps({{"mos": value}}), file=file)
    row = evaluate(pred, true, systems, ("mse", "lcc", "srcc"))
    files = {{"reference": ref, "prediction": predicted}}
    row.update(model=os.path.basename(exp), test_set=name, files=files)
    results.append(row)
with open(exp + "/results.json", "w") as file:
    results.append(dict(results[0], model="ridge"))
    json.dump(dict(format_version=1, results=results), file)
"""


class MadeUp:
    """A recipe whose run.sh trains nothing."""

    def __init__(self, root):
        make_tree(root)
        self.dir = root / "egs2" / "toy" / "mos1"
        for folder in ("conf", "ref", "broken", "hang"):
            (self.dir / folder).mkdir(parents=True)
        for name in ("path.sh", "pyscripts", "scripts", "utils"):
            (self.dir / name).symlink_to(TEMPLATE / name)
        (self.dir / "run.sh").write_text(RUN.format(python=sys.executable))
        (self.dir / "run.sh").chmod(0o755)
        for name in "ab":
            (self.dir / "conf" / f"{name}.yaml").write_text(CONFIG + f"tag: {name}\n")
        (self.dir / "list.txt").write_text(LIST)
        self.write_set("test", "u", 40)

    def write_set(self, name, prefix, count):
        folder = self.dir / "ref" / name
        ids = [f"{prefix}{k:02d}" for k in range(count)]
        write_metric_scp(
            folder / "metric.scp", {u: 1 + 4 * k / count for k, u in enumerate(ids)}
        )
        write_scp(folder / "utt2sys", {u: f"s{k % 5}" for k, u in enumerate(ids)})

    def start(self, *options):
        command = [SCRIPT, "--list", "list.txt", "--seeds", "0 1", "--bootstrap", "50"]
        return subprocess.Popen(
            [*command, "--metrics", "utt_mos_srcc", *map(str, options)],
            cwd=self.dir,
            env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options, code=0):
        process = self.start(*options)
        out, err = process.communicate()
        assert process.returncode == code, out + err
        return out, err

    def calls(self):
        """What run.sh was called with since the last time, as dicts."""
        path = self.dir / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        words = [line.split("|") for line in lines]
        return [dict(zip(part[::2], part[1::2])) for part in words]

    def scores(self, run):
        path = self.dir / f"exp/ablation_list/{run}/inference/test/metric.scp"
        lines = [line.split(maxsplit=1) for line in path.read_text().splitlines()]
        return np.array([json.loads(text)["mos"] for _, text in lines])


def trained(calls):
    return ["/".join(c["--mos_exp"].split("/")[-2:]) for c in calls if "--mos_exp" in c]


@pytest.fixture
def made_up(tmp_path):
    return MadeUp(tmp_path)


def test_failed_and_killed_runs_are_made_up_for(made_up):
    # One run fails, the others still run; one is killed.
    (made_up.dir / "broken" / "other_seed0").touch()
    (made_up.dir / "hang" / "first_seed1").touch()
    process = made_up.start("--only", "first other")
    while not (made_up.dir / "hanging").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 130 and "goes on from here" in err, out + err
    calls = made_up.calls()
    assert [c["--stage"] for c in calls] == ["1", "6", "5", "7", "7", "7"]
    assert trained(calls) == ["first/seed0", "other/seed0", "first/seed1"]
    assert "other/seed0 FAILED: see exp/ablation_list/other/seed0/run.log" in out
    # Nothing is left of the killed run.
    pid = int((made_up.dir / "hanging").read_text())
    deadline = time.time() + 60
    while os.path.exists(f"/proc/{pid}"):
        assert time.time() < deadline
        time.sleep(0.1)

    (made_up.dir / "hang" / "first_seed1").unlink()
    out, err = made_up.run("--only", "first other", code=1)
    assert trained(made_up.calls()) == ["other/seed0", "first/seed1", "other/seed1"]
    assert "failed: other/seed0;" in err and "first/seed0 is done already" in out

    (made_up.dir / "broken" / "other_seed0").unlink()
    made_up.run("--only", "first other")
    calls = made_up.calls()
    assert trained(calls) == ["other/seed0"]
    # Data are there, and other/seed0 only wants its tokens looked at.
    assert [c["--stage"] for c in calls] == ["5", "7"]
    assert calls[-1]["--train_args"] == "--losses token_ce.weight=0 --seed 0"
    assert calls[-1]["--baselines"] == "false"

    folder = made_up.dir / "exp" / "ablation_list"
    document = json.loads((folder / "results.json").read_text())
    labels = np.array([1 + 4 * k / 40 for k in range(40)])
    means = {}
    for row in document["methods"]:
        name = row["method"]
        scores = [made_up.scores(f"{name}/seed{k}") for k in range(2)]
        found = [stats.spearmanr(each, labels).statistic for each in scores]
        means[name] = np.mean(found)
        assert row["mean"] == pytest.approx(means[name])
        assert row["sd"] == pytest.approx(np.std(found, ddof=1))
    (row,) = document["comparisons"]
    assert (row["method"], row["baseline"], row["paired"]) == ("other", "first", True)
    assert row["difference"] == pytest.approx(means["other"] - means["first"])
    page = (folder / "RESULTS.md").read_text()
    assert "Minus first [95 %]" in page and "--only 'first other'" in page
    # The table alone, against another run.
    made_up.run("--stage", 9, "--baseline", "other")
    assert "Minus other [95 %]" in (folder / "RESULTS.md").read_text()
    assert made_up.calls() == []


def test_tokens_are_made_once_for_those_who_need_the_same(made_up):
    lines = "more | conf/a.yaml | | --unlabelled_sets other/speech:1\n"
    lines += "wide | conf/a.yaml | | --use_tokens false --further_sets pseudo:3\n"
    (made_up.dir / "list.txt").write_text(LIST + lines)
    command = ("--runs_nj", 3, "--seeds", "5", "--train_args", "--max_epoch 7")
    made_up.run(*command, "--nj", 4, "--stop_stage", 8)
    calls = made_up.calls()
    assert all(call["--nj"] == "4" for call in calls)
    tokens = [call for call in calls if "--mos_exp" not in call][2:]
    # Sets of a run's own are prepared and measured, too.
    stages = [(c["--stage"], c["--stop_stage"]) for c in tokens]
    assert stages == [("5", "5"), ("5", "5"), ("1", "6"), ("1", "6")]
    assert [c.get("--num_clusters") for c in tokens] == [None, "3", None, None]
    assert [c["--use_tokens"] for c in tokens] == ["true", "true", "true", "false"]
    tags = [call["--tokens_tag"] for call in tokens]
    runs = {c["--mos_exp"].split("/")[-2]: c for c in calls if "--mos_exp" in c}
    names = ("first", "other", "k3", "more", "wide")
    assert [runs[n]["--tokens_tag"] for n in names] == [tags[0], *tags]
    assert runs["k3"]["--num_clusters"] == "3"
    assert runs["more"]["--unlabelled_sets"] == "other/speech:1"
    assert runs["wide"]["--further_sets"] == "pseudo:3"
    settings = [made_up.dir.glob(f"**/{n}/seed5/settings") for n in ("wide", "other")]
    wide, other = (next(paths).read_text() for paths in settings)
    assert wide.endswith("| --further_sets pseudo:3") and "further" not in other
    assert runs["other"]["--train_args"] == (
        "--max_epoch 7 --losses token_ce.weight=0 --seed 5"
    )
    # Tokens that cannot be made fail the runs that need them, and no others.
    (made_up.dir / "broken" / tags[1]).touch()
    _, err = made_up.run(*command, "--nj", 4, "--baseline", "other", code=1)
    assert "failed: k3/seed5;" in err
    assert sorted(trained(made_up.calls())) == [
        "first/seed5",
        "more/seed5",
        "other/seed5",
        "wide/seed5",
    ]
    # Other options of the scoring score again and train nothing.
    again = (*command, "--nj", 2, "--only", "first", "--stage", 7, "--stop_stage", 8)
    made_up.run(*again)
    assert [c["--stage"] for c in made_up.calls()] == ["8"]
    # Another configuration under the name of a trained run is no resumption.
    (made_up.dir / "conf" / "a.yaml").write_text(CONFIG + "tag: c\n")
    out, _ = made_up.run(*again, code=1)
    assert "exp/ablation_list/first/seed5 was trained as 'conf/a.yaml" in out
    assert made_up.calls() == []


# Predicts the number of the clip, without training.
PREDICT = """
import argparse, os
parser = argparse.ArgumentParser()
for name in ("--out", "--fold", "--dump", "--seed"):
    parser.add_argument(name)
args = parser.parse_args()
assert args.dump == f"dump/{args.fold}"
assert not args.seed or f"/seeded/seed{args.seed}/" in args.out
for name in (f"test_{args.fold}", "shared"):
    os.makedirs(f"{args.out}/{name}")
    with open(f"{args.out}/{name}/metric.scp", "w") as file:
        for line in open(f"ref/{name}/metric.scp"):
            utt_id = line.split()[0]
            print(utt_id, '{"mos": %d}' % int(utt_id[-2:]), file=file)
"""


def test_folds(made_up):
    for fold in ("a_0", "b_0", "b_1"):
        made_up.write_set(f"test_{fold}", f"{fold}_", 12)
    made_up.write_set("shared", "s", 20)
    (made_up.dir / "predict.py").write_text(PREDICT)
    (made_up.dir / "list.txt").write_text(
        "after | conf/a.yaml | --init_model {exp}/first/seed{seed}/{fold}/x.pth\n"
        + LIST
        + "script | predict.py | --fold {fold} --dump {dumpdir}\n"
        + "seeded | predict.py | --fold {fold} --dump {dumpdir} --seed {seed}\n"
    )
    names = "after first other script seeded"
    command = ("--folds", "a_0 b_0 b_1", "--only", names, "--runs_nj", 3)
    command += ("--fold", "{fold}", "--train_set", "train_{fold}")
    command += ("--baseline", "first")
    (made_up.dir / "broken" / "other_seed0_b_1").touch()
    _, err = made_up.run(*command, code=1)
    assert "failed: other/seed0/b_1;" in err
    calls = made_up.calls()
    for call in calls:
        fold = call["--fold"]
        assert call["--train_set"] == f"train_{fold}"
        assert call["--dumpdir"] == f"dump/{fold}" and call["--expdir"] == f"exp/{fold}"
    # Data once a fold; tokens, too, and not from the model that is not there yet.
    stages = [(c["--fold"], c["--stage"]) for c in calls if "--mos_exp" not in c]
    assert stages == [(f, s) for f in ("a_0", "b_0", "b_1") for s in "165"]
    runs = [c for c in calls if "--mos_exp" in c]
    order = [c["--mos_exp"].split("/")[2] for c in runs]
    assert set(order[-6:]) == {"after"}
    assert order.count("script") == 3 and order.count("seeded") == 6
    for call in runs[-6:]:
        seed, fold = call["--mos_exp"].split("/")[-2:]
        model = f"exp/ablation_list/first/{seed}/{fold}/x.pth"
        args = f"--init_model {model} --seed {seed[-1]}"
        assert call["--train_args"] == args
    (made_up.dir / "broken" / "other_seed0_b_1").unlink()
    made_up.run(*command)
    assert trained(made_up.calls()) == ["seed0/b_1"]

    document = json.loads((made_up.dir / "exp/ablation_list/results.json").read_text())
    rows = {(r["test_set"], r["method"]): r for r in document["methods"]}
    assert {key[0]: rows[key]["num_runs"] for key in rows if key[1] == "other"} == {
        "test, pooled": 2,
        "shared, mean of folds": 2,
        "shared": 6,
        "test, within folds": 2,  # of the groups a and b
    }
    for name in ("test, within folds", "shared", "shared, mean of folds"):
        assert rows[name, "script"]["mean"] == pytest.approx(1)
    # Of some folds and runs, beside it.
    some = ("--table", "some", "--stage", 9, "--only", "other first", "--seeds", "1")
    made_up.run("--folds", "a_0 b_0", *some)
    found = (made_up.dir / "exp/ablation_list/some/runs.txt").read_text().splitlines()
    assert [line.split()[:3] for line in found] == [
        [name, "1", fold] for name in ("other", "first") for fold in ("a_0", "b_0")
    ]


# The list


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(CONFIG + "losses: {token_ce: {weight: 1}}\n")
    (tmp_path / "frozen.yaml").write_text(CONFIG + "seed: 3\n")
    (tmp_path / "b.yaml").write_text(CONFIG.replace(": a}", ": b}"))

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
        "after | a.yaml | --init_model {exp}/first/seed{seed}/latest.pth",
        "upstream | a.yaml | --frontend_conf upstream=b",
        "other | b.yaml",
        "k50 | a.yaml | | --num_clusters 50",
        "last | a.yaml | | --token-layers 3,4 --num_clusters 50",
        "k100 | a.yaml | | --num_clusters 100",
        "none | a.yaml | | --use_tokens false",
        "corpora | a.yaml | | --use_corpora true",
        "more | a.yaml | | --use_tokens false --further_sets more:3",
        "more_b | b.yaml | | --use_tokens false --further_sets more:3",
        "less_b | b.yaml | | --use_tokens false --further_sets more:2",
        "more_tokens | a.yaml | | --further_sets more:3",
    )
    runs = read_runs(path)
    tags = {name: run.tokens_tag for name, run in runs.items()}
    # Without tokens it is the data of the sets, which any network may read.
    assert tags.pop("more") == tags.pop("more_b")
    assert len({tags.pop("less_b"), tags.pop("more_tokens")} - {*tags.values()}) == 2
    runs = {name: runs[name] for name in tags}
    assert tags["first"] == tags["frozen"] == tags["weight"] == tags["after"]
    assert tags["first"] == tags["corpora"]
    assert runs["first"].settings() != runs["corpora"].settings()
    assert runs["corpora"].options == "--use_corpora true"
    assert tags["upstream"] == tags["other"] != tags["first"]
    assert len(set(tags.values())) == 5
    assert runs["last"].options == "--token_layers 3,4 --num_clusters 50"
    assert [n for n, run in runs.items() if run.use_tokens == "false"] == ["none"]
    hashes = {name: run.file_hash for name, run in runs.items()}
    assert hashes["first"] == hashes["k50"] != hashes["other"]
    # What holds for all runs gives way to what a line says.
    common = ("--frontend_conf upstream=b", "--num_clusters 50")
    again = read_runs(path, *common)
    assert again["k100"].options == "--num_clusters 100"
    assert again["first"].options == "--num_clusters 50"
    assert again["first"].tokens_tag == again["other"].tokens_tag
    assert again["weight"].args == f"{common[0]} {runs['weight'].args}"


@pytest.mark.parametrize(
    "line, word",
    [
        ("a", "1 fields"),
        ("a/b | a.yaml", "a/b"),
        ("first | a.yaml", "first"),
        ("a | gone.yaml", "gone.yaml"),
        ("a | gone.py", "gone.py"),
        ("a | a.yaml | lr=3", "lr=3"),
        ("a | a.yaml | --lr $(touch x)", "touch"),
        ("a | a.yaml | --seed=3", "--seed=3"),
        ("a | a.yaml | | --nj 3", "--nj"),
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


@pytest.mark.parametrize(
    "options, sentence",
    [
        (("--list", "none.txt"), "none.txt cannot be read"),
        (("--list", "bad.txt"), "bad.txt, line 1: the options of the training"),
        (("--seeds", "0 x"), "--seeds has 'x'"),
        (("--runs_nj", "0"), "--runs_nj is 0"),
        (("--baseline", "none"), "list.txt has no run none"),
        (("--tag", "a"), "--tag differs from run to run"),
        (("--nj",), "are not options with a value each"),
        (("--stage", "9"), "no run is done, there is no table"),
    ],
)
def test_what_cannot_work_ends_before_anything_runs(made_up, options, sentence):
    (made_up.dir / "bad.txt").write_text("a | conf/a.yaml | $(touch gone)\n")
    _, err = made_up.run(*options, code=1)
    assert sentence in err and len(err.splitlines()) == 1
    assert made_up.calls() == [] and not (made_up.dir / "gone").exists()


@pytest.mark.slow
def test_a_real_training_with_tokens_of_its_own(finished, tmp_path):
    recipe = finished[0].copy(tmp_path)
    run = recipe.dir / "run.sh"
    quoted = " ".join(f"'{word}'" for word in recipe.command())
    run.write_text(f'#!/usr/bin/env bash\n{quoted} --nj 1 --inference_nj 1 "$@"\n')
    run.chmod(0o755)
    (recipe.dir / "list.txt").write_text(
        "k3 | conf/train_tiny.yaml | --max_epoch 1 | --num_clusters 3\n"
    )
    options = ["--list", "list.txt", "--seeds", "1", "--stage", "5"]
    recipe.run(*options, "--bootstrap", "20", script=SCRIPT)
    (tokens,) = (recipe.dir / "dump" / "tokens").glob("ablation_k3_*")
    paths = [line.split()[1] for line in (tokens / "train/tokens.scp").open()]
    assert {int(np.load(recipe.dir / path).max()) for path in paths} == {2}
    exp = recipe.dir / "exp" / "ablation_list"
    config = (exp / "k3" / "seed1" / "config.yaml").read_text()
    assert "\nseed: 1\n" in config and "\nmax_epoch: 1\n" in config
    labels, scores = (
        [json.loads(line.split(maxsplit=1)[1])["mos"] for line in path.open()]
        for path in (
            recipe.dir / "dump/raw/test/metric.scp",
            next((exp / "k3" / "seed1").glob("inference*/test/metric.scp")),
        )
    )
    document = json.loads((exp / "results.json").read_text())
    (row,) = [r for r in document["methods"] if r["metric"] == "utt_mos_srcc"]
    assert row["mean"] == pytest.approx(stats.spearmanr(scores, labels).statistic)
