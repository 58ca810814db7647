# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The scores of all folds together, from fabricated predictions."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.data.datadir import write_metric_scp, write_scp

RECIPE = Path(__file__).resolve().parents[3] / "egs2" / "p835" / "mos1"
FOLDS = ("a", "b", "c")


def load_local():
    """Import the script by path, without leaving it behind."""
    sys.path.insert(0, str(RECIPE / "local"))
    try:
        return importlib.import_module("score_folds")
    finally:
        sys.path.remove(str(RECIPE / "local"))
        sys.modules.pop("score_folds", None)


score_folds = load_local()


def write_set(folder, utt_ids, scores):
    write_metric_scp(folder / "metric.scp", dict(zip(utt_ids, scores)))
    write_scp(folder / "utt2sys", {u: u.split("-")[0] for u in utt_ids})
    write_scp(folder / "utt2src", {u: u.split("-")[1] for u in utt_ids})


@pytest.fixture
def folds(tmp_path):
    """Three talkers with eight conditions, six out-of-domain clips, two seeds."""
    rng = np.random.default_rng(0)
    names = {t: [f"sys{i}-{t}" for i in range(8)] for t in FOLDS}
    everyone = sum(names.values(), [])
    mos = dict(zip(everyone, rng.uniform(1, 5, len(everyone))))
    ood = [f"codec{i % 3}-stim{i}" for i in range(6)]
    write_set(tmp_path / "data" / "p835", everyone, list(mos.values()))
    write_set(tmp_path / "data" / "ood", ood, 100 * rng.random(6))
    (tmp_path / "data" / "ood" / "score_range").write_text("0 100\n")
    predicted = {}
    for fold in FOLDS:
        heard = [u for t in FOLDS if t != fold for u in names[t]]
        for name, utts in (("train", heard), ("test", names[fold])):
            folder = tmp_path / "data" / f"{name}_{fold}"
            write_set(folder, utts, [mos[u] for u in utts])
        for seed in (0, 1):
            exp = tmp_path / "exp" / f"seed{seed}" / fold
            for name, utts in ((f"test_{fold}", names[fold]), ("ood", ood)):
                scores = dict(zip(utts, rng.uniform(1, 5, len(utts)).round(6)))
                predicted[seed, fold, name] = scores
                write_metric_scp(exp / "inference" / name / "metric.scp", scores)
            results = [
                {
                    "model": fold,
                    "test_set": name,
                    "utt_mos_srcc": value,
                    "utt_mos_lcc": None,
                    "sys_mos_srcc": value / 2,
                    "sys_mos_lcc": value / 4,
                }
                for name, value in ((f"test_{fold}", 0.5 + seed / 10), ("ood", 0.2))
            ]
            text = json.dumps({"results": results})
            (exp / "results.json").write_text(text)
    return tmp_path, mos, predicted


def run(root, *seeds, ood=("ood",), names=FOLDS):
    options = ["--exp", f"{root}/exp", "--data", f"{root}/data", "--bootstrap", "20"]
    options += ["--folds", *names, "--seeds", *map(str, seeds), "--ood_sets", *ood]
    return score_folds.main(options)


def results_of(root):
    document = json.loads((root / "exp" / "results.json").read_text())
    rows = {(r["model"], r["test_set"]): r for r in document["results"]}
    return rows, document["notes"]


def test_held_out_predictions_are_scored_together(folds):
    root, mos, predicted = folds
    assert run(root, 0, 1) == 0
    rows, notes = results_of(root)
    assert set(rows) == {
        *((f"seed{s}", name) for s in (0, 1) for name in ("p835", "ood")),
        ("condition_mean", "p835"),
    }
    for seed in (0, 1):
        scores = {}
        for fold in FOLDS:
            scores.update(predicted[seed, fold, f"test_{fold}"])
        x, y = [scores[u] for u in mos], [mos[u] for u in mos]
        row = rows[f"seed{seed}", "p835"]
        assert row["num_utts"] == 24 and row["num_systems"] == 8
        assert row["num_clusters"] == 3  # talkers
        assert row["utt_mos_srcc"] == pytest.approx(scipy.stats.spearmanr(x, y)[0])
        assert row["utt_mos_mse"] == pytest.approx(np.mean(np.subtract(x, y) ** 2))

    # Half of the models have .5, half .6: the mean and the sample deviation of them.
    deviation = np.std([0.5, 0.6] * 3, ddof=1)
    (own,) = [note for note in notes if "own test set" in note]
    assert f"utt SRCC 0.550 (SD {deviation:.3f}, 0.500 to 0.600, over 6)" in own
    assert "utt LCC" not in own  # undefined for every model
    assert "sys" not in own  # one clip a system: the same as the utterances


