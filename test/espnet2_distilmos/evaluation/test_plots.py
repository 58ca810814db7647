# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from espnet2_distilmos.evaluation.plots import (  # noqa: E402
    comparison_figure,
    frame_figure,
    residual_figure,
    scatter_figure,
    size_figure,
    system_figure,
    training_figure,
    write_figure,
)
from espnet2_distilmos.evaluation.systems import MeanInterval, SystemRow  # noqa: E402


def test_points_are_the_data_and_the_system_means():
    figure = scatter_figure([1, 3, 5], [2, 2, 6], ["a", "a", None], "title")
    (axes,) = figure.axes
    utterances, systems = axes.lines[:2]
    assert list(utterances.get_xdata()) == [2, 2, 6]
    assert list(utterances.get_ydata()) == [1, 3, 5]
    assert list(systems.get_xdata()) == [2] and list(systems.get_ydata()) == [2]
    assert axes.get_title() == "title"
    assert axes.get_xlim()[1] > 6 and axes.get_xlim() == axes.get_ylim()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["3 utterances, SRCC 0.866", "1 systems, SRCC undefined"]


def test_two_scales_have_their_own_axes():
    figure = scatter_figure([1.0, 2.0], [90, 10], same_scale=False)
    (axes,) = figure.axes
    assert len(axes.lines) == 1  # no diagonal
    assert axes.get_ylim()[1] < 3 < 90 < axes.get_xlim()[1]
    assert axes.get_aspect() == "auto"


def test_residuals_and_their_means_by_bin():
    true = np.linspace(1, 5, 40)
    pred = true + np.where(np.arange(40) < 20, 0.5, -1.0)
    axes, side = residual_figure(pred, true, "test", num_bins=4).axes
    points = axes.lines[0]
    np.testing.assert_allclose(points.get_xdata(), true)
    np.testing.assert_allclose(points.get_ydata(), pred - true)
    means = np.asarray(axes.containers[0][0].get_ydata(), float)
    np.testing.assert_allclose(means, [0.5, 0.5, -1.0, -1.0])
    assert sum(bar.get_width() for bar in side.patches) == 40
    assert "mean -0.25" in side.get_title()


def test_residuals_of_a_few_clips_have_no_interval():
    axes, _ = residual_figure([1, 2, 3, 4, 5], [1, 2, 2, 4, 5]).axes
    assert axes.containers[0].lines[1:] == ((), ())
    axes, _ = residual_figure([1, 2, 3, 4, 5, 5], [1, 2, 2, 4, 5, 4]).axes
    assert len(axes.containers[0].lines[1]) == 2


def test_systems_stand_in_the_order_of_the_listeners():
    def row(name, label, pred):
        means = MeanInterval(*label), MeanInterval(pred, None)
        return SystemRow(name, 2, *means, 1.0, 1.0, 0.0)

    table = [
        row("a", (3.0, (2.8, 3.2)), 2.0),
        row("b", (1.5, (1.0, 2.0)), 2.5),
        row("c", (4.0, None), 3.5),
    ]
    (axes,) = system_figure({"model": table}, "test").axes
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == ["b", "a", "c"]
    drawn = {line.get_label(): line.get_xdata() for line in axes.lines}
    np.testing.assert_allclose(drawn["listeners"], [1.5, 3.0, 4.0])
    np.testing.assert_allclose(drawn["model"], [2.5, 2.0, 3.5])
    spans = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [tuple(s.get_xdata()) for s in spans] == [(1.0, 2.0), (2.8, 3.2)]
    # Each beside its marker.
    np.testing.assert_allclose([s.get_ydata()[0] for s in spans], [-0.06, 0.94])


def test_frames_stand_under_the_spectrogram():
    rate = 16000
    time = np.arange(rate) / rate
    tone = np.sin(2 * np.pi * 1000 * time)
    times = np.arange(50) * 0.02 + 0.0125
    scores = np.linspace(2, 4, 50)
    above, below = frame_figure(tone, rate, scores, times, 3.0).axes
    np.testing.assert_allclose(below.lines[0].get_xdata(), times)
    np.testing.assert_allclose(below.lines[0].get_ydata(), scores)
    np.testing.assert_allclose(below.lines[1].get_ydata(), 3.0)
    power = np.asarray(above.images[0].get_array())
    low, high = above.images[0].get_extent()[2:]
    # Flipped for the picture: the loudest row is 1 kHz.
    row = power.shape[0] - 1 - power.mean(axis=1).argmax()
    assert low + (row + 0.5) / power.shape[0] * (high - low) == pytest.approx(
        1000, 0.05
    )
    assert above.get_xlim() == below.get_xlim() == (0, 1)


