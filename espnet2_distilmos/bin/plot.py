#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Draw figures of scores, systems, frames, trainings and comparisons."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from espnet2_distilmos.cli import add_score_arguments, read_models, run_command
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation import plots, report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENDINGS = (".pdf", ".png", ".svg")
KINDS = {
    "scatter": "predicted over true scores, utterances and systems",
    "residuals": "prediction minus label, over the labels",
    "systems": "mean label and prediction of each system, with 95 % intervals",
    "frames": "frame scores under the spectrogram of an utterance",
    "training": "loss, correlation, tokens and layer weights by epoch",
    "models": "a metric of many models on each test set, with intervals",
}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos plot",
        description="Draw a figure, as .pdf, .png or .svg by the ending of FILE.",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, text in KINDS.items():
        text = text.replace("%", "%%")
        kind = kinds.add_parser(name, help=text, description=text)
        kind.add_argument(
            "--title", default="", help="title of the figure; none by default"
        )
        kind.add_argument(
            "--output", metavar="FILE", required=True, help="the figure to write"
        )
        if name in ("scatter", "residuals", "systems"):
            add_score_arguments(kind)
        elif name == "frames":
            kind.add_argument("model", metavar="MODEL", help="as of distilmos predict")
            kind.add_argument("audio", metavar="AUDIO")
        elif name == "training":
            kind.add_argument("experiment", metavar="EXPERIMENT", help="its directory")
        else:
            kind.add_argument("results", metavar="RESULTS.JSON", nargs="+")
            kind.add_argument(
                "--metric", default="utt_mos_srcc", help="which metric (utt_mos_srcc)"
            )
    return parser


def draw(args: argparse.Namespace) -> Tuple["Figure", List[str]]:
    """Draw the figure; return it with the problems.

    Raises:
        DataError, OSError, ValueError: Nothing can be drawn.
    """
    if args.kind == "frames":
        return _draw_frames(args), []
    if args.kind == "training":
        # Imports torch, which the other figures do not need.
        from espnet2_distilmos.train.mos_trainer import read_history

        return plots.training_figure(read_history(args.experiment)), []
    if args.kind == "models":
        documents = [report.read_results(path) for path in args.results]
        rows = [row for document in documents for row in document["results"]]
        return plots.comparison_figure(rows, args.metric, args.title), []
    models = read_models(args)
    problems = [sentence for model in models for sentence in model.problems]
    first = models[0]
    for model in models:
        if model.two_scales and args.kind != "scatter":
            raise DataError(
                f"{model.prediction}: {model.two_scales}, expected one scale for a "
                f"figure of {args.kind}; draw a scatter plot, or map the predictions "
                "(`distilmos calibrate --fit-scale`, `predict --scale`)."
            )
    if args.kind == "systems":
        if first.systems is None:
            raise DataError(
                "no utterance has a system, expected some; name them with --systems."
            )
        tables = {model.model: report.systems_of_model(model) for model in models}
        return plots.system_figure(tables, args.title), problems
    if len(models) > 1:
        raise DataError(
            f"found {len(models)} files of predictions, expected one for a figure of "
            f"{args.kind}; draw one figure each."
        )
    if args.kind == "residuals":
        return plots.residual_figure(first.pred, first.true, args.title), problems
    data = (first.pred, first.true, first.systems, args.title)
    return plots.scatter_figure(*data, same_scale=not first.two_scales), problems


def _draw_frames(args: argparse.Namespace) -> "Figure":
    from espnet2_distilmos.data.audio import read_audio
    from espnet2_distilmos.onnx_predictor import load_predictor

    predictor = load_predictor(args.model)
    rate = predictor.sample_rate
    speech = read_audio(args.audio, rate)
    result = predictor(speech, rate)
    title = args.title or os.path.basename(args.audio)
    frames = (result.frames, result.times, result.score)
    return plots.frame_figure(speech, rate, *frames, title)


def plot(args: argparse.Namespace) -> List[str]:
    """Draw and write a figure; return the problems."""
    ending = os.path.splitext(args.output)[1].lower()
    if ending not in _ENDINGS:
        raise DataError(
            f"{args.output} ends in {ending or 'nothing'}, expected one of "
            f"{', '.join(_ENDINGS)}; rename the output."
        )
    try:
        figure, problems = draw(args)
    except ImportError as error:
        raise DataError(
            f"the package {error.name} is missing, expected it for figures; run 'pip "
            f"install {error.name}'."
        ) from error
    plots.write_figure(args.output, figure)
    print(f"The figure is in {args.output}")
    return problems


def main(cmd: Optional[Sequence[str]] = None) -> int:
    return run_command(get_parser(), plot, cmd)


if __name__ == "__main__":
    sys.exit(main())
