# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import itertools

import numpy as np
import pytest
from scipy import stats

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation import page
from espnet2_distilmos.evaluation.join import Score, ScoreFile, Vote


def file(name, scores, **fields):
    """A file of scores by id, with further fields of a record by id."""
    records = [
        Score(i, score, **{k: v[i] for k, v in fields.items() if i in v})
        for i, score in scores.items()
    ]
    return ScoreFile(records, path=f"{name}.csv")


@pytest.fixture
def values():
    """True scores and those of two models of 5 systems with 8 clips each."""
    rng = np.random.default_rng(0)
    ids = [f"s{k // 8}-u{k}" for k in range(40)]
    true = rng.uniform(1, 5, 40).round(3)
    return ids, true, (true + rng.normal(size=(2, 40))).round(3)


@pytest.fixture
def clips(values):
    ids, true, models = values
    files = {n: file(n, dict(zip(ids, v.tolist()))) for n, v in zip("ab", models)}
    labels = file("labels", dict(zip(ids, true.tolist())))
    return page.collect(files, labels, "^(s.)-")


def test_models_and_labels_side_by_side():
    a = file(
        *("a", {"x": 2.0, "y": None, "z": 4.0}),
        error={"y": "y.wav is empty"},
        path={"z": "wav/z.wav"},
        extra={"x": {"novelty": 0.5}, "z": {"novelty": "?", "frames": "f/z.npy"}},
    )
    b = file("b", {"z.wav": 1.0, "y": 5.0, "other": 3.0}, system={"z.wav": "S"})
    labels = file("labels", {"z": 4.5, "w": 2.0})
    found = page.collect({"a": a, "b": b}, labels)
    assert found.ids == ["x", "y", "z"]
    np.testing.assert_array_equal(found.scores["a"], [2, np.nan, 4])
    np.testing.assert_array_equal(found.scores["b"], [np.nan, 5, 1])
    np.testing.assert_array_equal(found.labels, [np.nan, np.nan, 4.5])
    np.testing.assert_array_equal(found.extra["novelty"], [0.5, np.nan, np.nan])
    assert list(found.extra) == ["novelty"]
    assert found.systems == [None, None, "S"]
    assert found.paths == [None, None, "wav/z.wav"]
    assert found.frames == [None, None, "f/z.npy"]
    assert found.errors == {0: "b: no score", 1: "a: y.wav is empty"}
    sentences = "\n".join(found.problems)
    for expected in (
        "a.csv has no score for 1 utterance (the first is y)",
        "b.csv does not have 1 utterance (the first is x) of a.csv",
        "a.csv does not have 1 utterance (the first is other) of b.csv",
        "a.csv does not have 1 utterance (the first is w) of labels.csv",
    ):
        assert expected in sentences
    assert len(found.problems) == 4
    assert found.notes == ["labels.csv has no label for 2 utterances (the first is x)."]


def test_files_of_other_clips_and_the_name_of_the_labels():
    a, b = file("a", {"x": 1.0}), file("b", {"y": 1.0})
    with pytest.raises(DataError, match="a.csv and b.csv share no clip"):
        page.collect({"a": a, "b": b})
    with pytest.raises(DataError, match="name it as in NAME=a.csv"):
        page.collect({"label": a}, a)


def test_systems(clips, values):
    _, true, models = values
    rows = page.system_rows(clips)
    means = models[0].reshape(5, 8).mean(axis=1)
    assert [row["system"] for row in rows] == [f"s{k}" for k in np.argsort(-means)]
    for row in rows:
        k = int(row["system"][1])
        assert row["num_clips"] == 8
        for name, of_model in zip(("a", "b", "label"), (*models, true)):
            x = of_model[8 * k : 8 * k + 8]
            found = row["of"][name]
            low, high = stats.t.interval(0.95, 7, x.mean(), stats.sem(x))
            np.testing.assert_allclose(found["mean"], x.mean())
            np.testing.assert_allclose(found["interval"], (low, high))
            expected = np.quantile(x, [0.05, 0.95])
            np.testing.assert_allclose([found["p5"], found["p95"]], expected)


