# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""LoRA: low-rank adapters in the transformer layers of a frozen upstream.

Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685: a
linear map W of an upstream becomes W + alpha / rank * B A, of which A (rank x input)
and B (output x rank) alone are trained. B starts at zero, so the upstream computes at
first what it did. The adapters are those of the package peft.
"""

import functools
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

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
    conf = {**_DEFAULTS, **lora} if isinstance(lora, Mapping) else {}
    if list(conf) != list(_DEFAULTS) or not _is_possible(**conf):
        raise ValueError(
            f"found frontend_conf.lora={lora!r}, expected null or a mapping with any "
            "of rank (a whole number of 1 or more), alpha (above 0), dropout (in "
            "[0, 1)) and target_modules (a list of names, or null)"
        )
    return conf


def _is_possible(rank: Any, alpha: Any, dropout: Any, target_modules: Any) -> bool:
    if type(rank) is not int or {type(alpha), type(dropout)} - {int, float}:
        return False
    named = target_modules is None or (
        isinstance(target_modules, (list, tuple))
        and len(target_modules) > 0
        and all(isinstance(target, str) for target in target_modules)
    )
    return rank >= 1 and alpha > 0 and 0 <= dropout < 1 and named


def layers_without_adapters(freeze: Union[str, int], num_layers: int, name: str) -> int:
    """Number of first layers that get no adapters.

    Adapters are all that trains, so ``none`` and ``cnn`` mean no such layer.

    Raises:
        ValueError: when no layer is left.
    """
    first = {"none": 0, "cnn": 0, "all": num_layers}.get(freeze, freeze)
    if first == num_layers:
        raise ValueError(
            f"found frontend_conf.lora with freeze={freeze}, but {name} has "
            f"{num_layers} transformer layers: freeze fewer, or leave lora out"
        )
    return first


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
    lora = {**lora, "target_modules": list(lora["target_modules"] or target_modules)}
    config = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=_full_names(model, layers, lora["target_modules"]),
    )
    config._register_custom_module({torch.nn.Linear: _adapted_linear()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, _ADAPTER)
    return lora


def _full_names(
    model: torch.nn.Module, layers: Sequence[torch.nn.Module], targets: List[str]
) -> List[str]:
    """Names in ``model`` of the linear maps that ``targets`` name in each layer."""
    name_of = {module: name for name, module in model.named_modules()}
    found = []
    for layer in layers:
        linear = {
            name: module
            for name, module in layer.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        for target in targets:
            names = [n for n in linear if f".{n}".endswith(f".{target}")]
            if not names:
                raise ValueError(
                    f"found {target} in frontend_conf.lora.target_modules, expected "
                    f"linear maps of a layer: {', '.join(linear)}"
                )
            found += [name_of[linear[name]] for name in names]
    return list(dict.fromkeys(found))


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
