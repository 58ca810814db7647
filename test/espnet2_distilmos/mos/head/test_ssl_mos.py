# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.head.ssl_mos import SSLMOSHead


@torch.no_grad()
@pytest.mark.parametrize("score_range", [None, (1.0, 5.0)])
def test_equals_the_written_out_network_in_any_padding(score_range):
    torch.manual_seed(0)
    head = SSLMOSHead(8, 2, hidden_dim=6, score_range=score_range).eval()
    states = [torch.randn(2, 10, 8) * 3 for _ in range(3)]
    lengths = torch.tensor([10, 4])
    prediction = head(states, lengths)
    s = head.state_dict()
    for i, n in enumerate(lengths.tolist()):
        x = torch.relu(F.linear(states[-1][i, :n], s["dnn.0.weight"], s["dnn.0.bias"]))
        frames = F.linear(x, s["linear.weight"], s["linear.bias"])[:, 0]
        if score_range:
            frames = 3 + 2 * torch.tanh(frames)
        assert torch.allclose(prediction.frame_mos[i, :n], frames, atol=1e-6)
        assert torch.allclose(prediction.utt_mos[i], frames.mean(), atol=1e-6)
        assert torch.allclose(prediction.embedding[i], x.mean(dim=0), atol=1e-6)
    if score_range:
        assert (prediction.utt_mos > 1).all() and (prediction.utt_mos < 5).all()


def test_chosen_layer():
    head = SSLMOSHead(8, 2, layer=1)
    states = [torch.randn(1, 5, 8) for _ in range(3)]
    expected = head(states, torch.tensor([5])).utt_mos
    states[0], states[2] = states[0] + 1, states[2] + 1
    assert torch.equal(head(states, torch.tensor([5])).utt_mos, expected)
