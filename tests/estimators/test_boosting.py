"""Boosted trees: what they promise to those who fit and predict with them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl  # here and not in a test: it sets an environment variable
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import tutti
from tests.estimators.test_checks import with_checks
from tutti.errors import DataError, InputError, ModelError, ParameterError, PlanError, RankLost

R = np.random.default_rng(5)
N = 1501
X = R.standard_normal((N, 6))
X[R.random((N, 6)) < 0.05] = np.nan
Z = 2 * np.nan_to_num(X[:, 0]) + np.nan_to_num(X[:, 1] * X[:, 2])
TWO = (Z + 0.5 * R.standard_normal(N) > 0).astype(int)
THREE = np.digitize(Z, [-1, 1])
WEIGHT = R.integers(1, 4, N).astype(float)
TARGETS = {"log_loss": TWO, "multi": THREE, "poisson": np.exp(Z / 3), "gamma": np.exp(Z / 2)}
LOSSES = ["log_loss", "multi", "squared_error", "absolute_error", "quantile", "poisson", "gamma"]


def model(loss="log_loss", **params):
    params = {"n_estimators": 5, "engine": tutti.Threads(1), **params}
    if loss in ("log_loss", "multi"):
        return tutti.GradientBoostingClassifier(**params)
    return tutti.GradientBoostingRegressor(loss=loss, quantile=0.8, **params)


@pytest.mark.thorough
@with_checks(tutti.GradientBoostingClassifier(n_estimators=10), tutti.GradientBoostingRegressor(n_estimators=10))
def test_scikit_learns_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@with_checks(
    tutti.GradientBoostingRegressor(n_estimators=10, loss="absolute_error"),
    tutti.GradientBoostingClassifier(n_estimators=10, grow="leafwise", max_depth=None, max_leaf_nodes=31),
)
def test_scikit_learns_check_of_a_variant(estimator, check):
    check(estimator)


# ---- the same bits


VARIANTS = [
    *[pytest.param(loss, {}, id=loss) for loss in LOSSES],
    pytest.param("log_loss", {"grow": "leafwise", "max_depth": None, "max_leaf_nodes": 20}, id="leafwise"),
    pytest.param("log_loss", {"min_samples_leaf": 7, "max_features": 0.5, "max_leaf_nodes": 21}, id="counted"),
    pytest.param("multi", {"subsample": 0.6, "early_stopping": True}, id="drawn"),
    pytest.param("squared_error", {"monotonic_cst": {0: 1}, "categorical_features": [5]}, id="sets"),
]


def digest(loss, params, engine, n_shards=8):
    x = X.copy()
    if "categorical_features" in params:
        x[:, 5] = np.arange(N) % 11
    fitted = model(loss, **{**params, "engine": engine, "n_shards": n_shards}).fit(x, TARGETS.get(loss, Z), WEIGHT)
    assert fitted.plan_.size == min(engine.n, n_shards)
    return fitted.report_.sha256


@pytest.mark.parametrize("loss, params", VARIANTS)
def test_same_bits_for_any_number_of_threads(loss, params):
    assert len({digest(loss, params, tutti.Threads(n)) for n in (1, 2, 3, 5, 8)}) == 1


@pytest.mark.thorough
@pytest.mark.parametrize("loss", ["log_loss", "absolute_error"])
def test_processes_give_the_bits_of_threads(loss):
    assert digest(loss, {}, tutti.Processes(2)) == digest(loss, {}, tutti.Threads(1))


@pytest.mark.thorough
@pytest.mark.parametrize("loss, params", VARIANTS)
def test_same_bits_on_any_transport(loss, params):
    engines = [*map(tutti.Processes, (2, 3, 5, 8)), tutti.Processes(3, transport="tcp")]
    assert {digest(loss, params, e) for e in engines} == {digest(loss, params, tutti.Threads(1))}


def test_same_bits_over_sockets():
    assert digest("log_loss", {}, tutti.Processes(2, transport="tcp")) == digest("log_loss", {}, tutti.Threads(1))


def test_rows_belong_to_the_trees_however_they_are_cut_into_shards():
    assert digest("log_loss", {}, tutti.Threads(2), 3) == digest("log_loss", {}, tutti.Threads(1), 8)


def test_more_workers_than_rows():
    x, y = X[:5], np.array([0, 1, 0, 1, 1])
    one, eight = (model(engine=tutti.Threads(n), min_child_weight=0.0).fit(x, y) for n in (1, 8))
    assert one.report_.sha256 == eight.report_.sha256


# ---- what the trees learn


@pytest.mark.thorough
def test_accuracy_is_that_of_xgboost():
    from sklearn.datasets import load_digits, make_friedman1

    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")
    settings = {"n_estimators": 50, "learning_rate": 0.1, "max_depth": 6}
    x, y = load_digits(return_X_y=True)
    ours = tutti.GradientBoostingClassifier(**settings).fit(x[:1300], y[:1300]).score(x[1300:], y[1300:])
    theirs = xgboost.XGBClassifier(n_jobs=1, **settings).fit(x[:1300], y[:1300]).score(x[1300:], y[1300:])
    assert ours >= theirs - 0.01
    x, y = make_friedman1(4000, noise=1.0, random_state=0)
    ours = tutti.GradientBoostingRegressor(**settings).fit(x[:3000], y[:3000]).score(x[3000:], y[3000:])
    theirs = xgboost.XGBRegressor(n_jobs=1, **settings).fit(x[:3000], y[:3000]).score(x[3000:], y[3000:])
    assert ours >= theirs - 0.005


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_count_like_repeated_rows(loss):
    y, k = TARGETS.get(loss, Z), WEIGHT.astype(int)
    settings = {"n_estimators": 3, "max_depth": 3}
    weighed = model(loss, **settings).fit(X, y, WEIGHT)
    repeated = model(loss, **settings).fit(np.repeat(X, k, axis=0), np.repeat(y, k))
    np.testing.assert_allclose(weighed._raw(X), repeated._raw(X), rtol=1e-4, atol=1e-5)


def test_rows_without_weight_are_not_there():
    weight = np.where(np.arange(N) % 3 == 0, 0.0, 1.0)
    some = model("squared_error").fit(X, Z, weight)
    none = model("squared_error").fit(X[weight > 0], Z[weight > 0])
    np.testing.assert_allclose(some.predict(X), none.predict(X), rtol=1e-6)


def test_the_quantile_lies_where_it_should():
    fitted = model("quantile", n_estimators=60).fit(X, Z)
    assert 0.75 < np.mean(fitted.predict(X) >= Z) < 0.87


def test_leaves_of_the_absolute_loss_are_medians():
    fitted = tutti.GradientBoostingRegressor(loss="absolute_error", n_estimators=1, learning_rate=1.0, max_depth=2).fit(
        X, Z
    )
    leaves = fitted.apply(X)[:, 0]
    for leaf in np.unique(leaves):
        inside = np.sort(Z[leaves == leaf])
        assert fitted.predict(X[leaves == leaf])[0] == pytest.approx(inside[(len(inside) - 1) // 2])


def test_missing_values_go_where_they_belong():
    x, y = np.full((60, 1), np.nan), np.zeros(60)
    x[:40, 0], y[:20] = np.arange(40), 1.0
    y[40:] = 1.0  # those without a value are like the small ones
    fitted = tutti.GradientBoostingRegressor(n_estimators=50, min_child_weight=0.0).fit(x, y)
    np.testing.assert_allclose(fitted.predict([[np.nan], [3.0], [30.0]]), [1, 1, 0], atol=0.02)
    assert fitted.model_["missing_left"][0]


def test_categories_are_split_as_sets():
    codes = R.integers(0, 30, 3000)
    effect = R.permutation(30) % 2
    y = effect[codes] + 0.01 * R.standard_normal(3000)
    named = tutti.GradientBoostingRegressor(n_estimators=1, max_depth=1, learning_rate=1.0, l2_regularization=0.0)
    ordered = clone(named)
    x = codes[:, None] * 1.5
    named.set_params(categorical_features=[0])
    assert named.fit(x, y).score(x, y) > 0.99 > 0.5 > ordered.fit(x, y).score(x, y)


def test_a_category_that_was_not_there_is_one_error_with_its_place():
    fitted = model("squared_error", categorical_features=[0]).fit(np.arange(40.0)[:, None] % 4, np.arange(40.0))
    with pytest.raises(DataError, match=r"category 7\.0 was not there"):
        fitted.predict([[1.0], [7.0]])
    assert np.isfinite(fitted.predict([[np.nan]])).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, -1]), st.sampled_from(["depthwise", "leafwise"]))
def test_monotone_columns_stay_monotone(seed, sign, grow):
    r = np.random.default_rng(seed)
    x = r.standard_normal((200, 3))
    y = sign * x[:, 0] + np.sin(5 * x[:, 0]) + x[:, 1] * x[:, 0] + r.standard_normal(200)
    fitted = tutti.GradientBoostingRegressor(
        n_estimators=8,
        monotonic_cst=[sign, 0, 0],
        grow=grow,
        max_leaf_nodes=12,
        learning_rate=0.5,
        min_child_weight=0.0,
    ).fit(x, y)
    grid = np.repeat(x[:5], 50, axis=0)
    grid[:, 0] = np.tile(np.linspace(-3, 3, 50), 5)
    steps = np.diff(fitted.predict(grid).reshape(5, 50), axis=1)
    assert (sign * steps >= -1e-12).all()


def test_a_tree_has_no_more_leaves_and_levels_than_asked_for():
    for grow in ("depthwise", "leafwise"):
        fitted = model(grow=grow, max_leaf_nodes=13, max_depth=5, min_samples_leaf=20, min_child_weight=0.0).fit(X, TWO)
        m = fitted.model_
        leaves = np.add.reduceat(m["feature"] < 0, m["offset"][:-1])
        assert leaves.max() == 13
        assert m["n_rows"][m["feature"] < 0].min() >= 20


def test_min_samples_leaf_counts_rows_not_weights():
    for loss in ("log_loss", "squared_error"):
        for weight in (None, 5 * WEIGHT):
            fitted = model(loss, min_samples_leaf=50).fit(X, TARGETS.get(loss, Z), weight)
            assert fitted.model_["n_rows"][fitted.model_["feature"] < 0].min() >= 50


# ---- staged, warm, early


def test_stages_end_at_the_prediction():
    for loss in ("log_loss", "multi"):
        fitted = model(loss).fit(X, TARGETS[loss])
        stages = list(fitted.staged_decision_function(X))
        assert len(stages) == fitted.n_iter_ == 5
        assert (stages[-1] == fitted.decision_function(X)).all()
        assert (list(fitted.staged_predict(X))[-1] == fitted.predict(X)).all()
        assert (list(fitted.staged_predict_proba(X))[2] != fitted.predict_proba(X)).any()
    fitted = model("poisson").fit(X, TARGETS["poisson"])
    assert (list(fitted.staged_predict(X))[-1] == fitted.predict(X)).all()


def test_train_score_is_the_loss_of_each_stage():
    from sklearn.metrics import log_loss

    fitted = model().fit(X, TWO)
    losses = [log_loss(TWO, p) for p in fitted.staged_predict_proba(X)]
    np.testing.assert_allclose(fitted.train_score_, losses, rtol=1e-5)
    assert [h["loss"] for h in fitted.history_] == fitted.train_score_.tolist()


@pytest.mark.parametrize("loss", LOSSES)
def test_warm_start_goes_on_to_the_bits_of_one_fit(loss):
    y = TARGETS.get(loss, Z)
    warm = model(loss, n_estimators=3, warm_start=True, subsample=0.7).fit(X, y)
    warm.set_params(n_estimators=6).fit(X, y)
    whole = model(loss, n_estimators=6, subsample=0.7).fit(X, y)
    assert warm.report_.sha256 == whole.report_.sha256
    assert len(warm.train_score_) == 6


def test_early_stopping_stops_where_validation_gets_no_better():
    noise = R.integers(0, 2, N)
    fitted = model(early_stopping=True, n_iter_no_change=3, n_estimators=200, validation_fraction=0.3).fit(X, noise)
    assert fitted.n_iter_ < 50
    assert len(fitted.validation_score_) == fitted.n_iter_
    assert fitted.validation_score_[-3:].min() > fitted.validation_score_[:-3].min(initial=np.inf) - 1e-4


# ---- what goes in and out


def test_all_kinds_of_tables_give_one_model(tmp_path):
    x = np.where(np.isnan(X), 0.0, X)
    plain = model().fit(x, TWO)
    for given_x in (sp.csr_matrix(x), pd.DataFrame(x), np.asfortranarray(x), tutti.from_arrays(x, TWO)):
        y = None if isinstance(given_x, tutti.Dataset) else TWO
        fitted = model().fit(given_x, y)
        assert fitted.report_.sha256 == plain.report_.sha256
        assert (fitted.predict_proba(given_x) == plain.predict_proba(x)).all()
    assert model().fit(tutti.from_arrays(x, TWO)).score(tutti.from_arrays(x, TWO)) == plain.score(x, TWO)


def test_named_categories_of_a_frame_stay_what_they_are(tmp_path):
    towns = np.array(["Ulm", "Kiel", "Bonn", "Jena"])[np.arange(N) % 4]
    y = np.isin(towns, ["Kiel", "Jena"]).astype(int)
    plain = {"town": towns, "x": X[:, 0]}
    for frame, other in (
        (pd.DataFrame(plain).astype({"town": "category"}), pd.DataFrame({"town": ["Kiel", "Ulm"], "x": [0.0, 0.0]})),
        (pl.DataFrame(plain), pl.DataFrame({"town": ["Kiel", "Ulm"], "x": [0.0, 0.0]})),
    ):
        fitted = model(categorical_features=["town"], learning_rate=1.0).fit(frame, y)
        fitted.save(tmp_path / "m")
        for one in (fitted, tutti.load(tmp_path / "m")):
            assert one.score(frame, y) == 1.0
            assert one.predict(other).tolist() == [1, 0]
        with pytest.raises(DataError, match="'Rom' was not there"):
            fitted.predict(type(other)({"town": ["Rom"], "x": [0.0]}))


def test_files_may_lack_values(tmp_path):
    names = [f"f{j}" for j in range(6)]
    frame = pd.DataFrame(X.astype(np.float32), columns=names).assign(y=TWO)
    frame["f5"] = (frame["f5"] > 0).astype("Int64").where(frame["f5"] > -1)  # whole numbers and nulls
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet")
    x = frame[names].astype(np.float32).to_numpy()
    plain = model().fit(x, TWO)
    for read, name in ((tutti.read_csv, "rows.csv"), (tutti.read_parquet, "rows.parquet")):
        rows = read(str(tmp_path / name), missing=True)
        assert model().fit(rows).report_.sha256 == plain.report_.sha256
        assert model().fit(rows.cached(None)).score(rows) == plain.score(
            frame[names].astype(np.float32).to_numpy(), TWO
        )
        with pytest.raises(DataError, match=r"missing|nan"):
            model().fit(read(str(tmp_path / name)))
        with pytest.raises(DataError, match="NaN"):
            tutti.LogisticRegression().fit(rows)
    frame.replace({"f0": {frame["f0"].max(): np.inf}}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="inf"):
        model().fit(tutti.read_parquet(str(tmp_path / "rows.parquet"), missing=True))


def test_float32_rows_are_cut_where_float64_ones_are():
    x = X.astype(np.float32)
    narrow, wide = model().fit(x, TWO), model().fit(x.astype(float), TWO)
    assert (narrow.predict_proba(x) == wide.predict_proba(x.astype(float))).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_saved_model_predicts_the_same(loss, tmp_path):
    fitted = model(loss, categorical_features=[5]).fit(np.c_[X[:, :5], np.arange(N) % 5], TARGETS.get(loss, Z))
    x = np.c_[X[:, :5], np.arange(N) % 5]
    fitted.save(tmp_path / "m")
    for again in (
        tutti.load(tmp_path / "m"),
        pickle.loads(pickle.dumps(fitted)),
        clone(fitted).fit(x, TARGETS.get(loss, Z)),
    ):
        assert (again.predict(x) == fitted.predict(x)).all()
        assert again.report_.sha256 == fitted.report_.sha256


def test_a_broken_model_is_refused(tmp_path):
    from tutti.estimators._boosted_check import check_arrays

    good = model().fit(X, TWO).model_
    check_arrays(good, 6, 1, True)
    for name, at, value in (
        ("left", 0, 10**6),
        ("left", 0, 0),
        ("feature", 0, 99),
        ("offset", 1, 10**6),
        ("set_at", 0, 3),
        ("value", 0, np.nan),
        ("bin_cut_at", 1, 10**6),
    ):
        bad = {k: v.copy() for k, v in good.items()}
        bad[name][at] = value
        with pytest.raises(ModelError):
            check_arrays(bad, 6, 1, True)


@pytest.mark.parametrize("loss", LOSSES)
def test_xgboost_predicts_the_same_from_the_json(loss, tmp_path):
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed")
    x, y = np.c_[X[:, :5], np.arange(N) % 5].astype(np.float32), TARGETS.get(loss, Z)
    fitted = model(loss, categorical_features=[5]).fit(x, y)
    (tmp_path / "model.json").write_text(fitted.to_xgboost_json())
    booster = xgboost.Booster()
    booster.load_model(tmp_path / "model.json")
    found = booster.predict(xgboost.DMatrix(x, feature_types=["float"] * 5 + ["c"], enable_categorical=True))
    want = fitted.predict_proba(x) if loss == "multi" else None
    want = fitted.predict_proba(x)[:, 1] if loss == "log_loss" else want
    np.testing.assert_allclose(found, fitted.predict(x) if want is None else want, rtol=1e-5, atol=1e-6)


def test_importances_are_those_of_the_columns_that_matter():
    fitted = model(n_estimators=20).fit(X, TWO)
    assert fitted.feature_importances_.sum() == pytest.approx(1.0)
    assert set(np.argsort(fitted.feature_importances_)[-3:]) == {0, 1, 2}


# ---- mistakes


@pytest.mark.parametrize(
    "params, word",
    [
        ({"loss": "hinge"}, "log_loss"),
        ({"grow": "sideways"}, "depthwise"),
        ({"max_depth": None}, "max_leaf_nodes"),
        ({"max_depth": 0}, "max_depth"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"n_estimators": 0}, "n_estimators"),
        ({"subsample": 1.5}, "subsample"),
        ({"max_features": 7}, "max_features"),
        ({"max_bins": 256}, "max_bins"),
        ({"min_samples_leaf": N + 1}, "min_samples_leaf"),
        ({"monotonic_cst": [1, 0]}, "monotonic_cst"),
        ({"categorical_features": [6]}, "categorical_features"),
        ({"categorical_features": ["x"]}, "categorical_features"),
        ({"early_stopping": "yes"}, "early_stopping"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
    ],
)
def test_a_wrong_parameter_is_named(params, word):
    with pytest.raises(ParameterError, match=word):
        model(**params).fit(X, TWO) if "loss" not in params else tutti.GradientBoostingClassifier(**params).fit(X, TWO)


def test_bad_input_is_one_error():
    with pytest.raises(DataError, match="infinity"):
        model().fit(np.where(X > 2, np.inf, X), TWO)
    with pytest.raises(DataError, match="infinity"):
        model().fit(X, TWO).predict(np.full((1, 6), np.inf))
    with pytest.raises(DataError, match="6 features"):
        model().fit(X, TWO).predict(X[:, :3])
    with pytest.raises(DataError, match="one class"):
        model().fit(X, np.zeros(N))
    with pytest.raises(DataError, match=">= 0"):
        model("poisson").fit(X, Z)
    with pytest.raises(PlanError, match="AllReduce"):
        model(strategy=tutti.LocalSGD()).fit(X, TWO)
    with pytest.raises(PlanError, match="whole numbers"):
        model(strategy=tutti.AllReduce(compress=tutti.Half())).fit(X, TWO)
    with pytest.raises(PlanError, match="max_leaf_nodes"):
        model(max_depth=40).fit(np.repeat(X, 200, axis=0), np.repeat(TWO, 200))
    with pytest.raises(PlanError, match="fewer columns"):
        model().fit(sp.csr_array(([1.0], ([0], [10**6])), shape=(100_000, 10**6 + 1)), np.arange(100_000) % 2)
    with pytest.raises(InputError, match="warm_start"):
        model(warm_start=True).fit(X, TWO).fit(X[:, :4], TWO)
    with pytest.raises(DataError, match="255 categories"):
        model(categorical_features=[0]).fit(np.arange(N)[:, None].astype(float), TWO)
    with pytest.raises(DataError, match="validate"):
        model(early_stopping=True, validation_fraction=1e-6).fit(X, TWO)


def test_the_plan_tells_what_will_happen():
    text = str(model(engine=tutti.Threads(2)).explain(X, TWO))
    assert "Boosting on the log_loss loss, 5 rounds" in text
    assert "AllReduce" in text


def test_the_line_of_a_long_fit_tells_loss_and_time_left():
    from tutti.estimators._progress import TreeProgress
    from tutti.types import Round

    line = TreeProgress("Trees", True, 40)._line(
        Round(10, 3.0, 0.25, np.inf, 10.0, metrics={"validation_loss": 0.5}), 3.0
    )
    assert line == "Trees  round 10/40  loss 0.25  validation_loss 0.5  9 s left"


def test_no_warning_on_the_way():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(early_stopping=True).fit(X, TWO).predict_log_proba(X)


@pytest.mark.thorough
@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_a_killed_worker_changes_no_bit_or_over_sockets_is_one_error(monkeypatch, transport):
    from tutti.estimators import _boosted

    class Killer(_boosted.TreeProgress):
        def __call__(self, event):
            if getattr(event, "step", 0) == 3:
                os.kill(pids[1], signal.SIGKILL)

    engine = tutti.Processes(2, transport=transport)
    right = model(n_estimators=1000, engine=engine).fit(X, TWO).report_
    pids = {report.rank: report.pid for report in right.ranks}
    monkeypatch.setattr(_boosted, "TreeProgress", Killer)
    if transport == "shm":
        with pytest.warns(RuntimeWarning, match="rank 1 .* was lost .* the others go on"):
            found = model(n_estimators=1000, engine=engine).fit(X, TWO).report_
        assert (found.sha256, found.faults) == (right.sha256, 1)
        assert "1 go on with the rows of all shards" in str(found)
    else:
        with pytest.raises(RankLost, match="rank 1"):
            model(n_estimators=1000, engine=engine).fit(X, TWO)
    monkeypatch.undo()
    assert model(engine=engine).fit(X, TWO).n_iter_ == 5, "the next fit has sound workers"


@pytest.mark.thorough
def test_memory_is_a_few_times_that_of_the_rows():
    code = (
        "import numpy as np, resource, tutti\n"
        "x = np.random.default_rng(0).standard_normal((400_000, 28), dtype=np.float32)\n"
        "y = (x[:, 0] > 0).astype(np.int8)\n"
        "m = tutti.GradientBoostingClassifier(n_estimators=3, engine=tutti.Threads(2))\n"
        "m.fit(x[:1000], y[:1000])\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "m.fit(x, y)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=110)
    assert int(done.stdout) < 2.5 * 400_000 * 28 * 4 / 1024  # kB; codes twice, 30 bytes a row, histograms
