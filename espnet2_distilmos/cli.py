# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the command-line tools share: logging, exit codes, options, progress."""

import argparse
import hashlib
import io
import logging
import os
import shlex
import sys
import time
import urllib.parse
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Sequence, Tuple

import yaml

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.inputs import InputFile
from espnet2_distilmos.evaluation.bootstrap import RESAMPLES
from espnet2_distilmos.evaluation.formats import FORMATS

if TYPE_CHECKING:
    from espnet2_distilmos.evaluation.report import Scored


def start_logging() -> None:
    """Send the log to stderr, with time and module."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s (%(module)s) %(levelname)s: %(message)s"
    )


def print_failures(failures: Dict[str, str]) -> None:
    """Print a sentence for each failed utterance on stderr."""
    for sentence in failures.values():
        print(sentence, file=sys.stderr)


def run(work: Callable[[], Dict[str, str]], summary: str) -> int:
    """Run a tool and turn what goes wrong into sentences and an exit code.

    Args:
        work: does it all; returns the sentence of each utterance that failed, or
            raises when nothing could be made.
        summary: last line when some failed, after their number.

    Returns:
        0, or 1 when something failed.
    """
    start_logging()
    try:
        failures = work()
    except (ValueError, OSError, yaml.YAMLError) as error:
        # DataError is a ValueError.
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    print_failures(failures)
    if failures:
        print(f"{len(failures)} {summary}", file=sys.stderr)
    return 1 if failures else 0


def get_device(ngpu: int):
    """Return the CPU for 0 and the GPU for more.

    Raises:
        DataError: A GPU is wanted and there is none.
    """
    # Imports torch, which a help text does not need.
    import torch

    if ngpu == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DataError(
            f"--ngpu is {ngpu} and no CUDA device was found, expected one; "
            "use --ngpu 0 or a machine with a GPU."
        )
    return torch.device("cuda")


def progress(batches, name: str):
    """Show the progress: a bar on a terminal, a line every minute in a log."""
    from tqdm import tqdm

    return tqdm(
        batches,
        desc=name,
        total=batches.num_batches,
        mininterval=0.5 if sys.stderr.isatty() else 60,
        unit="batch",
    )


def npy_path(folder: str, utt_id: str) -> str:
    """Return the file of an utterance in ``folder``; any id makes a safe name."""
    name = urllib.parse.quote(os.fsencode(utt_id), safe="")
    if len(name) > 200:
        # File systems take 255 bytes.
        digest = hashlib.sha256(os.fsencode(utt_id)).hexdigest()
        name = f"{name[:160]}-{digest[:32]}"
    return os.path.join(folder, name + ".npy")


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `predict` and `calibrate` share: how files are read and scored."""
    parser.add_argument(
        "--batch-seconds",
        type=float,
        help="padded seconds of a batch (default: 2 on the CPU, else 240)",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    parser.add_argument(
        "--jobs", type=int, default=2, help="decoding threads (default: %(default)s)"
    )
    parser.add_argument(
        "--channel", default="mean", help="mean (default), or one channel, from 0"
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=30.0,
        help="longer files are scored in overlapping windows (default: %(default)s)",
    )
    add_corpus_argument(parser)


def add_corpus_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option of whatever scores or exports with a trained model."""
    parser.add_argument(
        "--corpus",
        metavar="NAME",
        help="score as one of the corpora of a training with corpus_embedding "
        "(default: as the mean over them)",
    )


def one_line(text: str) -> str:
    """A sentence on one line, whatever the names in it."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


class Progress:
    """Rate in times real time and remaining time: a bar, or in a log a line a minute.

    The work is measured in bytes of the files: a header of each would have to be read
    for its seconds.
    """

    LINE_SECONDS = 60.0

    def __init__(self, files: Sequence[InputFile]):
        from tqdm import tqdm

        self.sizes = {}
        for item in files:
            try:
                self.sizes[item.id] = max(os.path.getsize(item.path), 1)
            except (OSError, ValueError):
                self.sizes[item.id] = 1
        self.done = 0
        self.seconds = 0.0
        self.start = self.told = time.monotonic()
        # The bar is for terminals; it counts for the log too.
        self.in_log = not sys.stderr.isatty()
        self.bar = tqdm(
            total=sum(self.sizes.values()),
            bar_format="{percentage:3.0f}%|{bar:20}| {postfix} [{elapsed}<{remaining}]",
            mininterval=0.5,
            smoothing=0.0,
            file=io.StringIO() if self.in_log else sys.stderr,
        )

    def _state(self) -> str:
        elapsed = max(time.monotonic() - self.start, 1e-3)
        rate = self.seconds / elapsed
        return f"{self.done}/{len(self.sizes)} files, {rate:.1f} x real time"

    def add(self, utt_id: str, seconds: Optional[float]) -> None:
        self.done += 1
        self.seconds += seconds or 0.0
        self.bar.set_postfix_str(self._state(), refresh=False)
        self.bar.update(self.sizes[utt_id])
        now = time.monotonic()
        if self.in_log and now - self.told >= self.LINE_SECONDS:
            self.told = now
            left = (now - self.start) * (self.bar.total / max(self.bar.n, 1) - 1)
            left = self.bar.format_interval(left)
            print(f"{self._state()}, {left} left", file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
        if self.in_log and self.done:
            print(self._state(), file=sys.stderr)


def run_command(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], Sequence[str]],
    cmd: Optional[Sequence[str]],
) -> int:
    """Parse a command line and ``run`` what returns a sentence for every problem.

    Args:
        parser: Its ``prog`` is the beginning of ``args.command``, the command as one
            would type it, unless it has a ``--command`` of its own.
        work: Takes the arguments.
        cmd: The arguments; None takes those of the process.
    """
    args = parser.parse_args(cmd)
    if "command" not in args:
        given = sys.argv[1:] if cmd is None else cmd
        args.command = shlex.join([*parser.prog.split(), *given])
    return run(
        lambda: {problem: problem for problem in work(args)},
        "problem(s), see above; the rest was done.",
    )


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `score`, `compare` and `plot` share: files, systems, clusters."""
    parser.add_argument(
        "reference", metavar="REFERENCE", help="labels: file or data directory"
    )
    parser.add_argument(
        "predictions",
        metavar="[NAME=]PREDICTIONS",
        nargs="+",
        help="predictions of a model, named after their file by default",
    )
    parser.add_argument(
        "--systems",
        metavar="UTT2SYS|REGEX",
        help="file with lines `utt system`, or a regular expression with one group "
        "that finds the system in the id; by default what the files say",
    )
    parser.add_argument(
        "--cluster",
        metavar="UTT2SRC|REGEX",
        help="the same for the sentence or source of each clip: clips of one source "
        "are not independent, so intervals resample the sources",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="which metric or column of a file is the score; mos, or the only one, by "
        "default",
    )
    parser.add_argument(
        "--reference-metric",
        metavar="NAME",
        help="the same for REFERENCE, where it differs: avg_score takes the labels of "
        "SHEET's results",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        choices=list(FORMATS),
        help=f"format of the files, one of {', '.join(FORMATS)}; their content tells "
        "it by default",
    )


def add_bootstrap_arguments(
    parser: argparse.ArgumentParser, num_resamples: Optional[int], default: str
) -> None:
    """Add the options of the resampling; ``default`` describes ``num_resamples``."""
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=num_resamples,
        metavar="N",
        help=f"resamples for the 95 %% intervals ({default})",
    )
    parser.add_argument(
        "--resample",
        choices=RESAMPLES,
        default="clusters",
        help="what the bootstrap draws: clusters (or utterances without clusters), "
        "those within each system, or whole systems; it says what an interval is "
        "about, other clips or other systems",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the resampling (0)"
    )


def split_name(text: str) -> Tuple[str, str]:
    """Split ``[NAME=]PATH`` into the two; without a name it is the file's."""
    name, equals, path = text.partition("=")
    if equals and name and "/" not in name:
        return name, path
    return os.path.basename(text.rstrip("/")).partition(".")[0] or text, text


def read_models(
    args: argparse.Namespace, test_set: Optional[str] = None
) -> List["Scored"]:
    """Read labels and predictions of ``add_score_arguments``.

    Raises:
        DataError: A file cannot be read, or two models have one name.
    """
    from espnet2_distilmos.evaluation.report import read_scored

    test_set = test_set or split_name(args.reference)[0]
    models: Dict[str, "Scored"] = {}
    for text in args.predictions:
        name, path = split_name(text)
        if name in models:
            raise DataError(
                f"{models[name].prediction} and {path} have both the name {name}, "
                "expected a name for each model; name them as in NAME=FILE."
            )
        files = (args.systems, args.cluster, args.metric, args.reference_metric)
        models[name] = read_scored(
            name, test_set, args.reference, path, *files, args.format
        )
    return list(models.values())
