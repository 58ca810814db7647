# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import collections
import itertools
import logging

import numpy as np
import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.train.mos_sampler import (
    CategorySampler,
    check_weights,
    draws_of_an_epoch,
    read_categories,
)

SIZES = {"big": 60, "small": 7}


def make_corpus(sizes=None):
    """Lengths and categories; ids begin with their category."""
    categories = {
        f"{c}{k:03d}": c for c, n in (sizes or SIZES).items() for k in range(n)
    }
    generator = np.random.default_rng(0)
    lengths = {utt_id: int(generator.integers(100, 900)) for utt_id in categories}
    return lengths, categories


def make(weights, sizes=None, **options):
    lengths, categories = make_corpus(sizes)
    return CategorySampler(lengths, categories, weights, **options)


def counts_of(batches, sizes=None):
    categories = make_corpus(sizes)[1]
    return collections.Counter(categories[i] for i in itertools.chain(*batches))


@pytest.mark.parametrize(
    "weights, epoch_of, expected",
    [
        # 67 draws: by hand, fractions to the largest remainder
        ({"big": 1, "small": 1}, None, {"big": 34, "small": 33}),
        ({"big": 3, "small": 1}, None, {"big": 50, "small": 17}),
        ({"big": 60, "small": 7}, None, SIZES),
        ({"big": 0.6, "small": 0.07}, None, SIZES),
        ({"big": 1, "small": 0}, None, {"big": 60}),
        ({"big": 4, "small": 1}, "small", {"big": 28, "small": 7}),
        ({"big": 1, "small": 1}, "big", {"big": 60, "small": 60}),
    ],
)
def test_shares_are_exact_in_every_epoch(weights, epoch_of, expected):
    sampler = make(weights, batch_size=8, epoch_of=epoch_of, seed=5)
    for epoch in range(4):
        assert counts_of(sampler.epoch(epoch)) == expected


def test_weights_like_the_sizes_draw_every_utterance_once_an_epoch():
    sampler = make(SIZES, batch_size=8)
    epochs = [sorted(itertools.chain(*sampler.epoch(e))) for e in range(2)]
    assert epochs[0] == epochs[1] == sorted(make_corpus()[0])


@pytest.mark.parametrize("batch_type", ["sorted", "unsorted", "numel"])
def test_draws_are_without_replacement_over_epochs(batch_type):
    """After any number of epochs no utterance is more than one draw ahead."""
    sampler = make({"big": 2, "small": 1}, batch_type=batch_type, batch_bins=6000)
    drawn = collections.Counter()
    for epoch in range(9):
        drawn.update(itertools.chain(*sampler.epoch(epoch)))
        for category in SIZES:
            times = [drawn[i] for i in make_corpus()[0] if i.startswith(category)]
            assert max(times) - min(times) <= 1


@pytest.mark.parametrize("sizes", [SIZES, {"big": 60, "small": 8}, {"a": 2, "b": 31}])
@pytest.mark.parametrize("batch_type", ["sorted", "numel"])
def test_no_utterance_twice_in_a_batch(sizes, batch_type):
    """Though each of the small category is drawn many times an epoch."""
    weights = dict.fromkeys(sizes, 1)
    sampler = make(weights, sizes, batch_type=batch_type, batch_bins=5000)
    for epoch in range(6):
        for batch in sampler.epoch(epoch):
            assert len(set(batch)) == len(batch)


def test_every_batch_has_the_ratio():
    sampler = make({"big": 1, "small": 3}, {"big": 300, "small": 200}, batch_size=8)
    for batch in sampler.epoch(2):
        counts = counts_of([batch], {"big": 300, "small": 200})
        assert 5 <= counts["small"] <= 7 and 1 <= counts["big"] <= 3
        assert len(batch) <= 8


def test_batches_are_of_like_lengths():
    lengths = make_corpus({"a": 400, "b": 400})[0]

    def padding(batch_type):
        options = dict(batch_type=batch_type, batch_size=10)
        sampler = make({"a": 1, "b": 3}, {"a": 400, "b": 400}, **options)
        batches = [[lengths[i] for i in batch] for batch in sampler.epoch(1)]
        padded = sum(max(batch) * len(batch) for batch in batches)
        return padded / sum(map(sum, batches)) - 1

    assert padding("sorted") < 0.15 < 0.5 < padding("unsorted")


