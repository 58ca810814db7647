# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Batch norm over valid frames."""

import contextlib

import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.masking import all_marked


class MaskedBatchNorm1d(torch.nn.BatchNorm1d):
    """``BatchNorm1d`` whose statistics leave padded frames out.

    On one unpadded file it is ``torch.nn.BatchNorm1d``; names and buffers are the
    same, so checkpoints load either way.
    """

    # See frozen_statistics().
    updates_statistics: bool = True

    def forward(self, input: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Normalise.

        Args:
            input: (B, C, T).
            mask: (B, T) bool, True where valid.

        Returns:
            (B, C, T); padded frames hold finite values without meaning.
        """
        if not self.training or all_marked(mask):
            return self._normalize(input)
        if mask.device.type != "cpu":
            return self._normalize_marked(input, mask)
        frames = input.transpose(1, 2)
        output = torch.zeros_like(frames)
        output[mask] = self._normalize(frames[mask]).to(output.dtype)
        return output.transpose(1, 2)

    def _normalize_marked(
        self, values: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """The same in products: how many frames there are need not be known."""
        valid = mask.unsqueeze(1).to(values.dtype)
        count = valid.sum()
        mean = (values * valid).sum(dim=(0, 2)) / count
        centred = values - mean[:, None]
        var = (centred.square() * valid).sum(dim=(0, 2)) / count
        if self.updates_statistics:
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                unbiased = var * count / (count - 1)
                self.running_var.lerp_(unbiased, self.momentum)
        y = centred * torch.rsqrt(var + self.eps)[:, None]
        return torch.addcmul(self.bias[:, None], y, self.weight[:, None])

    def _normalize(self, values: torch.Tensor) -> torch.Tensor:
        if self.updates_statistics or not self.training:
            return super().forward(values)
        return F.batch_norm(
            values, None, None, self.weight, self.bias, True, 0.0, self.eps
        )


@contextlib.contextmanager
def frozen_statistics(module: torch.nn.Module, frozen: bool = True):
    """Leave running statistics alone, though the batch is normalised by its own.

    Further views (distorted or masked) must not shift what inference uses.
    """
    norms = [m for m in module.modules() if isinstance(m, MaskedBatchNorm1d)]
    try:
        for norm in norms:
            norm.updates_statistics = not frozen
        yield
    finally:
        for norm in norms:
            norm.updates_statistics = True
