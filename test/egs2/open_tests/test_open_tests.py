# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""One listening test left out at a time: folds, labels, and the comparison."""

import hashlib
import json
import re
import shutil
import statistics
import sys
import types
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import soundfile
import yaml

from espnet2_distilmos.bin.pseudo_label import get_teacher
from espnet2_distilmos.data.datadir import (
    DataError,
    read_metric_scp,
    read_scp,
    write_metric_scp,
    write_scp,
)

from ..conftest import Recipes, load_script, write_tone
from ..corpora import write_lines

add_crops = load_script("open_tests/mos1/local/add_crops.py")
folds = load_script("open_tests/mos1/local/folds.py")
prune_run = load_script("TEMPLATE/mos1/pyscripts/utils/prune_run.py")
sizes = load_script("open_tests/mos1/local/sizes.py")
SETS = {"p835": "p835/p835", "bvrnn": "bvrnn/test", "yourtts": "yourtts/test"}
SYSTEMS = ("a", "b", "c")


@pytest.mark.parametrize(
    "name, train, parts, test",
    [
        ("no_bvrnn", ["p835", "yourtts"], 2, "bvrnn/test test_bvrnn"),
        ("all", ["p835", "bvrnn", "yourtts"], 1, "test_p835 test_bvrnn test_yourtts"),
        (
            *("only_p835", ["p835"], 1),
            "test_p835 bvrnn/test yourtts/test test_bvrnn test_yourtts",
        ),
    ],
)
def test_what_a_fold_trains_on_and_tests(name, train, parts, test):
    fold = folds.read_fold(name, SETS)
    assert (fold.train, len(fold.parts)) == (train, parts)
    assert fold.test == test.split()
    whole = [n for n in fold.test if "/" in n or f"{n[5:]}/" not in " ".join(fold.test)]
    assert fold.without_parts(SETS).test == whole
    options = dict(zip(fold.options()[::2], fold.options()[1::2]))
    # Equal weights; training sets of one name are the same whatever the fold.
    of = {2: "open", 1: "closed"}[parts]
    names = [f"train_{of}_{one}" for one in train]
    expected = {"--train_sets": " ".join(f"{one}:1" for one in names)}
    if name == "only_p835":
        expected = {"--train_set": names[0]}
    expected.update({"--valid_set": f"dev_{name}", "--test_sets": test})
    assert options == expected


def test_columns_of_the_table():
    sets = dict(list(SETS.items())[:2])
    lines = folds.columns(["no_p835", "no_bvrnn", "all", "only_bvrnn"], sets)
    assert lines == [
        "p835 | p835/p835@no_p835",
        "bvrnn | bvrnn/test@no_bvrnn",
        "mean | p835/p835@no_p835 bvrnn/test@no_bvrnn",
        "all, in domain | test_p835@all test_bvrnn@all",
        "left out, same clips | test_p835@no_p835 test_bvrnn@no_bvrnn",
        "gap | test_p835@all test_bvrnn@all | test_p835@no_p835 test_bvrnn@no_bvrnn",
        "alone, other sets | p835/p835@only_bvrnn",
        "alone, in domain | test_bvrnn@only_bvrnn",
        "alone, gap | test_bvrnn@only_bvrnn | test_p835@only_bvrnn",
    ]
    assert folds.columns(["only_bvrnn"], sets, test_parts=False) == lines[6:8]


def test_labels_become_normal_scores_of_their_ranks():
    mapped = folds.normal_scores([10, 40, 20, 20])
    # Ranks 1, 2.5, 2.5, 4 of 4: the quantiles 1/8, 1/2 and 7/8.
    low = 3 + 0.8 * statistics.NormalDist().inv_cdf(1 / 8)
    found = [mapped(label) for label in (0, 10, 20, 30, 40, 90)]
    high = 6 - low
    assert found == pytest.approx([low, low, 3, (3 + high) / 2, high, high])
    mapped = folds.normal_scores(range(1000))
    assert (mapped(0), mapped(999)) == (1, 5)


