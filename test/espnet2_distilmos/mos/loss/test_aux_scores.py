# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import math

import pytest
import torch

from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.loss.aux_scores import AuxScoresLoss

LOSSES = {"aux_scores": {"weight": 1.0, "keys": ["one", "two"]}}


@pytest.mark.parametrize("head", ["distilmos", "ssl_mos", "token"])
def test_linear_maps_of_the_embedding(head, mos_corpus):
    conf = {} if head == "token" else {"hidden_dim": 16}
    config = mos_corpus.config(losses=LOSSES, head=head, head_conf=conf)
    model = build_model(config, load_pretrained=False).eval()
    generator = torch.Generator().manual_seed(0)
    speech = torch.randn(3, 4000, generator=generator)
    lengths = torch.tensor([4000, 3500, 3000])
    aux = torch.tensor([[3.1, math.nan], [math.nan, math.nan], [2.0, 4.0]])
    # An utterance without a label trains by its other scores.
    result = model(speech, lengths, mos=torch.full((3,), math.nan), aux=aux)
    states, frames = model.frontend(speech, lengths)
    x = model.head(states, frames).embedding
    weight, bias = model.losses["aux_scores"].predictor.parameters()
    assert bias.tolist() == [3.0, 3.0]
    found = x @ weight.T + bias
    costs = [found[0, 0] - 3.1, found[2, 0] - 2.0, found[2, 1] - 4.0]
    expected = torch.stack(costs).abs().mean()
    torch.testing.assert_close(result["loss"], expected)
    assert result["counts"]["aux_scores"] == 3
    result["loss"].backward()
    assert weight.grad.isfinite().all() and weight.grad.any()
    none = model(speech, lengths, aux=torch.full((3, 2), math.nan))
    assert none["loss"] == 0


@pytest.mark.parametrize("keys", [(), "distillmos"])
def test_keys_are_a_list(keys):
    with pytest.raises(ValueError, match="losses.aux_scores.keys=.* a list of keys"):
        AuxScoresLoss(keys=keys)
    AuxScoresLoss(weight=0, keys=keys)
