# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import csv
import json
import shutil

import numpy as np
import pytest
import scipy.stats

from espnet2_distilmos.data.datadir import (
    DataError,
    read_metric_scp,
    write_metric_scp,
    write_scp,
)
from espnet2_distilmos.evaluation.report import (
    markdown,
    overview,
    read_columns,
    read_list,
    read_results,
    read_scored,
    score,
    score_models,
    write_results,
)

IDS = [f"utt{i:02d}" for i in range(60)]


@pytest.fixture
def root(tmp_path):
    """A data directory of 60 clips, 6 systems and 10 sources, and predictions."""
    generator = np.random.default_rng(0)
    true = generator.uniform(1, 5, 60)
    write_metric_scp(tmp_path / "dev" / "metric.scp", dict(zip(IDS, true)))
    systems = {u: f"sys{i % 6}" for i, u in enumerate(IDS)}
    write_scp(tmp_path / "dev" / "utt2sys", systems)
    write_scp(tmp_path / "dev" / "utt2src", {u: f"src{u[3]}{u[4] > '4'}" for u in IDS})
    # Another order than the reference's: the join must go by id.
    pred = dict(zip(reversed(IDS), reversed(true + generator.normal(0, 0.5, 60))))
    write_metric_scp(tmp_path / "pred.scp", pred, sort=False)
    return tmp_path


def read(root, **options):
    return read_scored("m", "dev", f"{root}/dev", f"{root}/pred.scp", **options)


def write(root, scored):
    """Write the scores as stage 9 does; return results.json without its NaN."""
    document = score_models([scored], 20, problems=["It rained."], command="./run.sh")
    write_results(str(root / "out"), document, [scored])

    def refuse(constant):
        raise ValueError(constant)

    text = (root / "out" / "results.json").read_text()
    return json.loads(text, parse_constant=refuse)


def test_metrics_match_scipy(root):
    row = score(read(root), 20)
    true, pred = (
        np.array([read_metric_scp(str(root / name))[u] for u in IDS])
        for name in ("dev/metric.scp", "pred.scp")
    )
    for level, a, b in (
        ("utt", pred, true),
        ("sys", pred.reshape(-1, 6).mean(0), true.reshape(-1, 6).mean(0)),
    ):
        expected = {
            "mse": np.mean((a - b) ** 2),
            "lcc": scipy.stats.pearsonr(a, b)[0],
            "srcc": scipy.stats.spearmanr(a, b)[0],
            "ktau": scipy.stats.kendalltau(a, b)[0],
        }
        for metric, value in expected.items():
            assert row[f"{level}_mos_{metric}"] == pytest.approx(value)
            low, high = row["intervals"][f"{level}_mos_{metric}"]
            assert low < high
    counts = [row[f"num_{name}"] for name in ("utts", "systems", "clusters")]
    assert counts == [60, 6, 12] and row["undefined"] == {}


def test_what_is_resampled(root):
    srcc = "utt_mos_srcc"
    by_source = score(read(root), 20)
    by_system = score(read(root), 20, resample="systems")
    given = score(read(root, cluster=r"^utt(\d)"), 20)
    (root / "dev" / "utt2src").unlink()
    by_clip = score(read(root), 20)
    rows = [by_source, by_system, given, by_clip]
    assert [row["num_clusters"] for row in rows] == [12, 6, 6, 60]
    names = ["sources (utt2src)", "systems", "sources (utt2src)", "utterances"]
    assert [row["resampled"] for row in rows] == names
    assert len({tuple(row["intervals"][srcc]) for row in rows}) == 4
    assert len({row[srcc] for row in rows}) == 1
    assert score(read(root), 0)["intervals"] == {}