def write_set(folder, corpus, scale, sources=12):
    """A data directory whose labels rise with the source and the system."""
    rows = [(s, system) for s in range(sources) for system in SYSTEMS]
    ids = {f"{corpus}_{s:02d}_{system}": (s, system) for s, system in rows}
    labels = {u: scale * (s + "abc".index(y)) for u, (s, y) in ids.items()}
    write_metric_scp(folder / "metric.scp", labels)
    write_scp(folder / "wav.scp", {u: f"/audio/{u}.wav" for u in ids})
    for file, values in (
        ("utt2sys", {u: system for u, (_, system) in ids.items()}),
        ("utt2spk", {u: f"spk{s}" for u, (s, _) in ids.items()}),
        ("utt2src", {u: f"src{s}" for u, (s, _) in ids.items()}),
        ("votes.scp", {u: json.dumps([["x", labels[u]]]) for u in ids}),
    ):
        write_scp(folder / file, values)
    return labels


def test_data_of_the_folds_by_hand(tmp_path):
    sets = {"one": "one/test", "two": "two/test", "three": "three/test"}
    labels = {}
    for k, (name, of) in enumerate(sets.items()):
        labels[name] = write_set(tmp_path / of, name, 0.2 * 10**k)
        (tmp_path / of / "score_range").write_text(f"0 {4 * 10**k}\n")
    pseudo = {"one_00_a": 3.25}
    write_metric_scp(tmp_path / "scores/dnsmos/one/test/metric.scp", pseudo)
    for name in ("no_two", "all", "only_three"):
        folds.write_fold(folds.read_fold(name, sets), sets, tmp_path, "ranks")
    # By the digests of their names: 3 of 12 sources are the test, 1 validates.
    order = sorted(
        range(12), key=lambda s: hashlib.sha256(f"src{s}".encode()).hexdigest()
    )
    parts = {"test": order[:3], "dev": order[3:4], "train": order[4:]}

    def clips(name, *wanted):
        sources = [s for part in wanted for s in parts[part]]
        return {f"{name}_{s:02d}_{y}" for s in sources for y in SYSTEMS}

    def found(directory):
        return read_metric_scp(str(tmp_path / directory / "metric.scp"))

    for name in sets:
        closed = found(f"train_closed_{name}")
        assert closed.keys() == clips(name, "train")
        test = found(f"test_{name}")
        assert test == {u: labels[name][u] for u in clips(name, "test")}
        assert (tmp_path / f"test_{name}/score_range").exists()
        # The ranks of what trains alone; the scale is gone with the labels.
        values = [labels[name][u] for u in closed]
        ranks = scipy.stats.rankdata(values)
        scores = scipy.stats.norm.ppf((ranks - 0.5) / len(values), 3, 0.8)
        assert list(closed.values()) == pytest.approx(np.clip(scores, 1, 5).tolist())
        assert not (tmp_path / f"train_closed_{name}/score_range").exists()
    opened = [f"train_open_{name}" for name in ("one", "three")]
    assert [found(d).keys() for d in opened] == [
        clips(name, "train", "test") for name in ("one", "three")
    ]
    assert not (tmp_path / "train_open_two").exists()
    dev = found("dev_all")
    assert dev.keys() == set().union(*(clips(name, "dev") for name in sets))
    assert found("dev_no_two").keys() == clips("one", "dev") | clips("three", "dev")
    assert 1 <= min(dev.values()) <= max(dev.values()) <= 5
    systems = dict(
        line.split() for line in (tmp_path / "dev_all/utt2sys").read_text().splitlines()
    )
    assert set(systems.values()) == {f"{n}/{y}" for n in sets for y in SYSTEMS}
    # Scores of another predictor, where there are some.
    lines = (tmp_path / "train_open_one/metric.scp").read_text()
    assert ('"dnsmos": 3.25' in lines) == ("one_00_a" in clips("one", "train", "test"))
    # Linearly, ends to ends, the votes too.
    folds.write_fold(folds.read_fold("all", sets), sets, tmp_path, "linear")
    linear = found("train_closed_two")
    assert linear == pytest.approx({u: 1 + labels["two"][u] / 10 for u in linear})
    votes = (tmp_path / "train_closed_two/votes.scp").read_text().splitlines()
    utt_id, text = votes[0].split(maxsplit=1)
    assert json.loads(text) == [["x", pytest.approx(linear[utt_id])]]


def test_a_clip_without_a_line_of_scores_has_no_label(tmp_path):
    sets = {"one": "one/test", "two": "two/test"}
    for name, of in sets.items():
        write_set(tmp_path / of, name, 0.2)
    path = str(tmp_path / "one/test/metric.scp")
    fold = folds.read_fold("no_two", sets)
    folds.write_fold(fold, sets, tmp_path, "ranks")
    out = str(tmp_path / "train_open_one/metric.scp")
    utt_id = next(iter(read_metric_scp(out)))
    labels = read_metric_scp(path)
    del labels[utt_id]
    write_metric_scp(path, labels)
    folds.write_fold(fold, sets, tmp_path, "ranks")
    found = read_metric_scp(out)
    assert found.pop(utt_id) is None and None not in found.values()


