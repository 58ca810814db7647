# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import itertools
import random

import numpy as np
import pytest
import soundfile

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.inputs import InputFile
from espnet2_distilmos.data.shards import Shard, split


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_what_is_no_shard(text):
    with pytest.raises(DataError, match="expected one such as 3/16"):
        Shard.parse(text)


def test_parts_are_balanced_whatever_the_order():
    generator = random.Random(0)
    seconds = {f"u{k}": round(generator.lognormvariate(1, 1), 3) for k in range(200)}
    numbers = split(seconds, 7)
    shuffled = list(seconds.items())
    generator.shuffle(shuffled)
    assert split(dict(shuffled), 7) == numbers
    totals = [sum(seconds[u] for u in seconds if numbers[u] == n) for n in range(1, 8)]
    assert max(totals) - min(totals) <= min(seconds.values()) + 0.01 * max(totals)
    # Against the best division of few, by trying all.
    few = {f"u{k}": generator.randint(1, 30) for k in range(8)}
    best = min(
        max(sum(n for n, at in zip(few.values(), way) if at == k) for k in range(3))
        for way in itertools.product(range(3), repeat=8)
    )
    found = split(few, 3)
    longest = max(sum(few[u] for u in few if found[u] == k) for k in (1, 2, 3))
    assert longest <= 4 / 3 * best


def test_each_file_is_in_one_part(tmp_path):
    items = []
    for k in range(9):
        path = tmp_path / f"{k}.wav"
        soundfile.write(path, np.zeros(8000 * (1 + k % 4)), 8000 * (1 + k % 2))
        items.append(InputFile(f"u{k}", str(path)))
    items[4] = InputFile("u4", str(tmp_path / "absent.wav"))
    places = [Shard(n, 4).places(items, 2) for n in range(1, 5)]
    assert sorted(itertools.chain(*places)) == list(range(9))
    assert all(part and part == sorted(part) for part in places)
    turned = [Shard(n, 4).places(items[::-1], 2) for n in range(1, 5)]
    assert [sorted(8 - p for p in part) for part in turned] == places
    with pytest.raises(DataError, match="found 10 shards of 9 files"):
        Shard(1, 10).places(items, 2)
    columns = Shard(2, 4).columns(items)
    assert [column["place"] for column in columns] == list(range(1, 10))
    assert {column["shard"] for column in columns} == {"2/4"}
    assert columns[0]["inputs"] != Shard(2, 4).columns(items[::-1])[0]["inputs"]