def test_two_scales_have_no_error(root):
    same = score(read(root), 20)
    labels = read_metric_scp(str(root / "dev" / "metric.scp"))
    scores = {utt_id: 25 * (mos - 1) for utt_id, mos in labels.items()}
    write_metric_scp(root / "dev" / "metric.scp", scores)
    (root / "dev" / "score_range").write_text("0 100\n")
    row = score(read(root, score_range=(1, 5)), 20)
    for level in ("utt", "sys"):
        assert row[f"{level}_mos_mse"] is None
        assert f"{level}_mos_mse" not in row["intervals"]
        assert "0 to 100" in row["undefined"][f"{level}_mos_mse"]
        key = f"{level}_mos_srcc"
        assert row[key] == pytest.approx(same[key])
    assert score(read(root, score_range=(0, 100)), 0)["utt_mos_mse"] > 100
    (root / "dev" / "score_range").write_text("0-100")
    with pytest.raises(DataError, match="score_range"):
        read(root)


def test_two_scales_are_told_by_their_values(root):
    """Without a score_range: a predictor of 1 to 5 and labels of 0 to 100."""
    same = score(read(root), 20)
    labels = read_metric_scp(str(root / "dev" / "metric.scp"))
    scores = {utt_id: 25 * (mos - 1) for utt_id, mos in labels.items()}
    write_metric_scp(root / "dev" / "metric.scp", scores)
    scored = read(root)
    (row,) = write(root, scored)["results"]
    page = (root / "out" / "RESULTS.md").read_text()
    for level in ("utt", "sys"):
        assert row[f"{level}_mos_mse"] is None
        reason = row["undefined"][f"{level}_mos_mse"]
        assert "the labels go from " in reason and reason in page
        for name in ("srcc", "lcc", "ktau", "pair_accuracy"):
            key = f"{level}_mos_{name}"
            assert row[key] == pytest.approx(same[key])
        key = f"{level}_mos_rmse_first_order"
        assert row[key] == pytest.approx(25 * same[key])
    # The test that holds both is on one scale, whatever its values are.
    (root / "dev" / "score_range").write_text("0 100\n")
    assert score(read(root, score_range=(0, 100)), 0)["utt_mos_mse"] > 100


def test_below_six_clips_there_is_no_interval_and_a_reason(root):
    for path in (root / "dev" / "metric.scp", root / "pred.scp"):
        lines = sorted(path.read_text().splitlines())
        path.write_text("\n".join(lines[:5]))
    for name in ("utt2src", "utt2sys"):
        (root / "dev" / name).unlink()
    (row,) = write(root, read(root))["results"]
    assert row["utt_mos_srcc"] is not None and set(row["intervals"].values()) == {None}
    reason = row["undefined_intervals"]["utt_mos_srcc"]
    assert "found 5 of the at least 6 utterances" in reason
    page = (root / "out" / "RESULTS.md").read_text()
    assert reason in page and "bootstrap interval from" not in page
    document = {"d": read_results(str(root / "out" / "results.json"))}
    page, content = overview(document, ["utt_mos_srcc"])
    assert content["methods"][0]["reason"] == reason and reason in page


def test_significant_pairs(tmp_path):
    """Votes distinguish a from b and c, but not b from c; the model has c below a."""
    means = {"a": (2.0, 3.1), "b": (4.0, 4.0), "c": (4.1, 3.0)}
    labels = {f"{s}{i}": label for s, (label, _) in means.items() for i in range(2)}
    scores = {f"{s}{i}": score for s, (_, score) in means.items() for i in range(2)}
    write_metric_scp(tmp_path / "dev" / "metric.scp", labels)
    write_metric_scp(tmp_path / "pred.scp", scores)
    write_scp(tmp_path / "dev" / "utt2sys", {i: i[0] for i in labels})
    # Labels of two clips a system are too few, however equal they are.
    pairs = score(read(tmp_path), 0)["significant_pairs"]
    assert pairs["num_tested"] == 0 and pairs["ratings"] == "labels of clips"
    votes = {
        i: json.dumps([["l1", v - 0.5], ["l2", v + 0.5], ["l3", v], ["l4", v]])
        for i, v in labels.items()
    }
    write_scp(tmp_path / "dev" / "votes.scp", votes)
    assert score(read(tmp_path), 0)["significant_pairs"] == {
        "accuracy": 0.5,
        "reason": None,
        "num_significant": 2,
        "num_tested": 3,
        "ratings": "votes",
    }


