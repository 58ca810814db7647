# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""LoRA: low-rank adapters in the transformer layers of a frozen upstream.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685: a
linear map W of an upstream becomes W + alpha / rank * B A, of which A (rank x input)
and B (output x rank) alone are trained. B starts at zero, so the upstream computes at
first what it did. The adapters are those of the package peft.
"""

import functools
from typing import Any, Dict, Mapping, Optional, Sequence

import torch

_ADAPTER = "default"
_DEFAULTS = {"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": None}


def read_lora(lora: Optional[Mapping[str, Any]]) -> Optional[Dict[str, Any]]:
    """``frontend_conf.lora``, checked and with its defaults.

    Args:
        lora: None for no adapters, or any of ``rank`` (8), ``alpha`` (16), ``dropout``
            (0, of what enters an adapter) and ``target_modules`` (names of linear maps
            in a layer, or their last parts; None takes those of the attention).

    Raises:
        ValueError: when an option is unknown or impossible.

    >>> read_lora({"rank": 4})
    {'rank': 4, 'alpha': 16, 'dropout': 0.0, 'target_modules': None}
    """
    if lora is None:
        return None
    try:
        conf = {**_DEFAULTS, **lora}
        rank, alpha, dropout, targets = conf.values()
        is_possible = type(rank) is int and rank >= 1 and alpha > 0 and 0 <= dropout < 1
        is_possible &= targets is None or (type(targets) is list and len(targets) > 0)
    except (TypeError, ValueError):
        is_possible = False
    if not is_possible:
        raise ValueError(
            f"found frontend_conf.lora={lora!r}, expected null or a mapping with any "
            "of rank (a whole number of 1 or more), alpha (above 0), dropout (in "
            "[0, 1)) and target_modules (a list of names, or null)"
        )
    return conf


def add_lora(
    model: torch.nn.Module,
    layers: Sequence[torch.nn.Module],
    lora: Mapping[str, Any],
    target_modules: Sequence[str],
    seed: int,
) -> Dict[str, Any]:
    """Put adapters into layers, and freeze all else.

    Args:
        model: the upstream, changed in place. An adapted linear map keeps its place;
            its weight becomes ``base_layer.weight``, beside ``lora_A.default.weight``
            and ``lora_B.default.weight``.
        layers: the layers of ``model`` that get adapters.
        lora: as :func:`read_lora` returns it.
        target_modules: linear maps to adapt when ``lora`` names none.
        seed: of the random A.

    Returns:
        ``lora``, with the linear maps named.

    Raises:
        ImportError: without the package peft.
        ValueError: when a layer has no linear map of a name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            f"frontend_conf.lora needs the package peft ({error}): pip install peft"
        ) from error
    targets = list(lora["target_modules"] or target_modules)
    name_of = {module: name for name, module in model.named_modules()}
    # Full names: other parts of a network may have maps of the same name.
    full_names = []
    for layer in layers:
        linear = {
            name: module
            for name, module in layer.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        for target in targets:
            found = [n for n in linear if f".{n}".endswith(f".{target}")]
            if not found:
                raise ValueError(
                    f"found {target} in frontend_conf.lora.target_modules, expected "
                    f"linear maps of a layer: {', '.join(linear)}"
                )
            full_names += [name_of[linear[name]] for name in found]
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=list(dict.fromkeys(full_names)),
    )
    config._register_custom_module({torch.nn.Linear: _adapted_linear()})
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, model, _ADAPTER)
    return {**lora, "target_modules": targets}


@functools.lru_cache(maxsize=None)
def _adapted_linear() -> type:
    from peft.tuners.lora import Linear

    class AdaptedLinear(Linear):
        """peft's adapted linear map, also for networks that only read its weight.

        WavLM's attention hands ``q_proj.weight`` to torch instead of calling
        ``q_proj``, and so do s3prl's. With peft's own class they would read the frozen
        weight, and the adapter would never be trained.
        """

        @property
        def weight(self) -> torch.Tensor:
            """W + alpha / rank * B A, (output, input).

            Dropout drops features of the input, for all frames alike: the frames are
            not known here.
            """
            a, b = self.lora_A[_ADAPTER].weight, self.lora_B[_ADAPTER].weight
            a = a * self.lora_dropout[_ADAPTER](a.new_ones(a.size(1)))
            base = self.get_base_layer().weight
            return torch.addmm(base, b, a, alpha=self.scaling[_ADAPTER])

    return AdaptedLinear


def plain_name(name: str) -> Optional[str]:
    """Name that a tensor has without adapters; None for one of an adapter's.

    >>> plain_name("q_proj.base_layer.weight")
    'q_proj.weight'
    """
    return None if ".lora_" in name else name.replace(".base_layer.", ".")


def active_states(states: Mapping[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """A state dict without the adapters that add nothing yet, under plain names."""
    suffix = f".lora_B.{_ADAPTER}.weight"
    idle = {
        name[: -len(suffix)]
        for name, value in states.items()
        if name.endswith(suffix) and not value.any()
    }
    active = {}
    for name, value in states.items():
        plain = plain_name(name)
        if plain is not None or name.split(".lora_")[0] not in idle:
            active[plain or name] = value
    return active
