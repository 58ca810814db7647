# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Figures of scores, models and trainings. Needs matplotlib, imported on use.

Colours are those of Okabe & Ito, told apart with every kind of colour vision; what
they tell is told by marker, line style or lightness too, for grey print.
"""

from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet2_distilmos.evaluation.metrics import evaluate, system_means

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UTTERANCE_COLOUR = "#56B4E9"
_SYSTEM_COLOUR = "#D55E00"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "D", "s", "^", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")


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

    Returns:
        A matplotlib figure; write it with ``savefig``.
    """
    # Figure instead of pyplot: no window system and no global state
    from matplotlib.figure import Figure

    result = evaluate(pred, true, systems)

    def label(level: str, name: str, count: int) -> str:
        value = result[f"{level}_mos_srcc"]
        text = "undefined" if value is None else f"{value:.3f}"
        return f"{count} {name}, SRCC {text}"

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        true,
        pred,
        "o",
        color=_UTTERANCE_COLOUR,
        alpha=0.5,
        markersize=4,
        markeredgewidth=0,
        label=label("utt", "utterances", len(pred)),
    )
    if result["num_systems"]:
        sys_pred, sys_true, names = system_means(pred, true, systems)
        axes.plot(
            sys_true,
            sys_pred,
            "D",
            color=_SYSTEM_COLOUR,
            markeredgecolor="white",
            markeredgewidth=0.7,
            markersize=7,
            label=label("sys", "systems", len(names)),
        )
    if same_scale:
        values = np.concatenate([np.asarray(pred, float), np.asarray(true, float)])
        # the usual scale, so that figures compare, and wider where scores leave it
        low, high = min(1.0, values.min()) - 0.1, max(5.0, values.max()) + 0.1
        axes.plot([low, high], [low, high], "-", color="0.6", linewidth=1, zorder=0)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel="true MOS", ylabel="predicted MOS", title=title)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.legend(loc="upper left", framealpha=0.9)
    return figure