def test_a_set_of_too_few_sources_is_refused(tmp_path):
    sets = {"one": "one/test", "two": "two/test"}
    for name, of in sets.items():
        write_set(tmp_path / of, name, 0.2, sources=2)
    with pytest.raises(DataError, match="too few sources for a part of train"):
        folds.write_fold(folds.read_fold("all", sets), sets, tmp_path, "ranks")


@pytest.mark.parametrize(
    "text, words",
    [
        ("a b/c\na d/e", "'a d/e'"),
        ("a b/c\nd e", "'d e'"),
        ("a b/c d", "'a b/c d'"),
        ("a-b c/d", "'a-b c/d'"),
        ("# none\na b/c # one", "1 sets"),
    ],
)
def test_a_bad_list_of_sets(text, words, tmp_path):
    (tmp_path / "sets.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        folds.read_sets(str(tmp_path / "sets.txt"))


# Released models


@pytest.fixture
def fresh_teachers():
    get_teacher.cache_clear()
    yield
    get_teacher.cache_clear()


@pytest.mark.parametrize("method", ["distillmos", "dnsmos"])
def test_released_models_predict_the_sets_of_a_fold(
    method, tmp_path, monkeypatch, capsys, fresh_teachers
):
    predict = load_script("open_tests/mos1/local/predict.py")
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "conf/sets.txt", ["one one/test", "two two/test"])
    for name in ("one/test", "two/test", "test_one"):
        wavs = {f"u{k}": f"{tmp_path}/{k}.wav" for k in range(1 + ("/" in name))}
        write_scp(tmp_path / "data" / name / "wav.scp", wavs)
    for k in range(2):
        write_tone(tmp_path / f"{k}.wav", seconds=0.1 * (k + 1))
    # Ids of one set say nothing about another's.
    shutil.copy(tmp_path / "0.wav", tmp_path / "2.wav")
    wavs = {"u0": f"{tmp_path}/1.wav", "u1": f"{tmp_path}/2.wav"}
    write_scp(tmp_path / "data/two/test/wav.scp", wavs)
    options = ["--method", method, "--out", "out"]
    monkeypatch.setitem(sys.modules, "distillmos", None)
    monkeypatch.setitem(sys.modules, "speechmos", None)
    assert predict.main(options) == 1  # with a sentence, see below
    capsys.readouterr()
    fake = types.SimpleNamespace(
        run=lambda audio, sr: {
            "ovrl_mos": len(audio) / sr,
            **dict.fromkeys(("sig_mos", "bak_mos", "p808_mos"), 5.0),
        },
        ConvTransformerSQAModel=lambda: types.SimpleNamespace(
            eval=lambda: lambda audio: audio.shape[1] / 16000
        ),
    )
    package = types.SimpleNamespace(dnsmos=fake, __path__=[])
    monkeypatch.setitem(sys.modules, "distillmos", fake)
    monkeypatch.setitem(sys.modules, "speechmos", package)
    monkeypatch.setitem(sys.modules, "speechmos.dnsmos", fake)
    assert predict.main([*options, "--fold", "no_one"]) == 0
    found = {p.parent for p in tmp_path.glob("out/**/metric.scp")}
    assert found == {tmp_path / "out" / name for name in ("one/test", "test_one")}
    scores = read_metric_scp("out/one/test/metric.scp")
    assert scores == pytest.approx({"u0": 0.1, "u1": 0.2})
    # Without a fold, whole sets.
    assert predict.main([*options[:3], f"data/scores/{method}"]) == 0
    further = folds.further_scores(tmp_path / "data", "two/test")
    assert further == {method: pytest.approx({"u0": 0.2, "u1": 0.1})}
    # What is there is not predicted again.
    for name, score in (("one", 3.0), ("two", 4.0)):
        kept = {"u0": score, "u1": None}
        write_metric_scp(f"data/scores/{method}/{name}/test/metric.scp", kept)
    assert predict.main([*options, "--fold", "no_one"]) == 0
    expected = {"u0": 3.0, "u1": pytest.approx(0.2)}  # it had none
    assert read_metric_scp("out/one/test/metric.scp") == expected
    assert read_metric_scp("out/test_one/metric.scp") == {"u0": 3.0}
    shutil.rmtree("data/scores")
    # Killed before it has written a table, it goes on with the clips that are left.
    shutil.rmtree("out/one")
    shutil.rmtree("out/test_one")
    (journal,) = Path("out/teachers").glob("one_test-*")
    lines = journal.read_text().splitlines(keepends=True)
    assert "u0" in lines[1] and "0.1" in lines[1]
    journal.write_text(lines[0] + lines[1].replace("0.1", "0.3"))
    assert predict.main([*options, "--fold", "no_one"]) == 0
    expected = {"u0": 0.3, "u1": pytest.approx(0.2)}
    assert read_metric_scp("out/one/test/metric.scp") == expected
    # A clip that has no score is named, and the others have theirs.
    shutil.rmtree("out")
    run = fake.run
    fake.run = lambda audio, sr: {**run(audio, sr), "ovrl_mos": 1 / (len(audio) < 3000)}
    fake.ConvTransformerSQAModel = lambda: types.SimpleNamespace(
        eval=lambda: lambda audio: 1 / (audio.shape[1] < 3000)
    )
    get_teacher.cache_clear()
    assert predict.main([*options, "--fold", "no_one"]) == 1
    (sentence,) = re.findall("^predict.py: .*", capsys.readouterr().err, re.MULTILINE)
    assert f"utterance u1: {method} cannot score it" in sentence
    assert read_metric_scp("out/one/test/metric.scp") == {"u0": 1.0, "u1": None}


