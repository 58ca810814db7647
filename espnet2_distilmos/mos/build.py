# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""From a configuration to a model: the one place that training, inference and
packed models call.

A new frontend, head or loss is one line in a registry here.
"""

import contextlib
import logging
import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.frontend.mfcc import MFCCFrontend
from espnet2_distilmos.mos.frontend.s3prl import S3PRLFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, TokenColumn
from espnet2_distilmos.mos.head.distilmos import DistilMOSHead
from espnet2_distilmos.mos.head.ssl_mos import SSLMOSHead
from espnet2_distilmos.mos.head.token import TokenHead
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss
from espnet2_distilmos.mos.loss.contrastive import ContrastiveLoss
from espnet2_distilmos.mos.loss.masked_ema import MaskedEMALoss
from espnet2_distilmos.mos.loss.masked_token import MaskedTokenCrossEntropyLoss
from espnet2_distilmos.mos.loss.regression import (
    FrameL1Loss,
    FrameMSELoss,
    UtteranceL1Loss,
    UtteranceMSELoss,
)
from espnet2_distilmos.mos.loss.token import TokenCrossEntropyLoss

# Version of config.yaml and of the state dict's names.
MODEL_FORMAT_VERSION = 1
# What torch.load raises, by the length and the first bytes, for a file that is cut off,
# empty or no model at all.
_UNREADABLE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    struct.error,
    UnpicklingError,
)
# Version of tokens.json.
TOKEN_FORMAT_VERSION = 1
# Folder beside config.yaml: files without which some upstreams cannot be rebuilt.
UPSTREAM_FILES = "upstream_files"

FRONTENDS = {"hf": HFFrontend, "mfcc": MFCCFrontend, "s3prl": S3PRLFrontend}
HEADS = {"distilmos": DistilMOSHead, "ssl_mos": SSLMOSHead, "token": TokenHead}
LOSSES = {
    loss.name: loss
    for loss in (
        UtteranceL1Loss,
        UtteranceMSELoss,
        FrameL1Loss,
        FrameMSELoss,
        ContrastiveLoss,
        TokenCrossEntropyLoss,
        MaskedTokenCrossEntropyLoss,
        MaskedEMALoss,
    )
}


def build_frontend(
    name: str, conf: Mapping[str, Any], load_pretrained: bool = True
) -> AbsLayerFrontend:
    """Build a frontend.

    Args:
        name: key of ``FRONTENDS``.
        conf: its keyword arguments (``frontend_conf`` of the configuration).
        load_pretrained: False when a trained model's weights follow.

    Raises:
        ValueError: for an unknown name or option.
    """
    return _create("frontend", FRONTENDS, name, conf, load_pretrained=load_pretrained)


def build_head(
    name: str,
    conf: Mapping[str, Any],
    frontend: AbsLayerFrontend,
    token_columns: Tuple[TokenColumn, ...],
) -> AbsMOSHead:
    """Build a head for the hidden states of ``frontend``."""
    return _create(
        "head",
        HEADS,
        name,
        conf,
        input_size=frontend.output_size(),
        num_layers=frontend.num_layers,
        token_columns=token_columns,
    )


def build_losses(conf: Mapping[str, Mapping[str, Any]]) -> Dict[str, AbsMOSLoss]:
    """Build the losses from ``{name: {weight: ..., option: ...}}``."""
    if not isinstance(conf, Mapping):
        raise ValueError(
            f"found losses of type {type(conf).__name__}, expected a mapping such as "
            "{mos_l1: {weight: 1.0}, token_ce: {weight: 0.1}}"
        )
    return {
        name: _create("losses", LOSSES, name, options or {})
        for name, options in conf.items()
    }


def token_columns_of(token_info: Optional[Mapping[str, Any]]) -> List[TokenColumn]:
    """Columns that a ``tokens.json`` describes; none without one.

    Raises:
        ValueError: when the file is of another format version or lacks a field.
    """
    if not token_info:
        return []
    version = token_info.get("format_version")
    if version != TOKEN_FORMAT_VERSION:
        raise ValueError(
            f"found tokens of format version {version}, expected "
            f"{TOKEN_FORMAT_VERSION}: rerun stage 5"
        )
    try:
        return [
            TokenColumn(str(c["stream"]), int(c["layer"]), int(c["K"]))
            for c in token_info["columns"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"found a tokens.json without {error}, expected columns with stream, "
            "layer and K: rerun stage 5"
        ) from error


def build_model(config: Mapping[str, Any], load_pretrained: bool) -> ESPnetMOSModel:
    """Build the model that a configuration describes.

    Args:
        config: with ``frontend``, ``frontend_conf``, ``head``, ``head_conf``,
            ``losses``, ``token_info`` (contents of tokens.json, or None),
            ``listener_list``, ``corpus_list`` and ``model_conf``, as in an experiment's
            ``config.yaml``.
        load_pretrained: True to start from the upstream's weights (training), False
            when the trained weights follow (inference): then neither files nor
            network are needed.
    """
    frontend = build_frontend(
        config["frontend"], config.get("frontend_conf") or {}, load_pretrained
    )
    columns = tuple(token_columns_of(config.get("token_info")))
    return ESPnetMOSModel(
        frontend=frontend,
        head=build_head(
            config["head"], config.get("head_conf") or {}, frontend, columns
        ),
        losses=build_losses(config.get("losses") or {}),
        token_columns=columns,
        listeners=config.get("listener_list") or (),
        corpora=config.get("corpus_list") or (),
        **(config.get("model_conf") or {}),
    )


def read_states(path: Union[str, Path]) -> Dict[str, Any]:
    """Contents of a file that ``torch.save`` wrote, on the CPU.

    Raises:
        ValueError: when the file is cut off, empty or of another kind.
        OSError: when it cannot be opened.
    """
    error: Exception
    try:
        states = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(states, Mapping):
            return states
        error = TypeError(type(states).__name__)
    except _UNREADABLE as caught:
        error = caught
    except OSError as caught:
        # torch's reader has it, without a file name, for some lengths of a file that
        # is cut off; one that cannot be opened names the file.
        if caught.filename is not None:
            raise
        error = caught
    # Only the kind of the error: torch's own text is several paragraphs of advice.
    raise ValueError(
        f"{path}: found no readable model file ({type(error).__name__}), expected one "
        "that training wrote: train again (stage 7) or copy the file anew"
    ) from error


def model_states(path: Union[str, Path]) -> Mapping[str, Any]:
    """State dict in a model file (``*.pth``) or in a training checkpoint.

    Raises:
        ValueError, OSError: as :func:`read_states`.
    """
    states = read_states(path)
    if "model" in states and "optimizers" in states:
        return states["model"]
    return states


def check_tensor(
    states: Mapping[str, Any], key: str, expected: torch.Tensor, where: str, mend: str
) -> None:
    """Refuse a state dict that lacks a tensor or has it in another shape.

    Raises:
        ValueError: one sentence: ``where``, the tensor, and how to ``mend`` it.
    """
    found = states.get(key)
    if isinstance(found, torch.Tensor):
        if found.shape == expected.shape:
            return
        what = f"shape {tuple(found.shape)}"
    else:
        what = "nothing" if found is None else type(found).__name__
    raise ValueError(
        f"{where}: found {what} for {key}, expected shape {tuple(expected.shape)}: "
        f"{mend}"
    )


def load_weights(model: ESPnetMOSModel, path: Union[str, Path]) -> None:
    """Load a checkpoint strictly: every tensor must fit, and none may be left over.

    Args:
        model: takes the weights.
        path: a model file (``*.pth``) or a training checkpoint that contains one.

    Raises:
        ValueError: the file is unreadable, or names the first tensor that is missing,
            unknown or misshapen.
        OSError: when the file cannot be opened.
    """
    states = model_states(path)
    expected = model.state_dict()
    for key, value in expected.items():
        mend = "use the config.yaml of the same experiment"
        check_tensor(states, key, value, str(path), mend)
    unknown = [key for key in states if key not in expected]
    if unknown:
        raise ValueError(
            f"{path}: found {len(unknown)} tensors that the model does not have, the "
            f"first is {unknown[0]}: use the config.yaml of the same experiment"
        )
    model.load_state_dict(states, strict=True)


def read_config(train_config: Union[str, Path]) -> Dict[str, Any]:
    """Configuration of a trained model, for :func:`build_model`.

    What it names in the folder ``upstream_files`` is looked for beside the file itself,
    so that an experiment or an unpacked model may be moved or copied as a whole.

    Args:
        train_config: the experiment's ``config.yaml``.

    Raises:
        ValueError: it is of another format version or none at all.
        OSError: it cannot be opened.
    """
    with open(train_config, encoding="utf-8") as f:
        config = yaml.safe_load(f)
    version = config.get("mos_format_version") if isinstance(config, dict) else None
    if version != MODEL_FORMAT_VERSION:
        raise ValueError(
            f"{train_config}: found format version {version}, expected "
            f"{MODEL_FORMAT_VERSION}: use the config.yaml that training wrote"
        )
    folder = Path(train_config).parent
    conf = config.get("frontend_conf") or {}
    config["frontend_conf"] = {k: _beside(folder, v) for k, v in conf.items()}
    return config


def _beside(folder: Path, value: Any) -> Any:
    """The option's value; a path of ``upstream_files`` as it stands in ``folder``."""
    if isinstance(value, Mapping):
        return {k: _beside(folder, v) for k, v in value.items()}
    parts = Path(value).parts if isinstance(value, str) else ()
    if UPSTREAM_FILES not in parts:
        return value
    # ESPnet's unpacking puts in front where it unpacked; it may have moved since.
    start = len(parts) - 1 - parts[::-1].index(UPSTREAM_FILES)
    here = folder.joinpath(*parts[start:])
    return str(here) if here.exists() or not Path(value).exists() else value