@pytest.mark.parametrize(
    "name, line, new, num_utts",
    [
        ("pred.scp", 0, "", 59),
        ("pred.scp", 0, 'utt00 {"mos": "good"}', 59),
        ("pred.scp", 0, "utt00 3.5", 59),
        ("pred.scp", 59, 'utt59 {"mos": 3.5}\nutt00x {"mos": 3}', 60),
        ("dev/utt2sys", 0, "", 60),
        ("dev/utt2src", 0, "", 60),
    ],
)
def test_what_is_wrong_is_named_and_the_rest_is_scored(root, name, line, new, num_utts):
    lines = sorted((root / name).read_text().splitlines())
    lines[line] = new
    (root / name).write_text("\n".join(lines))
    scored = read(root, metric="mos", format="metric-scp")
    assert len(scored.ids) == num_utts and scored.problems
    assert any("utt00" in sentence for sentence in scored.problems)
    assert not any("\n" in sentence for sentence in scored.problems)
    assert score(scored, 0)["num_systems"] == 6


def test_unlabelled_and_constant(root):
    path = root / "dev" / "metric.scp"
    path.write_text("\n".join(["utt00 {}"] + path.read_text().splitlines()[1:]))
    write_metric_scp(root / "pred.scp", dict.fromkeys(IDS, 3.0))
    (root / "dev" / "utt2sys").unlink()
    scored = read(root)
    assert scored.problems == []
    (row,) = write(root, scored)["results"]
    assert (row["num_utts"], row["num_unlabelled"], row["num_systems"]) == (59, 1, 0)
    assert row["utt_mos_srcc"] is row["intervals"]["utt_mos_srcc"] is None
    reason = row["undefined"]["utt_mos_srcc"]
    assert "constant" in reason and reason in (root / "out/RESULTS.md").read_text()


def test_what_is_written(root):
    scored = read(root)
    scored.model = "a/b | c"
    document = write(root, scored)
    assert read_results(str(root / "out" / "results.json")) == document
    assert document["problems"] == ["It rained."]
    lines = (root / "out" / "RESULTS.md").read_text().splitlines()
    for word in (
        "- date:",
        "python ver",
        "espnet ver",
        "pytorch",
        "Git hash:",
        "run.sh",
    ):
        assert sum(word in line for line in lines) == 1
    rows = [line.replace(r"\|", "") for line in lines if line.startswith("|")]
    assert [row.count("|") for row in rows] == [13] * 3 + [10] * 3
    row = document["results"][0]
    low, high = row["intervals"]["utt_mos_srcc"]
    assert f"| {row['utt_mos_srcc']:.3f} [{low:.3f}, {high:.3f}] |" in rows[2]
    assert any("12 sources (utt2src) of dev" in line for line in lines)
    with open(root / "out" / "systems_a%2Fb %7C c_dev.csv", newline="") as file:
        systems = list(csv.DictReader(file))
    means = {f"sys{k}": scored.true[k::6].mean() for k in range(6)}
    assert [s["system"] for s in systems] == sorted(means, key=lambda s: -means[s])
    for k, system in enumerate(systems):
        assert float(system["label"]) == pytest.approx(means[system["system"]], 1e-5)
        assert float(system["label_low"]) < float(system["label"])
        change = float(system["prediction_rank"]) - (k + 1)
        assert float(system["rank_difference"]) == change
    pytest.importorskip("matplotlib")
    names = sorted(path.name for path in (root / "out" / "images").iterdir())
    kinds = ("residuals", "scatter", "systems")
    assert names == [f"{kind}_a%2Fb %7C c_dev.png" for kind in kinds]


def test_markdown():
    lines = markdown(["name", "x"], [["a|b\nc", "1"], ["d", "10.5"]])
    assert lines[:2] == ["| name   |    x |", "| ------ | ---: |"]
    assert lines[2:] == [r"| a\|b c |    1 |", "| d      | 10.5 |"]