def test_what_predict_needs_is_said(tmp_path, monkeypatch, capsys, fresh_teachers):
    predict = load_script("open_tests/mos1/local/predict.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "speechmos", None)
    write_lines(tmp_path / "conf/sets.txt", ["one one/test", "two two/test"])
    for options, words in (
        (["dnsmos"], "one/test/wav.scp"),
        (["dnsmos", "--nj", "0"], "--nj is 0, expected 1 or more"),
        (["knn"], "needs --fold and --model"),
        (["knn", "--fold", "all", "--model", "x"], "train the run l1 first"),
        (["mean", "--fold", "all"], "--method mean needs --runs"),
        (["mean", "--fold", "no_one", "--runs", "x"], "x/inference/one/test/metric"),
        (["dnsmos", "--fold", "no_three"], "the fold is 'no_three'"),
    ):
        assert predict.main(["--out", "out", "--method", *options]) == 1
        assert words in capsys.readouterr().err
    # The package is needed where a clip has no score yet.
    for path in ("x.wav", None):
        wavs = {"u": path} if path else {}
        for name in ("one", "two"):
            write_scp(tmp_path / "data" / name / "test" / "wav.scp", wavs)
        code = predict.main(["--out", "out", "--method", "dnsmos"])
        assert code == (1 if path else 0)
        assert ("pip install speechmos" in capsys.readouterr().err) == bool(path)


def test_a_killed_process_of_predict_is_a_sentence(tmp_path, monkeypatch, capsys):
    predict = load_script("open_tests/mos1/local/predict.py")
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "conf/sets.txt", ["one one/test", "two two/test"])
    write_scp(tmp_path / "data/one/test/wav.scp", {"u": "u.wav"})

    def killed(*_):
        raise BrokenProcessPool("terminated abruptly")

    monkeypatch.setattr(predict, "score_set", killed)
    assert predict.main(["--out", "out", "--method", "dnsmos", "--nj", "2"]) == 1
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("predict.py: a process was killed")
    assert not (tmp_path / "out").exists()


def test_mean_is_of_standardised_scores(tmp_path, monkeypatch, capsys):
    predict = load_script("open_tests/mos1/local/predict.py")
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "conf/sets.txt", ["one one/test", "two two/test"])
    random = np.random.default_rng(0)
    scores = random.normal((3, 50), (0.2, 30), (20, 2))
    ids = [f"u{k:02d}" for k in range(20)]
    for name in ("one/test", "test_one"):
        for run, column in zip("ab", scores.T):
            of_run = dict(zip(ids, column))
            write_metric_scp(f"{run}/inference/{name}/metric.scp", of_run)
    options = ["--method", "mean", "--fold", "no_one", "--out", "out", "--runs"]
    assert predict.main([*options, "a", "b"]) == 0
    for name in ("one/test", "test_one"):
        found = read_metric_scp(f"out/{name}/metric.scp")
        expected = scipy.stats.zscore(scores, axis=0).mean(axis=1)
        assert found == pytest.approx(dict(zip(ids, expected)), abs=1e-4)
    for wrong, words in (
        ({"u00": 1.0}, "has other clips than that of a"),
        (dict.fromkeys(ids, 1.0), "has one score for all clips"),
        ({**dict.fromkeys(ids, 1.0), "u03": None}, "has no score of u03"),
    ):
        write_metric_scp("b/inference/one/test/metric.scp", wrong)
        assert predict.main([*options, "a", "b"]) == 1
        assert words in capsys.readouterr().err
    (tmp_path / "a/inference/one/test/metric.scp").write_text("")
    assert predict.main([*options, "a"]) == 1
    assert "has no clip" in capsys.readouterr().err