def test_without_systems_there_is_a_row_of_all():
    clips = page.collect({"a": file("a", {"x": 1.0, "y": 2.0, "z": None})})
    (row,) = page.system_rows(clips)
    assert (row["system"], row["num_clips"]) == (None, 3)
    assert row["of"]["a"]["mean"] == 1.5 and row["of"]["a"]["interval"] is None


def test_pairs_of_systems_that_change_order(clips, values):
    found = page.changed_pairs(clips, "a", "b")
    means = values[2].reshape(2, 5, 8).mean(axis=2)
    expected = {
        frozenset((f"s{i}", f"s{j}"))
        for i, j in itertools.combinations(range(5), 2)
        if (means[0, i] > means[0, j]) != (means[1, i] > means[1, j])
    }
    assert found.num_pairs == 10 and expected
    assert {frozenset(pair[:2]) for pair in found.pairs} == expected
    true = values[1].reshape(5, 8).mean(axis=1)
    for pair in found.pairs:
        i, j = int(pair.first[1]), int(pair.second[1])
        every = [*(means[:, i] - means[:, j]), true[i] - true[j]]
        np.testing.assert_allclose(pair.differences, every, atol=1e-9)
        assert pair.differences[0] > 0 > pair.differences[1]
        assert not pair.clear


def test_a_pair_that_both_models_separate():
    a = {f"{s}{k}": v + 0.1 * k for s, v in (("x", 1), ("y", 3)) for k in range(6)}
    b = {utt_id: 6 - score for utt_id, score in a.items()}
    files = {"a": file("a", a), "b": file("b", b)}
    (pair,) = page.changed_pairs(page.collect(files, None, "^(.)"), "a", "b").pairs
    assert (pair.first, pair.second, pair.clear) == ("y", "x", True)
    np.testing.assert_allclose(pair.differences[:2], [2, -2])
    assert pair.differences[2] is None


def test_of_very_many_systems_the_largest_are_compared(monkeypatch):
    monkeypatch.setattr(page, "MOST_SYSTEMS", 3)
    ids = [f"s{k}-{n}" for k in range(6) for n in range(k + 1)]
    files = {m: file(m, {i: float(len(i)) for i in ids}) for m in "ab"}
    found = page.changed_pairs(page.collect(files, None, "^(s.)-"), "a", "b")
    assert (found.num_pairs, found.num_left_out) == (3, 3)


def test_lists_of_clips(clips, values):
    _, true, (a, b) = values
    found = {one.key: one.clips for one in page.clip_lists(clips, 4)}
    assert found == {
        "worst": np.argsort(a, kind="stable")[:4].tolist(),
        "best": np.argsort(-a, kind="stable")[:4].tolist(),
        "disputed": np.argsort(-np.abs(a - b), kind="stable")[:4].tolist(),
        "errors": np.argsort(-np.abs(a - true), kind="stable")[:4].tolist(),
    }
    assert "errors" not in {one.key for one in page.clip_lists(clips, 4, False)}


def test_one_model_is_disputed_by_listeners_and_may_be_novel():
    extra = {"x": {"novelty": 0.2}, "y": {"novelty": 1.5}}
    a = file("a", {"x": 1.0, "y": 2.0, "z": None}, extra=extra)
    votes = {"x": [Vote(1.0), Vote(5.0)], "y": [Vote(3.0), Vote(3.5)], "z": [Vote(1.0)]}
    labels = file("labels", {"x": 3.0, "y": 3.25, "z": 1.0}, votes=votes)
    found = page.clip_lists(page.collect({"a": a}, labels), 3)
    assert {one.key: one.clips for one in found} == {
        **{"worst": [0, 1], "best": [1, 0], "novel": [1, 0]},
        **{"disputed": [0, 1], "errors": [0, 1]},
    }
    assert page.disagreement({"a": np.ones(3)}) is None


