# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest

from espnet2_distilmos.mos.frontend.parts import read_freeze


def test_words_and_numbers_stay_and_a_mapping_becomes_its_number():
    for freeze in ("none", "cnn", "all", 0, 7):
        assert read_freeze(freeze) == freeze
    assert read_freeze({"layers": 6}) == 6


@pytest.mark.parametrize("freeze", ["some", True, None, 1.0, {"layers": "6"}])
def test_anything_else_is_refused(freeze):
    with pytest.raises(ValueError, match=r"freeze=.*expected none, cnn, all or \{lay"):
        read_freeze(freeze)
