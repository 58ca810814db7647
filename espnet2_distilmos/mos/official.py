# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The DistilMOS authors' released models (BaleYang/DistilMOS on the hub) as ours."""

import ast
import logging
import math
import re
from typing import Any, Dict, List, Mapping, Tuple

import torch

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.checkpoint import load_states
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel

# Prefix of a tensor that only this upstream has, and transformers' model type.
_BACKBONES = {
    "wavlm": ("ssl.post_extract_proj.", "wavlm"),
    "w2v2": ("ssl.feature_projection.", "wav2vec2"),
}
# Tensors that the models hold and never read: the mix of the layers comes from
# `layer_logits`, and the decoder normalises with `layer_norm`.
UNUSED = ("weighted_sum.layer_weights", "decoder.batch_norm.")

# What the authors' code takes where model_cfg.yaml says nothing ...
_DEFAULTS = {
    "freeze_wavlm": False,
    "downsample_strides": [1, 1, 1],
    "downsample_kernels": [5, 3, 3],
    "hidden_dim": 256,
}
_WAVLM_CFG = {
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "num_buckets": 320,
    "max_distance": 800,
}
# ... and where its wavlm_cfg does: Microsoft's defaults ...
_WAVLM_DEFAULTS = {
    "extractor_mode": "default",
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "relative_position_embedding": False,
    "gru_rel_pos": False,
}
# ... with transformers' names of those keys whose value stays.
_WAVLM_KEYS = {
    "encoder_layers": ("num_hidden_layers", 12),
    "encoder_embed_dim": ("hidden_size", 768),
    "encoder_ffn_embed_dim": ("intermediate_size", 3072),
    "encoder_attention_heads": ("num_attention_heads", 12),
    "activation_fn": ("hidden_act", "gelu"),
    "layer_norm_first": ("do_stable_layer_norm", False),
    "conv_bias": ("conv_bias", False),
    "dropout": ("hidden_dropout", 0.1),
    "attention_dropout": ("attention_dropout", 0.1),
    "activation_dropout": ("activation_dropout", 0.0),
    "dropout_input": ("feat_proj_dropout", 0.0),
    "conv_pos": ("num_conv_pos_embeddings", 128),
    "conv_pos_groups": ("num_conv_pos_embedding_groups", 16),
    "num_buckets": ("num_buckets", 320),
    "max_distance": ("max_bucket_distance", 1280),
}
# Norm of the convolutions by extractor_mode, and its name: "layer" lies between two
# transpositions.
_EXTRACTOR_NORMS = {"default": ("group", "2"), "layer_norm": ("layer", "2.1")}

# Transformers' names of WavLM's tensors (regular expressions) to Microsoft's.
_WAVLM_NAMES = (
    (r"^masked_spec_embed$", "mask_emb"),
    (r"^feature_projection\.layer_norm\.", "layer_norm."),
    (r"^feature_projection\.projection\.", "post_extract_proj."),
    (r"(conv_layers\.\d+)\.conv\.", r"\1.0."),
    (r"pos_conv_embed\.conv\.", "pos_conv.0."),
    (r"attention\.gru_rel_pos_const$", "self_attn.grep_a"),
    (r"attention\.gru_rel_pos_linear\.", "self_attn.grep_linear."),
    (r"attention\.rel_attn_embed\.", "self_attn.relative_attention_bias."),
    (r"attention\.([qkv]|out)_proj\.", r"self_attn.\1_proj."),
    (r"(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"feed_forward\.intermediate_dense\.", "fc1."),
    (r"feed_forward\.output_dense\.", "fc2."),
)
# The older of two spellings that torch's weight norm has had, and the newer.
_WEIGHT_NORM = {
    ".weight_g": ".parametrizations.weight.original0",
    ".weight_v": ".parametrizations.weight.original1",
}


def convert(
    model_cfg: Any, checkpoint: Mapping[str, Any]
) -> Tuple[ESPnetMOSModel, Dict[str, Any]]:
    """Build the model that computes what a released one does.

    Args:
        model_cfg: contents of ``model_cfg.yaml``.
        checkpoint: contents of ``model.pth.tar``.

    Returns:
        The model in eval mode; and its configuration, self-contained and with what
        fine-tuning needs.

    Raises:
        ValueError: one sentence on what does not fit, such as the first tensor that is
            missing, misshapen, not finite or unknown.
    """
    states = find_states(checkpoint)
    try:
        config = convert_config(model_cfg, states)
        model = build_model(config, load_pretrained=False)
    except Exception as error:  # transformers' and torch's constructors raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"the configuration describes no network that can be built ({reason}), "
            "expected the model_cfg.yaml that was released with the checkpoint"
        ) from error
    upstream = config["frontend_conf"]["upstream_config"]
    origins = {name: official_name(name, upstream) for name in model.state_dict()}
    mend = "use the model_cfg.yaml that was released with the checkpoint"
    load_states(model, states, "the checkpoint", mend, origins, UNUSED)
    config["frontend_conf"] = model.frontend.resolved_conf()
    return model.eval(), config