def test_an_out_of_domain_set_gets_the_mean_of_the_scores(folds):
    root, _, predicted = folds
    assert run(root, 1) == 0
    rows, notes = results_of(root)
    per_model = [predicted[1, fold, "ood"] for fold in FOLDS]
    mean = {u: np.mean([scores[u] for scores in per_model]) for u in per_model[0]}
    true = {
        line.split()[0]: json.loads(line.split(maxsplit=1)[1])["mos"]
        for line in (root / "data/ood/metric.scp").read_text().splitlines()
    }
    expected = scipy.stats.pearsonr([mean[u] for u in true], list(true.values()))[0]
    row = rows["seed1", "ood"]
    assert row["utt_mos_lcc"] == pytest.approx(expected, abs=1e-5)
    assert row["utt_mos_mse"] is None  # 0 to 100 against 1 to 5
    (note,) = [note for note in notes if note.startswith("ood:")]
    assert "the mean of the 3 models' scores" in note
    assert "utt SRCC 0.200 (SD 0.000, 0.200 to 0.200, over 3)" in note
    assert "sys SRCC 0.100 (SD 0.000, 0.100 to 0.100, over 3)" in note


def test_condition_mean_knows_the_training_talkers_only(folds):
    root, mos, _ = folds
    assert run(root, 0, ood=()) == 0
    # Over all folds its system means would be those of the labels.
    rows, notes = results_of(root)
    row = rows["condition_mean", "p835"]
    assert row["num_utts"] == 24 and row["num_clusters"] == 3
    assert row["num_systems"] == 0 and row["sys_mos_srcc"] is None
    assert any("system level of p835 is not held out" in note for note in notes)
    single = []
    for talker in FOLDS:
        own = [f"sys{i}-{talker}" for i in range(8)]
        means = [
            np.mean([mos[u.split("-")[0] + "-" + t] for t in FOLDS if t != talker])
            for u in own
        ]
        single.append(scipy.stats.spearmanr(means, [mos[u] for u in own])[0])
    (note,) = [note for note in notes if note.startswith("condition_mean")]
    assert f"utt SRCC {np.mean(single):.3f} (SD {np.std(single, ddof=1):.3f}" in note
    pooled = root / "exp" / "pooled" / "condition_mean" / "p835" / "metric.scp"
    lines = pooled.read_text().splitlines()
    assert len(lines) == 24
    for line in lines:
        utt, text = line.split(maxsplit=1)
        system, talker = utt.split("-")
        others = [mos[f"{system}-{t}"] for t in FOLDS if t != talker]
        assert json.loads(text)["mos"] == pytest.approx(np.mean(others), abs=1e-6)


def test_some_folds_are_scored_on_their_own_clips(folds, capsys):
    root, mos, predicted = folds
    assert run(root, 0, names=("a", "c")) == 0
    rows, _ = results_of(root)
    tested = {u: m for u, m in mos.items() if u[-1] in "ac"}
    scores = {**predicted[0, "a", "test_a"], **predicted[0, "c", "test_c"]}
    expected = scipy.stats.spearmanr([scores[u] for u in tested], [*tested.values()])[0]
    row = rows["seed0", "p835"]
    assert row["num_utts"] == 16 and row["num_clusters"] == 2
    assert row["utt_mos_srcc"] == pytest.approx(expected)
    assert "no prediction" not in capsys.readouterr().err


def test_conditions_that_were_not_heard_have_no_mean(folds):
    root, _, _ = folds
    for fold in FOLDS:
        for name in ("metric.scp", "utt2sys"):
            path = root / "data" / f"train_{fold}" / name
            path.write_text(path.read_text().replace("sys", "other"))
    assert run(root, 0) == 0
    rows, notes = results_of(root)
    assert ("condition_mean", "p835") not in rows
    assert not any("condition_mean" in note for note in notes)


def test_what_is_missing_or_not_held_out_is_said(folds, capsys):
    root, _, predicted = folds
    path = root / "exp" / "seed0" / "b" / "inference" / "test_b" / "metric.scp"
    write_metric_scp(path, predicted[0, "a", "test_a"])
    assert run(root, 0) == 1
    assert (
        "(the first is sys0-a) were predicted by two folds" in capsys.readouterr().err
    )
    path.unlink()
    assert run(root, 0) == 1
    assert "test_b/metric.scp cannot be read" in capsys.readouterr().err
    write_metric_scp(path, predicted[0, "b", "test_b"])
    results = root / "exp" / "seed0" / "c" / "results.json"
    results.write_text('{"results": []}')
    assert run(root, 0) == 1
    said = capsys.readouterr().err
    assert "seed0/c/results.json has no results of test_c" in said
    assert "--stage 8" in said
