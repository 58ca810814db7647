# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Batch norm over valid frames."""

import torch
import torch.nn.functional as F


class MaskedBatchNorm1d(torch.nn.BatchNorm1d):
    """``BatchNorm1d`` whose statistics leave padded frames out.

    On one unpadded file it is ``torch.nn.BatchNorm1d``; names and buffers are the
    same, so checkpoints load either way.

    With ``frozen_statistics`` set, a forward pass in training mode still normalises
    by its own batch but leaves the running statistics alone: extra views (noisy or
    masked) must not shift what inference uses.
    """

    frozen_statistics: bool = False

    def forward(self, input: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Normalise.

        Args:
            input: (B, C, T).
            mask: (B, T) bool, True where valid.

        Returns:
            (B, C, T); padded frames hold finite values without meaning.
        """
        if not self.training:
            return F.batch_norm(
                input,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                False,
                0.0,
                self.eps,
            )
        if bool(mask.all()):
            return self._normalize(input)
        frames = input.transpose(1, 2)
        output = torch.zeros_like(frames)
        output[mask] = self._normalize(frames[mask]).to(output.dtype)
        return output.transpose(1, 2)

    def _normalize(self, values: torch.Tensor) -> torch.Tensor:
        if not self.frozen_statistics:
            return super().forward(values)
        return F.batch_norm(
            values, None, None, self.weight, self.bias, True, 0.0, self.eps
        )