def test_results_of_version_0_1(tmp_path):
    """Without the files that were scored, methods are compared over their runs."""
    values = {
        "new_seed0": 0.80,
        "new_seed1": 0.83,
        "new_seed2": 0.84,
        "old_seed0": 0.70,
        "old_seed1": 0.75,
        "old_seed2": 0.71,
        "other_seed7": 0.5,
        "other_seed8": 0.6,
        "fixed": 0.1,
    }
    row = {"test_set": "dev", "sys_mos_srcc": None, "intervals": {}}
    keys = ("espnet", "torch", "espnet2_distilmos", "git_hash", "date", "command")
    document = {
        "format_version": 1,
        "notes": [],
        "results": [dict(row, model=m, utt_mos_srcc=v) for m, v in values.items()],
        "environment": dict.fromkeys(keys),
    }
    (tmp_path / "results.json").write_text(json.dumps(document))
    documents = {"r": read_results(str(tmp_path / "results.json"))}
    page, content = overview(documents, ["utt_mos_srcc"], "old", "_seed[0-9]+$")
    methods = {row["method"]: row for row in content["methods"]}
    assert list(methods) == ["new", "old", "other", "fixed"]
    new = [values[f"new_seed{k}"] for k in range(3)]
    old = [values[f"old_seed{k}"] for k in range(3)]
    interval = scipy.stats.t.interval(0.95, 2, np.mean(new), scipy.stats.sem(new))
    assert methods["new"]["interval"] == pytest.approx(interval)
    sd = np.std(new, ddof=1)
    assert f"{np.mean(new):.3f} ± {sd:.3f} (3) [{interval[0]:.3f}, " in page
    assert (
        "0.100 (1) n.t. |" in page
        and "dev: intervals and tests are over the runs" in page
    )
    compared = {row["method"]: row for row in content["comparisons"]}
    paired = scipy.stats.ttest_rel(new, old).pvalue
    unpaired = scipy.stats.ttest_ind([0.5, 0.6], old, equal_var=False).pvalue
    # Holm: the less of two p-values counts twice.
    assert compared["new"]["p_holm"] == pytest.approx(2 * paired) and paired < unpaired
    assert compared["other"]["p_holm"] == pytest.approx(max(2 * paired, unpaired))
    difference = f"{np.mean(new) - np.mean(old):+.3f}"
    assert difference in page and f"p = {2 * paired:.3f}" in page and "unpaired" in page
    # Without seeds, every model is for itself.
    page, content = overview(documents, ["utt_mos_srcc"])
    assert len(content["methods"]) == len(values) and "| new_seed1   | 0.830 |" in page


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 9, "results": []}'])
def test_no_results_file(text, tmp_path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match="results.json cannot be read"):
        read_results(str(tmp_path / "results.json"))


def test_a_list_of_runs_and_its_bad_lines(root):
    write(root, read(root))
    (root / "out").rename(root / "m")
    five = f"good 0 dev {root}/dev {root}/pred.scp"
    bad = [
        "good 1 dev",
        f"good 1 dev {root}/gone {root}/gone",
        "good 1",
        "a 0 " + "x " * 9,
    ]
    lines = ["# runs", five, f"good 1 {root}/m # scored", f"peer - {root}/m", *bad]
    (root / "runs.txt").write_text("\n".join(lines))
    document, problems = read_list(f"{root}/runs.txt", (1, 5))
    rows = document["results"]
    names = [(row["model"], row["method"], row["run"]) for row in rows]
    assert names == [
        ("good_seed0", "good", "0"),
        ("good_seed1", "good", "1"),
        ("peer", "peer", "-"),
    ]
    assert len({row["utt_mos_srcc"] for row in rows}) == 1
    assert [f"line {number}" in p for number, p in enumerate(problems, 5)] == [True] * 4
    (root / "runs.txt").write_text("\n".join(bad))
    with pytest.raises(DataError, match="no run that can be scored"):
        read_list(f"{root}/runs.txt", (1, 5))


# Folds

