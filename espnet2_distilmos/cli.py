# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the command-line tools share: logging, exit codes, options, progress."""

import argparse
import hashlib
import io
import logging
import os
import sys
import time
import urllib.parse
from typing import Callable, Dict, Optional, Sequence

import yaml

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.inputs import InputFile


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
        # DataError and CodebookError are ValueErrors.
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
