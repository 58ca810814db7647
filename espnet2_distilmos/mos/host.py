# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The settings under which a model is loaded and scores in somebody else's program."""

import contextlib
import os
import threading
import warnings
from operator import attrgetter
from typing import Any, Callable, Iterator, Tuple

import numpy as np
import torch

# How float32 is multiplied, by kind of operation, as torch starts; "none" is full.
_PRECISIONS = {
    "cuda.matmul": "ieee",
    "cudnn.conv": "tf32",
    "cudnn.rnn": "tf32",
    "mkldnn.matmul": "ieee",
    "mkldnn.conv": "ieee",
    "mkldnn.rnn": "ieee",
}


def _precision(name: str, own: str) -> Tuple[Callable, Callable, Any]:
    kind = attrgetter(name)(torch.backends)

    def read() -> str:
        found = kind.fp32_precision
        return own if (found, own) == ("none", "ieee") else found

    def write(value: str) -> None:
        # What it inherits is not to become its own.
        kind.fp32_precision = "none"
        if kind.fp32_precision != value:
            kind.fp32_precision = value

    return read, write, own


# How to read and write what torch keeps per process, and the value here.
_SETTINGS = [(torch.get_default_dtype, torch.set_default_dtype, torch.float32)]
if hasattr(torch.backends, "fp32_precision"):
    _SETTINGS += [_precision(*item) for item in _PRECISIONS.items()]
else:  # before torch 2.9
    _cudnn = torch.backends.cudnn
    _SETTINGS += [
        (
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
            "highest",
        ),
        (
            lambda: _cudnn.allow_tf32,
            lambda value: setattr(_cudnn, "allow_tf32", value),
            True,
        ),
    ]


class _ProcessSettings:
    """What is kept per process: changed when the first thread enters, if at all.

    The last one to leave restores it, whatever the order in between.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._users = 0
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._set()
            self._users += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore.close()

    def _set(self) -> None:
        if any(action == "error" for action, *_ in warnings.filters):
            # A library's warning is no reason for having no score.
            self._restore.enter_context(warnings.catch_warnings())
            warnings.simplefilter("default")
        for read, write, own in _SETTINGS:
            found = read()
            if found != own:
                write(own)
                self._restore.callback(write, found)

    def after_fork(self) -> None:
        """In a forked child, which has none of the threads that were inside."""
        self._restore.close()
        self.__init__()


_process_settings = _ProcessSettings()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_process_settings.after_fork)


@contextlib.contextmanager
def own_settings(device: torch.device, grad: bool) -> Iterator[None]:
    """Compute as in a program that has set nothing; then all is as it was.

    A result does not depend on the caller's default dtype and device, autocast, mode of
    gradients (``no_grad``, ``inference_mode``), precision of float32 products (TF32,
    bfloat16), NumPy's ``errstate``, or on warnings that are errors. The first and the
    last but one of these torch and Python keep per process: other threads of a program
    that has changed them meet the usual values meanwhile.

    Not shielded is what moves the last digits only (about 1e-6 of a score): the number
    of threads, the choice of kernels (``torch.backends.mkldnn.enabled``,
    ``cudnn.benchmark``, ``sdpa_kernel``, deterministic algorithms) and
    ``torch.set_flush_denormal``.

    Args:
        device: what the model is on.
        grad: compute what can be differentiated; else in inference mode.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_process_settings)
        stack.enter_context(np.errstate(all="ignore"))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(not grad))
        stack.enter_context(torch.set_grad_enabled(grad))
        yield