FOLDS = ("a_0", "a_1", "b_0", "b_1", "c_0", "c_1")  # of the groups a, b, c
NOISE = {"good": 0.1, "bad": 2.0, "script": 0.3}


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """Three methods on six folds, two of them with two seeds; labels, predictions."""
    root = tmp_path_factory.mktemp("folds")
    rng = np.random.default_rng(0)
    truth = {"shared": {f"s{i}": float(rng.uniform(0, 100)) for i in range(24)}}
    for fold in FOLDS:
        name = f"test_{fold}"
        truth[name] = {f"{fold}-{i}": float(rng.uniform(1, 5)) for i in range(10)}
    for name, labels in truth.items():
        write_metric_scp(root / name / "metric.scp", labels)
        write_scp(root / name / "utt2sys", {u: f"sys{u[-1]}" for u in labels})
        write_scp(root / name / "utt2src", {u: u[0] + u[-1] for u in labels})
    (root / "shared" / "score_range").write_text("0 100\n")
    predicted, lines = {}, []
    for method, noise in NOISE.items():
        for seed in "0" if method == "script" else "01":
            for fold in FOLDS:
                exp, models = root / method / seed / fold, []
                for name in (f"test_{fold}", "shared"):
                    scores = {
                        u: t / (20 if name == "shared" else 1)
                        + noise * rng.standard_normal()
                        for u, t in truth[name].items()
                    }
                    write_metric_scp(exp / name, scores)
                    predicted[method, seed, fold, name.split("_")[0]] = scores
                    files = str(root / name), str(exp / name)
                    models.append(read_scored(fold, name, *files, score_range=(1, 5)))
                text = json.dumps(score_models(models, 0))
                (exp / "results.json").write_text(text)
                lines.append(f"{method} {seed} {fold} {exp}\n")
    (root / "runs.txt").write_text("".join(lines))
    return root, truth, predicted


def fold_overview(path):
    document, problems = read_list(str(path), (1, 5))
    metrics = ("utt_mos_srcc", "utt_mos_mse")
    options = dict(seeds="_seed[0-9]+$", num_resamples=100, problems=problems)
    _, content = overview({"": document}, metrics, "good", **options)
    found = [
        {(r["test_set"], r["method"], r["metric"]): r for r in content[key]}
        for key in ("methods", "comparisons")
    ]
    return *found, content["problems"]


def spearman(scores, truth):
    return scipy.stats.spearmanr([scores[u] for u in truth], list(truth.values()))[0]


def test_folds_are_pooled_averaged_and_compared_over_groups(folds):
    root, truth, predicted = folds
    methods, comparisons, problems = fold_overview(root / "runs.txt")
    assert problems == []
    everyone = {u: t for f in FOLDS for u, t in truth[f"test_{f}"].items()}
    of_groups = {}
    for method in NOISE:
        seeds = "0" if method == "script" else "01"
        pooled = methods["test, pooled", method, "utt_mos_srcc"]["runs"]
        mean = methods["shared, mean of folds", method, "utt_mos_srcc"]["runs"]
        single = methods["shared", method, "utt_mos_srcc"]["runs"]
        assert list(pooled) == list(mean) == list(seeds)
        for seed in seeds:
            own = [predicted[method, seed, f, "test"] for f in FOLDS]
            joined = {u: s for scores in own for u, s in scores.items()}
            assert pooled[seed] == pytest.approx(spearman(joined, everyone))
            shared = [predicted[method, seed, f, "shared"] for f in FOLDS]
            means = {u: np.mean([s[u] for s in shared]) for u in truth["shared"]}
            assert mean[seed] == pytest.approx(spearman(means, truth["shared"]))
            for fold, scores in zip(FOLDS, shared):
                expected = spearman(scores, truth["shared"])
                assert single[f"{seed}/{fold}"] == pytest.approx(expected)
        assert ("shared", method, "utt_mos_mse") not in methods  # of two scales
        assert methods["test, pooled", method, "utt_mos_mse"]["mean"] > 0
        of_groups[method] = [
            np.mean(
                [
                    spearman(predicted[method, s, f, "test"], truth[f"test_{f}"])
                    for s in seeds
                    for f in FOLDS
                    if f[0] == group
                ]
            )
            for group in "abc"
        ]
        found = methods["test, within folds", method, "utt_mos_srcc"]["runs"]
        assert found == pytest.approx(dict(zip("abc", of_groups[method])))
    for method in ("bad", "script"):
        found = comparisons["test, within folds", method, "utt_mos_srcc"]
        expected = scipy.stats.ttest_rel(of_groups[method], of_groups["good"])
        assert found["p_value"] == pytest.approx(expected.pvalue)
        assert found["interval"] == pytest.approx([*expected.confidence_interval()])
    assert comparisons["shared", "bad", "utt_mos_srcc"]["p_holm"] < 0.05


