# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The DistilMOS authors' released models in our names.

Names, shapes and configuration keys only, no files: those are
``espnet2_distilmos.bin.import_official``'s.
"""

import ast
import math
import re
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import torch

from espnet2_distilmos.mos.build import MODEL_FORMAT_VERSION, TOKEN_FORMAT_VERSION

# Their name of the upstream to transformers' model type.
BACKBONES = {"wavlm": "wavlm", "w2v2": "wav2vec2"}
# Tensors that only one of the upstreams has, to tell what a checkpoint holds.
_TELLTALES = {"wavlm": "ssl.post_extract_proj.", "w2v2": "ssl.feature_projection."}

# What the authors' code takes where their configuration says nothing ...
_MODEL_DEFAULTS = {
    "freeze_wavlm": False,
    "downsample_strides": [1, 1, 1],
    "downsample_kernels": [5, 3, 3],
    "hidden_dim": 256,
}
_WAVLM_CFG_WITHOUT = {
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "num_buckets": 320,
    "max_distance": 800,
}
# ... and where `wavlm_cfg` does: the defaults of Microsoft's WavLMConfig.
_WAVLM_DEFAULTS = {
    "extractor_mode": "default",
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "conv_bias": False,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": False,
    "num_buckets": 320,
    "max_distance": 1280,
    "gru_rel_pos": False,
}
# Microsoft's keys to transformers', where the value stays.
_WAVLM_KEYS = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "activation_fn": "hidden_act",
    "layer_norm_first": "do_stable_layer_norm",
    "conv_bias": "conv_bias",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "feat_proj_dropout",
    "conv_pos": "num_conv_pos_embeddings",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_bucket_distance",
}
_KNOWN_KEYS = {
    *_MODEL_DEFAULTS,
    "ssl_backbone",
    "wavlm_cfg",
    "w2v2_cfg",
    "target_layers",
}
_MOST_CONV_LAYERS = 64

# Transformers' names (left, as regular expressions) to Microsoft's, in WavLM.
_WAVLM_NAMES: Sequence[Tuple[str, str]] = (
    (r"masked_spec_embed", "mask_emb"),
    (
        r"feature_extractor\.conv_layers\.(\d+)\.conv\.(.+)",
        r"feature_extractor.conv_layers.\1.0.\2",
    ),
    (r"feature_projection\.layer_norm\.(.+)", r"layer_norm.\1"),
    (r"feature_projection\.projection\.(.+)", r"post_extract_proj.\1"),
    (r"encoder\.pos_conv_embed\.conv\.(.+)", r"encoder.pos_conv.0.\1"),
    (
        r"encoder\.layers\.(\d+)\.attention\.([qkv]|out)_proj\.(.+)",
        r"encoder.layers.\1.self_attn.\2_proj.\3",
    ),
    (
        r"encoder\.layers\.(\d+)\.attention\.gru_rel_pos_const",
        r"encoder.layers.\1.self_attn.grep_a",
    ),
    (
        r"encoder\.layers\.(\d+)\.attention\.gru_rel_pos_linear\.(.+)",
        r"encoder.layers.\1.self_attn.grep_linear.\2",
    ),
    (
        r"encoder\.layers\.(\d+)\.attention\.rel_attn_embed\.(.+)",
        r"encoder.layers.\1.self_attn.relative_attention_bias.\2",
    ),
    (
        r"encoder\.layers\.(\d+)\.layer_norm\.(.+)",
        r"encoder.layers.\1.self_attn_layer_norm.\2",
    ),
    (
        r"encoder\.layers\.(\d+)\.feed_forward\.intermediate_dense\.(.+)",
        r"encoder.layers.\1.fc1.\2",
    ),
    (
        r"encoder\.layers\.(\d+)\.feed_forward\.output_dense\.(.+)",
        r"encoder.layers.\1.fc2.\2",
    ),
    (
        r"encoder\.layers\.(\d+)\.final_layer_norm\.(.+)",
        r"encoder.layers.\1.final_layer_norm.\2",
    ),
    (r"encoder\.layer_norm\.(.+)", r"encoder.layer_norm.\1"),
)
# The norm's place in a block of convolution, dropout, norm and activation.
_WAVLM_CONV_NORM = r"feature_extractor\.conv_layers\.(\d+)\.layer_norm\.(.+)"
_WAVLM_CONV_NORM_NAMES = {
    "group": r"feature_extractor.conv_layers.\1.2.\2",
    # Between two transpositions.
    "layer": r"feature_extractor.conv_layers.\1.2.1.\2",
}
# The two spellings that torch's weight norm has had.
_WEIGHT_NORM = {
    "parametrizations.weight.original0": "weight_g",
    "parametrizations.weight.original1": "weight_v",
}


def is_unused(name: str) -> bool:
    """True for the tensors that the authors' models hold and never read.

    The mix of the layers comes from ``weighted_sum.layer_logits``; the decoder
    normalises with ``decoder.layer_norm``.
    """
    return name == "weighted_sum.layer_weights" or name.startswith(
        "decoder.batch_norm."
    )


def find_states(checkpoint: Mapping[str, Any]) -> Dict[str, torch.Tensor]:
    """The state dict in a checkpoint: under ``model``, ``state_dict`` or bare.

    Raises:
        ValueError: when there is none.
    """
    states: Any = checkpoint
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            states = checkpoint[key]
            break
    if not states:
        raise ValueError("found no tensors, expected a DistilMOS checkpoint")
    for name, value in states.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"found {type(value).__name__} at {name!r}, expected a tensor: the "
                "state dict stands under `model` or `state_dict`, or is the file"
            )
    return dict(states)


def parse_conv_layers(text: Any) -> List[Tuple[int, int, int]]:
    """Read ``conv_feature_layers`` without running it as code.

    Args:
        text: sums and multiples of lists of (dimension, kernel, stride), such as
            ``[(512,10,5)] + [(512,3,2)] * 4``; or the list itself.

    Raises:
        ValueError: for anything else.
    """
    try:
        if isinstance(text, str):
            if len(text) > 1000:
                raise ValueError
            layers = _list_of(ast.parse(text.strip(), mode="eval").body)
        else:
            layers = [tuple(layer) for layer in text]
        if not 0 < len(layers) <= _MOST_CONV_LAYERS or any(
            len(layer) != 3 or not all(_is_count(number) for number in layer)
            for layer in layers
        ):
            raise ValueError
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        # From nothing: what Python's parser says of it is no help.
        raise ValueError(
            f"found wavlm_cfg.conv_feature_layers={str(text)[:80]!r}, expected sums "
            "and multiples of lists of (dimension, kernel, stride), such as "
            "'[(512,10,5)] + [(512,3,2)] * 4'"
        ) from None
    return layers


def _list_of(node: ast.expr) -> list:
    if isinstance(node, ast.List):
        return [ast.literal_eval(element) for element in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _list_of(node.left) + _list_of(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = node.left, node.right
        if isinstance(left, ast.Constant):
            left, right = right, left
        if isinstance(right, ast.Constant) and _is_count(right.value):
            if right.value <= _MOST_CONV_LAYERS:
                return _list_of(left) * right.value
    raise ValueError


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def convert_config(
    config: Any, states: Mapping[str, torch.Tensor]
) -> Tuple[Dict[str, Any], List[str]]:
    """Configuration of our model that computes what theirs does.

    Keys that are not there have the values that the authors' code gives them.

    Args:
        config: contents of ``model_cfg.yaml``.
        states: the state dict; says K of the token predictors and, where the
            configuration does not, which upstream it is.

    Returns:
        What ``build_model`` takes, with what fine-tuning needs; and the keys that
        were not there.

    Raises:
        ValueError: one sentence about the first thing that cannot be.
    """
    if not isinstance(config, Mapping) or not _KNOWN_KEYS & set(config):
        raise ValueError(
            "found none of the keys "
            f"{', '.join(sorted(_KNOWN_KEYS))} in the configuration, expected the "
            "model_cfg.yaml that was released with the checkpoint"
        )
    # The authors' code treats a null wavlm_cfg and a missing one alike.
    config = {key: value for key, value in config.items() if value is not None}
    backbone = _backbone(config, states)
    missing = [key for key in ("ssl_backbone", "target_layers") if key not in config]
    missing += [key for key in _MODEL_DEFAULTS if key not in config]
    if backbone == "wavlm":
        upstream, absent = _wavlm_config(config.get("wavlm_cfg"))
    else:
        upstream, absent = _w2v2_config(config.get("w2v2_cfg"))
    values = {**_MODEL_DEFAULTS, **config}
    if not isinstance(values["freeze_wavlm"], bool):
        raise ValueError(
            f"found freeze_wavlm={values['freeze_wavlm']!r}, expected true or false"
        )
    if not _is_count(values["hidden_dim"]):
        raise ValueError(
            f"found hidden_dim={values['hidden_dim']!r}, expected a whole number"
        )
    for key in ("downsample_kernels", "downsample_strides"):
        if not _are_counts(values[key]):
            raise ValueError(
                f"found {key}={values[key]!r}, expected a list of whole numbers"
            )
    columns = _token_columns(config, states, upstream)
    token_info = {
        "format_version": TOKEN_FORMAT_VERSION,
        "columns": columns,
        "frame_shift": math.prod(upstream["conv_stride"]),
        "frame_offset": 0,
        "sample_rate": 16000,
        # The codebooks were not released.
        "codebook_fingerprint": None,
        "upstream_fingerprint": None,
    }
    converted = {
        "mos_format_version": MODEL_FORMAT_VERSION,
        "frontend": "hf",
        "frontend_conf": {
            "upstream": None,
            "upstream_config": upstream,
            # Theirs hear the waveform as it is, whatever the upstream was trained on.
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
        # Training compares with the network before its weights are loaded, which
        # no token file can match.
        "check_token_upstream": False,
        "model_conf": {"extract_feats_in_collect_stats": False},
        "score_range": [1.0, 5.0],
    }
    return converted, missing + absent


def _are_counts(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(map(_is_count, values))


def _backbone(config: Mapping[str, Any], states: Mapping[str, torch.Tensor]) -> str:
    held = [
        name
        for name, prefix in _TELLTALES.items()
        if any(key.startswith(prefix) for key in states)
    ]
    if "ssl_backbone" not in config:
        if len(held) != 1:
            raise ValueError(
                "found neither ssl_backbone in the configuration nor a tensor "
                f"{' or '.join(f'{p}*' for p in _TELLTALES.values())}, expected "
                "model_cfg.yaml and model.pth.tar of DistilMOS"
            )
        return held[0]
    backbone = str(config["ssl_backbone"]).lower()
    if backbone not in BACKBONES:
        raise ValueError(
            f"found ssl_backbone={config['ssl_backbone']!r}, expected one of "
            f"{', '.join(BACKBONES)}"
        )
    if held and backbone not in held:
        raise ValueError(
            f"found a {held[0]} checkpoint ({_TELLTALES[held[0]]}*), but ssl_backbone "
            f"is {backbone}: use the model_cfg.yaml that was released with it"
        )
    return backbone


def _wavlm_config(given: Any) -> Tuple[Dict[str, Any], List[str]]:
    missing = ["wavlm_cfg"] if given is None else []
    given = _WAVLM_CFG_WITHOUT if given is None else given
    if not isinstance(given, Mapping):
        raise ValueError(
            f"found wavlm_cfg of type {type(given).__name__}, expected a mapping"
        )
    if not missing:
        missing = [f"wavlm_cfg.{key}" for key in _WAVLM_DEFAULTS if key not in given]
    cfg = {**_WAVLM_DEFAULTS, **given}
    for key, default in _WAVLM_DEFAULTS.items():
        if key == "conv_feature_layers":
            continue
        value = cfg[key]
        if isinstance(default, bool) or isinstance(default, str):
            fits = isinstance(value, type(default))
        elif isinstance(default, int):
            fits = _is_count(value)
        else:
            fits = isinstance(value, (int, float)) and 0 <= value <= 1
        if not fits:
            raise ValueError(
                f"found wavlm_cfg.{key}={value!r}, expected something like {default!r}"
            )
    for key, choices in (
        ("relative_position_embedding", (True,)),
        ("gru_rel_pos", (True,)),
        ("extractor_mode", ("default", "layer_norm")),
        ("activation_fn", ("gelu", "relu")),
    ):
        if cfg[key] not in choices:
            raise ValueError(
                f"found wavlm_cfg.{key}={cfg[key]!r}, expected "
                f"{' or '.join(map(str, choices))}: other WavLMs are not supported"
            )
    layers = parse_conv_layers(cfg["conv_feature_layers"])
    upstream = {ours: cfg[theirs] for theirs, ours in _WAVLM_KEYS.items()}
    upstream.update(
        model_type=BACKBONES["wavlm"],
        feat_extract_norm="group" if cfg["extractor_mode"] == "default" else "layer",
        feat_extract_activation="gelu",
        conv_dim=[dim for dim, _, _ in layers],
        conv_kernel=[kernel for _, kernel, _ in layers],
        conv_stride=[stride for _, _, stride in layers],
    )
    return upstream, missing


def _w2v2_config(given: Any) -> Tuple[Dict[str, Any], List[str]]:
    # Not imported at the top: it takes seconds.
    from transformers import Wav2Vec2Config

    missing = ["w2v2_cfg"] if given is None else []
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise ValueError(
            f"found w2v2_cfg of type {type(given).__name__}, expected a mapping"
        )
    if given.get("model_type", "wav2vec2") != "wav2vec2":
        raise ValueError(
            f"found w2v2_cfg.model_type={given['model_type']!r}, expected wav2vec2"
        )
    try:
        resolved = Wav2Vec2Config(**given)
    except Exception as error:  # its validators raise what they like
        reason = " ".join(str(error).split())
        raise ValueError(
            f"found a w2v2_cfg that transformers refuses ({reason}), expected the "
            "keyword arguments of Wav2Vec2Config"
        ) from error
    if resolved.do_stable_layer_norm:
        raise ValueError(
            "found w2v2_cfg.do_stable_layer_norm=True, expected False: whether the "
            "last hidden state is normalised then depends on the authors' release of "
            "transformers"
        )
    upstream = {k: v for k, v in given.items() if k != "model_type"}
    upstream.update(
        model_type=BACKBONES["w2v2"],
        conv_stride=list(resolved.conv_stride),
        num_hidden_layers=resolved.num_hidden_layers,
    )
    return upstream, missing


def _token_columns(
    config: Mapping[str, Any],
    states: Mapping[str, torch.Tensor],
    upstream: Mapping[str, Any],
) -> List[Dict[str, Any]]:
    num_layers = upstream["num_hidden_layers"]
    layers = config.get("target_layers", list(range(1, num_layers + 1)))
    if (
        not isinstance(layers, (list, tuple))
        or any(
            isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= num_layers
            for n in layers
        )
        or len(set(layers)) != len(layers)
    ):
        raise ValueError(
            f"found target_layers={layers!r}, expected different layers from 0 to "
            f"{num_layers}"
        )
    columns = []
    for i, layer in enumerate(layers):
        name = f"predictors.{i}.layers.4.weight"
        last = states.get(name)
        if last is None or last.dim() != 2:
            what = "nothing" if last is None else f"shape {tuple(last.shape)}"
            raise ValueError(
                f"found {what} for {name}, expected shape (K, hidden_dim), since "
                f"target_layers names {len(layers)} layers"
            )
        stream = upstream["model_type"]
        columns.append({"stream": stream, "layer": layer, "K": int(last.size(0))})
    return columns


def official_names(name: str, upstream_config: Mapping[str, Any]) -> List[str]:
    """What the authors' checkpoints may call one of our tensors.

    Args:
        name: in the state dict of our model.
        upstream_config: ``frontend_conf.upstream_config``.

    Returns:
        Their name; two where torch's weight norm has had two spellings.
    """
    if name == "head.weighted_sum.mix.weights":
        return ["weighted_sum.layer_logits"]
    if name.startswith("head."):
        return [name[len("head.") :]]
    name = name[len("frontend.model.") :]
    if upstream_config["model_type"] == "wavlm":
        norm = upstream_config.get("feat_extract_norm", "group")
        pairs = [*_WAVLM_NAMES, (_WAVLM_CONV_NORM, _WAVLM_CONV_NORM_NAMES[norm])]
        for pattern, replacement in pairs:
            match = re.fullmatch(pattern, name)
            if match:
                name = match.expand(replacement)
                break
    names = [f"ssl.{name}"]
    for long, short in _WEIGHT_NORM.items():
        for found, other in ((long, short), (short, long)):
            if name.endswith(f".{found}"):
                names.append(f"ssl.{name[: -len(found)]}{other}")
    return names


def convert_states(
    states: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    upstream_config: Mapping[str, Any],
) -> Dict[str, torch.Tensor]:
    """Their tensors under our names, strictly.

    Args:
        states: as released.
        expected: state dict of our model, for names, shapes and dtypes.
        upstream_config: ``frontend_conf.upstream_config``.

    Returns:
        One tensor for each name of ``expected``.

    Raises:
        ValueError: names the first tensor that is missing, misshapen, not finite or
            unknown.
    """
    converted = {}
    used = set()
    for ours, value in expected.items():
        names = official_names(ours, upstream_config)
        name = next((n for n in names if n in states), None)
        if name is None or states[name].shape != value.shape:
            what = "nothing"
            if name is not None:
                what = f"shape {tuple(states[name].shape)}"
            raise ValueError(
                f"found {what} for {name or names[-1]}, expected shape "
                f"{tuple(value.shape)}: use the model_cfg.yaml that was released with "
                "the checkpoint"
            )
        tensor = states[name].to(value.dtype)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"found numbers in {name} that are not finite: copy the file anew"
            )
        converted[ours] = tensor
        used.add(name)
    unknown = [name for name in states if name not in used and not is_unused(name)]
    if unknown:
        raise ValueError(
            f"found {len(unknown)} tensors that DistilMOS with this model_cfg.yaml "
            f"does not have, the first is {unknown[0]}: use the model_cfg.yaml that "
            "was released with the checkpoint"
        )
    return converted
