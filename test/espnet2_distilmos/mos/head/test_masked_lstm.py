# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from espnet2_distilmos.mos.head.masked_lstm import MaskedBiLSTM
from espnet2_distilmos.mos.masking import frame_mask


def test_equals_packed_sequences_with_gradients():
    torch.manual_seed(0)
    lstm = MaskedBiLSTM(5, 7)
    reference = torch.nn.LSTM(5, 7, batch_first=True, bidirectional=True)
    reference.load_state_dict(lstm.state_dict(), strict=True)
    x = torch.randn(3, 11, 5)
    x[1, 6:] = 100.0  # padding must not matter
    lengths = torch.tensor([11, 6, 1])
    keep = frame_mask(lengths, 11).unsqueeze(-1)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected = pad_packed_sequence(reference(packed)[0], batch_first=True)[0] * keep
    found = torch.where(keep, lstm(x, lengths), torch.zeros(()))
    assert torch.allclose(found, expected, atol=1e-6)
    found.square().sum().backward()
    expected.square().sum().backward()
    for (name, a), b in zip(lstm.named_parameters(), reference.parameters()):
        assert torch.allclose(a.grad, b.grad, atol=1e-5), name
