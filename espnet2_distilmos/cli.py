# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What the command-line tools share: logging, exit codes, options, progress."""

import argparse
import contextlib
import logging
import os
import shlex
import sys
from concurrent.futures import BrokenExecutor
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

import yaml

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.named_models import NAMED_MODELS
from espnet2_distilmos.onnx_predictor import BOX_NAME

if TYPE_CHECKING:
    from espnet2_distilmos.evaluation.report import Scored

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
    except BrokenExecutor:
        print(
            "a process ended without a word, for lack of memory perhaps; with a "
            "smaller --nj run it again: what is done is kept",
            file=sys.stderr,
        )
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
        DataError: There are not as many GPUs.
    """
    # Imports torch, which a help text does not need.
    import torch

    if ngpu == 0:
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < ngpu:
        found = f"{count} CUDA devices were" if count else "no CUDA device was"
        raise DataError(
            f"--ngpu is {ngpu} and {found} found, expected {ngpu}; use --ngpu {count} "
            "or a machine with more GPUs."
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


def add_upstream_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `learn_codebooks` and `dump_tokens` share: the upstream, how it runs."""
    parser.add_argument(
        "--config", help="training configuration (YAML); needed unless --upstreams is"
    )
    parser.add_argument(
        "--upstreams",
        nargs="+",
        default=(),
        help="upstreams that the tokens are of instead, as frontend_conf.upstream of "
        "`frontend: hf` has them; their frames are paired with those of --config's, or "
        "without it with the first one's",
    )
    parser.add_argument(
        "--train_args",
        default="",
        help="options of mos_train that override the configuration; only "
        "--frontend, --frontend_conf and --init_model matter",
    )
    parser.add_argument(
        "--batch_seconds", type=float, default=60, help="padded seconds of a batch"
    )
    parser.add_argument("--ngpu", type=int, default=0, help="0: CPU, 1: one GPU")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace what is there"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `predict` and `serve` share: the model and what lies beside it."""
    parser.add_argument(
        "--model",
        default=os.environ.get("DISTILMOS_MODEL") or BOX_NAME,
        help="experiment directory, model file in one, packed .zip, user/name of the "
        "Hugging Face hub, file of `distilmos export`, a model that the DistilMOS "
        f"authors released, {' or '.join(NAMED_MODELS)}, or {BOX_NAME}, the small one "
        f"that comes with the package (default: $DISTILMOS_MODEL, else {BOX_NAME})",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="of `distilmos calibrate` (default: the one beside the model)",
    )
    parser.add_argument(
        "--scale",
        metavar="scale.json",
        help="give the scores on the scale of another listening test (`distilmos "
        "calibrate --fit-scale`)",
    )


@contextlib.contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Say which packages are missing.

    Args:
        name: Of the extra in setup.py that has those which the block imports.

    Raises:
        DataError: One of them is not there.
    """
    try:
        yield
    except ImportError as error:
        raise DataError(
            f"a package that this needs cannot be imported ({error}), expected those "
            f"of the extra {name}: pip install 'espnet2_distilmos[{name}]'."
        ) from error


def add_scoring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `predict` and `calibrate` share: how files are read and scored."""
    from espnet2_distilmos.abs_predictor import PRECISIONS

    parser.add_argument(
        "--batch-seconds",
        type=float,
        help="padded seconds of a batch (default: 2 on the CPU, else 240)",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="of the upstream; bf16 is two to three times as fast on CPUs that compute "
        "in it (avx512_bf16, amx_bf16), and moves scores a little (default: fp32)",
    )
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
    add_condition_arguments(parser)
    add_knn_arguments(parser)


def load_predictor(args: argparse.Namespace):
    """Load ``args.model`` with the options of ``add_scoring_arguments`` and others."""
    if is_url(args.model):
        return _load_remote(args)
    # Other commands need none.
    from espnet2_distilmos.onnx_predictor import load_predictor as load

    options = predictor_options(args)
    if getattr(args, "ray", None) is None:
        return load(args.model, **options)
    with needs_extra("ray"):
        from espnet2_distilmos.on_ray import RayPredictor

        # The GPUs are the workers'.
        here = load(args.model, **{**options, "device": "cpu"})
        where = args.ray, args.workers, bool(args.frames)
        return RayPredictor(here, args.model, options, *where)


