#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Plot loss and accuracy of masked frames over the epochs of each iteration."""

import argparse
import sys
from typing import Dict, List

from espnet2_distilmos.cli import call
from espnet2_distilmos.data.datadir import atomic_write
from espnet2_distilmos.train.mos_trainer import read_history


def curve(history: Dict, phase: str, prefix: str) -> Dict[int, float]:
    """Return the statistic whose name begins with ``prefix``, by epoch."""
    points = {}
    for epoch, phases in sorted(history.items()):
        for name, value in phases.get(phase, {}).items():
            if name.startswith(prefix):
                points[epoch] = value
    return points


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="+", metavar="EXPERIMENT")
    parser.add_argument("--output", required=True, help="PNG file")
    args = parser.parse_args()
    return call(lambda: plot(args.experiments, args.output))


def plot(experiments: List[str], output: str) -> int:
    """Draw cross-entropy and token accuracy of trainings by epoch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    histories = [read_history(folder) for folder in experiments]
    figure, axes = pyplot.subplots(1, 2, figsize=(7, 2.8))
    titles = {"masked_token_ce": "cross-entropy, nats", "masked_token_acc": "accuracy"}
    for axis, (prefix, title) in zip(axes, titles.items()):
        for n, history in enumerate(histories):
            for phase, style in (("train", "--"), ("valid", "-")):
                points = curve(history, phase, prefix)
                label = f"iteration {n + 1}, {phase}"
                axis.plot(*zip(*points.items()), style, color=f"C{n}", label=label)
        axis.set_title(f"masked frames: {title}", fontsize=9)
        axis.set_xlabel("epoch", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    with atomic_write(output, "wb") as file:
        figure.savefig(file, dpi=90, format="png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
