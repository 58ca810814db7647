# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Structured pruning: units of an upstream, their importance, their removal, the costs.

A unit is an attention head or an inner unit of a feed-forward network. A gate of 1
multiplies what each hands on; a gate of 0 is the network without it. All functions
have the units in one order: layer by layer, heads before inner units.
"""

import contextlib
import math
import time
from operator import attrgetter
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
)

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.hf import HFFrontend, prunable_families
from espnet2_distilmos.mos.frontend.spec_cnn import SpecCNNFrontend


class _Group(NamedTuple):
    """Units of one kind in one layer.

    Attributes:
        writers: linear maps of which a unit has ``width`` outputs.
        reader: the linear map of which a unit has ``width`` inputs.
        count: of the units.
        width: features of a unit.
        size: parameters of a unit.
    """

    writers: List[torch.nn.Linear]
    reader: torch.nn.Linear
    count: int
    width: int
    size: int


class Units:
    """The units of an upstream, as it is at the moment.

    Args:
        frontend: of a family that can be pruned. Parts of it that cannot lose units
            are replaced by such as can; what it computes stays.

    Attributes:
        sizes: parameters of each unit, (U,) fp64.
        total: parameters of all units that the network had before any pruning.

    Raises:
        ValueError: of this upstream no unit is known, or it has adapters.
    """

    def __init__(self, frontend: AbsLayerFrontend):
        if not isinstance(frontend, HFFrontend):
            raise ValueError(
                f"found the upstream {frontend.name}, of which no unit is known that "
                f"can be pruned, expected one of {', '.join(prunable_families())} by "
                "`frontend: hf`"
            )
        full = frontend.unpruned_units()
        if frontend.lora is not None:
            raise ValueError(
                "found adapters in the upstream (frontend_conf.lora), expected a model "
                "whose own weights were trained: train without lora"
            )
        family, model = frontend.family, frontend.model
        family.make_prunable(model)
        names, width = family.unit_names, frontend.head_size
        dimension = frontend.output_size()
        of_head = width * (4 * dimension + names.biases) + names.others
        of_inner_unit = 2 * dimension + 1
        self._frontend = frontend
        self._groups: List[_Group] = []
        left = frontend.units()
        layers = family.parts(model).layers
        for layer, heads, ffn in zip(layers, left["heads"], left["ffn"]):
            attention = getattr(layer, names.attention)
            writers = []
            if heads:
                writers = [getattr(attention, f"{x}_proj") for x in "qkv"]
            inner = attrgetter(names.inner)(layer)
            outer = attrgetter(names.outer)(layer)
            self._groups += [
                _Group(writers, attention.out_proj, len(heads), width, of_head),
                _Group([inner], outer, ffn, 1, of_inner_unit),
            ]
        counts = torch.tensor([group.count for group in self._groups])
        sizes = torch.tensor([group.size for group in self._groups])
        self.sizes = sizes.double().repeat_interleave(counts)
        self.total = of_head * sum(len(heads) for heads in full["heads"])
        self.total += of_inner_unit * sum(full["ffn"])

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def kept(self) -> float:
        """Share of the units before any pruning that is left, by parameters."""
        return float(self.sizes.sum()) / self.total

    def is_head(self) -> torch.Tensor:
        """Whether a unit is an attention head, (U,) bool."""
        return torch.cat(
            [torch.full((g.count,), k % 2 == 0) for k, g in enumerate(self._groups)]
        )

    def split(self, values: torch.Tensor) -> List[torch.Tensor]:
        """Values of all units (U,) to those of each layer's heads and inner units."""
        return list(values.split([group.count for group in self._groups]))

    def gate(self, gates: Callable[[], torch.Tensor]) -> List[Any]:
        """Multiply what the units hand on by ``gates()``, (U,), in every pass.

        Returns:
            Handles whose ``remove()`` ends it.
        """
        handles, start = [], 0
        for group in self._groups:
            part = slice(start, start + group.count)
            start += group.count

            def multiply(module, inputs, part=part, width=group.width):
                own = gates()[part].repeat_interleave(width)
                return (inputs[0] * own.to(inputs[0]),)

            if group.count:
                handles.append(group.reader.register_forward_pre_hook(multiply))
        return handles

    @contextlib.contextmanager
    def gated(self, gates: torch.Tensor) -> Iterator[None]:
        """:meth:`gate` by constant values, as long as the context lasts."""
        handles = self.gate(lambda: gates)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def magnitudes(self) -> torch.Tensor:
        """Sum of the squares of each unit's parameters, (U,) fp64."""
        sums = []
        for group in self._groups:
            own = group.reader.weight.double().square().sum(0)
            for writer in group.writers:
                own = own + writer.weight.double().square().sum(1)
                if writer.bias is not None:
                    own = own + writer.bias.double().square()
            sums.append(own.reshape(group.count, group.width).sum(1).cpu())
        return torch.cat(sums)

    @torch.no_grad()
    def remove(
        self, kept: torch.Tensor, gates: Optional[torch.Tensor] = None
    ) -> "Units":
        """Remove units for good; the frontend is changed in place.

        Args:
            kept: (U,) bool.
            gates: (U,); what a unit that is kept hands on is multiplied by, folded into
                the weights that read it. None is 1.

        Returns:
            The units that are left.
        """
        if gates is not None:
            for group, own in zip(self._groups, self.split(gates)):
                own = own.repeat_interleave(group.width)
                group.reader.weight.mul_(own.to(group.reader.weight))
        places = [part.nonzero().flatten() for part in self.split(kept)]
        heads = [place.tolist() for place in places[::2]]
        self._frontend.keep_units(heads, places[1::2])
        return Units(self._frontend)


