# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Figures of scores, models and trainings. Needs matplotlib, imported on use.

Colours are those of Okabe & Ito, distinguishable with every kind of colour vision; what
they say is said by marker, line style or lightness too, for grey print.
"""

import os
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

import numpy as np

from espnet2_distilmos.data.datadir import atomic_write
from espnet2_distilmos.evaluation.bootstrap import MINIMUM_UNITS
from espnet2_distilmos.evaluation.metrics import evaluate, system_means
from espnet2_distilmos.evaluation.systems import SystemRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "D", "s", "^", "v", "P", "X")
_UTTERANCES = {"color": "#56B4E9", "alpha": 0.5, "markersize": 4, "markeredgewidth": 0}
_MEANS = {"color": "#D55E00", "markeredgecolor": "white"}


def _figure(width: float, height: float) -> "Figure":
    # Figure instead of pyplot: no window system and no global state.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _finish(axes, legend: Optional[str] = "best", grid: str = "both", **labels) -> None:
    axes.set(**labels)
    axes.grid(axis=grid, color="0.9")
    axes.set_axisbelow(True)
    if legend:
        axes.legend(loc=legend, framealpha=0.9, fontsize="small")


def _style(number: int) -> Mapping[str, Any]:
    """Colour and marker of a series."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def write_figure(path: str, figure: "Figure") -> None:
    """Write a figure whole or not at all, in the format of the path's ending.

    Raises:
        DataError: The file cannot be written.
    """
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format=os.path.splitext(path)[1][1:].lower(), dpi=150)


def scatter_figure(
    pred: Sequence[float],
    true: Sequence[float],
    systems: Optional[Sequence[Optional[str]]] = None,
    title: str = "",
    same_scale: bool = True,
) -> "Figure":
    """Draw predictions over labels, utterances and system means.

    Args:
        pred: Predictions (n,).
        true: Labels (n,).
        systems: System of each utterance (n,), None where it has none; or None.
        title: Title of the figure.
        same_scale: Whether predictions and labels are on one scale, which gives both
            axes the same limits and the figure its diagonal.
    """
    result = evaluate(pred, true, systems)

    def label(level: str, name: str) -> str:
        value = result[f"{level}_mos_srcc"]
        text = "undefined" if value is None else f"{value:.3f}"
        return f"{name}, SRCC {text}"

    figure = _figure(5, 5)
    axes = figure.add_subplot()
    name = label("utt", f"{len(pred)} utterances")
    axes.plot(true, pred, "o", label=name, **_UTTERANCES)
    if result["num_systems"]:
        sys_pred, sys_true, _ = system_means(pred, true, systems)
        name = label("sys", f"{len(sys_pred)} systems")
        axes.plot(sys_true, sys_pred, "D", label=name, markersize=7, **_MEANS)
    if same_scale:
        values = np.concatenate([np.asarray(pred, float), np.asarray(true, float)])
        # The usual scale, so that figures compare, and wider where scores leave it.
        limits = min(1.0, values.min()) - 0.1, max(5.0, values.max()) + 0.1
        axes.plot(limits, limits, "-", color="0.6", linewidth=1, zorder=0)
        axes.set(xlim=limits, ylim=limits, aspect="equal")
    labels = {"xlabel": "true MOS", "ylabel": "predicted MOS", "title": title}
    _finish(axes, "upper left", **labels)
    return figure


