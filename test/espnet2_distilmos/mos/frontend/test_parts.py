# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest
import torch

from espnet2_distilmos.mos.frontend.parts import (
    UpstreamParts,
    frozen_modules,
    read_freeze,
)


class Upstream(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.projection, self.norm = (torch.nn.Linear(2, 2) for _ in "abc")
        self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in "ab")
        self.mask = torch.nn.Parameter(torch.zeros(2))

    def parts(self):
        return UpstreamParts(
            convolutions=[self.conv],
            before_layers=[self.conv, self.projection],
            layers=self.layers,
            after_layers=[self.norm],
        )


@pytest.mark.parametrize("freeze", ["none", "cnn", "all", 0, 7])
def test_words_and_numbers_stay(freeze):
    assert read_freeze(freeze) == freeze


def test_a_mapping_becomes_its_number():
    assert read_freeze({"layers": 0}) == 0
    assert read_freeze({"layers": 6}) == 6


@pytest.mark.parametrize(
    "freeze", ["some", True, None, 1.0, {"layers": "6"}, {"layers": 6, "cnn": True}]
)
def test_anything_else_is_one_sentence(freeze):
    with pytest.raises(ValueError, match=r"freeze=.*expected none, cnn, all or \{lay"):
        read_freeze(freeze)


def test_frozen_modules():
    model = Upstream()
    parts = model.parts()
    expected = {
        "none": [],
        "cnn": [model.conv],
        "all": [model],
        0: [model.conv, model.projection],
        1: [model.conv, model.projection, model.layers[0]],
        2: [model.conv, model.projection, *model.layers, model.norm],
    }
    for freeze, modules in expected.items():
        assert frozen_modules(freeze, model, parts, "x") == modules
    with pytest.raises(ValueError, match="freeze=3, but x has 2 transformer layers"):
        frozen_modules(3, model, parts, "x")
    assert frozen_modules("all", model, None, "x") == [model]
    with pytest.raises(ValueError, match="freeze=cnn, expected none or all: .* of x"):
        frozen_modules("cnn", model, None, "x")


def test_layer_of_parameters():
    model = torch.nn.ModuleDict({"model": Upstream()})
    found = model["model"].parts().layer_of_parameters(model)
    layer = {"conv": 0, "projection": 0, "layers.0": 1, "layers.1": 2, "norm": 2}
    expected = {
        f"model.{k}.{p}": n for k, n in layer.items() for p in ("weight", "bias")
    }
    assert found == {**expected, "model.mask": 0}
