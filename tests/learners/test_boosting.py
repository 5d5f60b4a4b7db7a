"""The kernels of boosting against plain numpy: splits by brute force, rounding without bias, exact sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tutti
from tutti.learners._bins import Bins
from tutti.learners._boosting_fit import Fit
from tutti.learners._boosting_model import Forest
from tutti.learners._kernels import boost, boost_loss
from tutti.learners.boosting import Boosting

R = np.random.default_rng(2)


class Alone:
    """`tutti.counting.Sums` where nobody else has rows."""

    alone, n_shards = True, 1

    def total(self, whole):
        return whole

    def largest(self, values):
        return values

    def room(self, length):
        return np.empty(length, np.int64)

    def gather(self, payload):
        return [payload]


def fitted(x, y, task="classification", weight=None, **settings):
    data = tutti.from_arrays(x, y, weight)
    schema = data.schema(task)
    settled = data.settled(1, schema)
    loss = "log_loss" if task == "classification" else "squared_error"
    learner = Boosting(**{"loss": loss, "n_estimators": 1, **settings})
    fit = Fit(learner, schema, {0: settled.open(0, 1, schema)}, Alone(), 0, None)
    for _ in fit.rounds():
        pass
    return fit


def brute_force(x, g, h, l2, least_hessian, least_rows):
    """Return (gain, column, rows that go left) of the best split, missing values on either side."""

    def score(rows):
        return g[rows].sum() ** 2 / (h[rows].sum() + l2)

    best = (0.0, -1, None)
    everything = np.ones(len(g), bool)
    for j in range(x.shape[1]):
        missing = np.isnan(x[:, j])
        for cut in np.unique(x[~missing, j]):
            for left in {True: (x[:, j] <= cut,), False: (x[:, j] <= cut, (x[:, j] <= cut) | missing)}[
                not missing.any()
            ]:
                if min(h[left].sum(), h[~left].sum()) < least_hessian or min(left.sum(), (~left).sum()) < least_rows:
                    continue
                gain = score(left) + score(~left) - score(everything)
                if gain > best[0] * (1 + 1e-4):
                    best = (gain, j, left)
    return best


@pytest.mark.parametrize("least_rows", [1, 15])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_the_first_split_is_the_best_of_all(missing, least_rows):
    for trial in range(8):
        r = np.random.default_rng(trial)
        x = r.standard_normal((80, 4)).round(1)
        x[r.random(x.shape) < missing] = np.nan
        y = (np.nan_to_num(x[:, trial % 4]) + r.standard_normal(80) > 0).astype(int)
        fit = fitted(x, y, max_depth=1, l2=0.5, min_child_weight=0.5, min_samples_leaf=least_rows)
        p = np.full(80, y.mean())
        gain, column, left = brute_force(x, p - y, p * (1 - p), 0.5, 0.5, least_rows)
        tree = fit.model.arrays()
        assert tree["gain"][0] == pytest.approx(gain, rel=1e-3)
        assert tree["feature"][0] == column
        assert sorted(tree["n_rows"][1:]) == sorted([left.sum(), (~left).sum()])
        g, h = p - y, p * (1 - p)
        value = -g[left].sum() / (h[left].sum() + 0.5) * 0.1
        assert np.abs(tree["value"][1:] - value).min() < 1e-6


def test_a_set_of_categories_is_the_best_of_all_sets():
    x = R.integers(0, 5, 200).astype(float)
    y = np.array([0.3, -1.0, 0.9, -0.2, 0.1])[x.astype(int)] + 0.1 * R.standard_normal(200)
    fit = fitted(x[:, None], y, "regression", max_depth=1, l2=0.0, min_child_weight=0.0, categorical=(0,))
    g = y.mean() - y
    best = 0.0
    for bits in range(1, 31):
        left = ((bits >> x.astype(int)) & 1).astype(bool)
        if 0 < left.sum() < 200:
            best = max(best, g[left].sum() ** 2 / left.sum() + g[~left].sum() ** 2 / (~left).sum())
    assert fit.model.arrays()["gain"][0] == pytest.approx(best - g.sum() ** 2 / 200, rel=1e-3)


def test_rounding_has_no_bias_and_belongs_to_the_row():
    n = 200_000
    g, h = R.standard_normal(n).astype(np.float32), R.random(n).astype(np.float32)
    whole, again = np.empty(n, np.int64), np.empty(n, np.int64)
    boost.quantise(g, h, 7, np.uint64(99), 16.0, 8.0, whole)
    boost.quantise(g[1000:], h[1000:], 1007, np.uint64(99), 16.0, 8.0, again[1000:])
    assert (whole[1000:] == again[1000:]).all()
    up, beside = whole >> 32, whole & 0xFFFFFFFF
    assert np.abs(up / 16 - g).max() <= 1 / 16
    assert np.abs(beside / 8 - h).max() <= 1 / 8
    assert abs((up / 16 - g).mean()) < 4 * 0.5 / 16 / math.sqrt(n)
    assert abs((beside / 8 - h).mean()) < 4 * 0.5 / 8 / math.sqrt(n)
    assert abs(np.corrcoef(up / 16 - g, beside / 8 - h)[0, 1]) < 0.02


@pytest.mark.parametrize("bits", [2, 7, 14, 15, 16, 19, 20])
def test_no_sum_overflows_though_every_row_has_the_largest_gradient(bits):
    most = np.nextafter(np.float32(1), np.float32(0))  # what is the most below a power of two rounds up furthest
    n = min(((1 << 31) - 1) // 2**bits, 1 << 18)
    g, h, gh = np.full(n, most), np.full(n, most), np.empty(n, np.int64)
    for sign in (1, -1):
        boost.quantise(sign * g, h, 0, np.uint64(5), 2.0**bits, 2.0**bits, gh)
        assert np.abs(gh >> 32).max() <= 2**bits
        assert (gh & 0xFFFFFFFF).max() <= 2**bits
        up, beside = int((gh >> 32).sum()), int((gh & 0xFFFFFFFF).sum())
        total = int(gh.sum())
        assert (total >> 32, total & 0xFFFFFFFF) == (up, beside)


@pytest.mark.parametrize("n_codes", [256, 100])
@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("d", [1, 7, 8, 21])
def test_histograms_are_those_of_numpy(d, counted, n_codes):
    codes = R.integers(0, n_codes, (500, d)).astype(np.uint8)
    gh = (R.integers(-900, 900, 500) << 32) + R.integers(0, 900, 500)
    idx = np.flatnonzero(R.random(500) < 0.7).astype(np.int32)
    pool = np.zeros((2, d * n_codes * (1 + counted)), np.int64)
    boost.root(
        codes, n_codes, idx, gh, np.zeros((1, boost.N_INTS), np.int64), np.zeros((1, boost.N_REALS)),
        np.zeros(6, np.int64), pool, counted, np.inf,
    )  # fmt: skip
    wanted = np.zeros((1 + counted, d, n_codes), np.int64)
    for j in range(d):
        np.add.at(wanted[0, j], codes[idx, j], gh[idx])
        if counted:
            np.add.at(wanted[1, j], codes[idx, j], 1)
    np.testing.assert_array_equal(pool[0], wanted.reshape(-1))


def test_drawn_rows_are_as_many_as_asked_for():
    marks = np.empty(100_000, np.uint8)
    boost.chosen(5, len(marks), np.uint64(3), np.uint64(0.3 * 2**32), marks)
    assert abs(marks.mean() - 0.3) < 0.01


@pytest.mark.parametrize("code", range(boost_loss.SQUARED, boost_loss.GAMMA + 1))
def test_gradients_are_those_of_the_loss(code):
    f, y = R.standard_normal(50), R.random(50) + 0.1
    weight = (R.random(50) + 0.5).astype(np.float32)
    g, h, at = (np.empty(50, np.float32) for _ in range(3))
    near = np.empty(50, np.float32)
    boost_loss.regression(code, 0.8, f, y, weight, g, h, at)
    boost_loss.regression(code, 0.8, f + 1e-2, y, weight, h, h, near)
    boost_loss.regression(code, 0.8, f - 1e-2, y, weight, h, h, at)
    far = np.abs(f - y) > 0.02
    np.testing.assert_allclose(((near - at) / 2e-2)[far], g[far], rtol=5e-3, atol=1e-3)


def test_two_classes_and_softmax_agree_with_scipy():
    f, y = 4 * R.standard_normal((3, 700)), R.integers(0, 3, 700).astype(np.int32)
    g, h, loss = np.empty((3, 700), np.float32), np.empty((3, 700), np.float32), np.empty(700, np.float32)
    none = np.zeros(0, np.float32)
    boost_loss.softmax(f, y, none, g, h, loss)
    p = np.exp(f) / np.exp(f).sum(axis=0)
    np.testing.assert_allclose(g, p - (np.arange(3)[:, None] == y), atol=1e-6)
    np.testing.assert_allclose(h, 1.5 * p * (1 - p), atol=1e-6)
    np.testing.assert_allclose(loss, -np.log(p[y, np.arange(700)]), atol=1e-5)
    two = (y > 0).astype(np.int32)
    boost_loss.binary(f[0], two, none, g[0], h[0], loss)
    p = 1 / (1 + np.exp(-f[0]))
    np.testing.assert_allclose(g[0], p - two, atol=2e-7)
    np.testing.assert_allclose(loss, np.logaddexp(0, f[0]) - two * f[0], atol=2e-6)


def test_quantiles_are_found_digit_by_digit():
    y = np.concatenate([R.standard_normal(500) * 1e6, -np.arange(20.0), np.zeros(5)])
    keys = np.empty(len(y), np.uint64)
    boost_loss.keys_of(y, keys)
    assert (np.argsort(keys, kind="stable") == np.argsort(y, kind="stable")).all()
    assert (boost_loss.values_of(keys) == y).all()


def test_trees_on_codes_and_on_values_are_one():
    x = R.standard_normal((3000, 5))
    x[R.random(x.shape) < 0.1] = np.nan
    x[:, 4] = R.integers(0, 40, 3000)
    y = x[:, 4] % 3 + np.nan_to_num(x[:, 0])
    fit = fitted(x, y, "regression", n_estimators=15, categorical=(4,))
    forest = Forest.of(fit.result())
    coded = x.copy()
    coded[:, 4] += 1
    f = np.repeat(forest.arrays["base"][None, :], len(x), axis=0)
    forest.add(coded, f, 0, len(x), 0, forest.n_trees)
    assert (f[:, 0] == fit.f[0]).all()
    again = np.repeat(forest.arrays["base"][:, None], len(x), axis=1)
    forest.add_codes(fit.rows.columns, again)
    assert (again == fit.f).all()


def test_coarser_bins_are_some_of_the_fine_ones():
    from tutti.learners._boosting_rows import coarser

    fine = fitted(R.standard_normal((5000, 2)), R.integers(0, 2, 5000)).bins
    coarse = coarser(fine, 16)
    assert isinstance(coarse, Bins)
    assert (coarse.n_bins == 16).all()
    assert set(coarse.cuts) <= set(fine.cuts)
    fit = fitted(R.standard_normal((5000, 2)), R.integers(0, 2, 5000), max_bins=16)
    assert fit.rows.codes.max() == 16


def test_a_wide_level_and_a_narrow_pool_are_refused_with_numbers():
    from tutti.errors import PlanError

    with pytest.raises(PlanError, match="lower max_depth"):
        fitted(np.repeat(R.standard_normal((60_000, 1)), 60, axis=1), R.integers(0, 2, 60_000), max_depth=30)
