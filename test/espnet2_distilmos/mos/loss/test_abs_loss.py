# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import pytest

from espnet2_distilmos.mos.build import LOSSES


def test_negative_weights_are_refused():
    for name, loss in LOSSES.items():
        with pytest.raises(ValueError, match=f"losses.{name}.weight=-1"):
            loss(weight=-1)
