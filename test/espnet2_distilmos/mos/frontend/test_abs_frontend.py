# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import hashlib

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend


class Doubler(AbsLayerFrontend):
    """The smallest frontend: one frame a sample, one layer that scales."""

    name, num_layers, frame_shift, minimum_samples = "doubler", 1, 1, 2

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor([factor]))

    def output_size(self):
        return 1

    def num_frames(self, num_samples):
        return num_samples

    def resolved_conf(self):
        return {"factor": float(self.factor)}

    def forward(self, speech, speech_lengths, mask_time_indices=None):
        self._check_inputs(speech_lengths, mask_time_indices)
        x = speech.unsqueeze(-1)
        return [x, x * self.factor], speech_lengths


def test_fingerprint_follows_weights_and_settings():
    first = Doubler().fingerprint()
    # Of tokens of version 0.1, too.
    contents = b"doubler:1" + b"factor(1,)" + np.float32(2).tobytes()
    assert first == hashlib.blake2b(contents, digest_size=16).hexdigest()
    assert first != Doubler(2.0001).fingerprint()
    assert first == Doubler().double().fingerprint()
    other = Doubler()
    other.frame_shift = 2
    assert first != other.fingerprint()


@pytest.mark.parametrize("samples", [1, 9])
def test_lengths_out_of_range_are_refused(samples):
    frontend = Doubler()
    frontend.maximum_samples = 8
    frontend(torch.zeros(1, 8), torch.tensor([8]))
    with pytest.raises(ValueError, match=f"{samples} samples, expected 2 to 8 .*stage"):
        frontend(torch.zeros(1, samples), torch.tensor([samples]))
