# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the command-line tools that read a wav.scp share; not a command itself."""

import hashlib
import logging
import os
import sys
import urllib.parse
from typing import Callable, Dict

import torch
import yaml
from tqdm import tqdm

from espnet2_distilmos.data.batches import AudioBatches
from espnet2_distilmos.data.datadir import DataError


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


def get_device(ngpu: int) -> torch.device:
    """Return the CPU for 0 and the GPU for more.

    Raises:
        DataError: A GPU is wanted and there is none.
    """
    if ngpu == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DataError(
            f"--ngpu is {ngpu} and no CUDA device was found, expected one; "
            "use --ngpu 0 or a machine with a GPU."
        )
    return torch.device("cuda")


def progress(batches: AudioBatches, name: str) -> tqdm:
    """Show the progress: a bar on a terminal, a line every minute in a log."""
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
