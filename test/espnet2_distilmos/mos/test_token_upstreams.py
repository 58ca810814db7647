# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.grid import Grid
from espnet2_distilmos.mos.token_upstreams import (
    JointUpstream,
    check_upstreams,
    load_upstreams,
    stream_names,
)

from .frontend.tiny_upstreams import batch, tiny
from .test_grid import standardised


@pytest.fixture(scope="module")
def upstreams():
    """Two HuBERTs and a Whisper, all of 32 dimensions and 3 layers."""
    frontends = [tiny("hubert"), tiny("whisper"), tiny("hubert", {"init_seed": 1})]
    return [frontend.eval() for frontend in frontends]


def test_names_of_a_family_are_numbered(upstreams):
    assert stream_names(upstreams) == ["hubert", "whisper", "hubert-2"]


def test_offsets_are_to_the_nearest_frame(upstreams):
    hubert, whisper, _ = upstreams
    # The middle of 10 + 5 * 7 + 40 * 3 samples; Whisper's first window is centred on 0.
    assert Grid.of(hubert) == ("hubert", 320, 82.0, 165)
    assert Grid.of(hubert).offsets(upstreams) == [0, 0, 0]
    late = Grid("late", 320, 464.5, 930)
    assert late.offsets(upstreams) == [1, 1, 1]
    assert Grid("middle", 320, 199.5, 400).offsets([hubert, whisper]) == [0, 1]
    assert Grid.of(whisper)._replace(frame_centre=-300.0).offsets([hubert]) == [-1]


@pytest.mark.parametrize("how", ["average", "concat"])
def test_a_joint_upstream_is_that_of_its_parts(upstreams, how):
    """Layers paired by their order, in a padded batch."""
    hubert, whisper, _ = upstreams
    grid = Grid("late", 320, 199.5, 400)
    joint = JointUpstream([hubert, whisper], grid, how, [(1, 3), (2, 1)])
    assert joint.name == "hubert+whisper"
    assert joint.output_size() == (32 if how == "average" else 64)
    fingerprints = f"{hubert.fingerprint()}+{whisper.fingerprint()}"
    assert joint.fingerprint() == f"{how}:{fingerprints}"
    speech, lengths = batch()
    with torch.no_grad():
        states, frames = joint(speech, lengths)
        parts = [frontend(speech, lengths)[0] for frontend in (hubert, whisper)]
    assert sorted(states) == [1, 3]
    assert frames.tolist() == [joint.num_frames(int(n)) for n in lengths]
    for pair in ((1, 2), (3, 1)):
        first, second = (part[n].numpy() for part, n in zip(parts, pair))
        for b, count in enumerate(frames.tolist()):
            both = [
                standardised(x[b]) for x in (first[:, :count], second[:, 1:][:, :count])
            ]
            expected = sum(both) / 2 if how == "average" else np.concatenate(both, 1)
            np.testing.assert_allclose(states[pair[0]][b, :count], expected, atol=1e-5)


def test_what_cannot_be_aggregated_is_refused(upstreams):
    hubert, whisper, _ = upstreams
    grid, small = Grid.of(hubert), tiny("hubert", hidden_size=16)

    def refused(frontends, how, layers):
        with pytest.raises(ValueError) as error:
            JointUpstream(frontends, grid, how, layers)
        return str(error.value)

    error = refused([hubert, whisper], "concat", [(1, 2), (1,)])
    assert "numbers of layers to pair, hubert 2, whisper 1" in error
    assert "hubert 32, hubert-2 16" in refused([hubert, small], "average", [(1,)] * 2)
    JointUpstream([hubert, small], grid, "concat", [(1,)] * 2)
    assert "'average' of 1 upstreams" in refused([hubert], "average", [(1,)])
    assert "'heads' of 2" in refused([hubert, whisper], "heads", [(1,)] * 2)


def test_upstreams_that_do_not_go_together_are_refused(upstreams):
    hubert = upstreams[0]
    fast = build_frontend(
        "hf", {"upstream_config": {**hubert.config_dict, "conv_stride": [5, 8, 4]}}
    )
    with pytest.raises(
        ValueError, match=r"every 320 .*\(hubert\) and every 160 \(h.*-2"
    ):
        check_upstreams([hubert, fast], Grid.of(hubert))
    with pytest.raises(
        ValueError, match="one network as the upstreams hubert and hub.*-2"
    ):
        check_upstreams([hubert, hubert], Grid.of(hubert))
    check_upstreams(upstreams, Grid.of(hubert))
    with pytest.raises(ValueError, match="neither --config nor --upstreams"):
        load_upstreams([], None, "", torch.device("cpu"))
