# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest

from espnet2_distilmos.mos.head.abs_head import checked_layer
from espnet2_distilmos.mos.head.ssl_mos import SSLMOSHead


def test_layers_and_tokens_that_a_head_does_not_have():
    assert [checked_layer(layer, 3) for layer in (None, 0, 3)] == [3, 0, 3]
    with pytest.raises(ValueError, match="head_conf.layer=4, expected 0 to 3"):
        checked_layer(4, 3)
    SSLMOSHead(8, 2).set_token_training(False)
    with pytest.raises(ValueError, match="SSLMOSHead, which predicts no tokens"):
        SSLMOSHead(8, 2).set_token_training(True)
