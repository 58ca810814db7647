# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Spectra of short frames.

All functions give the same while a graph for ONNX is exported, by operations that it
has: neither windows of a length unknown beforehand nor complex numbers are among them.
"""

import math

import torch


def split_frames(signal: torch.Tensor, window: int, hop: int) -> torch.Tensor:
    """Cut a signal into overlapping frames; what is left at the end is dropped.

    Args:
        signal: (B, N).
        window: samples of a frame.
        hop: samples from one frame to the next.

    Returns:
        (B, (N - window) // hop + 1, window).
    """
    if not torch.onnx.is_in_onnx_export():
        return signal.unfold(1, window, hop)
    starts = torch.arange(0, signal.size(1) - window + 1, hop)
    return signal[:, starts[:, None] + torch.arange(window)]


def complex_spectrum(frames: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Discrete Fourier transform of real frames.

    Args:
        frames: (..., W) with W <= ``n_fft``; zeros are appended to ``n_fft``.
        n_fft: points of the transform.

    Returns:
        (..., n_fft // 2 + 1, 2), real and imaginary part, in the dtype of ``frames``.
    """
    if not torch.onnx.is_in_onnx_export():
        return torch.view_as_real(torch.fft.rfft(frames, n=n_fft))
    samples = torch.arange(frames.size(-1), dtype=torch.float64)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    angles = samples[:, None] * bins * (2.0 * math.pi / n_fft)
    real = frames @ angles.cos().to(frames.dtype)
    imaginary = frames @ -angles.sin().to(frames.dtype)
    return torch.stack([real, imaginary], dim=-1)


def power_spectrum(frames: torch.Tensor, n_fft: int) -> torch.Tensor:
    """Squared magnitude of the discrete Fourier transform of real frames.

    Args:
        frames: (..., W) with W <= ``n_fft``; zeros are appended to ``n_fft``.
        n_fft: points of the transform.

    Returns:
        (..., n_fft // 2 + 1), in the dtype of ``frames``.
    """
    if not torch.onnx.is_in_onnx_export():
        return torch.fft.rfft(frames, n=n_fft).abs().square()
    return complex_spectrum(frames, n_fft).square().sum(dim=-1)
