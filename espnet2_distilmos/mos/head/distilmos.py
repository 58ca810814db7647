# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The DistilMOS head: MOS and tokens of all layers from one fused representation."""

import inspect
import math
from typing import Any, Dict, List, Mapping, Optional, Sequence

import torch

from espnet2_distilmos.mos.head.abs_head import (
    AbsMOSHead,
    MOSPrediction,
    TokenColumn,
    checked_layers,
)
from espnet2_distilmos.mos.head.condition import ConditionRows
from espnet2_distilmos.mos.head.layer_mix import LayerMix
from espnet2_distilmos.mos.head.masked_batch_norm import MaskedBatchNorm1d
from espnet2_distilmos.mos.head.masked_lstm import MaskedBiLSTM
from espnet2_distilmos.mos.head.pooling import Statistics
from espnet2_distilmos.mos.head.probe import Probe
from espnet2_distilmos.mos.masking import frame_mask, masked_mean


class WeightedSum(torch.nn.Module):
    """Layer mix, then a linear projection; padded frames are zeroed."""

    def __init__(
        self,
        input_size: int,
        layers: List[int],
        kind: str,
        adapter_dim: Optional[int] = None,
    ):
        super().__init__()
        self.mix = LayerMix(layers, kind, input_size, adapter_dim)
        self.out_proj = torch.nn.Linear(input_size, input_size)
        torch.nn.init.xavier_uniform_(self.out_proj.weight)
        torch.nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, hidden_states: List[torch.Tensor], mask: torch.Tensor
    ) -> torch.Tensor:
        """(L + 1) x (B, T, D) and mask (B, T) to (B, T, D)."""
        mixed = self.out_proj(self.mix(hidden_states))
        return mixed.masked_fill(~mask.unsqueeze(-1), 0.0)


class SeparableBlock(torch.nn.Module):
    """Depthwise convolution, pointwise convolution, batch norm, GELU."""

    def __init__(self, channels: int, kernel_size: int, stride: int):
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.dw = torch.nn.Conv1d(
            channels,
            channels,
            kernel_size,
            stride,
            padding,
            groups=channels,
            bias=False,
        )
        self.pw = torch.nn.Conv1d(channels, channels, 1, bias=False)
        self.bn = MaskedBatchNorm1d(channels)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor):
        """(B, C, T) with zeroed padding and (B,) to the same, downsampled."""
        (kernel_size,), (stride,) = self.dw.kernel_size, self.dw.stride
        span = lengths + 2 * self.dw.padding[0] - kernel_size
        lengths = torch.div(span, stride, rounding_mode="floor") + 1
        x = self.pw(self.dw(x))
        mask = frame_mask(lengths, x.size(-1))
        x = torch.nn.functional.gelu(self.bn(x, mask))
        # Batch norm and GELU refill the padding; the next convolution reaches
        # over the edge, so it must find there what a single file has: zeros.
        return x.masked_fill(~mask.unsqueeze(1), 0.0), lengths


class FeatureProcessor(torch.nn.Module):
    """The neck: 1x1 convolution, separable blocks, layer norm; gives z_t."""

    def __init__(
        self,
        input_size: int,
        hidden_dim: int,
        kernels: Sequence[int],
        strides: Sequence[int],
    ):
        super().__init__()
        if len(kernels) != len(strides):
            raise ValueError(
                f"found {len(kernels)} downsample_kernels and {len(strides)} "
                "downsample_strides, expected as many of both"
            )
        self.proj_in = torch.nn.Conv1d(input_size, hidden_dim, 1)
        self.blocks = torch.nn.ModuleList(
            SeparableBlock(hidden_dim, k, s) for k, s in zip(kernels, strides)
        )
        self.ln = torch.nn.LayerNorm(hidden_dim)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor):
        """(B, T, D) and (B,) to z (B, T', H) and (B,)."""
        x = self.proj_in(x.transpose(1, 2))
        mask = frame_mask(lengths, x.size(-1))
        x = x.masked_fill(~mask.unsqueeze(1), 0.0)
        for block in self.blocks:
            x, lengths = block(x, lengths)
        return self.ln(x.transpose(1, 2)), lengths