def predictor_options(args: argparse.Namespace) -> Dict[str, Any]:
    """Options of ``load_predictor`` from those of ``add_scoring_arguments``."""
    names = ["device", "channel", "max_seconds", "batch_seconds", "precision"]
    names += [name for name in ("scale", "calibration") if name in args]
    options = {name: getattr(args, name) for name in names}
    options.update(policy_options(args))
    return options


def is_url(model: str) -> bool:
    """Whether a model is one of `distilmos serve`."""
    return model.startswith(("http://", "https://"))


def _load_remote(args: argparse.Namespace):
    """As ``load_predictor``, of a URL.

    Raises:
        DataError: There are options that are the server's.
    """
    parser = argparse.ArgumentParser()
    add_scoring_arguments(parser)
    usual = {**vars(parser.parse_args([])), "scale": None, "calibration": None}
    for name, value in usual.items():
        if name != "jobs" and getattr(args, name, value) != value:
            raise DataError(
                f"--{name.replace('_', '-')} is given for {args.model}, expected it "
                "where `distilmos serve` is started; leave it out here."
            )
    with needs_extra("serve"):
        from espnet2_distilmos.remote import RemoteMOSPredictor

        return RemoteMOSPredictor(args.model)


def add_condition_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of whatever scores or exports with a trained model."""
    parser.add_argument(
        "--corpus",
        metavar="NAME",
        help="score as one of the corpora of a training with corpus_embedding "
        "(default: as the mean over them)",
    )
    parser.add_argument(
        "--listener",
        default="mean",
        metavar="mean|all",
        help="of a training with listener_embedding: score as the mean listener, or "
        "average the scores of all listeners of the training (default: %(default)s)",
    )


def add_knn_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of scores that are blended with labels of similar clips."""
    parser.add_argument(
        "--knn",
        type=int,
        metavar="K",
        help="blend each score with the labels of the K most similar clips of a "
        "datastore (`distilmos calibrate --datastore`)",
    )
    parser.add_argument(
        "--knn-weight",
        "--knn_weight",
        type=float,
        metavar="SHARE",
        help="share of those labels in the score, from 0 to 1 (default: 0.5)",
    )
    parser.add_argument(
        "--knn-datastore",
        "--knn_datastore",
        metavar="FILE",
        help="the datastore (default: the one beside the model)",
    )


def policy_options(args: argparse.Namespace) -> Dict[str, Any]:
    """Options of MOSPredictor from those of ``add_condition_`` and ``add_knn_``."""
    names = ("corpus", "listener", "knn", "knn_weight", "knn_datastore")
    return {name: getattr(args, name) for name in names}


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


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how tables of labels and scores are read: systems, metric, format."""
    # Imported here: other commands need no statistics.
    from espnet2_distilmos.evaluation.formats import FORMATS

    parser.add_argument(
        "--systems",
        metavar="UTT2SYS|REGEX",
        help="file with lines `utt system`, or a regular expression with one group "
        "that finds the system in the id; by default what the files say",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="which metric or column of a file is the score; mos, or the only one, by "
        "default",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        choices=list(FORMATS),
        help=f"format of the files, one of {', '.join(FORMATS)}; their content tells "
        "it by default",
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
    add_table_arguments(parser)
    parser.add_argument(
        "--cluster",
        metavar="UTT2SRC|REGEX",
        help="the same for the sentence or source of each clip: clips of one source "
        "are not independent, so intervals resample the sources",
    )
    parser.add_argument(
        "--reference-metric",
        metavar="NAME",
        help="the same for REFERENCE, where it differs: avg_score takes the labels of "
        "SHEET's results",
    )


def add_bootstrap_arguments(
    parser: argparse.ArgumentParser, num_resamples: Optional[int], default: str
) -> None:
    """Add the options of the resampling; ``default`` describes ``num_resamples``."""
    from espnet2_distilmos.evaluation.bootstrap import RESAMPLES

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
    from espnet2_distilmos.evaluation.formats import read_scores
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
        if not models:
            of_labels = args.reference_metric or args.metric
            labels = read_scores(args.reference, args.format, of_labels)
        files = (args.systems, args.cluster, args.metric, args.reference_metric)
        models[name] = read_scored(
            *(name, test_set, args.reference, path, *files, args.format),
            labels=labels,
        )
    return list(models.values())
