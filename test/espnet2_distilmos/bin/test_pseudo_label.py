# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import sys
import types

import numpy as np
import pytest
import scipy.stats
import soundfile

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.bin import pseudo_label
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import read_scp, write_scp
from espnet2_distilmos.evaluation.formats import read_scores
from espnet2_distilmos.evaluation.router import read_router

# The loudness as a score, a line in a file each call, and Ctrl-C at the fifth.
DISTILLMOS = """
import os
import torch


class ConvTransformerSQAModel(torch.nn.Module):
    def forward(self, x):
        with open("calls", "a+") as file:
            file.write("x")
            file.seek(0)
            if file.read().endswith("x" * 5) and os.path.exists("stop"):
                raise KeyboardInterrupt
        if x.size(1) < 400:
            raise AssertionError("too short")
        return 1 + 10 * x.square().mean().sqrt()
"""
LEVELS = np.linspace(0.02, 0.38, 20)


def make_set(folder, count=20, prefix="u"):
    """Noises, the louder the later."""
    rng = np.random.default_rng(0)
    paths = {}
    for k in range(count):
        paths[f"{prefix}{k:02d}"] = folder / "audio" / f"{prefix}{k:02d}.wav"
        (folder / "audio").mkdir(parents=True, exist_ok=True)
        noise = LEVELS[k] * rng.choice([-1.0, 1.0], 3000 + 10 * k)
        soundfile.write(paths[f"{prefix}{k:02d}"], noise, 16000, subtype="FLOAT")
    write_scp(folder / "wav.scp", paths)
    write_scp(folder / "utt2sys", {utt_id: f"s{utt_id[-1]}" for utt_id in paths})
    return paths


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with data and a package of its own."""
    (tmp_path / "packages" / "distillmos").mkdir(parents=True)
    (tmp_path / "packages" / "distillmos" / "__init__.py").write_text(DISTILLMOS)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.delitem(sys.modules, "distillmos", raising=False)
    monkeypatch.chdir(tmp_path)
    pseudo_label.get_teacher.cache_clear()
    make_set(tmp_path / "data")
    yield tmp_path
    pseudo_label.get_teacher.cache_clear()
    sys.modules.pop("distillmos", None)


def run(*options, data="data", output="out", teachers="distillmos"):
    command = [data, "--output", output, "--teachers", teachers]
    return pseudo_label.main([*command, *map(str, options)])


def read_metrics(folder):
    return {i: json.loads(text) for i, text in read_scp(folder / "metric.scp").items()}


def contents(folder):
    names = ("wav.scp", "metric.scp", "utt2sys", "scores.csv")
    return {name: (folder / name).read_bytes() for name in names}


def write_table(path, scores):
    path.write_text("id,score\n" + "".join(f"{i},{s}\n" for i, s in scores.items()))


def test_every_teacher_is_a_key_and_the_mean_is_the_label(place, scorer_dir, capsys):
    wavs = read_scp("data/wav.scp")
    write_table(place / "table.csv", {utt_id: 4.5 for utt_id in list(wavs)[1:]})
    teachers = f"distillmos big={scorer_dir} table.csv"
    # A mean of fewer teachers is on another scale: u00 has none.
    assert run(teachers=teachers) == 1
    errors = capsys.readouterr().err
    assert "table: no score for 1 of 20 clips of data" in errors
    assert "1 clips have no label" in errors
    found = read_metrics(place / "out")
    predictor = MOSPredictor.from_pretrained(str(scorer_dir))
    for k, (utt_id, path) in enumerate(wavs.items()):
        big = predictor(read_audio(path), 16000).score
        expected = {"distillmos": 1 + 10 * LEVELS[k], "big": big}
        if k:
            expected["table"] = 4.5
        scores = dict(found[utt_id])
        label = scores.pop("mos", None)
        assert scores == pytest.approx(expected, abs=1e-5)
        mean = np.mean(list(expected.values())) if k else None
        assert label == (pytest.approx(mean, abs=1e-4) if k else None)
    for name in ("wav.scp", "utt2sys"):
        assert read_scp(f"out/{name}") == read_scp(f"data/{name}")
    records = read_scores("out/scores.csv").records
    assert "table.csv has no score" in records[0].error and not records[0].score
    # Another label costs nothing: no clip is scored again.
    calls = (place / "calls").read_text()
    assert run("--target", "table", teachers=teachers) == 1
    assert (place / "calls").read_text() == calls
    found = read_metrics(place / "out")
    assert "mos" not in found["u00"] and set(found["u00"]) == {"distillmos", "big"}
    assert {one["mos"] for one in list(found.values())[1:]} == {4.5}


def test_few_labels_are_brought_to_the_scale_and_many_refused(place, capsys):
    values = np.append(np.linspace(2, 4, 19), 4.5)
    write_table(place / "t.csv", {f"u{k:02d}": v for k, v in enumerate(values)})
    assert run("--score_range", 2, 4, teachers="t.csv") == 0
    assert "1 of 20 labels were beyond --score_range 2 4" in capsys.readouterr().err
    labels = [one["mos"] for one in read_metrics(place / "out").values()]
    np.testing.assert_allclose(labels, np.clip(values, 2, 4), atol=1e-4)
    before = contents(place / "out")
    assert run("--score_range", 2, 3.8, teachers="t.csv") == 1
    words = "3 of 20 labels are beyond --score_range 2 3.8, found 2 to 4.5"
    assert words in capsys.readouterr().err
    assert contents(place / "out") == before


def test_a_killed_labelling_goes_on_and_ends_the_same(place):
    assert run(output="whole") == 0
    (place / "calls").unlink()
    (place / "stop").touch()
    assert run() == 130
    assert not (place / "out" / "wav.scp").exists()
    (place / "stop").unlink()
    assert run() == 0
    assert len((place / "calls").read_text()) == 5 + 16  # the fifth again
    assert contents(place / "out") == contents(place / "whole")
    # Other audio of the same name is scored anew.
    soundfile.write(place / "data/audio/u03.wav", np.zeros(9999), 16000)
    assert run() == 0
    assert len((place / "calls").read_text()) == 22
    assert read_metrics(place / "out")["u03"] == {"mos": 1.0, "distillmos": 1.0}


def test_processes_give_the_same(place):
    assert run() == 0
    assert run("--nj", 2, output="two") == 0
    assert contents(place / "two") == contents(place / "out")


def test_a_clip_that_nobody_can_score_says_why_and_the_rest_goes_on(place, capsys):
    (place / "data/audio/u01.wav").write_bytes(b"no audio")
    soundfile.write(place / "data/audio/u02.wav", np.ones(100), 16000)
    write_table(place / "t.csv", {f"u{k:02d}": 3.0 for k in range(3, 20)})
    assert run(teachers="distillmos t.csv") == 1
    errors = capsys.readouterr().err
    assert "u01" in errors and "distillmos cannot score it: too short" in errors
    assert "3 clips have no label" in errors  # t.csv lacks u00, too
    records = {r.id: r for r in read_scores("out/scores.csv").records}
    assert len(records) == 20 and len(read_scp("out/wav.scp")) == 18
    assert records["u01"].score is None and "cannot be read" in records["u01"].error
    assert "too short" in records["u02"].error and not records["u04"].error


def test_equal_counts_of_each_range(place):
    write_table(
        place / "t.csv", {f"u{k:02d}": 1 + (k / 19) ** 3 * 4 for k in range(20)}
    )
    options = ("--balance", 3, "--target", "t")
    assert run(*options, teachers="t.csv") == 0
    labels = [one["mos"] for one in read_metrics(place / "out").values()]
    every = [1 + (k / 19) ** 3 * 4 for k in range(20)]
    low, high = np.quantile(every, [0.025, 0.975])
    edges = np.linspace(low, high, 4)
    edges[[0, -1]] = 0, 9
    counts = np.histogram(every, edges)[0]
    assert counts.min() > 0 and len(set(counts)) > 1
    assert np.histogram(labels, edges)[0].tolist() == [counts.min()] * 3
    chosen = (place / "out/wav.scp").read_text()
    assert set(read_scp("out/utt2sys")) == set(read_scp("out/wav.scp"))
    assert run(*options, teachers="t.csv") == 0
    assert (place / "out/wav.scp").read_text() == chosen


@pytest.mark.parametrize("values", [np.r_[np.full(19, 2.0), 2.1], np.full(20, 2.0)])
def test_a_range_without_clips_is_refused_and_the_last_result_stays(
    place, values, capsys
):
    write_table(place / "t.csv", {f"u{k:02d}": v for k, v in enumerate(values)})
    assert run(teachers="t.csv") == 0
    before = contents(place / "out")
    assert run("--balance", 4, teachers="t.csv") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("--balance 4 makes 4 ranges between 2.00") and "0" in last
    assert contents(place / "out") == before


def labelled_set(place, name, scale, seed):
    """Twenty labelled clips; the table good.csv knows them, bad.csv does not."""
    paths = make_set(place / name, prefix=name.replace("/", ""))
    rng = np.random.default_rng(seed)
    labels = rng.uniform(1, 5, 20)
    lines = {i: json.dumps({"mos": scale * v}) for i, v in zip(paths, labels)}
    write_scp(place / name / "metric.scp", lines)
    (place / name / "score_range").write_text(f"0 {5 * scale}\n")
    return dict(zip(paths, labels)), dict(zip(paths, rng.uniform(1, 5, 20)))


def test_choices_are_compared_and_the_router_is_kept(place, capsys):
    truth_a, noise_a = labelled_set(place, "a", 1, 0)
    truth_b, noise_b = labelled_set(place, "b", 20, 1)
    rng = np.random.default_rng(5)
    mine = {f"u{k:02d}": rng.uniform(1, 5) for k in range(20)}
    other = {f"u{k:02d}": rng.uniform(1, 5) for k in range(20)}
    near = {i: v + 0.3 * rng.normal() for i, v in {**truth_a, **truth_b}.items()}
    write_table(place / "good.csv", {**near, **mine})
    write_table(place / "bad.csv", {**noise_a, **noise_b, **other})
    options = ("--target", "router")
    teachers = "good.csv bad.csv"
    assert run(*options, "--labelled", "a b", teachers=teachers) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:20].strip(): line for line in lines}
    assert list(rows)[1:6] == [
        *("good", "bad", "mean", "router, other clips", "router, other sets")
    ]
    for name, truth in (("a", truth_a), ("b", truth_b)):
        given = [[near[i] for i in truth], list(truth.values())]
        expected = (scipy.stats.spearmanr(*given)[0], scipy.stats.pearsonr(*given)[0])
        cell = " / ".join(f"{value:.3f}" for value in expected)
        assert f"{cell} (20)" in rows["good"], name
    router = read_router(place / "out/router.json")
    assert router.keys == ("good", "bad")
    mixed = router(np.array([[mine[i], other[i]] for i in mine]))
    found = [one["mos"] for one in read_metrics(place / "out").values()]
    np.testing.assert_allclose(found, np.clip(mixed, 1, 5), atol=1e-4)
    assert scipy.stats.pearsonr(found, list(mine.values()))[0] > 0.9
    # It serves without labelled sets.
    kept = ("--router", "out/router.json")
    assert run(*options, *kept, output="again", teachers=teachers) == 0
    assert contents(place / "again") == contents(place / "out")
    assert run(*options, *kept, output="again", teachers="good.csv") == 1
    assert "found none of bad" in capsys.readouterr().err


def tables_of(place, **tables):
    """The labelled set a; good.csv scores all, other tables what is given."""
    truth, _ = labelled_set(place, "a", 1, 0)
    rng = np.random.default_rng(3)
    mine = {f"u{k:02d}": rng.uniform(2, 4) for k in range(20)}
    good = {i: v + 0.3 * rng.normal() for i, v in truth.items()}
    write_table(place / "good.csv", {**good, **mine})
    for table, scores in tables.items():
        write_table(place / f"{table}.csv", {**mine, **scores(list(truth))})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "scores", [lambda ids: {}, lambda ids: {ids[3]: 3.0}, lambda ids: {ids[3]: "nan"}]
)
def test_a_teacher_that_knows_no_labelled_clips_is_not_in_the_router(
    place, scores, capsys
):
    tables_of(place, t2=scores)
    given = dict(teachers="good.csv t2.csv")
    assert run("--labelled", "a", "--target", "router", **given) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "a router cannot be fitted with t2" in last and "labelled a;" in last
    assert not (place / "out/router.json").exists()
    assert run("--labelled", "a", **given) == 0
    assert "clips of the labelled a; it is left out" in capsys.readouterr().err
    assert read_router("out/router.json").keys == ("good",)


def test_without_a_teacher_to_fit_there_is_no_router(place, capsys):
    tables_of(place, t2=lambda ids: {utt_id: 3.0 for utt_id in ids})
    assert run("--labelled", "a", teachers="t2.csv") == 0
    assert "clips of the labelled a; there is no router" in capsys.readouterr().err
    assert not (place / "out/router.json").exists()
    assert len(read_metrics(place / "out")) == 20


@pytest.mark.filterwarnings("error")
def test_labelled_clips_of_one_source_have_no_cross_validation(place, capsys):
    tables_of(place)
    write_scp(place / "a/utt2src", {i: "one" for i in read_scp("a/wav.scp")})
    assert run("--labelled", "a", teachers="good.csv") == 0
    lines = capsys.readouterr().out
    assert "one source (utt2src)" in lines and "- / - (0)" in lines
    assert read_router("out/router.json").penalty == 1000


def test_labelled_sets_are_different_ones_with_labels(place, capsys):
    truths = [labelled_set(place, name, 1, 0)[0] for name in ("A/test", "B/test")]
    mine = dict.fromkeys(read_scp("data/wav.scp"), 3.0)
    write_table(place / "good.csv", {**truths[0], **truths[1], **mine})
    for sets in ("A/test B/test", "A/test A/test", "x=A/test y=A/test"):
        assert run("--labelled", sets, teachers="good.csv") == 1
        error = capsys.readouterr().err
        assert "a second time" in error and "write NAME=DIR" in error
    options = ("--labelled", "x=A/test y=B/test")
    assert run(*options, teachers="good.csv") == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert "x SRCC" in head and "y SRCC" in head
    write_scp(
        place / "A/test/metric.scp", {i: "{}" for i in read_scp("A/test/wav.scp")}
    )
    assert run(*options, teachers="good.csv") == 1
    assert "set x has 0 clips with a label, expected" in capsys.readouterr().err


def test_a_score_that_is_no_number_is_named_as_such(place):
    write_table(place / "t.csv", {f"u{k:02d}": 3.0 if k else "nan" for k in range(20)})
    assert run(teachers="t.csv") == 1
    error = read_scores("out/scores.csv").records[0].error
    assert error == (
        "t.csv:2: utterance u00 has the score 'nan', expected a finite number such as "
        "3.5; correct it."
    )


def test_what_cannot_be_is_refused(place, monkeypatch, capsys):
    write_table(place / "mos.csv", {"u00": 3})
    (place / "rated").mkdir()
    (place / "rated" / "metric.scp").write_text('u00 {"mos": 3}\n')
    for options, words in (
        (dict(output="data"), "the data itself"),
        (dict(output="mos.csv"), "--output is mos.csv, a file, expected a directory"),
        (dict(teachers=""), "--teachers is empty"),
        (dict(teachers="distillmos distillmos"), "a second time"),
        (dict(teachers="mos.csv"), "write NAME=PATH"),
        (dict(output="rated"), "rated/metric.scp is there and was not written by"),
    ):
        assert run(**options) == 1
        assert words in capsys.readouterr().err
    for options, words in (
        (
            ("--target", "dnsmos"),
            "--target is dnsmos, expected one of distillmos, mean",
        ),
        (("--target", "router"), "needs --labelled"),
        (("--balance", 1), "at least two ranges"),
        (("--labelled", "data"), "metric.scp cannot be read"),
        (("--labelled", "rated=out"), "--output is out, the data itself"),
        (("--score_range", 5, 1), "expected the lower end first"),
    ):
        assert run(*options) == 1
        assert words in capsys.readouterr().err
    with monkeypatch.context() as patch:
        several = types.SimpleNamespace(keys=("distillmos", "of_it"))
        patch.setattr(pseudo_label, "get_teacher", lambda *_: several)
        assert run(teachers="distillmos of_it=mos.csv") == 1
    assert "give the score of_it twice" in capsys.readouterr().err
    pseudo_label.get_teacher.cache_clear()
    monkeypatch.setitem(sys.modules, "speechmos", None)
    assert run(teachers="dnsmos") == 1
    assert "espnet2_distilmos[teachers]" in capsys.readouterr().err