def load_model(
    train_config: Union[str, Path],
    model_file: Optional[Union[str, Path]],
    device: str = "cpu",
) -> Tuple[ESPnetMOSModel, Dict[str, Any]]:
    """Load a trained model.

    Args:
        train_config: the experiment's ``config.yaml``.
        model_file: its weights; None keeps the starting weights, untrained.
        device: such as ``cpu`` or ``cuda``.

    Returns:
        The model in eval mode, and the configuration.
    """
    config = read_config(train_config)
    if model_file is None and config.get("init_model"):
        raise ValueError(
            f"{train_config}: found a training that started from "
            f"{config['init_model']}, expected a model file: name one"
        )
    if model_file is None:
        logging.warning("No model file is given: the model is untrained")
        model = build_model(config, load_pretrained=True)
    else:
        # Entries of s3prl are run once to measure them, which needs finite weights.
        measured = config.get("frontend") == "s3prl"
        with contextlib.nullcontext() if measured else _NoRandomWeights():
            model = build_model(config, load_pretrained=False)
        load_weights(model, model_file)
    return model.to(device).eval(), config


class _NoRandomWeights(TorchDispatchMode):
    """Leave out the drawing of random weights that a checkpoint replaces.

    It takes longer than all else that loading does.
    """

    _LEFT_OUT = frozenset(
        (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self._LEFT_OUT:
            return args[0]
        return func(*args, **(kwargs or {}))


def _create(kind: str, registry: Mapping[str, type], name: str, conf, **fixed):
    if name not in registry:
        raise ValueError(
            f"found {kind} {name!r}, expected one of {', '.join(sorted(registry))}"
        )
    try:
        return registry[name](**fixed, **conf)
    except TypeError as error:
        # A mistyped option of the configuration; say where it stands.
        raise ValueError(f"{kind} {name}: {error}") from error
