# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the command-line tools share: logging, exit codes, options, progress."""

import argparse
import logging
import os
import sys
from typing import Callable, Dict, Iterable, Iterator, Optional, TypeVar

import yaml

from espnet2_distilmos.data.datadir import DataError

_Item = TypeVar("_Item")
# Seconds between two lines of progress in a log.
_LOG_SECONDS = 60


def start_logging() -> None:
    """Send the log to stderr, with time and module."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s (%(module)s) %(levelname)s: %(message)s"
    )


def print_failures(failures: Dict[str, str]) -> None:
    """Print a sentence for each failed utterance on stderr."""
    for sentence in failures.values():
        print(one_line(sentence), file=sys.stderr)


def one_line(text: str) -> str:
    """A sentence on one line, whatever the names in it."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def call(work: Callable[[], int]) -> int:
    """Run a command and turn what goes wrong into a line on stderr and exit code 1.

    Args:
        work: does it all and returns the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # Names of files need not be text.
            stream.reconfigure(errors="backslashreplace")
    try:
        return work()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output has left; nothing is to be flushed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, yaml.YAMLError) as error:
        # DataError, AudioError and CodebookError are ValueErrors.
        print(one_line(" ".join(str(error).split())), file=sys.stderr)
        return 1


def run(work: Callable[[], Dict[str, str]], summary: str) -> int:
    """Run a tool of the recipe: as :func:`call`, with a log and a list of failures.

    Args:
        work: does it all; returns the sentence of each utterance that failed, or
            raises when nothing could be made.
        summary: last line when some failed, after their number.

    Returns:
        0, or 1 when something failed.
    """

    def work_and_report() -> int:
        failures = work()
        print_failures(failures)
        if failures:
            print(f"{len(failures)} {summary}", file=sys.stderr)
        return 1 if failures else 0

    start_logging()
    return call(work_and_report)


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


class _Log:
    """Standard error for tqdm where it is no terminal: a line for each state."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()


def progress(
    items: Iterable[_Item], name: str, total: Optional[int] = None, unit: str = "batch"
) -> Iterator[_Item]:
    """Show the progress: a bar on a terminal, a line every minute in a log.

    Args:
        items: what to iterate over.
        name: of the work.
        total: number of items; None for ``len(items)``.
        unit: what an item is.
    """
    from tqdm import tqdm

    options = {"file": _Log(), "mininterval": _LOG_SECONDS, "miniters": 1}
    if sys.stderr.isatty():
        options = {"mininterval": 0.5}
    return tqdm(items, desc=name, total=total, unit=unit, smoothing=0.0, **options)


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
