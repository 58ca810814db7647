# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""MOS of waveforms and files with a trained model."""

import io
import itertools
import logging
import os
import threading
from functools import cached_property
from typing import (
    Any,
    ContextManager,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np
import torch

from espnet2_distilmos.abs_predictor import (
    INTEGERS,
    AbsMOSPredictor,
    FileResult,
    MOSResult,
    Scored,
    check_precision,
    check_shape,
    check_type,
    checked_channels,
    checked_rate,
    digest,
    resample,
)
from espnet2_distilmos.data.audio import (
    Channel,
    check_has_channel,
    check_length,
    check_samples,
)
from espnet2_distilmos.mos.checkpoint import (
    load_model,
    open_trained_model,
    restore_model,
)
from espnet2_distilmos.mos.host import own_settings
from espnet2_distilmos.onnx_predictor import is_exported, load_predictor

__all__ = ["FileResult", "MOSPredictor", "MOSResult"]

Wave = Union[np.ndarray, torch.Tensor]

# Padded seconds of a batch. On the CPU only very short clips gain by company: a batch
# of one needs no mask (tools/benchmark_predict.py).
_BATCH_SECONDS, _BATCH_SECONDS_ON_GPU = 2.0, 240.0
# Less than any utterance is long.
_ONE_AT_A_TIME = 1e-6
# Values of each tensor that make the model's fingerprint.
_FINGERPRINT_VALUES = 256


class MOSPredictor(AbsMOSPredictor):
    """A trained model that scores waveforms and files.

    Policies, all deterministic:

    * *level*: the waveform is not scaled; beyond what the upstream's own normalisation
      takes out, the score depends on the level. Samples beyond full scale are clipped.
    * *silence*: none is cut off. Digital silence is scored, with a note.
    * *rate*: any; resampled with soxr (VHQ), whether from a file or from memory.
    * *channels*: averaged, or one is taken.
    * *long*: up to ``max_seconds`` (and the upstream's own limit) the utterance is
      scored whole. A longer one is cut into windows of 20 s that overlap by half (of
      less where the limit is less), the last one ending with the utterance; the frame
      scores are blended linearly in the overlaps, and their mean is the score, as it
      is for a whole utterance. The result has a note. Heads whose utterance score is
      not the mean of the frame scores have their difference to it averaged over the
      windows.
    * *scale*: with one, score and frame scores are mapped to it. (A monotone one is
      not linear: the mean of the frame scores is then not quite the score.)
    * *neighbours*: with ``knn``, the score is (1 - w) times the model's plus w times
      the mean of the labels of the ``knn`` clips of a datastore whose embeddings are
      nearest, weighted (:mod:`~espnet2_distilmos.evaluation.neighbours`). Frame scores
      stay the model's, so that their mean is not the score. A long utterance has one
      embedding, the mean over its windows by their share, and is looked up once.
    * *batch*: the score is the same alone and in any batch (to 1e-4), as the frontends
      are padding-exact.

    In somebody else's program:

    * *settings*: a score does not depend on what the caller has set of torch, NumPy and
      warnings, and all is as it was afterwards; what cannot be shielded moves the last
      digits only (:func:`~espnet2_distilmos.mos.host.own_settings`). A backward pass
      through a score is the caller's, under the caller's settings.
    * *training*: ``train()`` and ``requires_grad_()`` of a module that holds ``model``
      change nothing here. Weights that were moved or cast are refused.
    * *files*: on the CPU the weights stay mapped to the model's file, of which
      processes share the memory. It may be removed or replaced (written beside and
      renamed) meanwhile; where it could be written into, call :meth:`own_weights`.
    * *threads*: one predictor may be called from several; they take turns.
    * *processes*: a predictor can be copied and pickled, for spawned ones too; the copy
      is loaded anew from the configuration and the weights. (Upstreams of s3prl need
      their own files for that: unpack a .zip first.) Forked children can score on the
      CPU, with one thread: torch's other threads are not forked, and it would wait for
      them for ever. ``torch.set_num_threads(1)`` is done there on the first score; call
      it before anything else of torch. For more threads, or a GPU, load the model in
      the child or start processes by spawn.

    Args:
        train_config: the experiment's ``config.yaml``.
        model_file: the weights.
        device: such as ``cpu``, ``cuda``, ``cuda:1``.
        channel: ``mean`` of all channels, or the number of one, from 0.
        max_seconds: longest utterance that is scored whole.
        batch_seconds: limit on the padded size of a batch; None for 2 on the CPU and
            240 elsewhere.
        scale: a ``scale.json`` of ``distilmos calibrate --fit-scale``, or its content:
            scores are given on the scale of another listening test.
        calibration: a file of ``distilmos calibrate``; None for the one beside
            ``train_config``, if it is there and of this model.
        corpus: which of the corpora of a training with ``corpus_embedding`` to score
            as; None for the mean over them.
        listener: of a training with ``listener_embedding``, ``mean`` to score as the
            mean listener, or ``all`` for the mean over all listeners of the training.
        knn: how many neighbours; None for the model's own score.
        knn_weight: w, the neighbours' share of the score, in [0, 1]; None for 0.5.
        knn_datastore: a file of ``distilmos calibrate --datastore``; None for the one
            beside ``train_config``.
        precision: of the upstream, ``fp32`` or ``bf16`` (autocast; the head stays in
            fp32). With bf16, utterances are computed one at a time: rounding would
            depend on the batch.

    Raises:
        ValueError: for a model that cannot be loaded, an impossible option, or a scale,
            calibration or datastore of another model.
        OSError: when a file cannot be opened.
    """

    _arrays = torch
    _from_numpy = staticmethod(torch.from_numpy)
    _single = staticmethod(torch.Tensor.float)

    def __init__(
        self,
        train_config: str,
        model_file: str,
        device: str = "cpu",
        channel: Channel = "mean",
        max_seconds: float = 30.0,
        batch_seconds: Optional[float] = None,
        scale: Union[str, Mapping[str, Any], None] = None,
        calibration: Optional[str] = None,
        corpus: Optional[str] = None,
        listener: str = "mean",
        knn: Optional[int] = None,
        knn_weight: Optional[float] = None,
        knn_datastore: Optional[str] = None,
        precision: str = "fp32",
    ):
        self.device = _device(device)
        self.precision = check_precision(precision)
        if precision == "bf16":
            batch_seconds = _ONE_AT_A_TIME
            if self.device.type == "cpu" and not _cpu_computes_bf16():
                logging.warning(
                    "precision=bf16: this CPU has no instructions for bfloat16 "
                    "(avx512_bf16, amx_bf16) and takes many times as long as with fp32"
                )
        if batch_seconds is None:
            on_cpu = self.device.type == "cpu"
            batch_seconds = _BATCH_SECONDS if on_cpu else _BATCH_SECONDS_ON_GPU
        with own_settings(self.device, grad=True):
            files = train_config, model_file
            self.model, self.config = load_model(*files, str(self.device))
        self.model.set_corpus(corpus)
        self.model.set_listener(listener)
        self._settle()
        frontend = self.model.frontend
        self.sample_rate = frontend.sample_rate
        self.minimum_samples = frontend.minimum_samples
        self.frame_shift = frontend.frame_shift * self.model.head.frame_stride
        self.frame_centre = frontend.frame_centre
        self.score_range = self.config.get("score_range")
        self._start_process()
        self._set_policies(
            os.path.dirname(train_config),
            channel,
            max_seconds,
            frontend.maximum_samples,
            batch_seconds,
            scale,
            calibration,
            knn,
            knn_weight,
            knn_datastore,
        )

    def _start_process(self) -> None:
        """Be of this process."""
        self._pid = os.getpid()
        # By process: a fork may copy a lock that a thread of the parent holds.
        self._turns: Dict[int, threading.Lock] = {}

    def __getstate__(self) -> Dict[str, Any]:
        """All but the network, which need not be picklable, and its weights."""
        weights = io.BytesIO()
        torch.save(self.model.state_dict(), weights)
        state = {k: v for k, v in self.__dict__.items() if k not in ("model", "_turns")}
        chosen = {"corpus": self.model.corpus, "listener": self.model.listener}
        return {**state, "chosen": chosen, "weights": weights.getvalue()}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        chosen, weights = state.pop("chosen"), io.BytesIO(state.pop("weights"))
        self.__dict__.update(state)
        self._start_process()
        device = str(_device(self.device))
        with own_settings(self.device, grad=True):
            states = torch.load(weights, map_location="cpu", weights_only=True)
            self.model = restore_model(self.config, states, "a pickled model", device)
        self.model.set_corpus(chosen["corpus"])
        self.model.set_listener(chosen["listener"])
        self._settle()

    def own_weights(self) -> None:
        for tensor in itertools.chain(self.model.parameters(), self.model.buffers()):
            tensor.data = tensor.data.clone()

    @classmethod
    def from_pretrained(
        cls, model: Optional[str] = None, **options: Any
    ) -> AbsMOSPredictor:
        """Load a trained model.

        Args:
            model: an experiment directory (its best model by the first criterion of
                training), a model file in one, a packed .zip, a ``user/name`` of the
                Hugging Face hub, or ``distilmos-wavlm`` or ``distilmos-w2v2``, which
                the DistilMOS authors released (both need a network at the first use).
                A file of ``distilmos export``, or None for the scorer in the box, gives
                an :class:`~espnet2_distilmos.onnx_predictor.ONNXPredictor`.
            options: as of the constructor, from ``device`` on.

        Raises:
            ValueError, OSError: as the constructor, and when there is no such model.
        """
        if is_exported(model):
            return load_predictor(model, **options)
        with open_trained_model(os.fspath(model)) as (train_config, model_file):
            return cls(train_config, model_file, **options)

    @cached_property
    def fingerprint(self) -> str:
        """Identify what scores: the network, its weights, and the policies.

        12 hexadecimal digits. Device and batch size are not part of it.
        """
        parts = {**self._network(), **self._policies()}
        if self.precision != "fp32":
            parts["precision"] = self.precision
        return digest(parts, _float32(self.model.state_dict()))

    @cached_property
    def model_fingerprint(self) -> str:
        """Identify the network and its weights in milliseconds, for datastores.

        12 hexadecimal digits. Some evenly spaced values of each large tensor are looked
        at: training changes all of them.
        """
        samples = {}
        for key, value in self.model.state_dict().items():
            values = value.reshape(-1)
            values = values[:: max(1, len(values) // _FINGERPRINT_VALUES)]
            samples[f"{key} {tuple(value.shape)}"] = values
        return digest(self._network(), _float32(samples))

    def _network(self) -> Dict[str, Any]:
        """The network's configuration; packing takes the directories out of names."""
        network = {
            key: _without_directories(self.config.get(key))
            for key in ("frontend", "frontend_conf", "head", "head_conf")
        }
        if self.model.corpus is not None:
            network["corpus"] = self.model.corpus
        if self.model.listener != "mean":
            network["listener"] = self.model.listener
        return network

    def _own_settings(self, grad: bool) -> ContextManager[None]:
        """What everything is computed under, in the predictor's process or a child.

        Raises:
            ValueError: the process is a forked child, and the model is on a GPU.
        """
        if self._pid != os.getpid():
            if self.device.type != "cpu":
                raise ValueError(
                    f"found a forked process with a model on {self.device}, expected "
                    "one that was spawned, or a model that was loaded in it; use "
                    "multiprocessing.get_context('spawn')"
                )
            if torch.get_num_threads() != 1:
                # The others were not forked, and would be waited for.
                torch.set_num_threads(1)
        return own_settings(self.device, grad)

    def _token_columns(self, are_wanted: bool) -> Dict[int, str]:
        """Numbers and ids of the token predictors to be asked."""
        columns = {i: column.id for i, column in enumerate(self.model.token_columns)}
        if are_wanted and not columns:
            raise ValueError(
                "found no token predictors in this model, expected some for "
                "token_posteriors; train with tokens (stage 5), or leave that out"
            )
        return columns if are_wanted else {}

    def _prepare(self, wave: Wave, fs: int, name: str, grad: bool) -> torch.Tensor:
        """Mono float32 at the model's rate and on its device, (N,), checked."""
        fs = checked_rate(fs, name)
        channels = _checked_channels(wave, name)
        channels = channels if grad else channels.detach()
        check_has_channel(self.channel, len(channels), name)
        wave = channels.mean(0) if self.channel == "mean" else channels[self.channel]
        if len(wave):
            check_samples(wave.detach().cpu().numpy(), name)
            if fs != self.sample_rate:
                wave = _Resample.apply(wave, fs, float(self.sample_rate))
        check_length(len(wave), self.minimum_samples, self.sample_rate, name)
        return wave.clamp(-1.0, 1.0).to(self.device)

    # The core that everything goes through

    def _forward(
        self, waves: Sequence[torch.Tensor], columns: Mapping[int, str], grad: bool
    ) -> List[Scored]:
        """Waveforms (n,) to scores; the tensors are on the CPU but with ``grad``."""
        lengths = torch.tensor([len(wave) for wave in waves])
        speech = torch.nn.utils.rnn.pad_sequence(list(waves), batch_first=True)
        # Frontends keep the lengths of the batch at hand: one batch at a time.
        turn = self._turns.setdefault(os.getpid(), threading.Lock())
        in_bf16 = self.precision == "bf16"
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=in_bf16)
        with turn, self._own_settings(grad):
            self._settle()
            with autocast:
                found = self.model.inference(
                    speech.to(self.device), lengths.to(self.device), list(columns), grad
                )
            values = [found.utt_mos, found.frame_mos, found.embedding]
            if columns:
                values += [logits.float().softmax(-1) for logits in found.token_logits]
            values = [
                value.float() if grad else value.float().cpu() for value in values
            ]
            scored = []
            for i, (n, *item) in enumerate(zip(found.lengths.tolist(), *values)):
                score, frames, embedding, *posteriors = item
                tracks = [posterior[:n] for posterior in posteriors]
                scored.append(
                    Scored(
                        score,
                        frames[:n],
                        embedding,
                        dict(zip(columns.values(), tracks)),
                        len(waves[i]),
                        not bool(waves[i].detach().any()),
                    )
                )
            return scored

    def _settle(self) -> None:
        """Undo what a trainer does to every module that it finds.

        Raises:
            ValueError: it moved or cast the weights.
        """
        self.model.scores_only = True
        on_gpu = self.device.type == "cuda"
        for module in self.model.modules():
            # cuDNN has gradients in train mode only; without dropout nothing else
            # changes.
            is_rnn = isinstance(module, torch.nn.RNNBase) and module.dropout == 0
            if module.training != (is_rnn and on_gpu):
                module.training = is_rnn and on_gpu
        for weight in self.model.parameters():
            weight.requires_grad_(False)
            if (weight.dtype, weight.device) != (torch.float32, self.device):
                raise ValueError(
                    f"found weights of {weight.dtype} on {weight.device}, expected "
                    f"those that were loaded, torch.float32 on {self.device}; load the "
                    "model again, with device=... for another device"
                )


def _float32(values: Mapping[str, torch.Tensor]) -> Iterable[Tuple[str, np.ndarray]]:
    for key, value in values.items():
        yield key, value.detach().to("cpu", torch.float32).contiguous().numpy()


def _without_directories(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_directories(v) for k, v in value.items()}
    return os.path.basename(value) if isinstance(value, str) else value


def _checked_channels(wave: Any, name: str) -> torch.Tensor:
    """Whatever stands for a waveform in memory as float32, (channels, N).

    Raises:
        ValueError: it is of another kind, type or shape; it says which.
    """
    if not isinstance(wave, torch.Tensor):
        return torch.from_numpy(checked_channels(wave, name))
    layout = "nested" if wave.is_nested else str(wave.layout).split(".")[-1]
    layout = "meta" if wave.is_meta else layout.strip("_")
    if layout != "strided":
        raise ValueError(
            f"{name} is a {layout} tensor, expected a dense one that holds "
            "samples; give wave.to_dense(), or an array"
        )
    dtype = str(wave.dtype).split(".")[-1]
    check_type(dtype, "Tensor", name)
    check_shape(wave.shape, name)
    if dtype in INTEGERS:
        silence, full_scale = INTEGERS[dtype]
        wave = (wave.double() - silence) / full_scale
    wave = wave.to(torch.float32).resolve_neg()
    return wave if wave.dim() == 2 else wave[None]


class _Resample(torch.autograd.Function):
    """soxr's resampler, the one that files go through, with its gradient.

    Resampling is linear, y = A x, with a symmetric low-pass filter at half the lower
    rate; its transpose is resampling back, times the ratio of the rates (the filter's
    gain is one from either side).
    """

    @staticmethod
    def forward(ctx, wave: torch.Tensor, fs: float, sample_rate: float):
        ctx.rates, ctx.length = (fs, sample_rate), len(wave)
        return _soxr(wave, fs, sample_rate)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        fs, sample_rate = ctx.rates
        back = _soxr(gradient, sample_rate, fs) * (sample_rate / fs)
        back = torch.nn.functional.pad(back, (0, max(0, ctx.length - len(back))))
        return back[: ctx.length], None, None


def _soxr(wave: torch.Tensor, fs: float, sample_rate: float) -> torch.Tensor:
    samples = wave.detach().cpu().contiguous().numpy()
    return torch.from_numpy(resample(samples, fs, sample_rate)).to(wave.device)


def _cpu_computes_bf16() -> bool:
    """Whether the CPU multiplies in bfloat16; True where torch cannot tell."""
    has = getattr(torch.cpu, "get_capabilities", dict)()
    if has.get("architecture") != "x86_64":
        return True
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "avx10_2"))


def _device(name: Union[str, torch.device]) -> torch.device:
    try:
        # Says whether it is there, and which one "cuda" is at present.
        there = torch.zeros(1, device=torch.device(name))
        there.cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:120]
        raise ValueError(
            f"found device={str(name)!r}, which is not available here ({reason}), "
            "expected cpu or a device of this machine such as cuda"
        ) from error
    return there.device
