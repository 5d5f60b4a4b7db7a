"""Boosted trees with the Poisson and the gamma loss: heavy tails, many zeros, exposures, values near zero."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_gamma_deviance, mean_poisson_deviance

import tutti
from tutti.errors import DataError

N_TRAIN, N_TEST = 3000, 20_000
KINDS = ["counts", "zeros", "lognormal", "heavy lognormal", "pareto", "heavy pareto", "compound", "exposure"]


def drawn(kind, seed=0):
    """Return X, y and weights of rows whose mean is a product of effects, in one of `KINDS`."""
    r = np.random.default_rng(seed)
    n = N_TRAIN + N_TEST
    x = r.standard_normal((n, 8)).astype(np.float32)
    mean = np.exp(0.6 * x[:, 0] + 0.5 * np.sin(2 * x[:, 1]) + 0.4 * x[:, 2] * x[:, 3])
    exposure = r.uniform(0.02, 1, n)
    y = {
        "counts": lambda: r.poisson(mean),
        "zeros": lambda: r.poisson(0.03 * mean),
        "lognormal": lambda: mean * np.exp(r.standard_normal(n)),
        "heavy lognormal": lambda: mean * np.exp(4 * r.standard_normal(n)),
        "pareto": lambda: mean * r.pareto(1.5, n),
        "heavy pareto": lambda: mean * r.pareto(0.5, n),  # not even a mean
        "compound": lambda: np.where(r.random(n) < 0.1, mean * r.gamma(0.5, 2000, n), 0),
        "exposure": lambda: r.poisson(0.3 * mean * exposure) / exposure,
    }[kind]()
    return x, y.astype(float), exposure if kind == "exposure" else np.ones(n)


def ours(**params):
    return tutti.GradientBoostingRegressor(loss="poisson", **{"engine": tutti.Threads(1), **params})


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_every_round_makes_the_loss_smaller(kind, rate):
    x, y, weight = (rows[:N_TRAIN] for rows in drawn(kind))
    fitted = ours(learning_rate=rate, n_estimators=60).fit(x, y, weight)
    assert np.isfinite(fitted.predict(x)).all()
    assert (np.diff(fitted.train_score_) <= 1e-6 * np.abs(fitted.train_score_[1:])).all()


def mean_deviance(kind, made):
    """Return the mean deviance, over three draws, of each of the models that ``made(seed)`` names."""
    found: dict[str, list[float]] = {}
    for seed in range(3):
        x, y, weight = drawn(kind, seed)
        for name, one in made(seed).items():
            one.fit(x[:N_TRAIN], y[:N_TRAIN], sample_weight=weight[:N_TRAIN])
            mean = one.predict(x[N_TRAIN:]).astype(float)
            found.setdefault(name, []).append(mean_poisson_deviance(y[N_TRAIN:], mean, sample_weight=weight[N_TRAIN:]))
    return {name: np.mean(values) for name, values in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_deviance_is_that_of_xgboost(kind):
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")
    found = mean_deviance(
        kind,
        lambda seed: {
            "tutti": ours(random_state=seed),
            "xgboost": xgboost.XGBRegressor(objective="count:poisson", learning_rate=0.1, n_jobs=1),
        },
    )
    assert found["tutti"] <= 1.02 * found["xgboost"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_deviance_is_that_of_scikit_learn(kind):
    from sklearn.ensemble import HistGradientBoostingRegressor

    found = mean_deviance(
        kind,
        lambda seed: {
            "tutti": ours(random_state=seed, min_samples_leaf=20, min_child_weight=0.0, l2_regularization=0.0),
            "scikit-learn": HistGradientBoostingRegressor(
                loss="poisson", max_depth=6, max_leaf_nodes=64, early_stopping=False
            ),
        },
    )
    assert found["tutti"] <= 1.02 * found["scikit-learn"]


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["heavy pareto", "zeros", "exposure"])
def test_same_bits_for_any_number_of_workers(kind):
    x, y, weight = (rows[:N_TRAIN] for rows in drawn(kind))
    prints = {ours(n_estimators=5, engine=tutti.Threads(n)).fit(x, y, weight).report_.sha256 for n in (1, 2, 3, 5, 8)}
    prints.add(ours(n_estimators=5, engine=tutti.Processes(2)).fit(x, y, weight).report_.sha256)
    assert len(prints) == 1


@pytest.mark.parametrize("kind", ["heavy pareto", "exposure"])
def test_xgboost_predicts_the_same_from_the_json(kind, tmp_path):
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")
    x, y, weight = (rows[:N_TRAIN] for rows in drawn(kind))
    fitted = ours(n_estimators=40).fit(x, y, weight)
    (tmp_path / "model.json").write_text(fitted.to_xgboost_json())
    booster = xgboost.Booster(model_file=str(tmp_path / "model.json"))
    np.testing.assert_allclose(booster.predict(xgboost.DMatrix(x)), fitted.predict(x), rtol=2e-5)


def test_the_bound_holds_beside_others():
    x, y, weight = (rows[:N_TRAIN] for rows in drawn("heavy pareto"))
    fitted = ours(n_estimators=30, subsample=0.5, monotonic_cst={0: 1}, grow="leafwise", max_leaf_nodes=9)
    steps = fitted.fit(x, y, weight).model_["value"]
    assert np.abs(steps).max() <= 0.07
    grid = np.zeros((50, 8))
    grid[:, 0] = np.linspace(-3, 3, 50)
    assert (np.diff(fitted.predict(grid)) >= 0).all()


def test_a_rate_that_overflows_is_named():
    x, y, _ = (rows[:N_TRAIN] for rows in drawn("heavy pareto"))
    with pytest.raises(DataError, match="lower learning_rate"):
        ours(learning_rate=1000.0).fit(x, y)


# ---- gamma

SPREADS = {"exponential": 1.0, "narrow": 20.0, "near zero": 0.1}


def positive(kind, seed=0):
    """Return X and y > 0 whose mean is a product of effects and whose spread is in proportion to it."""
    r = np.random.default_rng(seed)
    n = N_TRAIN + N_TEST
    x = r.standard_normal((n, 8)).astype(np.float32)
    mean = np.exp(0.6 * x[:, 0] + 0.5 * np.sin(2 * x[:, 1]) + 0.4 * x[:, 2] * x[:, 3])
    if kind == "lognormal":
        return x, mean * np.exp(3 * r.standard_normal(n))
    return x, np.maximum(mean * r.gamma(SPREADS[kind], 1 / SPREADS[kind], n), 1e-12)


def of_gamma(**params):
    return tutti.GradientBoostingRegressor(loss="gamma", **{"engine": tutti.Threads(1), **params})


@pytest.mark.parametrize("kind", [*SPREADS, "lognormal"])
@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_every_round_makes_the_gamma_loss_smaller(kind, rate):
    x, y = (rows[:N_TRAIN] for rows in positive(kind))
    fitted = of_gamma(learning_rate=rate, n_estimators=60).fit(x, y)
    assert np.isfinite(fitted.predict(x)).all()
    assert (np.diff(fitted.train_score_) <= 1e-6 * np.abs(fitted.train_score_[1:])).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*SPREADS, "lognormal"])
def test_the_gamma_deviance_is_that_of_xgboost_and_of_scikit_learn(kind):
    from sklearn.ensemble import HistGradientBoostingRegressor

    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")
    x, y = positive(kind)
    made = {
        "tutti": of_gamma(),
        "xgboost": xgboost.XGBRegressor(objective="reg:gamma", learning_rate=0.1, n_jobs=1),
        "tutti, large leaves": of_gamma(min_samples_leaf=20, min_child_weight=0.0, l2_regularization=0.0),
        "scikit-learn": HistGradientBoostingRegressor(
            loss="gamma", max_depth=6, max_leaf_nodes=64, early_stopping=False
        ),
    }
    found = {}
    for name, one in made.items():
        mean = one.fit(x[:N_TRAIN], y[:N_TRAIN]).predict(x[N_TRAIN:]).astype(float)
        found[name] = mean_gamma_deviance(y[N_TRAIN:], mean)
    assert found["tutti"] <= 1.02 * found["xgboost"]
    assert found["tutti, large leaves"] <= 1.02 * found["scikit-learn"]


def test_targets_of_gamma_lie_above_zero():
    x, y, _ = (rows[:N_TRAIN] for rows in drawn("zeros"))
    with pytest.raises(DataError, match="targets > 0"):
        of_gamma().fit(x, y)