def test_silence_has_a_spectrogram():
    above, _ = frame_figure(np.zeros(800), 16000, [1.0], [0.02], 1.0).axes
    assert np.isfinite(np.asarray(above.images[0].get_array())).all()


def history(keys, epochs=3):
    return {
        epoch: {
            "train": {"loss": 1.0 / epoch},
            "valid": {"loss": 2.0 / epoch, **{k: 0.1 * epoch for k in keys}},
        }
        for epoch in range(1, epochs + 1)
    }


def test_training_shows_the_panels_that_it_has():
    keys = ["utt_srcc", "token_acc_hubert_l01", "token_acc_hubert_l02", "mix_l01"]
    loss, srcc, tokens, mix = training_figure(history(keys)).axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [2, 1, 2 / 3])
    assert [line.get_label() for line in srcc.lines] == ["utterances"]
    assert [line.get_label() for line in tokens.lines] == ["hubert_l01", "hubert_l02"]
    np.testing.assert_allclose(mix.lines[0].get_ydata(), [0.1, 0.2, 0.3])
    assert mix.lines[0].get_label() == "layer 1"
    assert len(training_figure(history(["utt_srcc", "sys_srcc"])).axes) == 2


def test_of_many_layers_the_ends_are_named():
    keys = [f"mix_l{k:02d}" for k in range(1, 13)]
    figure = training_figure(history(keys))
    named = [t.get_text() for t in figure.axes[-1].get_legend().get_texts()]
    assert named == ["layer 1", "layer 12"] and len(figure.axes[-1].lines) == 12


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="found no epoch"):
        training_figure({})
    with pytest.raises(ValueError, match="found no result with utt_mos_lcc"):
        comparison_figure([{"model": "A", "test_set": "in"}], "utt_mos_lcc")


def test_the_ending_is_the_format(tmp_path):
    for ending, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        path = tmp_path / "new" / f"f.{ending}"
        write_figure(str(path), scatter_figure([1, 2], [2, 1]))
        assert path.read_bytes().startswith(start)


def test_comparison():
    rows = [
        {"model": "A", "test_set": "in", "m": 0.8, "intervals": {"m": (0.7, 0.9)}},
        {"model": "B", "test_set": "in", "m": 0.6, "intervals": None},
        {"model": "A", "test_set": "out", "m": None},
        {"model": "B", "test_set": "out", "m": 0.3, "intervals": {"m": (None, None)}},
    ]
    first, second = comparison_figure(rows, "m").axes
    assert [a.get_title() for a in (first, second)] == ["in", "out"]
    assert [t.get_text() for t in first.get_yticklabels()] == ["A", "B"]
    drawn = [(list(x.get_xdata()), list(x.get_ydata())) for x in first.lines]
    assert drawn == [([0.7, 0.9], [0, 0]), ([0.8], [0]), ([0.6], [1])]
    assert [list(x.get_xdata()) for x in second.lines] == [[0.3]]
    assert first.get_xlim() == second.get_xlim()
    # The first model is above.
    assert first.get_ylim()[0] > first.get_ylim()[1]
    # The runs behind a mean are small, below it; a single run is the mean.
    of_runs = [{**rows[0], "runs": {"m": [0.7, None, 0.9]}}, {**rows[1]}]
    of_runs[1]["runs"] = {"m": [0.6]}
    axes, *_ = comparison_figure(of_runs, "m").axes
    small = [line for line in axes.lines if line.get_fillstyle() == "none"]
    assert [list(line.get_xdata()) for line in small] == [[0.7, 0.9]]
    assert min(small[0].get_ydata()) > 0


def test_a_line_for_each_family_over_the_size():
    rows = [
        dict(panel="in", family="cut", parameters=4e6, value=0.5),
        dict(panel="in", family="cut", parameters=1e6, value=0.4),
        dict(panel="in", family="pruned", parameters=2e6, value=0.6),
        dict(panel="out", family="pruned", parameters=2e6, value=0.1),
    ]
    figure = size_figure(rows)
    first, second = figure.axes
    assert [a.get_title() for a in figure.axes] == ["in", "out"]
    drawn = {
        x.get_label(): (list(x.get_xdata()), list(x.get_ydata())) for x in first.lines
    }
    assert drawn == {"cut": ([1e6, 4e6], [0.4, 0.5]), "pruned": ([2e6], [0.6])}
    assert [x.get_label() for x in second.lines] == ["pruned"]
    # A family looks the same in every panel.
    assert second.lines[0].get_color() == first.lines[1].get_color()
    assert first.get_xscale() == "log"
    assert first.xaxis.get_major_formatter()(2.5e6) == "2.5"  # millions
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["cut", "pruned"]
    assert len(size_figure([{**rows[0], "panel": str(k)} for k in range(5)]).axes) == 5
    with pytest.raises(ValueError, match="no model of known size"):
        size_figure([])
