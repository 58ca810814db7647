#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Draw figures of scores, systems, frames, trainings and comparisons."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Callable, Dict, Optional, Sequence

from espnet2_distilmos.bin.mos_scoring import systems_figure
from espnet2_distilmos.bin.results import read_results
from espnet2_distilmos.bin.score import Scored, pairs_of, read_scored, run
from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.evaluation.formats import FORMATS
from espnet2_distilmos.evaluation.systems import system_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = (".pdf", ".png", ".svg")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos plot",
        description="Draw a figure, as .pdf, .png or .svg by the ending of FILE.",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        kind = kinds.add_parser(
            name, help=text.replace("%", "%%"), description=text.replace("%", "%%")
        )
        kind.add_argument(
            "--title", default="", help="title of the figure; none by default"
        )
        kind.add_argument(
            "--output", metavar="FILE", required=True, help="the figure to write"
        )
        return kind

    for name, text in (
        ("scatter", "predicted over true scores, utterances and systems"),
        ("residuals", "what is left of each label, by the label"),
        ("systems", "mean label and prediction of each system, with 95 % intervals"),
    ):
        kind = add(name, text)
        kind.add_argument("reference", metavar="REFERENCE")
        kind.add_argument("predictions", metavar="[NAME=]PREDICTIONS", nargs="+")
        kind.add_argument("--systems", metavar="UTT2SYS|REGEX")
        kind.add_argument("--metric", metavar="NAME")
        kind.add_argument("--reference-metric", metavar="NAME")
        kind.add_argument("--format", metavar="FORMAT", choices=list(FORMATS))
        kind.add_argument("--cluster", metavar="UTT2SRC|REGEX")
    kind = add("frames", "frame scores under the spectrogram of an utterance")
    kind.add_argument("model", metavar="MODEL", help="as for `distilmos predict`")
    kind.add_argument("audio", metavar="AUDIO")
    kind = add("training", "loss, correlation, tokens and layer weights by epoch")
    kind.add_argument("experiment", metavar="EXPERIMENT", help="its directory")
    kind = add("models", "a metric of many models on each test set, with intervals")
    kind.add_argument("results", metavar="RESULTS.JSON", nargs="+")
    kind.add_argument(
        "--metric", default="utt_mos_srcc", help="which metric (utt_mos_srcc)"
    )
    return parser


def _one_model(args: argparse.Namespace) -> Scored:
    models = read_scored(args)
    if len(models) > 1:
        raise DataError(
            f"found {len(models)} files of predictions, expected one for a figure of "
            f"{args.kind}; draw one figure each."
        )
    return models[0]


def _scatter(args: argparse.Namespace) -> "Figure":
    from espnet2_distilmos.evaluation.plots import scatter_figure

    model = _one_model(args)
    args.problems = model.problems
    pairs = pairs_of(model)
    return scatter_figure(pairs["pred"], pairs["true"], pairs["systems"], args.title)


def _residuals(args: argparse.Namespace) -> "Figure":
    from espnet2_distilmos.evaluation.plots import residual_figure

    model = _one_model(args)
    args.problems = model.problems
    return residual_figure(model.joined.prediction, model.joined.reference, args.title)


def _systems(args: argparse.Namespace) -> "Figure":
    models = read_scored(args)
    args.problems = [sentence for model in models for sentence in model.problems]
    first = models[0].joined
    if all(system is None for system in first.systems):
        raise DataError(
            "no utterance has a system, expected some; name them with --systems."
        )
    tables = {}
    for model in models:
        joined = model.joined
        shared = (joined.prediction, joined.reference, joined.systems)
        tables[model.name] = system_table(*shared, model.clusters)
    return systems_figure(tables, args.title)


def _frames(args: argparse.Namespace) -> "Figure":
    from espnet2_distilmos.data.audio import AudioError, read_audio
    from espnet2_distilmos.evaluation.plots import frame_figure
    from espnet2_distilmos.predictor import MOSPredictor

    predictor = MOSPredictor.from_pretrained(args.model)
    rate = predictor.model.frontend.sample_rate
    try:
        speech = read_audio(args.audio, rate)
    except AudioError as error:
        raise DataError(str(error)) from error
    result = predictor(speech, rate)
    title = args.title or os.path.basename(args.audio)
    return frame_figure(speech, rate, result.frames, result.times, result.score, title)


def _training(args: argparse.Namespace) -> "Figure":
    from espnet2_distilmos.evaluation.plots import training_figure
    from espnet2_distilmos.train.mos_trainer import read_history

    return training_figure(read_history(args.experiment))


def _models(args: argparse.Namespace) -> "Figure":
    from espnet2_distilmos.evaluation.plots import comparison_figure

    rows = [row for path in args.results for row in read_results(path)["results"]]
    return comparison_figure(rows, args.metric, args.title)


KINDS: Dict[str, Callable[[argparse.Namespace], "Figure"]] = {
    "scatter": _scatter,
    "residuals": _residuals,
    "systems": _systems,
    "frames": _frames,
    "training": _training,
    "models": _models,
}


def plot(args: argparse.Namespace) -> int:
    """Draw and write a figure.

    Returns:
        0, or 1 where some of the data could not be used.

    Raises:
        DataError: Nothing could be drawn or written.
    """
    ending = os.path.splitext(args.output)[1].lower()
    if ending not in _FORMATS:
        raise DataError(
            f"{args.output} ends in {ending or 'nothing'}, expected one of "
            f"{', '.join(_FORMATS)}; rename the output."
        )
    args.problems = []
    try:
        figure = KINDS[args.kind](args)
    except ImportError as error:
        raise DataError(
            f"the package {error.name} is missing, expected it for figures; run 'pip "
            f"install {error.name}'."
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(str(error)) from error
    with atomic_write(args.output, "wb") as file:
        figure.savefig(file, format=ending[1:], dpi=150)
    for problem in args.problems:
        print(problem, file=sys.stderr)
    print(f"The figure is in {args.output}")
    return 1 if args.problems else 0


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run(plot, get_parser(), cmd)


if __name__ == "__main__":
    sys.exit(main())
