# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Group norm over time that leaves padding out of its statistics."""

from typing import Optional, Sequence

import torch
from torch.autograd.function import once_differentiable

from espnet2_distilmos.mos.masking import frame_mask


class _ByItem(torch.autograd.Function):
    """Group norm with one group a channel, of the valid frames of each item.

    torch's own kernels, an item at a time: what a single file gives, to the last bit.
    Of the forward pass the input alone is kept, where a formula in tensors keeps two
    of its size.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, lengths: Sequence[int], eps: float):
        output, statistics = torch.empty_like(x), []
        channels = x.size(1)
        for i, frames in enumerate(lengths):
            y, mean, rstd = torch.native_group_norm(
                x[i : i + 1, :, :frames].contiguous(),
                *(weight, bias, 1, channels, frames, channels, eps),
            )
            output[i, :, :frames] = y[0]
            output[i, :, frames:] = 0.0
            statistics += [mean, rstd]
        ctx.save_for_backward(x, weight, *statistics)
        ctx.lengths = lengths
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, *statistics = ctx.saved_tensors
        wanted, channels = ctx.needs_input_grad[:3], x.size(1)
        grad_x = torch.zeros_like(x) if wanted[0] else None
        sums = []
        for i, frames in enumerate(ctx.lengths):
            of_x, *others = torch.ops.aten.native_group_norm_backward(
                grad[i : i + 1, :, :frames].contiguous(),
                x[i : i + 1, :, :frames].contiguous(),
                *statistics[2 * i : 2 * i + 2],
                *(weight, 1, channels, frames, channels, wanted),
            )
            if of_x is not None:
                grad_x[i, :, :frames] = of_x[0]
            sums.append(others)
        of_weight, of_bias = (
            torch.stack(parts).sum(dim=0) if needed else None
            for parts, needed in zip(zip(*sums), wanted[1:])
        )
        return grad_x, of_weight, of_bias, None, None


class MaskedGroupNorm(torch.nn.GroupNorm):
    """``GroupNorm`` with one group a channel, over valid frames only.

    The first convolution of base-size wav2vec 2.0, HuBERT and WavLM models
    normalises each channel over time, so zeros appended to a batch change every
    frame. With the valid lengths known the statistics are those of the single file,
    and padding is zero.
    """

    # Valid frames of the batch at hand, (B,), best on the CPU, where they are read;
    # None when all frames are valid.
    lengths: Optional[torch.Tensor] = None

    @classmethod
    def from_group_norm(cls, norm: torch.nn.GroupNorm) -> "MaskedGroupNorm":
        """Take over the parameters (the same objects) of ``norm``."""
        masked = cls(norm.num_groups, norm.num_channels, eps=norm.eps)
        masked.weight, masked.bias = norm.weight, norm.bias
        return masked

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, T), in the dtype of the input."""
        if self.lengths is None:
            return super().forward(input)
        # At least in fp32: in half precision the sum over seconds loses digits.
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        lengths = self.lengths.tolist()
        y = _ByItem.apply(x, self.weight, self.bias, lengths, self.eps)
        return y.to(input.dtype)


def normalize_waveform(
    speech: torch.Tensor, lengths: torch.Tensor, eps: float = 1e-7
) -> torch.Tensor:
    """Zero mean and unit variance per utterance, over valid samples.

    As the feature extractors with ``do_normalize`` of transformers define it:
    population variance, eps inside the root; padding stays zero.

    Args:
        speech: (B, N).
        lengths: valid samples, (B,).

    Returns:
        (B, N).
    """
    valid = frame_mask(lengths, speech.size(1)).to(speech.dtype)
    count = lengths.to(speech.dtype).unsqueeze(1)
    mean = (speech * valid).sum(dim=1, keepdim=True) / count
    centred = (speech - mean) * valid
    var = centred.square().sum(dim=1, keepdim=True) / count
    return centred * torch.rsqrt(var + eps)


def full_length(lengths: torch.Tensor, max_length: int) -> bool:
    """True when no item of the batch is padded."""
    return bool((lengths == max_length).all())