# --- Importance -----------------------------------------------------------------------


def taylor_importance(
    loss_of: Callable[[Any], torch.Tensor], units: Units, batches: Iterable[Any]
) -> torch.Tensor:
    """First-order estimate of what the loss would change by without a unit.

    The sum over batches of ``|g dL/dg|`` at gates g of 1 (Molchanov et al., Importance
    Estimation for Neural Network Pruning, arXiv 1906.10771, with multiplicative gates).

    Args:
        loss_of: the loss of a batch, with a graph to the units.
        units: of the network that computes it.
        batches: what ``loss_of`` takes.

    Returns:
        (U,) fp64.
    """
    total = torch.zeros(len(units), dtype=torch.float64)
    for batch in batches:
        gates = torch.ones(len(units), requires_grad=True)
        with units.gated(gates):
            # Gradient checkpointing runs the layers again, with their gates.
            (gradient,) = torch.autograd.grad(loss_of(batch), gates)
        total += gradient.double().abs()
    return total


def random_importance(units: Units, seed: int) -> torch.Tensor:
    """(U,) fp64; uniform by parameter, so that :func:`choose` draws at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(units), generator=generator, dtype=torch.float64)
    return drawn * units.sizes


def choose(
    importance: torch.Tensor, sizes: torch.Tensor, budget: float
) -> torch.Tensor:
    """Keep the units with the most importance a parameter.

    Args:
        importance: (U,), finite.
        sizes: parameters of each unit, (U,).
        budget: parameters that may be kept; a unit that would exceed it is passed over.

    Returns:
        (U,) bool.
    """
    order = (importance / sizes).argsort(descending=True, stable=True)
    kept, left = [False] * len(sizes), budget
    for place in order.tolist():
        size = float(sizes[place])
        if size <= left:
            kept[place], left = True, left - size
    return torch.tensor(kept, dtype=torch.bool)


# --- Hard-concrete gates --------------------------------------------------------------

# Louizos, Welling and Kingma, Learning Sparse Neural Networks through L0
# Regularization, arXiv 1712.01312: temperature, and the ends of the stretched interval.
TEMPERATURE, LOWER, UPPER = 2 / 3, -0.1, 1.1
_EDGE = 1e-6


def draw_gates(
    log_alpha: torch.Tensor, uniform: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """Random gates in [0, 1] with a gradient to ``log_alpha`` (equations 10 and 11).

    Args:
        log_alpha: (U,).
        uniform: (U,) in (0, 1); None draws it.
    """
    u = torch.rand_like(log_alpha) if uniform is None else uniform
    u = u.clamp(_EDGE, 1 - _EDGE)
    s = torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / TEMPERATURE)
    return (s * (UPPER - LOWER) + LOWER).clamp(0.0, 1.0)


def mean_gates(log_alpha: torch.Tensor) -> torch.Tensor:
    """The gates of inference (equation 13)."""
    return (log_alpha.sigmoid() * (UPPER - LOWER) + LOWER).clamp(0.0, 1.0)


def open_probability(log_alpha: torch.Tensor) -> torch.Tensor:
    """Probability that a gate of :func:`draw_gates` is above 0 (equation 12)."""
    return torch.sigmoid(log_alpha - TEMPERATURE * math.log(-LOWER / UPPER))


# --- Costs ----------------------------------------------------------------------------


def num_parameters(model: torch.nn.Module) -> int:
    """Parameters that scores need: not token predictors and losses."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not name.startswith(("head.predictors.", "losses."))
    )