# The recipe


def write_extract(folder, prefix, votes):
    """Ten sources in three systems, as an extract of bvrnn or vocal_separation."""
    rows, lines = ["utt,wav,system,source,mos"], ["utt,listener,score"]
    for s in range(10):
        for k, system in enumerate(SYSTEMS):
            utt_id = f"{prefix}_stim_{s:02d}_{system}"
            path = f"flac/{utt_id}.flac"
            write_tone(folder / path, 0.2 + 0.02 * s, 16000, 100 + 30 * s + 200 * k)
            mos = 30 * k + s
            rows.append(f"{utt_id},{path},{system},stim_{s:02d},{mos}")
            lines += [f"{utt_id},L{n},{mos + n - 1}" for n in (0, 2) if mos]
            lines += [f"{utt_id},L{n},{mos}" for n in (0, 2) if not mos]
    write_lines(folder / "ratings.csv", rows)
    if votes:
        write_lines(folder / "votes.csv", lines)


class Recipe:
    """The recipe and those of two sets, on fabricated extracts."""

    def __init__(self, root, whisper):
        self.recipes = Recipes(root)
        self.dir = self.recipes.add("open_tests")
        write_lines(
            self.dir / "conf/sets.txt",
            ["# two", "bvrnn bvrnn/test", "vocal vocal_separation/test"],
        )
        self.variables = {"WHISPER_TINY": whisper}
        for name, votes in (("bvrnn", False), ("vocal_separation", True)):
            self.recipes.add(name)
            write_extract(root / name, name, votes)
            self.variables[name.upper()] = root / name

    def run(self, *options, script="./run.sh", code=0, **variables):
        options = (*options, "--skip_bad", "true")  # not the published counts
        variables = {**self.variables, **variables}
        return self.recipes.run("open_tests", script, *options, code=code, **variables)


@pytest.mark.parametrize(
    "options, variables, words",
    [
        (("--fold", "no_p835"), {}, "the fold is 'no_p835', expected all, or no_SET"),
        (("--labels", "raw"), {}, "--labels: invalid choice: 'raw'"),
        ((), {"BVRNN": ""}, "set the variables of the others in db.sh"),
        ((), {"WHISPER_TINY": "nowhere"}, "openai/whisper-tiny"),
        (("--nonsense", "1"), {}, "there is no option --nonsense"),
    ],
)
def test_what_cannot_work_is_said(tmp_path, whisper, options, variables, words):
    recipe = Recipe(tmp_path, whisper)
    said = recipe.run(*options, code=1, **variables).stderr
    assert words in said and "Traceback" not in said
    assert not list(recipe.dir.glob("dump/*/raw"))


@pytest.mark.parametrize(
    "script, path",
    [
        ("local/run_comparison.sh", "exp/columns.txt"),
        ("local/run_sizes.sh", "exp/sizes/columns.txt"),
    ],
)
def test_a_table_that_goes_on_keeps_its_columns(tmp_path, whisper, script, path):
    recipe = Recipe(tmp_path, whisper)
    columns = recipe.dir / path
    columns.parent.mkdir(parents=True)
    columns.write_text("a | b\n")
    assert "--runs_nj" in recipe.run("--help", script=script).stdout
    for wrong, words in (("no_where", "'no_where'"), ("", "arguments are required")):
        assert words in recipe.run("--folds", wrong, script=script, code=1).stderr
    assert columns.read_text() == "a | b\n"