def test_scales_apart_are_compared_by_rank():
    a = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
    b = np.array([90.0, 20.0, 50.0, 60.0, 10.0])
    found = page.disagreement({"a": a, "b": b})
    assert found.in_ranks
    expected = np.abs(np.array([0, 1, 2, 3]) / 3 - np.array([4, 1, 2, 3]) / 4)
    np.testing.assert_allclose(found.values, [*expected, np.nan])
    near = page.disagreement({"a": a, "b": np.array([2.0, 2, np.nan, 5, 1])})
    assert not near.in_ranks
    np.testing.assert_allclose(near.values, [1, 0, np.nan, 1, np.nan])


def test_metrics_are_those_of_scipy(clips, values):
    _, true, (a, _) = values
    scored = page.scored_models(clips, {"a": "a.csv", "b": "b.csv"}, "labels.csv")
    table = page.metrics_table(scored, ("lcc", "srcc", "mse"), 50)
    assert table["head"][2:5] == ["utt LCC", "utt SRCC", "utt MSE"]
    expected = stats.pearsonr(a, true)[0], stats.spearmanr(a, true)[0]
    for cell, value in zip(table["rows"][0][2:], (*expected, np.mean((a - true) ** 2))):
        assert cell.startswith(f"{value:.3f} [")
    bare = page.metrics_table(scored, ("lcc",), 0)
    assert bare["rows"][0][2] == f"{expected[0]:.3f}"


def test_what_comes_first(clips, values):
    _, true, (a, b) = values
    clips.scores["b"][:2] = np.nan
    scored = page.scored_models(clips, {"a": "a.csv", "b": "b.csv"}, "labels.csv")
    metrics = page.metrics_table(scored, ("lcc", "srcc", "mse"), 50)
    found = page.overview(clips, metrics)
    assert found["head"] == ["utt LCC", "utt SRCC", "sys LCC", "sys SRCC"]
    first, second = found["rows"]
    assert first["mean"] == pytest.approx(a.mean()) and first["num_failed"] == 0
    assert first["cells"][0] == f"{stats.pearsonr(a, true)[0]:.3f}"
    assert first["worst"] == np.argsort(a)[:3].tolist()
    assert second["mean"] == pytest.approx(b[2:].mean()) and second["num_failed"] == 2
    assert page.overview(clips, None)["head"] == []


def test_equal_models_dispute_nothing_and_equal_notes_are_one():
    scores = {"x": 1.0, "y": 3.0, "z": 2.0}
    labels = file("labels", {"x": 10.0, "y": 90.0, "z": 50.0})
    clips = page.collect({n: file(n, scores) for n in "abc"}, labels)
    assert "disputed" not in {one.key for one in page.clip_lists(clips, 3)}
    scored = page.scored_models(clips, {n: n for n in "abc"}, "labels.csv")
    notes = page.metrics_table(scored, ("srcc",), 20)["notes"]
    assert len(notes) == 2 and all(note.startswith("a and 2 more: ") for note in notes)


def test_columns_of_the_table(clips):
    hrefs = [f"wav/{i}.flac" for i in clips.ids]
    hrefs[1:3] = [None, "file:///else%20where/x.wav"]
    rows = [0, 1, 2, 39]
    data = page.table_data(clips, rows, hrefs)
    assert data["number"] == [1, 2, 3, 40]
    assert [data["systems"][k] for k in data["system"]] == ["s0", "s0", "s0", "s4"]
    assert data["scores"][1] == clips.scores["b"][rows].tolist()
    assert data["columns"]["label"] == clips.labels[rows].tolist()
    links = [
        data["folders"][f] + name.replace("\n", utt_id)
        for f, name, utt_id in zip(data["folder"], data["file"], data["id"])
    ]
    assert links == [hrefs[0], "", hrefs[2], hrefs[39]]
    # Most take a few bytes.
    assert data["file"][0] == "\n.flac"


