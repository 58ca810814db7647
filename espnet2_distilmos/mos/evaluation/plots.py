# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Figures of predicted against true MOS. Needs matplotlib, imported on use."""

from typing import TYPE_CHECKING, Optional, Sequence

import numpy as np

from espnet2_distilmos.mos.evaluation.metrics import evaluate, system_means

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and vermilion of Okabe & Ito: told apart with every kind of colour vision,
# and by marker shape and lightness in grey print.
_UTTERANCE_COLOUR = "#56B4E9"
_SYSTEM_COLOUR = "#D55E00"


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
