# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import collections
import itertools

import numpy as np
import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.train.mos_sampler import CategorySampler, read_categories

SIZES = {"big": 60, "small": 7}
EVEN = {"big": 1, "small": 1}


def make_corpus(sizes):
    """Lengths and categories; ids begin with their category."""
    categories = {f"{c}{k:03d}": c for c, n in sizes.items() for k in range(n)}
    generator = np.random.default_rng(0)
    lengths = {utt_id: int(generator.integers(100, 900)) for utt_id in categories}
    return lengths, categories


def make(weights, sizes=SIZES, **options):
    return CategorySampler(*make_corpus(sizes), weights, **options)


def counts_of(batches):
    return collections.Counter(i.rstrip("0123456789") for b in batches for i in b)


@pytest.mark.parametrize(
    "weights, epoch_of, expected",
    [
        # 67 draws: by hand, fractions to the largest remainder
        ({"big": 3, "small": 1}, None, {"big": 50, "small": 17}),
        ({"big": 0.6, "small": 0.07}, None, SIZES),
        ({"big": 1, "small": 0}, None, {"big": 60}),
        ({"big": 4, "small": 1}, "small", {"big": 28, "small": 7}),
    ],
)
def test_shares_are_exact_in_every_epoch(weights, epoch_of, expected):
    sampler = make(weights, batch_size=8, epoch_of=epoch_of, seed=5)
    for epoch in range(4):
        drawn = list(itertools.chain(*sampler.epoch(epoch)))
        assert counts_of([drawn]) == expected
        if expected is SIZES:
            assert len(set(drawn)) == 67


@pytest.mark.parametrize("batch_type", ["sorted", "numel"])
def test_draws_are_without_replacement_over_epochs(batch_type):
    """No utterance is more than one draw ahead, or twice in a batch."""
    sizes = {"a": 2, "b": 31}
    sampler = make({"a": 2, "b": 1}, sizes, batch_type=batch_type, batch_bins=6000)
    drawn = collections.Counter()
    for epoch in range(9):
        batches = sampler.epoch(epoch)
        assert all(len(set(batch)) == len(batch) for batch in batches)
        drawn.update(itertools.chain(*batches))
        for category in sizes:
            times = [drawn[i] for i in make_corpus(sizes)[0] if i.startswith(category)]
            assert max(times) - min(times) <= 1


def test_every_batch_has_the_ratio_and_like_lengths():
    sizes = {"big": 400, "small": 400}
    lengths = make_corpus(sizes)[0]

    def padding(batch_type):
        options = dict(batch_type=batch_type, batch_size=8)
        sampler = make({"big": 1, "small": 3}, sizes, **options)
        for batch in sampler.epoch(1):
            counts = counts_of([batch])
            assert 5 <= counts["small"] <= 7 and 1 <= counts["big"] <= 3
        batches = [[lengths[i] for i in batch] for batch in sampler.epoch(1)]
        padded = sum(max(batch) * len(batch) for batch in batches)
        return padded / sum(map(sum, batches)) - 1

    assert padding("sorted") < 0.15 < 0.5 < padding("unsorted")


@pytest.mark.parametrize("batch_type", ["sorted", "numel"])
def test_batches_of_one_category(batch_type):
    """Of mixed batches of 8, a share of 1 of 10 mostly has no other to pair with."""
    options = dict(batch_type=batch_type, batch_size=8, batch_bins=4000, world_size=2)
    weights = {"big": 9, "small": 1}
    mixed = make(weights, **options).epoch(1)
    single = make(weights, batches="single", **options).epoch(1)
    assert counts_of(single) == counts_of(mixed) == {"big": 60, "small": 7}
    counts = [counts_of([batch]) for batch in single]
    assert all(len(count) == 1 and count.total() > 1 for count in counts)
    assert sum(count["small"] == 1 for count in map(counts_of, zip(mixed))) >= 5


def test_padded_size_is_limited():
    lengths = make_corpus(SIZES)[0]
    batches = make(EVEN, batch_type="numel", batch_bins=5000).epoch(1)
    sizes = [max(lengths[i] for i in batch) * len(batch) for batch in batches]
    assert max(sizes) <= 5000 and np.mean(sizes) > 2500


def test_an_epoch_is_a_function_of_the_seed_and_its_number():
    first, second = make(EVEN, seed=1), make(EVEN, seed=1)
    for epoch in (1, 2, 3):
        batches = first.generate(epoch + 1)
    assert second.generate(3 + 1) == batches  # as after a resumption
    assert make(EVEN, seed=2).generate(3 + 2) != batches
    assert len(first) == len(batches)


@pytest.mark.parametrize("batch_type", ["sorted", "numel"])
def test_processes_share_every_batch(batch_type):
    options = dict(batch_type=batch_type, batch_size=4, batch_bins=1500, seed=1)
    whole = make(EVEN, **options).generate(5)
    parts = [
        make(EVEN, rank=rank, world_size=3, **options).generate(5) for rank in range(3)
    ]
    assert len({len(batches) for batches in parts}) == 1
    assert all(batch for batches in parts for batch in batches)
    together = [i for batches in parts for batch in batches for i in batch]
    assert sorted(together) == sorted(itertools.chain(*whole))


@pytest.mark.parametrize(
    "text, named",
    [("u1 a\nu2 c\n", "u2 is of c"), ("u1 a\n", "of b")],
)
def test_categories_that_do_not_fit(text, named, tmp_path):
    path = tmp_path / "utt2set"
    path.write_text(text)
    with pytest.raises(DataError, match=named) as error:
        read_categories(str(path), {"a": 1, "b": 2})
    assert str(path) in str(error.value)


def test_what_cannot_be_drawn_is_refused():
    for weight in (-1, "1e0", float("nan")):
        with pytest.raises(ValueError, match="--sampling_weights .*small"):
            make({"big": 1, "small": weight})
    with pytest.raises(ValueError, match="--sampling_epoch small"):
        make({"big": 1, "small": 0}, epoch_of="small")
    with pytest.raises(ValueError, match="7 utterances of small, .* draw 0"):
        make({"big": 1, "small": 0.001})
    with pytest.raises(DataError, match="utterance u2 has no category"):
        CategorySampler({"u1": 5, "u2": 5}, {"u1": "a"}, {"a": 1})
    with pytest.raises(ValueError, match="batch_type folded .* expected one of sorted"):
        make(EVEN, batch_type="folded")
    with pytest.raises(ValueError, match="a batch of 2 utterances"):
        list(make(EVEN, {"big": 1, "small": 1}, world_size=3))