@pytest.fixture(scope="module")
def compared(tmp_path_factory, whisper):
    """Three methods, one seed, two sets and their folds."""
    recipe = Recipe(tmp_path_factory.mktemp("compared"), whisper)
    options = ("--only", "l1 ridge knn", "--seeds", "7", "--nj", 1, "--bootstrap", 20)
    options += ("--folds", "no_bvrnn no_vocal all")
    # In front of a line's own options: l1 gets quick, ridge is.
    lines = recipe.dir / "conf/ablation/methods.txt"
    text = lines.read_text().replace("seed0/{fold}", "seed7/{fold}")
    short = "--max_epoch 1 --num_iters_per_epoch 2 --losses token_ce.weight=0"
    lines.write_text(text.replace("--losses token_ce.weight=0 |", f"{short} |"))
    script = "local/run_comparison.sh"
    first = recipe.run(*options, script=script)
    again = recipe.run(*options, script=script)
    return recipe, first, again


@pytest.mark.slow
def test_the_comparison(compared):
    recipe, _, again = compared
    assert "l1/seed7/no_bvrnn is done already" in again.stdout
    exp = recipe.dir / "exp/ablation_methods"
    rows = json.loads((exp / "results.json").read_text())["methods"]
    found = {
        (r["test_set"], r["method"]): r["mean"]
        for r in rows
        if r["metric"] == "utt_mos_srcc"
    }
    columns = [
        "bvrnn",
        "vocal",
        "mean",
        "all, in domain",
        "left out, same clips",
        "gap",
    ]
    assert list(dict.fromkeys(name for name, _ in found)) == columns
    for method in ("l1", "ridge", "knn"):
        (seed,) = (exp / method).iterdir()
        each = []
        for name, of in (("bvrnn", "bvrnn/test"), ("vocal", "vocal_separation/test")):
            truth = read_metric_scp(str(recipe.dir / "data" / of / "metric.scp"))
            path = seed / f"no_{name}/inference" / of / "metric.scp"
            own = read_metric_scp(str(path))
            assert len(truth) == 30 and own.keys() == truth.keys()
            value = scipy.stats.spearmanr([own[u] for u in truth], [*truth.values()])[0]
            assert found[name, method] == pytest.approx(value, abs=1e-6)
            each.append(value)
        assert found["mean", method] == pytest.approx(np.mean(each), abs=1e-6)
        gap = found["all, in domain", method] - found["left out, same clips", method]
        assert found["gap", method] == pytest.approx(gap, abs=1e-6)
    page = (exp / "RESULTS.md").read_text()
    assert "vocal: reliability of the labels of clips" in page
    assert "bvrnn: no votes" in page and ", detectable " in page


@pytest.mark.slow
def test_a_fold_trains_on_the_other_set_alone(compared):
    recipe, *_ = compared
    exp = recipe.dir / "exp/ablation_methods/l1/seed7"
    for fold, corpora in (("no_bvrnn", {"vocal_separation"}), ("all", None)):
        config = yaml.safe_load((exp / fold / "config.yaml").read_text())
        path = config["train_data_path_and_name_and_type"][0][0]
        lines = (recipe.dir / path).read_text().splitlines()
        names = {line.split("_stim")[0] for line in lines}
        assert names == (corpora or {"bvrnn", "vocal_separation"})
        assert config["frontend_conf"]["upstream_config"]["d_model"] == 16
    log = (recipe.dir / "exp/ablation_methods/ridge/seed7/all/train.log").read_text()
    (line,) = [one for one in log.splitlines() if "ridge regression on" in one]
    sizes = [
        len((recipe.dir / f"data/train_closed_{n}/wav.scp").read_text().splitlines())
        for n in ("bvrnn", "vocal")
    ]
    assert f"on {sum(sizes)} utterances" in line


def test_pieces_are_of_their_clips(tmp_path):
    """They stand in the whole, last .3 to 3 s, and are the same in any order."""
    random = np.random.default_rng(0)
    waves, files = {}, {"wav.scp": {}, "metric.scp": {}, "utt2src": {}}
    for k in range(40):
        name = f"clip{k:02d}"
        waves[name] = random.integers(-(2**15), 2**15, 16000 + 3000 * k, np.int16)
        soundfile.write(tmp_path / f"{name}.wav", waves[name], 16000)
        files["wav.scp"][name] = f"{tmp_path}/{name}.wav"
        files["metric.scp"][name] = json.dumps({"mos": 1 + k / 10})
        files["utt2src"][name] = f"source{k % 3}"
    made = []
    for order in (1, -1):
        source, output = tmp_path / f"in{order}", tmp_path / f"out{order}"
        source.mkdir()
        for name, lines in files.items():
            write_scp(source / name, dict(list(lines.items())[::order]), sort=False)
        count = add_crops.add_crops(str(source), str(output), 4)
        found = {name: read_scp(output / name) for name in files}
        pieces = sorted(set(found["wav.scp"]) - set(waves))
        assert len(pieces) == count and 3 < count < 20
        made.append({})
        for piece in pieces:
            clip = piece.removesuffix("_crop")
            for name in ("metric.scp", "utt2src"):
                assert found[name][piece] == files[name][clip]
            samples, rate = soundfile.read(found["wav.scp"][piece], dtype="int16")
            assert rate == 16000 and 4800 <= len(samples) <= 48000
            # Each sample has two bytes.
            assert waves[clip].tobytes().find(samples.tobytes()) % 2 == 0
            made[-1][piece] = samples.tobytes()
    assert made[0] == made[1]


