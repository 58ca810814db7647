# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.evaluation import router as module
from espnet2_distilmos.evaluation.router import (
    Router,
    check_labelled,
    cross_predict,
    fit,
    fit_router,
    fittable,
    read_router,
    write_router,
)

KEYS = ("a", "b", "c")


def clips(count=120, seed=0, noise=0.3):
    """Clips of which c says whether a or b is right; two tests, groups of two clips."""
    rng = np.random.default_rng(seed)
    truth, side = rng.normal(size=count), rng.choice([-1.0, 1.0], count)
    wrong = rng.normal(size=(2, count))
    a = np.where(side > 0, truth + noise * rng.normal(size=count), wrong[0])
    b = np.where(side < 0, truth + noise * rng.normal(size=count), wrong[1])
    scores = np.stack([3 + a, 2 + 0.5 * b, 3 + side], axis=1)
    sets = ["one" if i % 2 else "two" for i in range(count)]
    groups = [f"g{i // 4}" for i in range(count)]
    return scores, truth, sets, groups


def test_a_mix_by_hand():
    rng = np.random.default_rng(0)
    scores = rng.normal(3, 1, size=(5, 3))
    scores[1, 2] = scores[2, 0] = np.nan
    scores[4] = np.nan
    mean, sd = np.array([3.0, 2.5, 3.5]), np.array([1.0, 0.5, 0.8])
    slopes, biases = rng.normal(size=(3, 3)), rng.normal(size=3)
    router = Router(KEYS, mean, sd, 3.2, 0.7, slopes, biases, 0.1)
    found = router(scores)
    for one, mixed in zip(scores[:4], found):
        known = np.flatnonzero(np.isfinite(one))
        z = np.zeros(3)
        z[known] = (one[known] - mean[known]) / sd[known]
        weights = scipy.special.softmax([slopes[k] @ z + biases[k] for k in known])
        common = [3.2 + 0.7 * z[k] for k in known]
        assert mixed == pytest.approx(weights @ common)
    assert np.isnan(found[4]) and not router.weights(scores)[4].any()


def test_the_fit_is_the_minimum_that_another_optimiser_finds():
    scores, truth, sets, _ = clips(40)
    scores = scores[:, :2]
    penalty = 0.05

    def loss(flat):
        router = Router(
            *(("a", "b"), scores.mean(axis=0), scores.std(axis=0), 3.0, 1.0),
            *(flat[2:].reshape(2, 2), flat[:2], penalty),
        )
        mixed = router(scores)
        lccs = [
            np.corrcoef(mixed[own], truth[own])[0, 1]
            for own in ([n == name for n in sets] for name in ("one", "two"))
        ]
        of_slopes = penalty / 2 * (flat[2:] ** 2).sum()
        return 1 - np.mean(lccs) + of_slopes + 0.0015 * (flat[:2] ** 2).sum()

    found = fit(scores, truth, sets, ("a", "b"), penalty)
    flat = np.concatenate([found.biases, found.slopes.ravel()])
    options = {"maxiter": 20000, "maxfev": 20000, "fatol": 1e-10, "xatol": 1e-6}
    best = scipy.optimize.minimize(
        loss, np.zeros(6), method="Nelder-Mead", options=options
    )
    assert loss(flat) == pytest.approx(best.fun, abs=1e-5)
    assert loss(flat) < loss(np.zeros(6)) - 0.01
    weights = found.weights(scores).mean(axis=0)
    assert found.centre == pytest.approx(weights @ scores.mean(axis=0))
    assert found.spread == pytest.approx(weights @ scores.std(axis=0))


def test_weights_follow_the_scores_where_no_linear_mix_can():
    scores, truth, sets, groups = clips()
    new_scores, new_truth, *_ = clips(400, seed=1)
    mixed = fit_router(scores, truth, sets, groups, KEYS)(new_scores)
    design = np.column_stack([scores, np.ones(len(scores))])
    linear = np.linalg.lstsq(design, truth, rcond=None)[0]
    of_linear = np.column_stack([new_scores, np.ones(400)]) @ linear
    lcc = np.corrcoef(mixed, new_truth)[0, 1]
    assert lcc > np.corrcoef(of_linear, new_truth)[0, 1] + 0.1
    assert lcc > 0.85


def test_the_scale_of_a_test_does_not_matter():
    scores, truth, sets, groups = clips()
    other = np.where([n == "two" for n in sets], 50 + 20 * truth, truth)
    one = fit_router(scores, truth, sets, groups, KEYS)
    two = fit_router(scores, other, sets, groups, KEYS)
    assert one.penalty == two.penalty
    np.testing.assert_allclose(one(scores), two(scores), atol=1e-4)