def test_padded_size_is_limited():
    lengths = make_corpus()[0]
    sampler = make({"big": 1, "small": 1}, batch_type="numel", batch_bins=5000)
    batches = sampler.epoch(1)
    sizes = [max(lengths[i] for i in batch) * len(batch) for batch in batches]
    assert max(sizes) <= 5000
    assert np.mean(sizes) > 2500


def test_an_epoch_is_a_function_of_the_seed_and_its_number():
    weights = {"big": 1, "small": 1}
    first, second = make(weights, seed=1), make(weights, seed=1)
    for epoch in (1, 2, 3):
        batches = first.generate(epoch + 1)
    assert second.generate(3 + 1) == batches  # as after a resumption
    assert second.generate(2 + 1) != batches
    assert make(weights, seed=2).generate(3 + 2) != batches
    assert len(first) == len(batches)


def test_other_epochs_bring_other_company():
    sampler = make({"big": 1, "small": 1}, batch_size=8)
    first, second = ({frozenset(b) for b in sampler.epoch(e)} for e in (1, 2))
    assert len(first & second) < len(first) / 2


@pytest.mark.parametrize("batch_type", ["sorted", "numel"])
def test_processes_share_every_batch(batch_type):
    options = dict(batch_type=batch_type, batch_size=4, batch_bins=1500, seed=1)
    whole = make({"big": 1, "small": 1}, world_size=1, **options)
    parts = [
        make({"big": 1, "small": 1}, rank=rank, world_size=3, **options)
        for rank in range(3)
    ]
    of_ranks = [part.generate(5) for part in parts]
    assert len({len(batches) for batches in of_ranks}) == 1
    assert all(batch for batches in of_ranks for batch in batches)
    together = [i for batches in of_ranks for batch in batches for i in batch]
    assert sorted(together) == sorted(itertools.chain(*whole.generate(5)))


def test_the_log_counts_the_categories(caplog):
    caplog.set_level(logging.INFO)
    make({"big": 1, "small": 1}, batch_size=67, seed=4).generate(6)
    assert "Epoch 2 draws 34 of big, 33 of small in 9 batches" in caplog.text


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"big": -1}, "sampling_weights big=-1, expected a number of 0 or more"),
        ({"big": "1e0"}, "sampling_weights big=1e0, expected a number"),
        ({"big": float("nan")}, "expected a number"),
        ({"big": True}, "expected a number"),
        ({"big": 0}, "no weight above 0"),
        ({"big": 1, "small": 0}, "sampling_epoch small, expected one of big"),
    ],
)
def test_weights_that_mean_nothing(weights, message):
    with pytest.raises(ValueError, match=message):
        check_weights(weights, "small" if "small" in weights else None)


def test_a_category_that_would_not_be_drawn_is_refused():
    with pytest.raises(ValueError, match="7 utterances of small, .* draw 0, expected"):
        draws_of_an_epoch(SIZES, {"big": 1, "small": 0.001}, None)


@pytest.mark.parametrize(
    "text, message",
    [
        ("u1 a\nu2 c\n", "utterance u2 is of c, expected one of a, b, .* weights"),
        ("u1 a\nu2 a\n", "no utterance of b, which has a weight"),
        ("u1 a\nu1 b\n", "u1 occurs a second time"),
    ],
)
def test_categories_that_do_not_fit(text, message, tmp_path):
    path = tmp_path / "utt2set"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_categories(str(path), {"a": 1, "b": 2})
    assert str(path) in str(error.value)


def test_an_utterance_without_category_is_named():
    with pytest.raises(DataError, match="utterance u2 has no category"):
        CategorySampler({"u1": 5, "u2": 5}, {"u1": "a"}, {"a": 1})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_type": "folded"}, "batch_type folded .* expected one of sorted"),
        ({"batch_size": 2, "world_size": 3}, "batch_size 2 for 3 processes"),
        ({"sizes": {"big": 1, "small": 1}, "world_size": 3}, "a batch of 2 utterances"),
    ],
)
def test_batches_that_cannot_be_made(options, message):
    with pytest.raises(ValueError, match=message):
        make({"big": 1, "small": 1}, **options)