def residual_figure(
    pred: Sequence[float], true: Sequence[float], title: str = "", num_bins: int = 10
) -> "Figure":
    """Draw what is left of each label: where on the scale a model is too kind.

    Left the residuals (prediction minus label) over the labels, with the mean and
    its 95 % interval (normal approximation) in bins of equally many clips; right
    their histogram.

    Args:
        pred: Predictions (n,) on the scale of the labels.
        true: Labels (n,).
        title: Title of the figure.
        num_bins: Bins along the scale; fewer where a bin would have under 5 clips.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    true = np.asarray(true, float)
    residuals = np.asarray(pred, float) - true
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes, side = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    axes.plot(
        *(true, residuals, "o"),
        color=_UTTERANCE_COLOUR,
        alpha=0.5,
        markersize=4,
        markeredgewidth=0,
        label=f"{len(true)} utterances",
    )
    order = np.argsort(true, kind="stable")
    bins = np.array_split(order, max(1, min(num_bins, len(true) // 5)))
    centres = [true[b].mean() for b in bins]
    means = [residuals[b].mean() for b in bins]
    errors = [
        1.96 * residuals[b].std(ddof=1) / len(b) ** 0.5 if len(b) > 1 else 0
        for b in bins
    ]
    axes.errorbar(
        *(centres, means, errors),
        fmt="D-",
        color=_SYSTEM_COLOUR,
        markeredgecolor="white",
        capsize=3,
        label="mean of a bin, 95 % interval",
    )
    # At least half a point wide, or equal residuals would leave no bin.
    middle = (residuals.min() + residuals.max()) / 2
    half = max(0.25, (residuals.max() - residuals.min()) / 2)
    side.hist(
        residuals,
        bins=30,
        range=(middle - half, middle + half),
        orientation="horizontal",
        color=_UTTERANCE_COLOUR,
        edgecolor="white",
        linewidth=0.3,
    )
    for ax in (axes, side):
        ax.axhline(0, color="0.3", linewidth=1, zorder=0)
    mean, sd = residuals.mean(), residuals.std()
    side.set(xlabel="utterances", title=f"mean {mean:+.2f}\nSD {sd:.2f}")
    axes.set(xlabel="true MOS", ylabel="predicted minus true", title=title)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.legend(loc="best", framealpha=0.9)
    return figure


def system_figure(
    names: Sequence[str],
    means: Mapping[str, Sequence[float]],
    intervals: Mapping[str, Sequence[Optional[Tuple[float, float]]]],
    title: str = "",
) -> "Figure":
    """Draw the systems of a listening test in the order of the first series.

    Args:
        names: Systems (s,).
        means: Mean score of each system by series, such as ``listeners`` and a
            model's name; (s,) each.
        intervals: (low, up) of each mean by series, None where there is none.
        title: Title of the figure.

    Returns:
        A matplotlib figure, taller with more systems.
    """
    from matplotlib.figure import Figure

    first = next(iter(means))
    order = np.argsort(np.asarray(means[first], float), kind="stable")
    rows = np.arange(len(names))
    figure = Figure(figsize=(6, 1.2 + 0.28 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(rows, np.asarray(means[first], float)[order], color="0.88", label="_")
    for k, (series, values) in enumerate(means.items()):
        offset = 0.12 * (k - (len(means) - 1) / 2)
        values = np.asarray(values, float)[order]
        spans = [intervals.get(series, [None] * len(names))[i] for i in order]
        axes.plot(
            *(values, rows + offset),
            linestyle="",
            marker=_MARKERS[k % len(_MARKERS)],
            color=_COLOURS[k % len(_COLOURS)],
            markersize=5,
            label=series,
        )
        for row, span in zip(rows, spans):
            if span is not None:
                axes.plot(
                    *(span, [row + offset] * 2),
                    color=_COLOURS[k % len(_COLOURS)],
                    linewidth=1.2,
                )
    scores = [v for values in means.values() for v in values]
    scores += [v for spans in intervals.values() for s in spans if s for v in s]
    low = min(1.0, min(scores))
    axes.set(
        xlim=(low, max(scores) + 0.05 * (max(scores) - low)),
        ylim=(-0.7, len(names) - 0.3),
        xlabel="mean score",
        title=title,
    )
    axes.set_yticks(rows, [names[i] for i in order])
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", framealpha=0.9)
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

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure

    speech = np.asarray(speech, float)
    window = min(len(speech), round(0.025 * sample_rate))
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _, _, _, image = above.specgram(
        # A floor 100 dB under full scale, else silence is minus infinity.
        speech + 1e-5 * np.sin(np.arange(len(speech)) * np.pi * 0.999),
        NFFT=window,
        Fs=sample_rate,
        noverlap=window - max(1, round(0.01 * sample_rate)),
        cmap="Greys",
    )
    peak = image.get_array().max()
    image.set_clim(peak - 80, peak)
    above.set(ylabel="frequency, Hz", title=title)
    below.plot(times, frame_mos, color=_COLOURS[0], label="frame score")
    below.axhline(
        utt_mos,
        color=_COLOURS[1],
        linestyle="--",
        label=f"utterance score {utt_mos:.2f}",
    )
    below.set(xlabel="time, s", ylabel="MOS", xlim=(0, len(speech) / sample_rate))
    below.grid(color="0.9")
    below.legend(loc="best", framealpha=0.9)
    return figure


def training_figure(
    history: Mapping[int, Mapping[str, Mapping[str, float]]],
) -> "Figure":
    """Draw a training: loss and ranks, token accuracy and weight of each layer.

    Args:
        history: Statistics by epoch and phase (``train``, ``valid``), as
            :func:`espnet2_distilmos.train.mos_trainer.read_history` gives them.

    Returns:
        A matplotlib figure of one to four panels, those that the training has.

    Raises:
        ValueError: There is no epoch.
    """
    from matplotlib.figure import Figure

    if not history:
        raise ValueError("found no epoch, expected a training with one at least")
    epochs = sorted(history)

    def curve(phase: str, key: str):
        return [history[e].get(phase, {}).get(key, np.nan) for e in epochs]

    def keys(phase: str, start: str):
        found = {k for e in epochs for k in history[e].get(phase, {})}
        return sorted(k for k in found if k.startswith(start))

    panels = ["loss"] + [k for k in ("utt_srcc",) if keys("valid", k)]
    panels += [p for p in ("token_acc_", "mix_l") if keys("valid", p)]
    figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
    all_axes = dict(zip(panels, figure.subplots(1, len(panels), squeeze=False)[0]))

    axes = all_axes["loss"]
    for k, phase in enumerate(("train", "valid")):
        axes.plot(
            *(epochs, curve(phase, "loss"), _LINES[k]),
            color=_COLOURS[k],
            marker=_MARKERS[k],
            markersize=4,
            label=phase,
        )
    axes.set(title="loss (weighted sum)")
    for k, (key, label) in enumerate(
        (("utt_srcc", "utterances"), ("sys_srcc", "systems"))
    ):
        if keys("valid", key):
            axes = all_axes["utt_srcc"]
            axes.plot(
                *(epochs, curve("valid", key), _LINES[k]),
                color=_COLOURS[k],
                marker=_MARKERS[k],
                markersize=4,
                label=label,
            )
            axes.set(title="SRCC of the validation set")
    for panel, title in (
        ("token_acc_", "token accuracy, validation set"),
        ("mix_l", "weight in the layer mix"),
    ):
        if panel not in all_axes:
            continue
        axes = all_axes[panel]
        names = keys("valid", panel)
        # One hue from light to dark says the order of the layers without a legend of
        # twenty lines; the first and last are named.
        for k, key in enumerate(names):
            shade = 0.75 - 0.75 * k / max(1, len(names) - 1)
            ends = k in (0, len(names) - 1)
            axes.plot(
                *(epochs, curve("valid", key)),
                color=(shade, shade, 0.45 + 0.55 * shade),
                linewidth=1.5,
                label=(
                    key[len(panel) :] if panel != "mix_l" else f"layer {int(key[5:])}"
                ),
            )
            if ends or len(names) <= 6:
                continue
            axes.lines[-1].set_label("_" + axes.lines[-1].get_label())
        axes.set(title=title)
    for axes in all_axes.values():
        axes.set(xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.legend(loc="best", framealpha=0.9, fontsize="small")
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
        A matplotlib figure, one panel a test set, the models in the order of their
        first row.

    Raises:
        ValueError: No row has the metric.
    """
    from matplotlib.figure import Figure

    rows = [r for r in results if r.get(metric) is not None]
    if not rows:
        raise ValueError(f"found no result with {metric}, expected one at least")
    models = list(dict.fromkeys(r["model"] for r in rows))
    sets = list(dict.fromkeys(r["test_set"] for r in rows))
    figure = Figure(
        figsize=(2.2 + 2.6 * len(sets), 1.2 + 0.34 * len(models)), layout="constrained"
    )
    # One scale, or a small difference on one set looks like a large one on another.
    all_axes = figure.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0]
    for axes, test_set in zip(all_axes, sets):
        for r in rows:
            if r["test_set"] != test_set:
                continue
            k = models.index(r["model"])
            colour = _COLOURS[k % len(_COLOURS)]
            span = (r.get("intervals") or {}).get(metric)
            if span and None not in span:
                axes.plot(span, [k, k], color=colour, linewidth=2)
            axes.plot(r[metric], k, marker=_MARKERS[k % len(_MARKERS)], color=colour)
            runs = [v for v in (r.get("runs") or {}).get(metric, ()) if v is not None]
            if len(runs) > 1:
                axes.plot(
                    *(runs, [k + 0.25] * len(runs), "o"),
                    markersize=3,
                    color=colour,
                    fillstyle="none",
                )
        axes.set(xlabel=_metric_name(metric), title=test_set)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    all_axes[0].set_yticks(range(len(models)), models)
    all_axes[0].set_ylim(len(models) - 0.5, -0.5)
    figure.suptitle(title)
    return figure


def _metric_name(metric: str) -> str:
    levels: Dict[str, str] = {"utt": "utterance", "sys": "system"}
    level, _, rest = metric.partition("_mos_")
    return f"{levels.get(level, level)} {rest.upper()}" if rest else metric
