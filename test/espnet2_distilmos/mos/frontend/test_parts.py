# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest

from espnet2_distilmos.mos.frontend.parts import frozen_modules, read_freeze

from .tiny_upstreams import tiny


@pytest.mark.parametrize("freeze", ["none", "cnn", "all", 0, 7])
def test_words_and_numbers_stay_and_a_mapping_becomes_its_number(freeze):
    assert read_freeze(freeze) == freeze
    assert read_freeze({"layers": 6}) == 6


@pytest.mark.parametrize(
    "freeze", ["some", True, None, 1.0, {"layers": "6"}, {"layers": 6, "cnn": True}]
)
def test_anything_else_is_refused(freeze):
    with pytest.raises(ValueError, match=r"freeze=.*expected none, cnn, all or \{lay"):
        read_freeze(freeze)


@pytest.mark.parametrize("freeze", [4, -1])
def test_layers_that_are_not_there_are_refused(freeze):
    with pytest.raises(ValueError, match="hubert has 3 transformer layers"):
        tiny(options={"freeze": freeze})


def test_a_network_of_unknown_parts_is_frozen_as_a_whole_or_not():
    model = tiny().model
    assert frozen_modules("all", model, None, "x") == [model]
    assert frozen_modules("none", model, None, "x") == []
    with pytest.raises(ValueError, match="freeze=cnn, expected none or all: .* of x"):
        frozen_modules("cnn", model, None, "x")