def test_figures_are_plotlys(clips, monkeypatch):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    rows = page.system_rows(clips)
    figures = [page.system_figure(clips, rows), *page.distribution_figures(clips)]
    figures.append(page.scatter_figure(clips, "label", "a", True))
    monkeypatch.setattr(page, "MOST_POINTS", 10)
    figures.append(page.scatter_figure(clips, "label", "a", False))
    for figure in figures:
        figure.pop("narrow", None)
        graph_objects.Figure(figure)  # refuses what plotly does not know
    systems, distribution, points, density = figures
    np.testing.assert_allclose(
        systems["data"][1]["x"], [row["of"]["a"]["mean"] for row in rows]
    )
    for trace in distribution["data"]:
        assert sum(trace["y"]) / 2 == pytest.approx(100, abs=0.01)
    assert points["data"][0]["x"] == clips.labels.tolist()
    assert density["data"][0]["type"] == "heatmap"
    assert sum(n or 0 for row in density["data"][0]["z"] for n in row) == 40


def test_every_model_and_the_labels_have_their_mark():
    scores = {f"s{k}-u{n}": float(k % 5) for k in range(50) for n in range(2)}
    files = {f"m{k}": file(f"m{k}", scores) for k in range(20)}
    clips = page.collect(files, file("labels", scores), "^(s.+)-")
    figure = page.system_figure(clips, page.system_rows(clips))
    traces = [trace for trace in figure["data"] if "marker" in trace]
    marks = [(t["marker"]["color"], t["marker"]["symbol"]) for t in traces]
    assert len(set(marks)) == 21 and traces[-1]["name"] == "label"
    assert marks[-1] == ("#000000", "diamond")
    assert not any(set(mark) & {"#000000", "diamond"} for mark in marks[:-1])
    # Screens, not metres.
    assert figure["layout"]["height"] < 2000
    (figure,) = page.distribution_figures(clips)
    lines = [tuple(trace["line"].values()) for trace in figure["data"]]
    assert len(set(lines)) == 21


def test_names_in_figures_are_text():
    name = "<script>" + 40 * "x" + "&"
    clips = page.collect({name: file("a", {"x": 1.0, "y": 3.0})}, None, "^(.)")
    figure = page.system_figure(clips, page.system_rows(clips))
    assert figure["data"][1]["name"].startswith("&lt;script&gt;xxx")
    assert figure["data"][1]["name"].endswith("xxx&amp;")
    (figure,) = page.distribution_figures(clips)
    assert "<script" not in str(figure)


def test_other_scales_have_figures_of_their_own():
    labels = file("labels", {"x": 10.0, "y": 90.0, "z": 50.0})
    clips = page.collect({"a": file("a", {"x": 1.0, "y": 3.0, "z": 2.0})}, labels)
    assert len(page.distribution_figures(clips)) == 2
    (scored,) = page.scored_models(clips, {"a": "a.csv"}, "labels.csv")
    assert scored.two_scales
    notes = page.metrics_table([scored], ("srcc", "mse"), 20)["notes"]
    assert "the labels go from 10 to 90" in " ".join(notes)
    assert "found 3 of the at least 6" in " ".join(notes)


def test_quotes_in_names_of_figures():
    """Plotly decodes the entities of markup and none of a quote."""
    files = {n: file(n, {"x": 1.0, "y": 2.0}) for n in ("\"a\" & 'b'", "<c>")}
    clips = page.collect(files)
    figure = page.scatter_figure(clips, *files, True)["layout"]
    titles = [figure[axis]["title"]["text"] for axis in ("xaxis", "yaxis")]
    assert titles == ["\"a\" &amp; 'b'", "&lt;c&gt;"]
    data = page.system_figure(clips, page.system_rows(clips))["data"]
    assert [d["name"] for d in data if "name" in d] == titles