def find_states(checkpoint: Mapping[str, Any]) -> Dict[str, torch.Tensor]:
    """The state dict in a checkpoint: under ``model``, ``state_dict`` or bare.

    Raises:
        ValueError: when there is none, or it holds NaN.
    """
    found = [checkpoint.get(key) for key in ("model", "state_dict")]
    states = next((item for item in found if isinstance(item, Mapping)), checkpoint)
    if not states:
        raise ValueError("found no tensors, expected a DistilMOS checkpoint")
    renamed = {}
    for name, value in states.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"found {type(value).__name__} at {name!r}, expected a tensor: the "
                "state dict stands under `model` or `state_dict`, or is the file"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"found numbers in {name} that are not finite: copy the file anew"
            )
        renamed[_new_weight_norm(name)] = value
    return renamed


def _new_weight_norm(name: str) -> str:
    for old, new in _WEIGHT_NORM.items():
        if name.endswith(old):
            return name[: -len(old)] + new
    return name


def official_name(name: str, upstream_config: Mapping[str, Any]) -> str:
    """What the authors' checkpoints call one of our tensors.

    Args:
        name: in the state dict of our model.
        upstream_config: ``frontend_conf.upstream_config``.
    """
    if name.startswith("head."):
        name = name[len("head.") :]
        return name.replace("weighted_sum.mix.weights", "weighted_sum.layer_logits")
    name = name[len("frontend.model.") :]
    if upstream_config["model_type"] == "wavlm":
        norms = dict(_EXTRACTOR_NORMS.values())
        place = norms[upstream_config["feat_extract_norm"]]
        norm = (r"(conv_layers\.\d+)\.layer_norm\.", rf"\1.{place}.")
        for pattern, replacement in (norm, *_WAVLM_NAMES):
            name = re.sub(pattern, replacement, name)
    return _new_weight_norm(f"ssl.{name}")


def convert_config(
    model_cfg: Mapping[str, Any], states: Mapping[str, torch.Tensor]
) -> Dict[str, Any]:
    """Configuration of our model that computes what theirs does.

    Keys that are not there have the values that the authors' code gives them.

    Args:
        model_cfg: contents of ``model_cfg.yaml``.
        states: the state dict; says K of the token predictors and, where the
            configuration does not, which upstream it is.

    Raises:
        ValueError: for a network that ours is not; values of another type raise what
            they like.
    """
    # The authors' code treats null and a missing key alike.
    given = {key: value for key, value in model_cfg.items() if value is not None}
    known = {"ssl_backbone", "wavlm_cfg", "w2v2_cfg", "target_layers", *_DEFAULTS}
    if not known & set(given):
        raise ValueError(f"found none of the keys {', '.join(sorted(known))}")
    backbone = _backbone(given, states)
    of_backbone = _wavlm_config if backbone == "wavlm" else _w2v2_config
    upstream = of_backbone(given.get(f"{backbone}_cfg"))
    upstream["model_type"] = _BACKBONES[backbone][1]
    absent = [key for key in ("ssl_backbone", *_DEFAULTS) if key not in given]
    if absent:
        logging.warning(
            f"The configuration lacks {', '.join(absent)}: the values are those that "
            "the authors' code takes then"
        )
    values = {**_DEFAULTS, **given}
    columns = _token_columns(values.get("target_layers"), states, upstream)
    token_info = {
        "format_version": FORMAT_VERSION,
        "columns": columns,
        "frame_shift": math.prod(upstream["conv_stride"]),
        "frame_offset": 0,
        "sample_rate": 16000,
        # The codebooks were not released.
        "codebook_fingerprint": None,
        "upstream_fingerprint": None,
    }
    return {
        "mos_format_version": FORMAT_VERSION,
        "frontend": "hf",
        "frontend_conf": {
            "upstream": None,
            "upstream_config": upstream,
            # Theirs takes the waveform as it is, whatever WavLM was trained on.
            "normalize_waveform": False,
            "freeze": "all" if values["freeze_wavlm"] else "none",
        },
        "head": "distilmos",
        "head_conf": {
            "layers": None,
            "layer_mix": "entmax15",
            "hidden_dim": values["hidden_dim"],
            "downsample_kernels": list(values["downsample_kernels"]),
            "downsample_strides": list(values["downsample_strides"]),
            "dropout": 0.1,
        },
        # Tokens of one's own are needed for token_ce.
        "losses": {"mos_l1": {"weight": 1.0}},
        "token_info": token_info if columns else None,
        "model_conf": {"extract_feats_in_collect_stats": False},
        "score_range": [1.0, 5.0],
    }