# Accuracy against size


def test_agreement_is_that_of_a_line():
    random = np.random.default_rng(0)
    true = random.uniform(1, 5, 50)
    pred = 3 + 0.2 * (true - 3) + 0.1 * random.normal(size=50)
    found = sizes.agreement(pred, true)
    line = scipy.stats.linregress(true, pred)
    assert found["slope"] == pytest.approx(line.slope)
    # The slope is the correlation times the ratio of the spreads.
    assert found["sd_ratio"] == pytest.approx(line.slope / line.rvalue)
    assert found["srcc"] == pytest.approx(scipy.stats.spearmanr(pred, true)[0])
    assert sizes.agreement(pred, np.full(50, 2.0)) == dict.fromkeys(found)
    flat = sizes.agreement(np.full(50, 2.0), true)
    assert flat == {"srcc": None, "slope": 0, "sd_ratio": 0}


def test_what_sizes_and_prune_need_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "conf/sets.txt", ["one one/test", "two two/test"])
    write_lines(tmp_path / "runs.txt", ["a_1 0 exp"])
    for path, words in (("runs.txt", "the line 'a_1 0 exp'"), ("none", "none cannot")):
        assert sizes.main([path, "--output", "out"]) == 1
        assert words in capsys.readouterr().err
    options = "--model exp --keep 0.5 --data dump --out out".split()
    for words in ("exp/inference has no predictions", "exp/config.yaml is not there"):
        assert prune_run.main(options) == 1
        assert words in capsys.readouterr().err
        write_lines(tmp_path / "exp/inference/one/test/metric.scp", ["a 1"])
        write_lines(tmp_path / "dump/one/test/wav.scp", ["a a.wav"])


