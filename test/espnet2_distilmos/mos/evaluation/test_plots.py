# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest

pytest.importorskip("matplotlib")

from espnet2_distilmos.mos.evaluation.plots import scatter_figure  # noqa: E402


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


def test_without_systems():
    figure = scatter_figure([1, 2], [2, 1])
    assert len(figure.axes[0].lines) == 2  # utterances and the diagonal


def test_two_scales_have_their_own_axes():
    figure = scatter_figure([1.0, 2.0], [90, 10], same_scale=False)
    (axes,) = figure.axes
    assert len(axes.lines) == 1  # no diagonal
    assert axes.get_ylim()[1] < 3 < 90 < axes.get_xlim()[1]
    assert axes.get_aspect() == "auto"
