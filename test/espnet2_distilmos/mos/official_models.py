# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Checkpoints as the DistilMOS authors release them, tiny and random, and their
forward pass on a single file, written from the paper's blocks in torch primitives."""

from typing import Optional

import torch
import torch.nn.functional as F

HIDDEN, CLUSTERS, TARGET_LAYERS = 12, 7, [1, 3]
WAVLM_CFG = {
    "extractor_mode": "default",
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 40,
    "encoder_attention_heads": 4,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "conv_feature_layers": "[(16,10,5)] + [(24,8,8)] * 1 + [(16,8,8)]",
    "conv_bias": False,
    "feature_grad_mult": 0.1,
    "normalize": False,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.05,
    "dropout_input": 0.1,
    "mask_prob": 0.65,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "relative_position_embedding": True,
    "num_buckets": 16,
    "max_distance": 30,
    "gru_rel_pos": True,
}
W2V2_CFG = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "conv_dim": [16, 24, 16],
    "conv_kernel": [10, 8, 8],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
DIM, LAYERS = 32, 3


def model_cfg(backbone: str, **ssl) -> dict:
    cfg = {
        "ssl_backbone": backbone,
        "freeze_wavlm": False,
        "downsample_strides": [1, 1, 1],
        "downsample_kernels": [5, 3, 3],
        "hidden_dim": HIDDEN,
        "target_layers": list(TARGET_LAYERS),
    }
    if backbone == "wavlm":
        cfg["wavlm_cfg"] = {**WAVLM_CFG, **ssl}
    else:
        cfg["w2v2_cfg"] = {**W2V2_CFG, **ssl}
    return cfg


def make_ssl(cfg: dict) -> torch.nn.Module:
    """The authors' SSL part: s3prl's WavLM or transformers' Wav2Vec2Model."""
    if cfg["ssl_backbone"] == "wavlm":
        from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

        return WavLM(WavLMConfig(dict(cfg["wavlm_cfg"]))).eval()
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    return Wav2Vec2Model(Wav2Vec2Config(**cfg["w2v2_cfg"])).eval()


def head_shapes(dim=DIM, layers=LAYERS, hidden=HIDDEN, num_predictors=2) -> dict:
    """Names and shapes of all but ``ssl.*``, as documented."""
    h = hidden
    shapes = {
        "weighted_sum.layer_weights": (layers,),
        "weighted_sum.layer_logits": (layers,),
        "weighted_sum.out_proj.weight": (dim, dim),
        "weighted_sum.out_proj.bias": (dim,),
        "feature_processor.proj_in.weight": (h, dim, 1),
        "feature_processor.proj_in.bias": (h,),
        "feature_processor.ln.weight": (h,),
        "feature_processor.ln.bias": (h,),
        "decoder.cnn.weight": (h, h, 3),
        "decoder.cnn.bias": (h,),
        "decoder.linear.weight": (h, 2 * h),
        "decoder.linear.bias": (h,),
        "decoder.layer_norm.weight": (h,),
        "decoder.layer_norm.bias": (h,),
        "linear.weight": (1, h),
        "linear.bias": (1,),
    }
    norms = ["decoder.batch_norm"]
    for i, kernel in enumerate((5, 3, 3)):
        shapes[f"feature_processor.blocks.{i}.dw.weight"] = (h, 1, kernel)
        shapes[f"feature_processor.blocks.{i}.pw.weight"] = (h, h, 1)
        norms.append(f"feature_processor.blocks.{i}.bn")
    for norm in norms:
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = (h,)
        shapes[f"{norm}.num_batches_tracked"] = ()
    for direction in ("", "_reverse"):
        for name, shape in (
            ("weight_ih", (4 * h, h)),
            ("weight_hh", (4 * h, h)),
            ("bias_ih", (4 * h,)),
            ("bias_hh", (4 * h,)),
        ):
            shapes[f"decoder.bilstm.{name}_l0{direction}"] = shape
    for i in range(num_predictors):
        for j, size in ((0, h), (2, h), (4, CLUSTERS)):
            shapes[f"predictors.{i}.layers.{j}.weight"] = (size, h)
            shapes[f"predictors.{i}.layers.{j}.bias"] = (size,)
    return shapes


def make_states(cfg: dict, seed: int = 0) -> dict:
    """A random state dict; no tensor keeps an initial zero or one."""
    generator = torch.Generator().manual_seed(seed)

    def random(shape):
        return torch.randn(shape, generator=generator)

    states = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ssl = make_ssl(cfg).state_dict()
    for name, value in ssl.items():
        states[f"ssl.{name}"] = value.detach() + 0.2 * random(value.shape)
    for name, shape in head_shapes().items():
        if name.endswith("num_batches_tracked"):
            states[name] = torch.tensor(11)
        elif name == "weighted_sum.layer_logits":
            # Apart, but no layer gets the weight zero.
            states[name] = torch.tensor([0.5, -0.2, 0.1])
        elif name.endswith("running_var"):
            states[name] = 0.5 + random(shape).abs()
        else:
            states[name] = random(shape) * (0.7 if len(shape) < 2 else shape[1] ** -0.5)
    return states


