# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import torch

from espnet2_distilmos.train.mos_collate_fn import MOSCollateFn


def item(samples, tokens, votes, index):
    return {
        "speech": np.arange(1, samples + 1, dtype=np.float32),
        "mos": np.array([np.nan if index else 3.5], dtype=np.float32),
        "tokens": np.arange(2 * tokens).reshape(tokens, 2),
        "votes": np.arange(votes, dtype=np.float32),
        "listeners": np.arange(votes),
        "corpus": np.array([index]),
        "mos_se": np.array([0.5], dtype=np.float32),
        "aux": np.array([index, np.nan], dtype=np.float32),
    }


def test_audio_is_padded_with_zeros_and_the_rest_with_none():
    ids, batch = MOSCollateFn()([("a", item(5, 2, 2, 0)), ("b", item(3, 0, 0, 1))])
    assert ids == ["a", "b"]
    assert batch["speech"].tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 0, 0]]
    assert batch["speech_lengths"].tolist() == [5, 3]
    assert batch["tokens"].tolist() == [[[0, 1], [2, 3]], [[-1, -1], [-1, -1]]]
    assert batch["listeners"].tolist() == [[0, 1], [-1, -1]]
    assert batch["votes"].shape == (2, 2)
    assert batch["corpus"].tolist() == [[0], [1]]
    for name in ("tokens", "listeners", "corpus"):
        assert batch[name].dtype == torch.long
    assert batch["mos_se"].shape == (2, 1) and batch["aux"][:, 0].tolist() == [0, 1]
    assert not {"mos_se_lengths", "aux_lengths"} & set(batch)
    assert batch["mos"][0].tolist() == [3.5] and batch["mos"][1].isnan()
    empty = MOSCollateFn()([("b", item(3, 0, 0, 1))])[1]
    assert empty["tokens"].shape == (1, 0, 2) and empty["votes"].shape == (1, 0)
