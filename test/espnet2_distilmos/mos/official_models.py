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


def _named(**modules) -> torch.nn.Module:
    parent = torch.nn.Module()
    for name, module in modules.items():
        setattr(parent, name, module)
    return parent


class Official(torch.nn.Module):
    """All tensors under their documented names, and the published forward pass."""

    def __init__(self, cfg: dict):
        super().__init__()
        h, self.cfg = HIDDEN, cfg
        self.ssl = make_ssl(cfg)
        self.weighted_sum = _named(
            layer_weights=torch.nn.Parameter(torch.zeros(LAYERS)),
            layer_logits=torch.nn.Parameter(torch.zeros(LAYERS)),
            out_proj=torch.nn.Linear(DIM, DIM),
        )
        blocks = [
            _named(
                dw=torch.nn.Conv1d(
                    h, h, kernel, stride, (kernel - 1) // 2, groups=h, bias=False
                ),
                pw=torch.nn.Conv1d(h, h, 1, bias=False),
                bn=torch.nn.BatchNorm1d(h),
            )
            for kernel, stride in zip((5, 3, 3), cfg["downsample_strides"])
        ]
        self.feature_processor = _named(
            proj_in=torch.nn.Conv1d(DIM, h, 1),
            blocks=torch.nn.ModuleList(blocks),
            ln=torch.nn.LayerNorm(h),
        )
        self.predictors = torch.nn.ModuleList()
        for _ in TARGET_LAYERS:
            sizes = ((h, h), (h, h), (h, CLUSTERS))
            layers = [f for s in sizes for f in (torch.nn.Linear(*s), torch.nn.ReLU())]
            self.predictors.append(_named(layers=torch.nn.Sequential(*layers[:-1])))
        self.decoder = _named(
            cnn=torch.nn.Conv1d(h, h, 3, padding=1),
            bilstm=torch.nn.LSTM(h, h, batch_first=True, bidirectional=True),
            linear=torch.nn.Linear(2 * h, h),
            batch_norm=torch.nn.BatchNorm1d(h),
            layer_norm=torch.nn.LayerNorm(h),
        )
        self.linear = torch.nn.Linear(h, 1)

    def layers(self, speech: torch.Tensor) -> list:
        """Outputs of the transformer layers 1..L for (N,) samples, each (1, T, D)."""
        if self.cfg["ssl_backbone"] == "w2v2":
            found = self.ssl(speech[None], output_hidden_states=True)
            return list(found.hidden_states[1:])
        (_, results), _ = self.ssl.extract_features(
            speech[None],
            padding_mask=torch.zeros(1, speech.numel(), dtype=torch.bool),
            output_layer=self.cfg["wavlm_cfg"]["encoder_layers"],
            ret_layer_results=True,
        )
        return [x.transpose(0, 1) for x, _ in results[1:]]

    def forward(self, layers: list) -> dict:
        logits = self.weighted_sum.layer_logits
        weights = entmax15(logits - logits.mean())
        x = sum(w * layer for w, layer in zip(weights, layers))
        x = self.weighted_sum.out_proj(x).transpose(1, 2)
        x = self.feature_processor.proj_in(x)
        for block in self.feature_processor.blocks:
            x = F.gelu(block.bn(block.pw(block.dw(x))))
        z = self.feature_processor.ln(x.transpose(1, 2))
        x = self.decoder.cnn(z.transpose(1, 2)).transpose(1, 2)
        y = F.gelu(self.decoder.linear(self.decoder.bilstm(x)[0]))
        frame_mos = self.linear(self.decoder.layer_norm(y + x))[..., 0]
        return {
            "layers": layers,
            "token_logits": [p.layers(z) for p in self.predictors],
            "frame_mos": frame_mos,
            "mos": float(frame_mos.mean()),
        }


def make_states(cfg: dict, seed: int = 0) -> dict:
    """A random state dict; no tensor keeps an initial zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        states = dict(Official(cfg).state_dict())
    for name, value in states.items():
        if name == "weighted_sum.layer_logits":
            # Apart, but no layer gets the weight zero.
            states[name] = torch.tensor([0.5, -0.2, 0.1])
        elif value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            if name.startswith("ssl."):
                states[name] = value + 0.2 * noise
            elif name.endswith("running_var"):
                states[name] = 0.5 + noise.abs()
            else:
                scale = 0.7 if value.dim() < 2 else value.size(1) ** -0.5
                states[name] = scale * noise
    return states


@torch.no_grad()
def official_forward(
    cfg: dict, states: dict, speech: torch.Tensor, layers: Optional[list] = None
) -> dict:
    """The published forward pass on one file of (N,) samples.

    ``layers`` are the upstream's, if they are there already.
    """
    model = Official(cfg).eval()
    model.load_state_dict(states, strict=True)
    return model(model.layers(speech) if layers is None else layers)


def make_speech(num_samples: int, seed: int = 0) -> torch.Tensor:
    """Coloured noise with a mean that is not zero, (N,)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_samples, generator=generator)
    envelope = torch.linspace(0.02, 0.3, num_samples)
    return noise * envelope + 0.05
