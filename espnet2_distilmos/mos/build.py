# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""From a configuration to a model.

A new frontend, head or loss is one line in a registry here.
"""

import inspect
import logging
from typing import Any, Dict, List, Mapping, Optional, Tuple

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.frontend.mfcc import MFCCFrontend
from espnet2_distilmos.mos.frontend.s3prl import S3PRLFrontend
from espnet2_distilmos.mos.frontend.spec_cnn import SpecCNNFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead, TokenColumn
from espnet2_distilmos.mos.head.distilmos import DistilMOSHead
from espnet2_distilmos.mos.head.probe import ProbeHead
from espnet2_distilmos.mos.head.ssl_mos import SSLMOSHead
from espnet2_distilmos.mos.head.token import TokenHead
from espnet2_distilmos.mos.loss.abs_loss import AbsMOSLoss
from espnet2_distilmos.mos.loss.aux_scores import AuxScoresLoss
from espnet2_distilmos.mos.loss.bradley_terry import BradleyTerryLoss
from espnet2_distilmos.mos.loss.contrastive import ContrastiveLoss
from espnet2_distilmos.mos.loss.distortion import DistortionLoss
from espnet2_distilmos.mos.loss.domain_adversarial import DomainAdversarialLoss
from espnet2_distilmos.mos.loss.l0 import L0Loss
from espnet2_distilmos.mos.loss.layer_distill import LayerDistillLoss
from espnet2_distilmos.mos.loss.masked_ema import MaskedEMALoss
from espnet2_distilmos.mos.loss.masked_token import MaskedTokenCrossEntropyLoss
from espnet2_distilmos.mos.loss.prs import PartialRankSimilarityLoss
from espnet2_distilmos.mos.loss.regression import (
    FrameL1Loss,
    FrameMSELoss,
    UtteranceL1Loss,
    UtteranceMSELoss,
)
from espnet2_distilmos.mos.loss.token import TokenCrossEntropyLoss
from espnet2_distilmos.mos.loss.triplet import TripletLoss

FRONTENDS = {
    "hf": HFFrontend,
    "mfcc": MFCCFrontend,
    "s3prl": S3PRLFrontend,
    "spec_cnn": SpecCNNFrontend,
}
HEADS = {
    "distilmos": DistilMOSHead,
    "probe": ProbeHead,
    "ssl_mos": SSLMOSHead,
    "token": TokenHead,
}
LOSSES = {
    loss.name: loss
    for loss in (
        UtteranceL1Loss,
        UtteranceMSELoss,
        FrameL1Loss,
        FrameMSELoss,
        ContrastiveLoss,
        BradleyTerryLoss,
        PartialRankSimilarityLoss,
        TripletLoss,
        AuxScoresLoss,
        TokenCrossEntropyLoss,
        MaskedTokenCrossEntropyLoss,
        MaskedEMALoss,
        LayerDistillLoss,
        DomainAdversarialLoss,
        DistortionLoss,
        L0Loss,
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
    if version != FORMAT_VERSION:
        raise ValueError(
            f"found tokens of format version {version}, expected "
            f"{FORMAT_VERSION}: rerun stage 5"
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


# What a dry run has for an upstream: tiny, and deep enough for any ``freeze``.
_STAND_IN = {
    "model_type": "hubert",
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 8, 8],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "hidden_size": 16,
    "num_hidden_layers": 48,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def build_dry_model(config: Mapping[str, Any]) -> ESPnetMOSModel:
    """Build the model of a configuration without its files, data and tokens.

    For ``--dry_run true``: all options are read by what they are for, and nothing is
    loaded or downloaded. A tiny random network stands in for an upstream that is a
    checkpoint; one column for the tokens that stage 5 would make, unless ``token_info``
    or the losses say which; two names for the listeners and the corpora.

    Args:
        config: as in :func:`build_model`; ``frontend`` and ``head`` may be None.

    Raises:
        ValueError: for an unknown name or an impossible option.
    """
    name, conf = config.get("frontend") or "hf", config.get("frontend_conf") or {}
    if (
        name in FRONTENDS
        and "upstream" in inspect.signature(FRONTENDS[name]).parameters
    ):
        is_bare = conf.get("upstream") is None and conf.get("upstream_config")
        if not is_bare:
            name, conf = _stand_in(name, conf)
    token_info = config.get("token_info")
    if not token_info:
        losses = build_losses(config.get("losses") or {}).values()
        ids = {i for loss in losses for i in getattr(loss, "columns", None) or ()}
        named = [i.rpartition("_l") for i in sorted(ids) or ["stand_in_l01"]]
        columns = [{"stream": s, "layer": layer, "K": 2} for s, _, layer in named]
        token_info = {"format_version": FORMAT_VERSION, "columns": columns}
    losses = config.get("losses") or {}
    if isinstance(losses, Mapping) and LayerDistillLoss.name in losses:
        distill = dict(losses[LayerDistillLoss.name] or {})
        stand_in = {"fingerprint": "", "layers": [1], "size": 16}
        distill["known"] = [stand_in for _ in distill.get("teachers") or ()]
        losses = {**losses, LayerDistillLoss.name: distill}
    filled = {
        "losses": losses,
        "frontend": name,
        "frontend_conf": conf,
        "head": config.get("head") or "distilmos",
        "token_info": token_info,
        "listener_list": ["a", "b"],
        "corpus_list": ["a", "b"],
    }
    return build_model({**config, **filled}, load_pretrained=False)


def _stand_in(name: str, conf: Mapping[str, Any]) -> Tuple[str, Dict[str, Any]]:
    """A frontend with the options of another one and no checkpoint."""
    try:
        inspect.signature(FRONTENDS[name]).bind(**conf)
    except TypeError as error:
        raise ValueError(f"frontend {name}: {error}") from error
    logging.info(
        f"A dry run loads no upstream: a random HuBERT stands in for "
        f"{conf.get('upstream')}"
    )
    known = set(inspect.signature(HFFrontend).parameters)
    known -= {"upstream", "upstream_config", "pruned", "load_pretrained"}
    shared = {key: value for key, value in conf.items() if key in known}
    return "hf", {**shared, "upstream_config": dict(_STAND_IN)}


def _create(kind: str, registry: Mapping[str, type], name: str, conf, **fixed):
    if name not in registry:
        raise ValueError(
            f"found {kind} {name!r}, expected one of {', '.join(sorted(registry))}"
        )
    where = f"losses.{name}" if kind == "losses" else f"{kind}_conf"
    if not isinstance(conf, Mapping):
        raise ValueError(f"found {where}={conf!r}, expected a mapping of options")
    parameters = inspect.signature(registry[name]).parameters.values()
    known = [p.name for p in parameters if p.name not in fixed]
    unknown = [key for key in conf if key not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(
            f"{kind} {name}: found the option {unknown[0]!r}, expected some of "
            f"{', '.join(known)} in {where}"
        )
    try:
        return registry[name](**fixed, **conf)
    except TypeError as error:
        # A value of the wrong type; say where it stands.
        raise ValueError(f"{kind} {name}: {error}") from error