def _backbone(given: Mapping[str, Any], states: Mapping[str, torch.Tensor]) -> str:
    held = [
        backbone
        for backbone, (prefix, _) in _BACKBONES.items()
        if any(name.startswith(prefix) for name in states)
    ]
    backbone = str(given.get("ssl_backbone", *held[:1])).lower()
    if [backbone] != held:
        raise ValueError(
            f"found ssl_backbone={backbone} with the weights of "
            f"{' and '.join(held) or 'none of ' + ', '.join(_BACKBONES)}"
        )
    return backbone


def _wavlm_config(given: Any) -> Dict[str, Any]:
    cfg = {**_WAVLM_DEFAULTS, **(_WAVLM_CFG if given is None else given)}
    for key in ("relative_position_embedding", "gru_rel_pos"):
        if cfg[key] is not True:
            raise ValueError(f"found wavlm_cfg.{key}={cfg[key]!r}, expected True")
    if cfg["extractor_mode"] not in _EXTRACTOR_NORMS:
        raise ValueError(
            f"found wavlm_cfg.extractor_mode={cfg['extractor_mode']!r}, expected "
            f"{' or '.join(_EXTRACTOR_NORMS)}"
        )
    layers = parse_conv_layers(cfg["conv_feature_layers"])
    upstream = {
        ours: cfg.get(theirs, default)
        for theirs, (ours, default) in _WAVLM_KEYS.items()
    }
    upstream["feat_extract_norm"] = _EXTRACTOR_NORMS[cfg["extractor_mode"]][0]
    upstream["feat_extract_activation"] = "gelu"
    for i, key in enumerate(("conv_dim", "conv_kernel", "conv_stride")):
        upstream[key] = [layer[i] for layer in layers]
    return upstream


def parse_conv_layers(text: Any) -> List[Tuple[int, int, int]]:
    """Read ``conv_feature_layers`` without running it as code.

    Args:
        text: sum of lists of (dimension, kernel, stride), each as often as the number
            behind it says; or the list itself.

    Raises:
        ValueError, SyntaxError, TypeError: for anything else.

    >>> parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 2")
    [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    """
    layers: list = [] if isinstance(text, str) else text
    for term in text.split("+") if isinstance(text, str) else ():
        match = re.fullmatch(r"\s*(\[[\d\s(),]*\])\s*(?:\*\s*(\d\d?))?\s*", term)
        if not match:
            raise ValueError(
                f"found wavlm_cfg.conv_feature_layers={text[:80]!r}, expected sums of "
                "lists such as '[(512,10,5)] + [(512,3,2)] * 4'"
            )
        layers += ast.literal_eval(match[1]) * int(match[2] or 1)
    return [(int(dim), int(kernel), int(stride)) for dim, kernel, stride in layers]


def _w2v2_config(given: Any) -> Dict[str, Any]:
    # Those of transformers' defaults that are needed here; it knows the rest itself.
    defaults = {"conv_stride": [5, 2, 2, 2, 2, 2, 2], "num_hidden_layers": 12}
    upstream = {**defaults, **(given or {})}
    if upstream.get("do_stable_layer_norm"):
        raise ValueError(
            "found w2v2_cfg.do_stable_layer_norm=True, expected False: whether the "
            "last hidden state is normalised then depends on the authors' release of "
            "transformers"
        )
    return upstream


def _token_columns(
    layers: Any, states: Mapping[str, torch.Tensor], upstream: Mapping[str, Any]
) -> List[Dict[str, Any]]:
    known = range(upstream["num_hidden_layers"] + 1)
    layers = list(known[1:]) if layers is None else layers
    if [n for n in layers if n not in known] or len(set(layers)) < len(layers):
        raise ValueError(
            f"found target_layers={layers}, expected different layers from 0 to "
            f"{known[-1]}"
        )
    columns = []
    for i, layer in enumerate(layers):
        name = f"predictors.{i}.layers.4.bias"
        if name not in states:
            raise ValueError(f"found target_layers={layers} without the tensor {name}")
        size = len(states[name])
        columns.append({"stream": upstream["model_type"], "layer": layer, "K": size})
    return columns