@pytest.mark.parametrize("further", [[], ["--upstream_lr=1e-5"], ["--seed", "3"]])
def test_what_a_pruning_is_given(further, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "data_path_and_name_and_type: [[dump/x/wav.scp, speech, sound]]"
    lines = [f"{which}_{path}" for which in ("train", "valid")]
    write_lines(tmp_path / "exp/config.yaml", lines)
    write_lines(tmp_path / "exp/inference/one/test/metric.scp", ["a 1"])
    write_lines(tmp_path / "dump/one/test/wav.scp", ["a a.wav"])
    given = []
    monkeypatch.setattr(prune_run.prune, "main", lambda argv: given.extend(argv) or 1)
    options = "--model exp --keep 0.5 --data dump --out out/inference".split()
    assert prune_run.main([*options, *further]) == 1
    args = prune_run.prune.get_parser().parse_args(given)
    assert args.train_args == " ".join(f for f in further if "lr" in f)
    assert args.seed == (3 if "--seed" in further else 0)
    assert (args.train_set, args.valid_set) == ("dump/x", "dump/x")
    assert (args.model, args.output) == ("exp/latest.pth", "out/pruned")


SIZES = """
cnn_s | conf/train_spec_cnn.yaml | CNN | --use_tokens false
whisper-distilled_1 | conf/train_ridge.yaml | --frontend_conf num_layers=1 --head_conf layers=[1] --head_conf penalty=10.0 | PSEUDO
whisper-distilled_4 | conf/train_ridge.yaml | --head_conf layers=[2] --head_conf penalty=10.0 | PSEUDO
pruned_50 | pyscripts/utils/prune_run.py | --keep 0.5 --model {exp}/whisper-distilled_4/seed0/{fold} --data {dumpdir}/raw
"""  # noqa: E501
TINY_CNN = (
    "--frontend_conf channels=[2,2] --frontend_conf hidden_size=8 "
    "--frontend_conf num_layers=1 --frontend_conf num_attention_heads=1 "
    "--frontend_conf intermediate_size=8 --max_epoch 1 --num_iters_per_epoch 2"
)


@pytest.fixture(scope="module")
def sized(tmp_path_factory, whisper):
    """All kinds of lines, two seeds of the network that is trained, one fold."""
    recipe = Recipe(tmp_path_factory.mktemp("sized"), whisper)
    pseudo = "--use_tokens false --use_corpora true --further_sets pseudo:3"
    text = SIZES.replace("CNN", TINY_CNN).replace("PSEUDO", pseudo)
    (recipe.dir / "conf/ablation/sizes.txt").write_text(text)
    waves = {f"c{k}": f"{recipe.dir}/copies/c{k}.wav" for k in range(8)}
    for k, path in enumerate(waves.values()):
        write_tone(recipe.dir / path, 0.3, hertz=100 + 50 * k)
    folder = recipe.dir / "data/pseudo"
    write_scp(folder / "wav.scp", waves)
    write_metric_scp(folder / "metric.scp", {u: 1 + k / 2 for k, u in enumerate(waves)})
    for name in ("utt2sys", "utt2src"):
        write_scp(folder / name, {u: u for u in waves})
    options = ("--folds", "only_bvrnn", "--nj", 1, "--bootstrap", 20)
    script = "local/run_sizes.sh"
    # In parts, the later ones of what is there.
    first = recipe.run(*options, "--only", "cnn_s", "--seeds", "0 1", script=script)
    last = recipe.run(*options, "--seeds", "0", script=script)
    return recipe, first, last


@pytest.mark.slow
def test_accuracy_against_size(sized):
    recipe, _, last = sized
    assert "cnn_s/seed0/only_bvrnn is done already" in last.stdout
    exp = recipe.dir / "exp/sizes"
    found = json.loads((exp / "results.json").read_text())["only_bvrnn"]
    names = [line.split()[0] for line in SIZES.strip().splitlines()]
    assert list(found) == names
    page = (exp / "RESULTS.md").read_text()
    assert all(f"| {name} " in page for name in names)
    assert (exp / "RESULTS.png").read_bytes().startswith(b"\x89PNG")
    # Help measures nothing anew.
    recipe.run("--folds", "only_bvrnn", "--help", script="local/run_sizes.sh")
    assert (exp / "RESULTS.md").read_text() == page
    size = {name: one["size"] for name, one in found.items()}
    for less in ("pruned_50", "whisper-distilled_1"):
        for key in ("parameters", "gmacs"):
            assert size[less][key] < size["whisper-distilled_4"][key]
    # By hand, the scale of 0 to 100 mapped to 1 to 5, over the seeds.
    assert found["cnn_s"]["seeds"] == ["0", "1"]
    runs = recipe.dir / "exp/ablation_sizes"
    for name, of in (("cnn_s", ["seed0", "seed1"]), ("pruned_50", ["seed0"])):
        for test_set in ("test_bvrnn", "vocal_separation/test"):
            truth = recipe.recipes.scores("open_tests", f"data/{test_set}")
            values = []
            for seed in of:
                path = (
                    runs / name / seed / f"only_bvrnn/inference/{test_set}/metric.scp"
                )
                pred = read_metric_scp(str(path))
                assert pred.keys() == truth.keys()
                labels = [1 + truth[u] / 25 for u in pred]
                scores = list(pred.values())
                line = scipy.stats.linregress(labels, scores)
                rank = scipy.stats.spearmanr(labels, scores)[0]
                values.append([rank, line.slope, np.std(scores) / np.std(labels)])
            cell = found[name]["test_sets"][test_set]
            assert list(cell.values()) == pytest.approx(np.mean(values, 0), abs=1e-5)
    # Test parts of sets that are tested whole are left out.
    assert set(found["cnn_s"]["test_sets"]) == {
        "test_bvrnn",
        "vocal_separation/test",
    }


@pytest.mark.slow
def test_networks_share_the_data_of_further_sets(sized):
    """One preparation; the labels are on the scale of 1 to 5, linearly."""
    recipe, _, last = sized
    assert last.stdout.count("Data of whisper-distilled") == 1
    labels = recipe.recipes.scores(
        "open_tests", "dump/sizes/only_bvrnn/raw/train_closed_bvrnn"
    )
    truth = recipe.recipes.scores("open_tests", "data/bvrnn/test")
    assert labels == pytest.approx({u: 1 + truth[u] / 25 for u in labels})