def residual_figure(
    pred: Sequence[float], true: Sequence[float], title: str = "", num_bins: int = 10
) -> "Figure":
    """Draw the residuals (prediction minus label) over the labels, and a histogram.

    Args:
        pred: Predictions (n,) on the scale of the labels.
        true: Labels (n,).
        title: Title of the figure.
        num_bins: Bins of equally many clips along the scale, each with its mean and 95
            % interval (normal approximation); fewer where one would have under
            ``MINIMUM_UNITS`` clips, and no interval where there are no more in all.
    """
    true = np.asarray(true, float)
    residuals = np.asarray(pred, float) - true
    figure = _figure(7, 4)
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    axes.plot(true, residuals, "o", label=f"{len(true)} utterances", **_UTTERANCES)
    order = np.argsort(true, kind="stable")
    num_bins = max(1, min(num_bins, len(true) // MINIMUM_UNITS))
    bins = np.array_split(order, num_bins)
    centres = [true[b].mean() for b in bins]
    means = [residuals[b].mean() for b in bins]
    errors, name = None, "mean"
    if len(true) >= MINIMUM_UNITS:
        errors = [1.96 * residuals[b].std(ddof=1) / len(b) ** 0.5 for b in bins]
        name = "mean of a bin, 95 % interval"
    axes.errorbar(centres, means, errors, fmt="D-", capsize=3, label=name, **_MEANS)
    # At least half a point wide, or equal residuals would leave no bin.
    middle = (residuals.min() + residuals.max()) / 2
    half = max(0.25, (residuals.max() - residuals.min()) / 2)
    edges = np.linspace(middle - half, middle + half, 31)
    colours = {"color": _UTTERANCES["color"], "edgecolor": "white", "linewidth": 0.3}
    side.hist(residuals, bins=edges, orientation="horizontal", **colours)
    for ax in (axes, side):
        ax.axhline(0, color="0.3", linewidth=1, zorder=0)
    mean, sd = residuals.mean(), residuals.std()
    side.set(xlabel="utterances", title=f"mean {mean:+.2f}\nSD {sd:.2f}")
    _finish(axes, xlabel="true MOS", ylabel="predicted minus true", title=title)
    return figure


def system_figure(
    tables: Mapping[str, Sequence[SystemRow]], title: str = ""
) -> "Figure":
    """Draw labels and predictions of each system in the order of the labels.

    Args:
        tables: Systems as ``system_table`` returns them, by model.
        title: Title of the figure.
    """
    labels = {row.system: row.label for table in tables.values() for row in table}
    series = {"listeners": labels}
    for model, table in tables.items():
        series[model] = {row.system: row.pred for row in table}
    names = sorted(labels, key=lambda name: labels[name].mean)
    figure = _figure(6, 1.2 + 0.28 * len(names))
    axes = figure.add_subplot()
    axes.barh(range(len(names)), [labels[n].mean for n in names], color="0.88")
    ends = [1.0]
    for k, (label, means) in enumerate(series.items()):
        offset = 0.12 * (k - (len(series) - 1) / 2)
        rows = [i + offset for i, name in enumerate(names) if name in means]
        found = [means[name] for name in names if name in means]
        values = [mean.mean for mean in found]
        axes.plot(values, rows, linestyle="", markersize=5, label=label, **_style(k))
        ends += values
        for row, mean in zip(rows, found):
            if mean.interval is not None:
                colour = _style(k)["color"]
                axes.plot(mean.interval, [row, row], color=colour, linewidth=1.2)
                ends += mean.interval
    axes.set_yticks(range(len(names)), names)
    right = max(ends) + 0.05 * (max(ends) - min(ends))
    axes.set(xlim=(min(ends), right), ylim=(-0.7, len(names) - 0.3))
    _finish(axes, "lower right", "x", xlabel="mean score", title=title)
    return figure


def frame_figure(
    speech: Sequence[float],
    sample_rate: int,
    frame_mos: Sequence[float],
    times: Sequence[float],
    utt_mos: float,
    title: str = "",
) -> "Figure":
    """Draw the frame scores under the spectrogram of the utterance.

    Args:
        speech: Waveform (n,) in [-1, 1].
        sample_rate: Hz.
        frame_mos: Frame scores (t,).
        times: Their times (t,), seconds.
        utt_mos: Utterance score, drawn as a line.
        title: Title of the figure.
    """
    speech = np.asarray(speech, float)
    window = min(len(speech), round(0.025 * sample_rate))
    overlap = window - max(1, round(0.01 * sample_rate))
    figure = _figure(8, 4.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    # A floor 100 dB under full scale, else silence is minus infinity.
    floor = 1e-5 * np.sin(np.arange(len(speech)) * np.pi * 0.999)
    options = {"NFFT": window, "Fs": sample_rate, "noverlap": overlap, "cmap": "Greys"}
    image = above.specgram(speech + floor, **options)[3]
    peak = image.get_array().max()
    image.set_clim(peak - 80, peak)
    above.set(ylabel="frequency, Hz", title=title)
    below.plot(times, frame_mos, color=COLOURS[0], label="frame score")
    name = f"utterance score {utt_mos:.2f}"
    below.axhline(utt_mos, color=COLOURS[1], linestyle="--", label=name)
    limits = (0, len(speech) / sample_rate)
    _finish(below, xlabel="time, s", ylabel="MOS", xlim=limits)
    return figure


def training_figure(
    history: Mapping[int, Mapping[str, Mapping[str, float]]],
) -> "Figure":
    """Draw a training: loss and ranks, token accuracy and weight of each layer.

    Args:
        history: Statistics by epoch and phase (``train``, ``valid``), as
            :func:`espnet2_distilmos.train.mos_trainer.read_history` gives them.

    Returns:
        A figure of one to four panels, those that the training has.

    Raises:
        ValueError: There is no epoch.
    """
    if not history:
        raise ValueError("found no epoch, expected a training with one at least")
    epochs = sorted(history)
    keys = sorted({k for e in epochs for k in history[e].get("valid", {})})
    accuracies = [key for key in keys if key.startswith("token_acc_")]
    weights = [key for key in keys if key.startswith("mix_l")]
    # Key in the history and label of each curve, by phase and panel.
    panels = {
        "loss (weighted sum)": [("train", "loss", "train"), ("valid", "loss", "valid")],
        "SRCC of the validation set": [
            ("valid", key, label)
            for key, label in (("utt_srcc", "utterances"), ("sys_srcc", "systems"))
            if key in keys
        ],
        "token accuracy, validation set": [
            ("valid", key, key[len("token_acc_") :]) for key in accuracies
        ],
        "weight in the layer mix": [
            ("valid", key, f"layer {int(key[len('mix_l') :])}") for key in weights
        ],
    }
    panels = {title: curves for title, curves in panels.items() if curves}
    figure = _figure(4.2 * len(panels), 3.8)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, curves) in zip(all_axes, panels.items()):
        for k, (phase, key, label) in enumerate(curves):
            style = {**_style(k), "linestyle": ("-", "--")[k % 2], "markersize": 4}
            if key in accuracies + weights:
                # One hue from light to dark says the order of the layers without a
                # legend of twenty lines; the first and last are named.
                shade = 0.75 - 0.75 * k / max(1, len(curves) - 1)
                style = {"color": (shade, shade, 0.45 + 0.55 * shade)}
                if len(curves) > 6 and 0 < k < len(curves) - 1:
                    label = f"_{label}"
            values = [history[e].get(phase, {}).get(key, np.nan) for e in epochs]
            axes.plot(epochs, values, label=label, **style)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _finish(axes, xlabel="epoch", title=title)
    return figure


def comparison_figure(
    results: Sequence[Mapping[str, Any]], metric: str = "utt_mos_srcc", title: str = ""
) -> "Figure":
    """Draw one metric of several models on several test sets, with intervals.

    Args:
        results: As in results.json: ``model``, ``test_set``, the metric (or None),
            ``intervals`` (metric to (low, up), or absent) and, where a model is the
            mean of several, ``runs`` (metric to the values of the runs), which are
            drawn small beside it.
        metric: Key of the metric.
        title: Title of the figure.

    Returns:
        A figure of a panel a test set, the models in the order of their first row.

    Raises:
        ValueError: No row has the metric.
    """
    rows = [r for r in results if r.get(metric) is not None]
    if not rows:
        raise ValueError(f"found no result with {metric}, expected one at least")
    models = list(dict.fromkeys(r["model"] for r in rows))
    sets = list(dict.fromkeys(r["test_set"] for r in rows))
    figure = _figure(2.2 + 2.6 * len(sets), 1.2 + 0.34 * len(models))
    # One scale, or a small difference on one set looks like a large one on another.
    panels = figure.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0]
    level, _, name = metric.partition("_mos_")
    levels = {"utt": "utterance", "sys": "system"}
    label = f"{levels[level]} {name.upper()}" if level in levels else metric
    for axes, test_set in zip(panels, sets):
        for r in rows:
            if r["test_set"] != test_set:
                continue
            k = models.index(r["model"])
            style = _style(k)
            span = (r.get("intervals") or {}).get(metric)
            if span and None not in span:
                axes.plot(span, [k, k], color=style["color"], linewidth=2)
            axes.plot(r[metric], k, **style)
            runs = [v for v in (r.get("runs") or {}).get(metric, ()) if v is not None]
            if len(runs) > 1:
                small = {"markersize": 3, "color": style["color"], "fillstyle": "none"}
                axes.plot(runs, [k + 0.25] * len(runs), "o", **small)
        _finish(axes, None, "x", xlabel=label, title=test_set)
    panels[0].set_yticks(range(len(models)), models)
    panels[0].set_ylim(len(models) - 0.5, -0.5)
    figure.suptitle(title)
    return figure


def size_figure(
    rows: Sequence[Mapping[str, Any]], label: str = "utterance SRCC", title: str = ""
) -> "Figure":
    """Draw accuracy over the number of parameters, a line for each family.

    Args:
        rows: ``panel``, ``family``, ``parameters`` (above 0) and ``value``.
        label: What the values are.
        title: Title of the figure.

    Returns:
        A figure of a panel each, four in a row, in the order of the rows.

    Raises:
        ValueError: There is no row.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    if not rows:
        raise ValueError("found no model of known size, expected one at least")
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    families = list(dict.fromkeys(row["family"] for row in rows))
    width = min(4, len(panels))
    height = -(-len(panels) // width)
    figure = _figure(3.4 * width + 1.8, 3.2 * height)
    grid = figure.subplots(height, width, sharex=True, squeeze=False).flatten()
    for axes, panel in zip(grid, panels):
        for k, family in enumerate(families):
            points = sorted(
                (row["parameters"], row["value"])
                for row in rows
                if (row["panel"], row["family"]) == (panel, family)
            )
            axes.plot(*zip(*points), label=family, **_style(k)) if points else None
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e6:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        _finish(axes, None, xlabel="parameters, M", ylabel=label, title=panel)
    for axes in grid[len(panels) :]:
        axes.remove()
    handles = {}
    for axes in grid[: len(panels)]:
        handles.update(dict(zip(*reversed(axes.get_legend_handles_labels()))))
    figure.legend(handles.values(), handles, loc="outside right upper")
    figure.suptitle(title)
    return figure
