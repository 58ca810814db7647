# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest

from espnet2_distilmos.mos.span_mask import SpanMask


def test_share_and_spans_are_those_asked_for():
    mask = SpanMask(0.08, 10)([200] * 300, [str(i) for i in range(300)], 0).numpy()
    # By counting: frame t is hidden unless none of the spans that reach it starts,
    # and 16 start without replacement among 191 places.
    kept = []
    for t in range(200):
        reach = min(t, 190) - max(0, t - 9) + 1
        kept.append(np.prod([(191 - reach - k) / (191 - k) for k in range(16)]))
    assert mask.mean() == pytest.approx(1 - np.mean(kept), abs=0.01)
    for row in mask:
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        assert (edges[1::2] - edges[::2]).min() >= 10


def test_only_valid_frames_are_masked():
    lengths = [1, 2, 7, 19, 40]
    mask = SpanMask(0.5, 10)(lengths, list("abcde"), 1).numpy()
    assert mask.shape == (5, 40)
    for row, frames in zip(mask, lengths):
        assert row[:frames].any() and not row[frames:].any()
    assert not SpanMask(0.0)(lengths, list("abcde"), 1).any()


def test_a_mask_depends_on_seed_and_utterance_alone():
    draw = SpanMask()
    batch = draw([100, 80, 100], ["a", "b", "c"], 5)
    alone = draw([80], ["b"], 5)
    assert (batch[1, :80] == alone[0]).all()
    assert (batch[0] != batch[2]).any()
    assert (draw([80], ["b"], 6) != alone).any()


def test_impossible_options_are_refused():
    with pytest.raises(ValueError, match="found model_conf.mask"):
        SpanMask(start_prob=1.5)
