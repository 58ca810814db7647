# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Files scored by many processes and machines, on Ray Data.

Nothing of Ray is imported with this module.
"""

import contextlib
import json
import logging
import math
import os
import warnings
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional

import numpy as np

from espnet2_distilmos.abs_predictor import FileResult
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.onnx_predictor import load_predictor
from espnet2_distilmos.remote import to_result
from espnet2_distilmos.service import to_row

# Files of a block, which is what a worker that dies costs; fewer where there are few,
# so that each worker has several and none waits long for the last.
_MOST_IN_BLOCK, _BLOCKS_PER_WORKER = 500, 8
# A block that ended so many workers is given up.
_TRIES = 3


class RayPredictor:
    """A predictor whose files are scored on a Ray cluster.

    What is scored are paths: they, and the model, are to be the same on all machines.
    All but :meth:`predict_files` is the predictor's here.

    Args:
        predictor: the model here.
        model: the same, as `predict --model` takes it, for the workers.
        options: of ``load_predictor``, for the workers; with the device ``cuda`` each
            takes one GPU.
        address: of a cluster (``auto``, ``host:6379``, ``ray://host:10001``), or
            ``local`` for processes of this machine.
        workers: how many processes, each with a model; None for as many as there are
            GPUs, or CPUs.
        frames: give frame scores and their times, which else are None.

    Raises:
        ImportError: Ray is not there.
    """

    def __init__(
        self,
        predictor,
        model: str,
        options: Mapping[str, Any],
        address: str,
        workers: Optional[int] = None,
        frames: bool = True,
    ):
        # It would tell its makers that it runs.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # It would warn of what it does itself.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        import ray.data  # noqa: F401  (needs more packages than Ray)

        self._predictor = predictor
        self._model = _absolute(model)
        self._options = {name: _absolute(value) for name, value in options.items()}
        self._num_gpus = int(str(options["device"]) != "cpu")
        self._address, self._workers = address, workers
        self._frames = frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    @contextlib.contextmanager
    def _cluster(self) -> Iterator[int]:
        """Be in the cluster; gives how many workers there are to be.

        Raises:
            DataError: there is none, or no GPU in it.
        """
        import ray

        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        try:
            if self._address == "local":
                ray.init(num_cpus=self._workers, include_dashboard=False, **quiet)
            else:
                ray.init(address=self._address, **quiet)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"--ray {self._address} cannot be reached ({reason}), expected auto, "
                "HOST:PORT or local; start a cluster with `ray start`."
            ) from error
        try:
            found = ray.cluster_resources()
            most = int(found.get("GPU" if self._num_gpus else "CPU", 0))
            if most == 0:
                raise DataError(
                    f"--ray {self._address} has no GPU, expected some for --device "
                    f"{self._options['device']}; leave that out, or add machines."
                )
            yield min(self._workers or most, most)
        finally:
            ray.shutdown()

    def predict_files(
        self, paths: Iterable[str], num_threads: int = 2, in_order: bool = True
    ) -> Iterator[FileResult]:
        """Score files; see ``MOSPredictor``.

        A worker that dies is started again, and its block with it. The files of a block
        that ends every worker get a sentence.

        Args:
            paths: audio files, on all machines.
            num_threads: decoding threads of each worker.
            in_order: give the results in the order of ``paths``; else a block as soon
                as it is there.

        Yields:
            A result a path.

        Raises:
            DataError: there is no such cluster, its workers cannot load the model, or
                it is gone.
        """
        import ray

        paths = list(paths)
        if not paths:
            return
        waiting: Dict[int, FileResult] = {}
        following = 0
        left = dict(enumerate(paths))
        with self._cluster() as num_workers:
            is_done = False
            while left and not is_done:
                before = len(left)
                try:
                    for row in self._rows(left, num_workers, num_threads):
                        index = row["index"]
                        path = left.pop(index)
                        error = row["error"].replace(_absolute(path, True), path)
                        result = None if error else to_result(row, self.confidence)
                        waiting[index] = FileResult(index, path, result, error)
                        if not in_order:
                            yield waiting.pop(index)
                        while following in waiting:
                            yield waiting.pop(following)
                            following += 1
                    is_done = True
                except ray.exceptions.RayError as error:
                    # A worker that Ray gives up ends the whole: what is left is given
                    # out again, as long as there is progress.
                    if len(left) < before:
                        continue
                    reason = str(error).strip().splitlines()[-1][:300]
                    raise DataError(
                        f"--ray {self._address} ended with {len(left)} of {len(paths)} "
                        f"files left ({reason}), expected workers that can load "
                        f"{self._model}; see Ray's log, or score without --ray."
                    ) from error
        for index, path in left.items():
            error = (
                f"{path} was given to {_TRIES} workers, with others, and each died, "
                "expected a score; try it without --ray, or with fewer --workers for "
                "more memory."
            )
            waiting[index] = FileResult(index, path, None, error)
        for index in sorted(waiting):
            yield waiting[index]

    def _rows(
        self, paths: Mapping[int, str], num_workers: int, num_threads: int
    ) -> Iterator[Dict[str, Any]]:
        """What the workers say of each file, in no order."""
        import ray

        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # A block that is given up does not end the others.
        context.max_errored_blocks = -1
        # Arrow knows no strings but UTF-8, which names of files need not be.
        items = [
            {"index": index, "path": os.fsencode(_absolute(path, True))}
            for index, path in paths.items()
        ]
        num_blocks = max(
            math.ceil(len(paths) / _MOST_IN_BLOCK),
            min(num_workers * _BLOCKS_PER_WORKER, len(paths)),
        )
        with warnings.catch_warnings():
            # max_task_retries has no other way in yet.
            warnings.simplefilter("ignore")
            rows = ray.data.from_items(items, override_num_blocks=num_blocks)
            rows = rows.map_batches(
                _Worker,
                batch_size=None,
                fn_constructor_kwargs={
                    "model": self._model,
                    "options": self._options,
                    "fingerprint": self.fingerprint,
                    "num_threads": num_threads,
                    "frames": self._frames,
                },
                compute=ray.data.ActorPoolStrategy(size=num_workers),
                num_cpus=1,
                num_gpus=self._num_gpus,
                max_restarts=-1,
                max_task_retries=_TRIES - 1,
            )
        for batch in rows.iter_batches(batch_size=None, prefetch_batches=0):
            for row in batch["row"]:
                yield json.loads(row)


def _absolute(value: Any, is_path: bool = False) -> Any:
    """What names a file here for workers in another directory."""
    if isinstance(value, str) and (is_path or os.path.exists(value)):
        return os.path.abspath(value)
    return value


class _Worker:
    """A model in a process of its own."""

    def __init__(
        self,
        model: str,
        options: Dict[str, Any],
        fingerprint: str,
        num_threads: int,
        frames: bool,
    ):
        self._predictor = load_predictor(model, **options)
        self._num_threads = num_threads
        self._wanted = {"interval": None, "frames": frames, "embedding": False}
        if self._predictor.fingerprint != fingerprint:
            raise ValueError(
                f"{model} is the scorer {self._predictor.fingerprint} here and "
                f"{fingerprint} there, expected one; copy the model to all machines."
            )

    def __call__(self, batch: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        paths = [os.fsdecode(path) for path in batch["path"]]
        rows = []
        for found in self._predictor.predict_files(paths, self._num_threads):
            row: Dict[str, Any] = {"error": found.error}
            if found.result is not None:
                row = to_row("", found.result, self._wanted)
            row["index"] = int(batch["index"][found.index])
            rows.append(json.dumps(row).encode())
        return {"row": np.array(rows, dtype=object)}
