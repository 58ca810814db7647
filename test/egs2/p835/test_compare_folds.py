# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The comparison of methods over folds and seeds, from fabricated predictions."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.data.datadir import write_metric_scp, write_scp

RECIPE = Path(__file__).resolve().parents[3] / "egs2" / "p835" / "mos1"
FOLDS = ("a_g0", "a_g1", "b_g0", "b_g1", "c_g0", "c_g1")
# How much noise each method adds; ridge has no seeds.
METHODS = {"good": 0.1, "bad": 2.0, "ridge": 0.3}


def load_local():
    """Import the script by path, without leaving it behind."""
    sys.path.insert(0, str(RECIPE / "local"))
    try:
        return importlib.import_module("compare_folds")
    finally:
        sys.path.remove(str(RECIPE / "local"))
        sys.modules.pop("compare_folds", None)


compare_folds = load_local()


def write_set(folder, mos):
    write_metric_scp(folder / "metric.scp", mos)
    write_scp(folder / "utt2sys", {u: u.split("-")[0] for u in mos})
    write_scp(folder / "utt2src", {u: u.split("-")[1] for u in mos})


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    rng = np.random.default_rng(0)
    mos = {f"sys{i}-{f}": float(rng.uniform(1, 5)) for f in FOLDS for i in range(10)}
    ood = {f"codec{i % 4}-stim{i // 4}": float(rng.uniform(1, 5)) for i in range(24)}
    for method in METHODS:
        write_set(root / "exp" / f"{method}_conditions" / "pooled" / "reference", mos)
    write_set(root / "data" / "ood", ood)
    for fold in FOLDS:
        own = {u: m for u, m in mos.items() if u.endswith(fold)}
        write_set(root / "data" / f"test_{fold}", own)
    predicted = {}
    for method, noise in METHODS.items():
        for seed in (0,) if method == "ridge" else (0, 1):
            exp = root / "exp" / f"{method}_conditions"
            pooled = {}
            for fold in FOLDS:
                for name in (f"test_{fold}", "ood"):
                    true = ood if name == "ood" else mos
                    scores = {
                        u: m + noise * rng.standard_normal()
                        for u, m in true.items()
                        if name == "ood" or u.endswith(fold)
                    }
                    if name != "ood":
                        pooled.update(scores)
                    predicted[method, seed, fold, name] = scores
                    folder = exp / f"seed{seed}" / fold / "inference" / name
                    write_metric_scp(folder / "metric.scp", scores)
            predicted[method, seed, "p835"] = pooled
            for name, scores in (("p835", pooled), ("ood", ood)):
                folder = exp / "pooled" / f"seed{seed}" / name
                write_metric_scp(folder / "metric.scp", scores)
    options = ["--expdir", f"{root}/exp", "--leave", "conditions", "--bootstrap", "200"]
    options += ["--methods", *METHODS, "--folds", *FOLDS, "--seeds", "0", "1"]
    options += ["--data", f"{root}/data", "--ood_sets", "ood", "--out", f"{root}/out"]
    assert compare_folds.main(options) == 0
    document = json.loads((root / "out" / "comparison.json").read_text())
    page = (root / "out" / "COMPARISON.md").read_text()
    return dict(
        mos=mos,
        ood=ood,
        predicted=predicted,
        document=document,
        page=page,
        options=options,
        root=root,
    )


def spearman(scores, true):
    return scipy.stats.spearmanr([scores[u] for u in true], list(true.values()))[0]


def test_correlations_are_those_of_scipy(compared):
    predicted, p835 = compared["predicted"], compared["document"]["p835"]
    for method in METHODS:
        seeds = (0,) if method == "ridge" else (0, 1)
        expected = [
            spearman(predicted[method, s, "p835"], compared["mos"]) for s in seeds
        ]
        assert p835[method]["utt_mos_srcc"] == pytest.approx(expected, abs=1e-6)
        found = compared["document"]["ood"][method]["utt_mos_srcc"]
        assert len(found) == len(seeds) * len(FOLDS)
        expected = [
            spearman(predicted[method, s, f, "ood"], compared["ood"])
            for s in seeds
            for f in FOLDS
        ]
        assert sorted(found) == pytest.approx(sorted(expected), abs=1e-6)


def test_the_test_over_talkers_is_the_paired_t_test(compared):
    predicted, mos = compared["predicted"], compared["mos"]

    def talkers(method, seeds):
        return [
            np.mean(
                [
                    spearman(
                        predicted[method, s, f, f"test_{f}"],
                        {u: m for u, m in mos.items() if u.endswith(f)},
                    )
                    for s in seeds
                    for f in FOLDS
                    if f[0] == talker
                ]
            )
            for talker in "abc"
        ]

    first = talkers("good", (0, 1))
    p_values = {}
    for method, seeds in (("bad", (0, 1)), ("ridge", (0,))):
        found = compared["document"]["p835"][method]["talker_test"]
        expected = scipy.stats.ttest_rel(talkers(method, seeds), first)
        p_values[method] = expected.pvalue
        assert found["p_value"] == pytest.approx(expected.pvalue, rel=1e-4)
        low, high = expected.confidence_interval()
        assert found["interval"] == pytest.approx([low, high], abs=1e-5)
    holm = min(1, 2 * min(p_values.values()))
    smallest = min(p_values, key=p_values.get)
    found = compared["document"]["p835"][smallest]["talker_test"]["p_holm"]
    assert found == pytest.approx(holm, rel=1e-4)


def test_a_clearly_worse_method_is_told_apart_and_the_page_says_so(compared):
    document = compared["document"]
    test = document["ood"]["bad"]["test"]
    assert test["interval"][1] < 0 and test["p_holm"] < 0.05
    # Two runs say little; the difference itself is that of the means.
    means = {m: np.mean(document["p835"][m]["utt_mos_srcc"]) for m in METHODS}
    test = document["p835"]["bad"]["pooled_test"]
    assert test["difference"] == pytest.approx(means["bad"] - means["good"])
    assert document["ood"]["good"]["test"] is None
    page = compared["page"]
    assert "# p835, conditions left out" in page and "# ood, zero-shot" in page
    row, *_ = [line for line in page.splitlines() if line.startswith("| good")]
    first = compared["document"]["p835"]["good"]["utt_mos_srcc"]
    assert f"{np.mean(first):.3f} ± {np.std(first, ddof=1):.3f}" in row


def test_a_missing_run_is_named(compared, tmp_path, capsys):
    options = [*compared["options"], "--seeds", "0", "1", "2"]
    options[options.index("--out") + 1] = str(tmp_path)
    assert compare_folds.main(options) == 1
    assert "seed2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
