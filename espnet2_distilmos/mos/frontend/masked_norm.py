# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Group norm over time that leaves padding out of its statistics."""

from typing import Optional

import torch

from espnet2_distilmos.mos.masking import frame_mask


class MaskedGroupNorm(torch.nn.GroupNorm):
    """``GroupNorm`` with one group a channel, over valid frames only.

    The first convolution of base-size wav2vec 2.0, HuBERT and WavLM models
    normalises each channel over time, so zeros appended to a batch change every
    frame. With the valid lengths known the statistics are those of the single file.
    """

    # Valid frames of the batch at hand, (B,); None when all frames are valid.
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
        valid = frame_mask(self.lengths, x.size(-1)).unsqueeze(1).to(x.dtype)
        count = self.lengths.to(x.dtype)[:, None, None]
        mean = (x * valid).sum(dim=-1, keepdim=True) / count
        centred = x - mean
        var = (centred.square() * valid).sum(dim=-1, keepdim=True) / count
        y = centred * torch.rsqrt(var + self.eps)
        y = torch.addcmul(self.bias[:, None], y, self.weight[:, None])
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