class TokenPredictor(torch.nn.Module):
    """MLP H-H-H-K with ReLU: z (B, T, H) to logits (B, T, K) of one layer's tokens."""

    def __init__(self, hidden_dim: int, num_clusters: int):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(hidden_dim, hidden_dim),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden_dim, hidden_dim),
            torch.nn.ReLU(),
            torch.nn.Linear(hidden_dim, num_clusters),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z)


class Decoder(torch.nn.Module):
    """Convolution and BiLSTM with a residual connection and layer norm."""

    def __init__(self, hidden_dim: int, dropout: float):
        super().__init__()
        self.cnn = torch.nn.Conv1d(hidden_dim, hidden_dim, 3, padding=1)
        self.bilstm = MaskedBiLSTM(hidden_dim, hidden_dim)
        self.dropout = torch.nn.Dropout(dropout)
        self.linear = torch.nn.Linear(2 * hidden_dim, hidden_dim)
        self.layer_norm = torch.nn.LayerNorm(hidden_dim)

    def forward(
        self, z: torch.Tensor, lengths: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """z (B, T, H), lengths (B,), mask (B, T) to (B, T, H)."""
        padding = ~mask.unsqueeze(-1)
        # z's padding holds the layer norm's bias; see SeparableBlock.
        z = z.masked_fill(padding, 0.0)
        x = self.cnn(z.transpose(1, 2)).transpose(1, 2)
        y = self.bilstm(x, lengths)
        y = torch.nn.functional.gelu(self.linear(self.dropout(y)))
        return self.layer_norm(y.masked_fill(padding, 0.0) + x)


class DistilMOSHead(AbsMOSHead):
    """Head of DistilMOS (arXiv 2601.13700).

    Layer mix -> neck -> z_t; every token predictor and the MOS decoder read z_t; the
    utterance score is the mean of the frame scores, on the labels' own scale and
    unclipped.

    Args:
        input_size, num_layers, token_columns: see :class:`AbsMOSHead`.
        layers: which hidden states are mixed; None means 1..L.
        layer_mix: ``entmax15``, ``softmax`` or ``single``.
        hidden_dim: H.
        downsample_kernels, downsample_strides: of the neck's separable blocks.
        dropout: in the decoder.
        init_score: bias of the last linear layer at the start, so that training
            begins at the middle of the scale and not at zero.
        layer_adapter: ``{dim: 64}`` puts a
            :class:`~espnet2_distilmos.mos.head.layer_mix.LayerAdapter` of this
            bottleneck on each layer before the mix; None is none.
        pooling: what the utterance score is made of beside the decoder's mean over
            time: ``mean``, and any of ``sd`` and ``attention``; see
            :class:`~espnet2_distilmos.mos.head.pooling.Statistics`.
        probe: options of a :class:`~espnet2_distilmos.mos.head.probe.Probe` whose score
            is added; the decoder then starts from zero, so that training starts from
            ridge regression. ``{}`` takes its defaults, None is none.

    Deviation from the authors' code: padded frames are zeroed before every
    convolution that looks beyond its frame, and batch-norm statistics are over valid
    frames, so that a padded batch scores as single files do.
    """

    training_options = ("dropout", "init_score")

    def __init__(
        self,
        input_size: int,
        num_layers: int,
        token_columns: Sequence[TokenColumn] = (),
        layers: Optional[List[int]] = None,
        layer_mix: str = "entmax15",
        hidden_dim: int = 256,
        downsample_kernels: Sequence[int] = (5, 3, 3),
        downsample_strides: Sequence[int] = (1, 1, 1),
        dropout: float = 0.1,
        init_score: float = 3.0,
        layer_adapter: Optional[Mapping[str, int]] = None,
        pooling: Sequence[str] = ("mean",),
        probe: Optional[Mapping[str, Any]] = None,
    ):
        super().__init__(input_size, num_layers, token_columns)
        if layers is None:
            layers = list(range(1, num_layers + 1))
        layers = checked_layers("head_conf.layers", layers, num_layers)
        if type(hidden_dim) is not int or hidden_dim < 1:
            raise ValueError(
                f"found head_conf.hidden_dim={hidden_dim}, expected a whole number of "
                "1 or more"
            )
        adapter_dim = None
        if layer_adapter is not None:
            is_mapping = isinstance(layer_adapter, Mapping)
            adapter_dim = layer_adapter.get("dim") if is_mapping else None
            good = type(adapter_dim) is int and adapter_dim >= 1
            if not good or set(layer_adapter) != {"dim"}:
                raise ValueError(
                    f"found head_conf.layer_adapter={layer_adapter}, expected a "
                    "bottleneck such as {dim: 64}"
                )
        self.weighted_sum = WeightedSum(input_size, layers, layer_mix, adapter_dim)
        self.feature_processor = FeatureProcessor(
            input_size, hidden_dim, downsample_kernels, downsample_strides
        )
        self.decoder = Decoder(hidden_dim, dropout)
        self.condition_size = self.embedding_size = hidden_dim
        self.linear = torch.nn.Linear(hidden_dim, 1)
        torch.nn.init.constant_(self.linear.bias, init_score)
        # Last, so that with or without tokens the rest starts from one seed.
        self.predictors = torch.nn.ModuleList(
            TokenPredictor(hidden_dim, column.num_clusters) for column in token_columns
        )
        self.frame_stride = math.prod(downsample_strides)
        self.pooled = Statistics(hidden_dim, pooling)
        self.statistics_score = None
        if self.pooled.kinds:
            self.statistics_score = torch.nn.Linear(self.pooled.output_size, 1, False)
            torch.nn.init.zeros_(self.statistics_score.weight)
        self.probe = None
        if probe is not None:
            kernels, strides = list(downsample_kernels), list(downsample_strides)
            if self.frame_stride != 1 or not all(kernel % 2 for kernel in kernels):
                raise ValueError(
                    f"found a probe with downsample_kernels={kernels} and "
                    f"downsample_strides={strides}, expected odd kernels and strides "
                    "of 1: a probe scores every frame"
                )
            known = list(inspect.signature(Probe).parameters)[2:]
            if not isinstance(probe, Mapping) or not set(probe) <= set(known):
                raise ValueError(
                    f"found head_conf.probe={probe}, expected a mapping of none or "
                    f"some of {', '.join(known)}, such as {{}}"
                )
            self.probe = Probe(input_size, num_layers, **probe)
            torch.nn.init.zeros_(self.linear.weight)
            torch.nn.init.zeros_(self.linear.bias)

    def forward(
        self,
        hidden_states: List[torch.Tensor],
        lengths: torch.Tensor,
        token_columns: Sequence[int] = (),
        condition: Optional[ConditionRows] = None,
        scores: bool = True,
    ) -> MOSPrediction:
        """See :meth:`AbsMOSHead.forward`; the condition is added to z_t."""
        mask = frame_mask(lengths, hidden_states[0].size(1))
        mixed = self.weighted_sum(hidden_states, mask)
        utterance_lengths = lengths
        z, lengths = self.feature_processor(mixed, lengths)
        mask = frame_mask(lengths, z.size(1))
        x, utt_mos, frame_mos = z, None, None
        if scores:
            if condition is not None:
                x, lengths, mask = condition.apply(x, lengths, mask)
            x = self.decoder(x, lengths, mask)
            frame_mos = self.linear(x).squeeze(-1)
            if self.statistics_score is not None:
                frame_mos = frame_mos + self.statistics_score(self.pooled(x, mask))
            if self.probe is not None:
                probed = self.probe(hidden_states, utterance_lengths)
                item = None if condition is None else condition.item
                frame_mos = frame_mos + (probed if item is None else probed[item])
            frame_mos = frame_mos.masked_fill(~mask, 0.0)
            utt_mos = masked_mean(frame_mos, mask)
        return MOSPrediction(
            utt_mos=utt_mos,
            frame_mos=frame_mos,
            lengths=lengths,
            # After the decoder: the order in which gradients of z_t are summed is
            # part of what a seed repeats to the last bit.
            token_logits=[self.predictors[i](z) for i in token_columns] or None,
            embedding=masked_mean(x, mask),
            frame_stride=self.frame_stride,
        )

    def statistics(self) -> Dict[str, torch.Tensor]:
        return self.weighted_sum.mix.statistics()