def test_a_fold_that_is_missing_and_an_utterance_in_two(folds, tmp_path):
    root, _, _ = folds
    lines = (root / "runs.txt").read_text().splitlines()
    twice = str(tmp_path / "b_0")
    shutil.copytree(lines[6].split()[3], twice)  # fold a_0 of good's seed 1
    text = (tmp_path / "b_0" / "results.json").read_text()
    text = text.replace('"model": "a_0"', '"model": "b_0"')
    text = text.replace('"test_set": "test_a_0"', '"test_set": "test_b_0"')
    (tmp_path / "b_0" / "results.json").write_text(text)
    lines[8] = f"good 1 b_0 {twice}"
    (tmp_path / "runs.txt").write_text("\n".join(lines[:-1]))
    methods, _, problems = fold_overview(tmp_path / "runs.txt")
    assert list(methods["test, pooled", "good", "utt_mos_srcc"]["runs"]) == ["0"]
    assert ("shared", "script", "utt_mos_srcc") not in methods
    for words in ("good, seed 1, left out", "script, seed 0 has test of 5 folds"):
        (problem,) = [p for p in problems if words in p]
        assert "\n" not in problem


def test_columns_are_means_over_sets_of_folds(folds, tmp_path):
    root, truth, predicted = folds
    (tmp_path / "columns").write_text(
        "# a mean, and a difference on the same clips\n"
        "one | test_a_0@a_0\n"
        "mean | test_a_0@a_0 test_b_1@b_1 shared@c_0\n"
        "gap | shared@a_0 shared@b_0 | shared@c_0\n"
        "lost | test_a_0@b_0\n"
    )
    columns = read_columns(f"{tmp_path}/columns")
    document, _ = read_list(f"{root}/runs.txt", (1, 5), join_folds=False)
    options = dict(seeds="_seed[0-9]+$", num_resamples=100, columns=columns)
    page, content = overview({"": document}, ["utt_mos_srcc"], "good", **options)
    (problem,) = content["problems"]
    assert "the column lost was left out" in problem and "test_a_0@b_0" in problem
    rows = {(row["test_set"], row["method"]): row for row in content["methods"]}
    assert {test_set for test_set, _ in rows} == {"one", "mean", "gap"}

    def srcc(method, seed, fold, name):
        key = "shared" if name == "shared" else f"test_{fold}"
        return spearman(predicted[method, seed, fold, name], truth[key])

    for method, seeds in (("good", "01"), ("bad", "01"), ("script", "0")):
        for seed in seeds:
            parts = [srcc(method, seed, f, "test") for f in ("a_0", "b_1")]
            shared = [srcc(method, seed, f, "shared") for f in ("a_0", "b_0", "c_0")]
            expected = {"one": parts[0], "mean": np.mean([*parts, shared[2]])}
            expected["gap"] = np.mean(shared[:2]) - shared[2]
            for name, value in expected.items():
                assert rows[name, method]["runs"][seed] == pytest.approx(value)
    compared = {(r["test_set"], r["method"]): r for r in content["comparisons"]}
    assert compared["mean", "bad"]["p_holm"] < 0.05
    assert 0 < compared["mean", "bad"]["detectable"] < 1
    assert "detectable: the smallest true difference" in page
    assert "one: no votes, the reliability of its labels is not known" in page


@pytest.mark.parametrize("line", ["a", "a | ", "| b", "a | b | c | d", "x | b"])
def test_columns_that_are_none(line, tmp_path):
    (tmp_path / "columns").write_text(f"x | y\n{line}\n")
    with pytest.raises(DataError, match="columns, line 2: found .* expected a name"):
        read_columns(f"{tmp_path}/columns")
    (tmp_path / "columns").write_text("# none\n")
    with pytest.raises(DataError, match="columns has no column"):
        read_columns(f"{tmp_path}/columns")