def entmax15(z: torch.Tensor) -> torch.Tensor:
    """max(z / 2 - tau, 0) ** 2 with the tau, bisected, that makes the sum one."""
    half = z.double() / 2
    low, high = half.max() - 1, half.max()
    for _ in range(80):
        tau = (low + high) / 2
        if (half - tau).clamp(min=0).square().sum() > 1:
            low = tau
        else:
            high = tau
    return (half - low).clamp(min=0).square().to(z.dtype)


@torch.no_grad()
def official_layers(cfg: dict, states: dict, speech: torch.Tensor) -> list:
    """Outputs of the transformer layers 1..L for (N,) samples, each (1, T, D)."""
    ssl = make_ssl(cfg)
    own = {k[len("ssl.") :]: v for k, v in states.items() if k.startswith("ssl.")}
    ssl.load_state_dict(own, strict=True)
    if cfg["ssl_backbone"] == "w2v2":
        return list(ssl(speech[None], output_hidden_states=True).hidden_states[1:])
    layers = cfg["wavlm_cfg"]["encoder_layers"]
    padding = torch.zeros(1, speech.numel(), dtype=torch.bool)
    (_, results), _ = ssl.extract_features(
        speech[None],
        padding_mask=padding,
        output_layer=layers,
        ret_layer_results=True,
    )
    return [x.transpose(0, 1) for x, _ in results[1:]]


@torch.no_grad()
def official_forward(
    cfg: dict, states: dict, speech: torch.Tensor, layers: Optional[list] = None
) -> dict:
    """The published forward pass on one file of (N,) samples.

    ``layers`` are those of ``official_layers``, if they are there already.
    """

    def get(name):
        return states[name]

    layers = official_layers(cfg, states, speech) if layers is None else layers
    logits = get("weighted_sum.layer_logits")
    weights = entmax15(logits - logits.mean())
    x = sum(w * layer for w, layer in zip(weights, layers))
    x = F.linear(
        x, get("weighted_sum.out_proj.weight"), get("weighted_sum.out_proj.bias")
    )
    x = F.conv1d(
        x.transpose(1, 2),
        get("feature_processor.proj_in.weight"),
        get("feature_processor.proj_in.bias"),
    )
    for i, (kernel, stride) in enumerate(
        zip(cfg["downsample_kernels"], cfg["downsample_strides"])
    ):
        block = f"feature_processor.blocks.{i}"
        x = F.conv1d(
            x,
            get(f"{block}.dw.weight"),
            stride=stride,
            padding=(kernel - 1) // 2,
            groups=x.size(1),
        )
        x = F.conv1d(x, get(f"{block}.pw.weight"))
        mean, var = get(f"{block}.bn.running_mean"), get(f"{block}.bn.running_var")
        x = (x - mean[:, None]) / torch.sqrt(var[:, None] + 1e-5)
        x = x * get(f"{block}.bn.weight")[:, None] + get(f"{block}.bn.bias")[:, None]
        x = F.gelu(x)
    size = (x.size(1),)
    z = F.layer_norm(
        x.transpose(1, 2),
        size,
        get("feature_processor.ln.weight"),
        get("feature_processor.ln.bias"),
    )
    token_logits = []
    for i in range(len(cfg["target_layers"])):
        y = z
        for j in (0, 2, 4):
            layer = f"predictors.{i}.layers.{j}"
            y = F.linear(y, get(f"{layer}.weight"), get(f"{layer}.bias"))
            y = y if j == 4 else F.relu(y)
        token_logits.append(y)
    x = F.conv1d(
        z.transpose(1, 2), get("decoder.cnn.weight"), get("decoder.cnn.bias"), padding=1
    ).transpose(1, 2)
    lstm = torch.nn.LSTM(size[0], size[0], batch_first=True, bidirectional=True)
    prefix = "decoder.bilstm."
    own = {k[len(prefix) :]: v for k, v in states.items() if k.startswith(prefix)}
    lstm.load_state_dict(own, strict=True)
    y = F.linear(lstm(x)[0], get("decoder.linear.weight"), get("decoder.linear.bias"))
    y = F.layer_norm(
        F.gelu(y) + x,
        size,
        get("decoder.layer_norm.weight"),
        get("decoder.layer_norm.bias"),
    )
    frame_mos = F.linear(y, get("linear.weight"), get("linear.bias"))[..., 0]
    return {
        "layers": layers,
        "token_logits": token_logits,
        "frame_mos": frame_mos,
        "mos": float(frame_mos.mean()),
    }


def make_speech(num_samples: int, seed: int = 0) -> torch.Tensor:
    """Coloured noise with a mean that is not zero, (N,)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_samples, generator=generator)
    envelope = torch.linspace(0.02, 0.3, num_samples)
    return noise * envelope + 0.05
