# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import math

import pytest

from espnet2_distilmos.mos.build import LOSSES, build_losses


def test_negative_weights_are_refused():
    for name, loss in LOSSES.items():
        with pytest.raises(ValueError, match=f"losses.{name}.weight=-1"):
            loss(weight=-1)


@pytest.mark.parametrize(
    "name,option,value",
    [
        ("mos_l1", "weight", "1"),
        ("mos_l1", "weight", math.nan),
        ("frame_l1", "tau", None),
        ("prs", "queue", 2.5),
        ("prs", "queue", -5),
        ("prs", "concordant", "abc"),
        ("bradley_terry", "margin", "abc"),
        ("bradley_terry", "margin", -1.0),
        ("bradley_terry", "scale", 0),
        ("contrastive", "margin", -0.1),
        ("triplet", "margin", -1.0),
        ("triplet", "across_corpora", "maybe"),
        ("prs", "across_corpora", 1),
        ("aux_scores", "keys", ["mos"]),
        ("aux_scores", "keys", [3]),
        ("aux_scores", "keys", ["one", "one"]),
    ],
)
def test_bad_options_are_refused(name, option, value):
    with pytest.raises(ValueError) as error:
        build_losses({name: {option: value}})
    assert f"found losses.{name}.{option}={value!r}, expected " in str(error.value)
