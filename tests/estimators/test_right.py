"""The minima are scikit-learn's: its own solution is never better than ours by more than ours has certified."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import linear_model, svm
from sklearn.base import clone

from tests.estimators.problems import dataset, objective, row_weights, some_weights
from tutti.estimators.linear import LinearRegression, LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC

C_VALUES = [1e-3, 1.0, 1e3]
WEIGHTS = ["none", "classes", "rows", "both"]
QUICK = {("breast_cancer", 1.0, "none"), ("iris", 1.0, "both"), ("sparse", 1e-3, "none"), ("wine", 1e3, "classes")}


def cases():
    found = []
    for name in ("breast_cancer", "iris", "wine", "digits", "sparse", "sparse3"):
        for c in C_VALUES:
            for weights in WEIGHTS:
                marks = () if (name, c, weights) in QUICK else (pytest.mark.slow,)
                found.append(pytest.param(name, c, weights, marks=marks))
    return found


def settings(weights, y):
    """Return (class_weight, sample_weight) of one of `WEIGHTS`."""
    class_weight = {"classes": "balanced", "both": {np.unique(y)[0].item(): 2.5}}.get(weights)
    return class_weight, some_weights(len(y)) if weights in ("rows", "both") else None


def reference(estimator, x, y, sample_weight=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(x, y, sample_weight=sample_weight)


def check(ours, theirs, loss, x, y, sample_weight=None, relative=1e-6):
    reached = objective(ours, loss, x, y, sample_weight)
    known = objective(ours, loss, x, y, sample_weight, coef=theirs.coef_, intercept=theirs.intercept_)
    rounding = 1e-11 * abs(reached)
    assert reached <= known * (1 + relative)
    assert reached - known <= ours.duality_gap_ + rounding, "the certificate promised more than is true"
    np.testing.assert_allclose(ours.objective_, reached, rtol=1e-9)
    assert ours.report_.converged


@pytest.mark.parametrize("name, c, weights", cases())
def test_logistic_regression(name, c, weights):

    x, y = dataset(name)
    class_weight, sample_weight = settings(weights, y)
    ours = LogisticRegression(C=c, class_weight=class_weight, tol=1e-7).fit(x, y, sample_weight)
    theirs = reference(
        linear_model.LogisticRegression(C=c, class_weight=class_weight, tol=1e-10, max_iter=20_000), x, y, sample_weight
    )
    check(ours, theirs, "logistic" if len(np.unique(y)) == 2 else "multinomial", x, y, sample_weight)


@pytest.mark.parametrize("loss", ["squared_hinge", "hinge"])
@pytest.mark.parametrize("name, c, weights", cases())
def test_linear_svc(name, c, weights, loss):

    x, y = dataset(name)
    class_weight, sample_weight = settings(weights, y)
    ours = LinearSVC(C=c, loss=loss, class_weight=class_weight, tol=1e-7).fit(x, y, sample_weight)
    twin = svm.LinearSVC(
        C=c, loss=loss, dual=loss == "hinge", tol=1e-8, max_iter=20_000 if loss == "hinge" else 300, random_state=0
    )
    if len(np.unique(y)) == 2:
        theirs = reference(twin.set_params(class_weight=class_weight), x, y, sample_weight)
    else:  # liblinear weights a class in its own output alone; as sample weights they count in all, as ours do
        theirs = reference(twin, x, y, row_weights(ours, y, sample_weight))
    check(ours, theirs, loss, x, y, sample_weight)


@pytest.mark.parametrize("scaling", [0.1, 10.0])
def test_linear_svc_regularises_the_intercept_by_its_scaling(scaling):

    x, y = dataset("breast_cancer")
    ours = LinearSVC(intercept_scaling=scaling, tol=1e-8).fit(x, y)
    theirs = reference(svm.LinearSVC(intercept_scaling=scaling, dual=False, tol=1e-10, max_iter=20_000), x, y)
    check(ours, theirs, "squared_hinge", x, y)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-3)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 1e3])
def test_ridge(alpha, weighted, fit_intercept):

    x, y = dataset("diabetes")
    weight = some_weights(len(y)) if weighted else None
    ours = Ridge(alpha, fit_intercept=fit_intercept).fit(x, y, weight)
    theirs = reference(linear_model.Ridge(alpha, fit_intercept=fit_intercept), x, y, weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-8)
    check(ours, theirs, "squared", x, y, weight)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_linear_regression_is_least_squares(fit_intercept):

    x, y = dataset("diabetes")
    weight = some_weights(len(y))
    ours = LinearRegression(fit_intercept=fit_intercept).fit(x, y, weight)
    theirs = reference(linear_model.LinearRegression(fit_intercept=fit_intercept), x, y, weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6)
    check(ours, theirs, "squared", x, y, weight)


def test_linear_regression_with_dependent_columns_has_the_least_norm():

    x, y = dataset("diabetes")
    x = np.hstack([x, x[:, :3], 2 * x[:, :1]])
    ours = LinearRegression().fit(x, y)
    theirs = reference(linear_model.LinearRegression(), x, y)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(ours.coef_), np.linalg.norm(theirs.coef_), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_ridge_on_sparse_rows(alpha):

    x, _ = dataset("sparse")
    y = x @ np.random.default_rng(0).normal(size=x.shape[1]) + 1.0
    ours = Ridge(alpha, tol=1e-8).fit(x, y)
    theirs = reference(linear_model.Ridge(max(alpha, 1e-12)), x.toarray(), y)
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), atol=1e-5)


EXACT = [
    (LogisticRegression(), "logistic", "breast_cancer", ["newton", "lbfgs"]),
    (LogisticRegression(), "logistic", "sparse", ["newton", "lbfgs"]),
    (LogisticRegression(), "multinomial", "iris", ["newton", "lbfgs"]),
    (LinearSVC(), "squared_hinge", "breast_cancer", ["newton", "lbfgs"]),
    (LinearSVC(), "squared_hinge", "iris", ["newton", "lbfgs"]),
    (LinearSVC(loss="hinge"), "hinge", "breast_cancer", ["newton"]),
    (Ridge(), "squared", "diabetes", ["gram", "lbfgs"]),
]
DUAL = [
    (LogisticRegression(), "logistic", "breast_cancer"),
    (LogisticRegression(), "logistic", "sparse"),
    (LinearSVC(), "squared_hinge", "breast_cancer"),
    (LinearSVC(), "squared_hinge", "sparse3"),
    (LinearSVC(loss="hinge"), "hinge", "breast_cancer"),
    (Ridge(), "squared", "diabetes"),
]
SGD = [
    (LogisticRegression(), "logistic", "breast_cancer"),
    (LinearSVC(), "squared_hinge", "breast_cancer"),
    (LinearSVC(loss="hinge"), "hinge", "sparse3"),
    (Ridge(), "squared", "diabetes"),
]


def solved(estimator, loss, name, solver, tol):
    """Return (fitted by ``solver``, its objective, the least objective)."""
    x, y = dataset(name)
    exact = clone(estimator).set_params(tol=1e-9).fit(x, y)
    ours = clone(estimator).set_params(solver=solver, tol=tol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is certified must be true even where a solver stops early
        ours.fit(x, y)
    best, reached = objective(exact, loss, x, y), objective(ours, loss, x, y)
    assert reached - best <= ours.duality_gap_ + 1e-9 * best
    return ours, reached, best


@pytest.mark.parametrize("estimator, loss, name, solver", [(e, *rest, s) for e, *rest, many in EXACT for s in many])
def test_exact_solvers_reach_and_certify_the_minimum(estimator, loss, name, solver):
    ours, reached, best = solved(estimator, loss, name, solver, 1e-5)
    assert reached <= best * (1 + 1e-5)
    assert ours.report_.converged


@pytest.mark.slow
@pytest.mark.parametrize("estimator, loss, name", DUAL)
def test_dual_coordinate_descent_reaches_and_certifies_what_was_asked(estimator, loss, name):
    ours, reached, best = solved(estimator, loss, name, "dual", 1e-2)
    assert reached <= best * (1 + 1e-2)
    assert ours.report_.converged


@pytest.mark.slow
def test_the_hinge_converges_on_tiny_sparse_shards():
    ours, _, _ = solved(LinearSVC(loss="hinge"), "hinge", "sparse", "dual", 1e-2)
    assert ours.report_.converged


@pytest.mark.parametrize("estimator, loss, name", SGD)
def test_what_stochastic_gradients_certify_is_true(estimator, loss, name):
    solved(estimator, loss, name, "sgd", 1e-3)


@pytest.mark.slow
def test_stochastic_gradients_come_close_on_many_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30_000, 10))
    y = (x @ rng.normal(size=10) + rng.normal(size=30_000) > 0).astype(int)
    exact = LogisticRegression(tol=1e-8).fit(x, y)
    ours = LogisticRegression(solver="sgd", tol=1e-2).fit(x, y)
    assert ours.objective_ <= exact.objective_ * 1.01