def macs_per_second(
    frontend: AbsLayerFrontend,
    head: Optional[torch.nn.Module] = None,
    seconds: float = 10.0,
) -> Dict[str, float]:
    """Multiply-accumulates for a second of audio, in closed form.

    Every weight counts as often as it is applied, and attention both products of T x T
    with T = frames: so the count depends on the length of the utterance. Spectra,
    norms, softmax and activations are left out.

    Args:
        frontend: ``spec_cnn``, or of a family that can be pruned.
        head: what follows. Its linear maps, convolutions and LSTMs count once a frame,
            token predictors, which inference does not run, not at all.
        seconds: length of the utterance.

    Returns:
        ``upstream`` and ``head``.

    Raises:
        ValueError: of this upstream they are not known.
    """
    num_samples = round(seconds * frontend.sample_rate)
    frames = frontend.num_frames(num_samples)
    if isinstance(frontend, SpecCNNFrontend):
        macs = frontend.macs(num_samples)
    elif isinstance(frontend, HFFrontend):
        macs = _macs_of_units(frontend, num_samples)
    else:
        raise ValueError(
            f"found the upstream {frontend.name}, whose multiply-accumulates are not "
            f"known, expected spec_cnn or one of {', '.join(prunable_families())}"
        )
    return {
        "upstream": macs / seconds,
        "head": 0.0 if head is None else _head_weights(head) * frames / seconds,
    }


def _macs_of_units(frontend: HFFrontend, num_samples: int) -> int:
    """Of a network with heads and inner units, some of which may be pruned."""
    frames = frontend.num_frames(num_samples)
    macs = frontend.family.macs_before_layers(frontend.model, num_samples)
    dimension, width = frontend.output_size(), frontend.head_size
    left = frontend.units()
    for layer, heads, ffn in zip(
        frontend.family.parts(frontend.model).layers, left["heads"], left["ffn"]
    ):
        of_head = 4 * dimension * width + 2 * frames * width
        # WavLM's map to the gate of a head's position biases.
        gate = getattr(
            getattr(layer, frontend.family.unit_names.attention),
            "gru_rel_pos_linear",
            None,
        )
        of_head += 0 if gate is None else gate.weight.numel()
        macs += frames * (len(heads) * of_head + 2 * dimension * ffn)
    return macs


def _head_weights(head: torch.nn.Module) -> int:
    count = 0
    for name, module in head.named_modules():
        if name.startswith("predictors."):
            continue
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv1d)):
            count += module.weight.numel()
        elif isinstance(module, torch.nn.LSTM):
            weights = (w for w, *_ in module.named_parameters() if "weight" in w)
            count += sum(getattr(module, w).numel() for w in weights)
    return count


def cpu_seconds(
    models: Sequence[Any], seconds: float = 10.0, rounds: int = 5
) -> List[float]:
    """CPU seconds that each model takes for a second of audio, on one thread.

    Args:
        models: ``ESPnetMOSModel``, on the CPU, in eval mode; they take turns.
        seconds: of noise that is scored.
        rounds: of which the fastest counts.
    """
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(rounds):
            found.append([])
            for model in models:
                samples = round(seconds * model.frontend.sample_rate)
                speech = 0.1 * torch.randn(1, samples)
                start = time.process_time()
                model.inference(speech, torch.tensor([samples]))
                found[-1].append((time.process_time() - start) / seconds)
    finally:
        torch.set_num_threads(threads)
    return [min(times) for times in zip(*found)]
