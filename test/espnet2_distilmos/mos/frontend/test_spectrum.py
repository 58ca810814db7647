# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.frontend.spectrum import power_spectrum, split_frames


@pytest.fixture(params=[False, True], ids=["eager", "exported"], autouse=True)
def mode(request, monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: request.param)


@pytest.mark.parametrize("num_samples", [400, 559, 560, 1234])
def test_frames_are_those_of_numpy(num_samples):
    signal = torch.randn(2, num_samples)
    expected = np.lib.stride_tricks.sliding_window_view(signal.numpy(), 400, axis=1)
    frames = split_frames(signal, 400, 160)
    np.testing.assert_array_equal(frames.numpy(), expected[:, ::160])


@pytest.mark.parametrize("n_fft", [400, 512])
def test_power_is_that_of_numpy(n_fft):
    frames = torch.randn(2, 3, 400, dtype=torch.float64)
    expected = np.abs(np.fft.rfft(frames.numpy(), n=n_fft)) ** 2
    power = power_spectrum(frames, n_fft)
    np.testing.assert_allclose(power.numpy(), expected, rtol=1e-10, atol=1e-9)
    assert power_spectrum(frames.float(), n_fft).dtype == torch.float32
