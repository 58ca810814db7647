# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch

from espnet2_distilmos.train.mos_collate_fn import MOSCollateFn


def item(samples, frames, mos):
    return {
        "speech": np.arange(1, samples + 1, dtype=np.float32),
        "mos": np.array([mos], dtype=np.float32),
        "tokens": np.arange(2 * frames).reshape(frames, 2),
    }


def test_pads_audio_with_zeros_and_tokens_with_minus_one():
    ids, batch = MOSCollateFn()([("a", item(5, 2, 3.5)), ("b", item(3, 0, np.nan))])
    assert ids == ["a", "b"]
    assert set(batch) == {
        "speech",
        "speech_lengths",
        "mos",
        "tokens",
        "tokens_lengths",
    }
    assert batch["speech"].tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]]
    assert batch["speech_lengths"].tolist() == [5, 3]
    assert batch["tokens"].dtype == torch.long
    assert batch["tokens"].tolist() == [[[0, 1], [2, 3]], [[-1, -1], [-1, -1]]]
    assert batch["tokens_lengths"].tolist() == [2, 0]
    assert batch["mos"].shape == (2, 1)
    assert batch["mos"][0].item() == 3.5 and batch["mos"][1].isnan()


def test_all_without_tokens():
    _, batch = MOSCollateFn()([("a", item(5, 0, 1)), ("b", item(3, 0, 2))])
    assert batch["tokens"].shape == (2, 0, 2)


def test_data_without_tokens():
    data = [("a", item(5, 1, 1)), ("b", item(3, 1, 2))]
    for _, values in data:
        del values["tokens"]
    assert "tokens" not in MOSCollateFn()(data)[1]


def test_one_utterance_without_tokens_needs_an_empty_array():
    data = [("a", item(5, 1, 1)), ("b", item(3, 1, 2))]
    del data[1][1]["tokens"]
    with pytest.raises(AssertionError):
        MOSCollateFn()(data)


def test_votes_are_padded_with_no_listener():
    votes = [([2.0, 3.0], [0, 4]), ([], []), ([5.0], [1])]
    data = [
        (
            f"u{k}",
            {
                "speech": np.ones(4, dtype=np.float32),
                "votes": np.array(scores, dtype=np.float32),
                "listeners": np.array(who, dtype=np.int64),
                "corpus": np.array([k], dtype=np.int64),
            },
        )
        for k, (scores, who) in enumerate(votes)
    ]
    _, batch = MOSCollateFn()(data)
    assert batch["listeners"].tolist() == [[0, 4], [-1, -1], [1, -1]]
    assert batch["votes"][batch["listeners"] >= 0].tolist() == [2.0, 3.0, 5.0]
    assert batch["corpus"].tolist() == [[0], [1], [2]]
    assert batch["listeners"].dtype == batch["corpus"].dtype == torch.long
    _, none = MOSCollateFn()(data[1:2])
    assert none["listeners"].shape == none["votes"].shape == (1, 0)
