# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

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
        self._check_lengths(speech_lengths)
        x = speech.unsqueeze(-1)
        return [x, x * self.factor], speech_lengths


def test_fingerprint_follows_weights_and_settings():
    first = Doubler().fingerprint()
    assert first == Doubler().fingerprint() and len(first) == 32
    assert first != Doubler(2.0001).fingerprint()
    assert first == Doubler().double().fingerprint()
    other = Doubler()
    other.frame_shift = 2
    assert first != other.fingerprint()


def test_too_short_is_one_sentence():
    with pytest.raises(ValueError, match="1 samples, expected at least 2.*stage 4"):
        Doubler()(torch.zeros(1, 1), torch.tensor([1]))
