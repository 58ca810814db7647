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

from ...conftest import make_tree
from .conftest import ROOT, TEMPLATE

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
run = "/".join(exp.split("/")[-2:])
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
lines = [line.split(maxsplit=1) for line in open("ref/metric.scp")]
true = [json.loads(text)["mos"] for _, text in lines]
pred = [round(value + dice.gauss(0, noise), 4) for value in true]
systems = [line.split()[1] for line in open("ref/utt2sys")]
os.makedirs(exp + "/inference/test", exist_ok=True)
predicted = exp + "/inference/test/metric.scp"
with open(predicted, "w") as file:
    for (utt_id, _), value in zip(lines, pred):
        print(utt_id, json.dumps({{"mos": value}}), file=file)
row = evaluate(pred, true, systems, ("mse", "lcc", "srcc"))
files = {{"reference": "ref", "prediction": predicted}}
row.update(model=os.path.basename(exp), test_set="test", files=files)
with open(exp + "/results.json", "w") as file:
    other = dict(row, model="ridge")
    json.dump(dict(format_version=1, results=[row, other]), file)
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
        labels = [f'u{k:02d} {{"mos": {1 + 4 * k / 40:.3f}}}\n' for k in range(40)]
        (self.dir / "ref" / "metric.scp").write_text("".join(labels))
        systems = [f"u{k:02d} s{k % 5}\n" for k in range(40)]
        (self.dir / "ref" / "utt2sys").write_text("".join(systems))

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
    line = "more | conf/a.yaml | | --unlabelled_sets other/speech:1\n"
    (made_up.dir / "list.txt").write_text(LIST + line)
    command = ("--runs_nj", 3, "--seeds", "5", "--train_args", "--max_epoch 7")
    made_up.run(*command, "--nj", 4, "--stop_stage", 8)
    calls = made_up.calls()
    assert all(call["--nj"] == "4" for call in calls)
    tokens = [call for call in calls if "--mos_exp" not in call][2:]
    # Audio without labels is prepared and measured, too.
    stages = [(c["--stage"], c["--stop_stage"]) for c in tokens]
    assert stages == [("5", "5"), ("5", "5"), ("1", "6")]
    assert [call.get("--num_clusters") for call in tokens] == [None, "3", None]
    tags = [call["--tokens_tag"] for call in tokens]
    runs = {c["--mos_exp"].split("/")[-2]: c for c in calls if "--mos_exp" in c}
    names = ("first", "other", "k3", "more")
    assert [runs[n]["--tokens_tag"] for n in names] == [tags[0], *tags]
    assert runs["k3"]["--num_clusters"] == "3"
    assert runs["more"]["--unlabelled_sets"] == "other/speech:1"
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


@pytest.mark.parametrize(
    "options, sentence",
    [
        (("--list", "none.txt"), "none.txt cannot be read"),
        (("--list", "bad.txt"), "bad.txt, line 1: the options of the training have $"),
        (("--seeds", "0 x"), "--seeds has 'x'"),
        (("--runs_nj", "0"), "--runs_nj is 0"),
        (("--baseline", "none"), "--baseline none is no run of list.txt"),
        (("--only", "none"), "has no run none"),
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
