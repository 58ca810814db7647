# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import torch
import torch.nn.functional as F

from espnet2_distilmos.mos.head.abs_head import TokenColumn
from espnet2_distilmos.mos.head.token import TokenHead

COLUMNS = (TokenColumn("mfcc", 0, 3), TokenColumn("hubert", 2, 4))


def test_logits_are_a_linear_map_of_the_normalised_layer():
    torch.manual_seed(0)
    states = [torch.randn(2, 5, 8) for _ in range(4)]
    lengths = torch.tensor([5, 3])
    for layer in (None, 1):
        head = TokenHead(8, 3, COLUMNS, layer=layer)
        found = head(states, lengths, [1])
        assert found.utt_mos is None and found.frame_mos is None
        normed = F.layer_norm(states[3 if layer is None else layer], (8,))
        linear = head.predictors[1]
        expected = normed @ linear.weight.T + linear.bias
        torch.testing.assert_close(found.token_logits[0], expected)
        assert len(found.token_logits) == 1
        torch.testing.assert_close(found.embedding[1], normed[1, :3].mean(dim=0))
