# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Transformer layers with fewer attention heads and inner units than they began with.

What is left of a network is ``{heads: [[0, 2], [1]], ffn: [40, 12]}``: of each layer
the numbers of its attention heads, and the count of the inner units of its feed-forward
network. The numbers matter: WavLM biases each head by its own embedding.
"""

import math
from operator import attrgetter
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch.nn import functional as F

Pruned = Dict[str, List[Any]]


class UnitNames(NamedTuple):
    """Where the units of a transformer layer are.

    Attributes:
        attention: the module with ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``.
        inner: the linear map to the inner units.
        outer: the linear map that reads them.
        biases: biases among the projections to queries, keys and values.
        others: further parameters that each attention head has.
    """

    attention: str
    inner: str
    outer: str
    biases: int = 3
    others: int = 0


def unpruned(layers: int, heads: int, ffn: int) -> Pruned:
    """All units of a network of equal layers."""
    return {"heads": [list(range(heads)) for _ in range(layers)], "ffn": [ffn] * layers}


def read_pruned(pruned: Any, full: Pruned) -> Pruned:
    """``frontend_conf.pruned``, checked.

    Args:
        pruned: the units that are left.
        full: those of the unpruned network.

    Raises:
        ValueError: it is no selection of these.
    """
    found: Dict[str, Any] = dict(pruned) if isinstance(pruned, Mapping) else {}
    heads, ffn = found.get("heads"), found.get("ffn")
    try:
        is_good = set(found) == set(full)
        for mine, all_of in zip(heads, full["heads"], strict=True):
            is_good &= list(mine) == [h for h in all_of if h in mine]
        for count, most in zip(ffn, full["ffn"], strict=True):
            is_good &= type(count) is int and 0 <= count <= most
    except (TypeError, ValueError):
        is_good = False
    if not is_good:
        layers, most = len(full["ffn"]), full["ffn"][0]
        raise ValueError(
            f"found frontend_conf.pruned={pruned!r}, expected {{heads: ..., ffn: ...}} "
            f"with, of each of the {layers} layers, the numbers of the attention heads "
            f"that are left (of 0 to {len(full['heads'][0]) - 1}, rising) and how many "
            f"of {most} inner units: take it from the config.yaml of a pruned model"
        )
    return {"heads": [list(h) for h in heads], "ffn": list(ffn)}


def keep_inputs(linear: torch.nn.Linear, kept: torch.Tensor) -> None:
    """Keep the inputs of these positions (long) alone, in place."""
    _keep(linear, "weight", 1, kept)
    linear.in_features = len(kept)


def keep_outputs(linear: torch.nn.Linear, kept: torch.Tensor) -> None:
    """Keep the outputs of these positions (long) alone, in place."""
    _keep(linear, "weight", 0, kept)
    if linear.bias is not None:
        _keep(linear, "bias", 0, kept)
    linear.out_features = len(kept)


def _keep(module: torch.nn.Module, name: str, dim: int, kept: torch.Tensor) -> None:
    old = getattr(module, name)
    new = old.detach().index_select(dim, kept.to(old.device)).contiguous()
    setattr(module, name, torch.nn.Parameter(new, requires_grad=old.requires_grad))


def keep_heads(
    layer: torch.nn.Module, names: UnitNames, kept: Sequence[int], head_size: int
) -> None:
    """Keep the attention heads of a layer at these positions alone, in place."""
    attention = getattr(layer, names.attention)
    index = torch.arange(attention.out_proj.in_features).view(-1, head_size)
    index = index[torch.tensor(kept, dtype=torch.long)].flatten()
    keep_inputs(attention.out_proj, index)
    if isinstance(attention, NoHeads):
        return
    for projection in ("q_proj", "k_proj", "v_proj"):
        keep_outputs(getattr(attention, projection), index)
    attention.num_heads = len(kept)
    if isinstance(attention, RelativeAttention):
        attention.keep_positions(kept)
    elif not kept:
        setattr(layer, names.attention, NoHeads(attention.out_proj))


def keep_inner_units(
    layer: torch.nn.Module, names: UnitNames, kept: torch.Tensor
) -> None:
    """Keep the inner units of a layer at these positions (long) alone, in place."""
    keep_outputs(attrgetter(names.inner)(layer), kept)
    keep_inputs(attrgetter(names.outer)(layer), kept)


class NoHeads(torch.nn.Module):
    """What is left of an attention without heads: the bias of its output."""

    def __init__(self, out_proj: torch.nn.Linear):
        super().__init__()
        self.out_proj = out_proj
        self.train(out_proj.training)

    def forward(
        self, hidden_states: torch.Tensor, *args, **kwargs
    ) -> Tuple[torch.Tensor, None]:
        """(B, T, D) to (B, T, D)."""
        return self.out_proj(hidden_states[..., :0]), None


class RelativeAttention(torch.nn.Module):
    """WavLM's attention with gated relative positions, of some of its heads.

    transformers hands the weights to a function of torch that takes all heads only. A
    head's bias on the score of key j for query i is an embedding of the bucket of
    j - i, times a gate that a linear map reads from the head's share of the layer's
    *input* (WavLM, arXiv 2110.13900), so both are chosen by the number of the head. The
    first layer has the embeddings of all heads for all layers.

    Args:
        attention: that of transformers; its parameters are taken over.
    """

    def __init__(self, attention: torch.nn.Module):
        super().__init__()
        self.num_heads, self.head_size = attention.num_heads, attention.head_dim
        self.num_buckets = attention.num_buckets
        self.max_distance = attention.max_distance
        self.dropout = attention.dropout
        self.all_heads = self.num_heads
        self.heads = list(range(self.num_heads))
        for name, module in attention.named_children():
            setattr(self, name, module)
        self.gru_rel_pos_const = attention.gru_rel_pos_const
        self.train(attention.training)

    def keep_positions(self, kept: Sequence[int]) -> None:
        """Keep the gates of the heads at these positions."""
        _keep(self, "gru_rel_pos_const", 1, torch.tensor(kept, dtype=torch.long))
        self.heads = [self.heads[position] for position in kept]
        if not kept:
            # No hidden state depends on what is left of them.
            self.gru_rel_pos_const.requires_grad_(False)
            for module in (self.gru_rel_pos_linear, *self._projections()):
                module.requires_grad_(False)

    def _projections(self) -> Tuple[torch.nn.Module, ...]:
        return self.q_proj, self.k_proj, self.v_proj

    def biases(self, frames: int) -> torch.Tensor:
        """Biases of all heads before their gates, (all heads, T, T)."""
        device = self.rel_attn_embed.weight.device
        place = torch.arange(frames, device=device)
        offset = place[None, :] - place[:, None]
        # As in T5 (arXiv 1910.10683): a bucket each up to half of those of a
        # direction, then wider and wider ones up to the largest distance.
        buckets = self.num_buckets // 2
        exact = buckets // 2
        distance = offset.abs()
        wide = (distance.clamp(min=1) / exact).log()
        wide = wide / math.log(self.max_distance / exact) * (buckets - exact)
        wide = (exact + wide).long().clamp(max=buckets - 1)
        bucket = torch.where(distance < exact, distance, wide)
        bucket = bucket + buckets * (offset > 0)
        return self.rel_attn_embed(bucket).permute(2, 0, 1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Optional[torch.Tensor] = None,
        position_bias: Optional[torch.Tensor] = None,
        **kwargs,
    ) -> Tuple[torch.Tensor, None, torch.Tensor]:
        """Attend.

        Args:
            hidden_states: (B, T, D).
            attention_mask: (B, T), 1 or True for valid keys; None for all.
            position_bias: what the first layer returned; None in that.

        Returns:
            (B, T, D), None, and the biases of all heads for the next layer.
        """
        if position_bias is None:
            position_bias = self.biases(hidden_states.size(1))
        if not self.heads:
            return self.out_proj(hidden_states[..., :0]), None, position_bias
        shares = hidden_states.unflatten(-1, (self.all_heads, self.head_size))
        gates = self.gru_rel_pos_linear(shares[:, :, self.heads].transpose(1, 2))
        a, b = gates.unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        bias = (a * (b * self.gru_rel_pos_const - 1.0) + 2.0) * position_bias[
            self.heads
        ]
        query, key, value = (
            projection(hidden_states)
            .unflatten(-1, (self.num_heads, self.head_size))
            .transpose(1, 2)
            for projection in self._projections()
        )
        if attention_mask is not None:
            padded = attention_mask.ne(1)[:, None, None, :]
            bias = bias.masked_fill(padded, -math.inf)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype), dropout_p=dropout
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None, position_bias
