# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest

from espnet2_distilmos.evaluation import bootstrap, resampled
from espnet2_distilmos.evaluation.bootstrap import RESAMPLES, Resampler
from espnet2_distilmos.evaluation.metrics import ALL_METRICS, evaluate

NAMES = list(ALL_METRICS)
# What a metric of sums alone would get wrong or loses digits of.
PREDICTIONS = {
    "usual": lambda true, noise: true + noise,
    "ties": lambda true, noise: np.round(true + noise),
    "opposite": lambda true, noise: -true + 0.5 * noise,
    "an outlier": lambda true, noise: np.where(np.arange(len(true)) == 3, 1e7, true),
    "nearly perfect": lambda true, noise: true + 1e-5 * noise,
    "mostly constant": lambda true, noise: np.where(noise > 1, noise, 3.0),
    "bent": lambda true, noise: np.exp(2 * true + noise),
    "constant": lambda true, noise: np.full(len(true), 3.0),
}


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_blocks_equal_the_metrics_of_repeated_items(kind, resample):
    generator = np.random.default_rng(7)
    true = np.round(2 * generator.uniform(1, 5, 60)) / 2
    pred = PREDICTIONS[kind](true, generator.normal(size=60))
    # some systems of one clip, which not all resamples have, and clips without one
    systems = [None if i % 11 == 0 else f"s{min(i % 17, i // 3)}" for i in range(60)]
    clusters = [i // 2 for i in range(60)]
    resampler = Resampler(60, systems, clusters, resample, 12, seed=3)
    samples = resampler(pred, true, NAMES)
    defined = 0
    for r, counts in enumerate(resampler):
        items = np.repeat(np.arange(60), counts)
        names = [systems[i] for i in items]
        if resample == "systems":
            # every copy of a system is a system of its own
            copies = np.concatenate([np.arange(c) for c in counts])
            names = [s and f"{s}-{c}" for s, c in zip(names, copies)]
        expected = evaluate(pred[items], true[items], names, NAMES)
        for key, values in samples.items():
            if expected[key] is None:
                assert np.isnan(values[r])
            else:
                assert values[r] == pytest.approx(expected[key], rel=1e-9, abs=1e-11)
                defined += 1
    assert defined >= 12 * (4 if kind == "constant" else 13)


def test_neither_blocks_nor_other_models_change_a_sample(monkeypatch):
    generator = np.random.default_rng(1)
    true = generator.integers(1, 6, 90).astype(float)
    models = {name: true + generator.normal(size=90) for name in "abc"}
    resampler = Resampler(90, [f"s{i % 7}" for i in range(90)], num_resamples=25)
    together = resampler.of_models(models, true, NAMES)
    monkeypatch.setattr(bootstrap, "_BLOCK_VALUES", 400)
    assert [block.shape[1] for block in resampler._blocks()] == [4] * 6 + [1]
    for name, pred in models.items():
        for key, values in resampler(pred, true, NAMES).items():
            np.testing.assert_allclose(together[name][key], values, rtol=1e-12)


def test_many_systems_take_another_way(monkeypatch):
    generator = np.random.default_rng(2)
    pred, true = generator.normal(size=(2, 120))
    resampler = Resampler(120, [str(i // 3) for i in range(120)], num_resamples=5)
    pairwise = resampler(pred, true, ["ktau", "pair_accuracy"])
    monkeypatch.setattr(resampled, "_MOST_PAIRED", 10)
    for key, values in resampler(pred, true, ["ktau", "pair_accuracy"]).items():
        np.testing.assert_allclose(values, pairwise[key], rtol=1e-12)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_discordant_pairs_are_those_that_one_counts(levels):
    generator = np.random.default_rng(levels)
    first, second = generator.integers(levels, size=(2, 50)).astype(float)
    counts = generator.integers(0, 3, size=(50, 4))
    count = resampled._Discordance(*map(resampled.Values, (first, second)))
    discordant, equal = count(counts)
    for b in range(4):
        x, y = (np.repeat(v, counts[:, b]) for v in (first, second))
        dx, dy = (np.sign(v[:, None] - v)[np.triu_indices(len(v), 1)] for v in (x, y))
        assert discordant[b] == np.count_nonzero(dx * dy < 0)
        assert equal[b] == np.count_nonzero((dx == 0) & (dy == 0))