def test_without_signal_there_is_no_correlation_and_a_penalty_keeps_constant_weights():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(3, 1, size=(60, 3)), rng.normal(size=60)
    groups = list(map(str, range(60)))
    mixed = cross_predict(scores, labels, ["s"] * 60, groups, KEYS)
    assert abs(np.corrcoef(mixed, labels)[0, 1]) < 0.3
    labels = scores[:, 1] + 0.1 * labels
    weights = fit(scores, labels, ["s"] * 60, KEYS, 1000.0).weights(scores)
    np.testing.assert_allclose(weights, weights[:1].repeat(60, 0), atol=1e-2)
    assert weights[0, 1] > 0.9


def test_cross_prediction_knows_nothing_of_a_clips_own_group_or_test():
    scores, truth, sets, groups = clips(60)
    sets = ["one"] * 60
    before = cross_predict(scores, truth, sets, groups, KEYS)
    changed = truth.copy()
    own = [g == "g3" for g in groups]
    changed[own] = [9.0, -9.0, 9.0, -9.0]
    after = cross_predict(scores, changed, sets, groups, KEYS)
    np.testing.assert_array_equal(after[own], before[own])
    assert not np.array_equal(after, before)
    sets = ["one" if i < 30 else "two" for i in range(60)]
    by_set = cross_predict(scores, truth, sets, groups, KEYS, leave_sets=True)
    router = fit_router(scores[30:], truth[30:], sets[30:], groups[30:], KEYS)
    np.testing.assert_allclose(by_set[:30], router(scores[:30]))


def test_folds_keep_groups_whole_and_are_about_equal():
    groups = [f"g{i // 3}" for i in range(60)]
    folds = module._folds(["s"] * 60, groups)
    assert all(len(set(folds[i : i + 3])) == 1 for i in range(0, 60, 3))
    assert np.bincount(folds).tolist() == [12] * 5


def test_a_router_is_kept_as_json(tmp_path):
    scores, truth, sets, _ = clips()
    router = fit(scores, truth, sets, KEYS, 0.01)
    path = tmp_path / "router.json"
    write_router(path, router)
    again = read_router(path)
    assert again.keys == router.keys and again.penalty == 0.01
    np.testing.assert_array_equal(again(scores), router(scores))
    data = json.loads(path.read_text())
    for change in ({"sd": [0, 1, 1]}, {"slopes": [[1]]}, {"kind": "scale"}):
        path.write_text(json.dumps({**data, **change}))
        with pytest.raises(DataError, match="cannot be read as a router"):
            read_router(path)
    with pytest.raises(DataError, match="cannot be read as a router"):
        read_router(tmp_path / "none.json")


def test_tests_that_say_nothing_are_refused():
    labels = np.arange(20.0)
    check_labelled("s", labels, "a label")
    for values in (labels[:8], labels * 0, []):
        with pytest.raises(DataError, match=f"s has {len(values)} clips with a label"):
            check_labelled("s", values, "a label")


@pytest.mark.filterwarnings("error")
def test_a_key_that_a_fold_or_test_knows_nothing_of_is_left_out_there():
    scores, truth, sets, groups = clips(60)
    own = np.array([n == "two" for n in sets])
    without = scores.copy()
    without[~own, 2] = np.nan  # c scores only test two
    found = cross_predict(without, truth, sets, groups, KEYS, leave_sets=True)
    given = [[of[i] for i in np.flatnonzero(~own)] for of in (sets, groups)]
    router = fit_router(scores[~own][:, :2], truth[~own], *given, KEYS[:2])
    np.testing.assert_allclose(found[own], router(scores[own][:, :2]))
    # c scores only group g3, and all the same.
    without[:, 2] = np.where([g == "g3" for g in groups], 3.0, np.nan)
    rows, columns = fittable(without)
    assert columns.tolist() == [0, 1] and len(rows) == 60
    found = cross_predict(without, truth, sets, groups, KEYS)
    of_two = cross_predict(scores[:, :2], truth, sets, groups, KEYS[:2])
    np.testing.assert_allclose(found, of_two)


@pytest.mark.filterwarnings("error")
def test_one_group_has_no_cross_validation():
    scores, truth, *_ = clips(40)
    given = scores, truth, ["s"] * 40, ["g"] * 40, KEYS
    assert fit_router(*given).penalty == max(module.PENALTIES)
    assert np.isnan(cross_predict(*given)).all()
