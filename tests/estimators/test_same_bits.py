"""The model has the same bits for any number of workers, on threads and on processes."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone

from tutti.engines.processes import Processes
from tutti.engines.threads import Threads
from tutti.estimators.linear import LinearRegression, LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC

N_ROWS = 1003  # no multiple of anything
WORKERS = [1, 2, 3, 5, 8]

MODELS = [
    ("logistic", LogisticRegression(), 2, ["newton", "lbfgs", "dual", "sgd"]),
    ("multinomial", LogisticRegression(), 3, ["newton", "lbfgs"]),
    ("squared_hinge", LinearSVC(), 2, ["newton", "lbfgs", "dual", "sgd"]),
    ("squared_hinge 3", LinearSVC(), 3, ["newton", "lbfgs", "dual", "sgd"]),
    ("hinge", LinearSVC(loss="hinge"), 2, ["newton", "dual", "sgd"]),
    ("hinge 3", LinearSVC(loss="hinge"), 3, ["newton", "dual", "sgd"]),
    ("ridge", Ridge(), 0, ["gram", "lbfgs", "dual", "sgd"]),
    ("least squares", LinearRegression(), 0, ["gram", "lbfgs", "sgd"]),
]


def has_a_cheaper_sibling(name, n_classes, solver, sparse):
    """Rows of K outputs and sparse ones go the same ways for every loss."""
    return (n_classes == 3 and (sparse or name == "hinge 3")) or (solver == "dual" and sparse and name != "logistic")


COMBINATIONS = [
    pytest.param(
        estimator,
        n_classes,
        solver,
        sparse,
        id=f"{name}-{solver}-{'sparse' if sparse else 'dense'}",
        marks=[pytest.mark.thorough] if has_a_cheaper_sibling(name, n_classes, solver, sparse) else [],
    )
    for name, estimator, n_classes, solvers in MODELS
    for solver in solvers
    for sparse in (False, True)
]


def rows(n_classes, sparse):
    """Return 1,003 weighted rows whose first and last shard lack a class."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(N_ROWS, 20)) * (rng.random((N_ROWS, 20)) < 0.4)
    y = x @ rng.normal(size=20) + 0.5 * rng.normal(size=N_ROWS)
    if n_classes:
        y = np.digitize(y, np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]))
        y[:130] = 0
        y[-130:] = n_classes - 1
    return sp.csr_array(x) if sparse else x, y, rng.integers(1, 4, N_ROWS).astype(float)


def digest(estimator, n_classes, solver, sparse, engine, **params):

    x, y, weight = rows(n_classes, sparse)
    model = clone(estimator).set_params(solver=solver, engine=engine, tol=1e-3, max_iter=8, **params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bits are the same whether or not eight rounds are enough
        model.fit(x, y, weight)
    assert model.plan_.size == min(engine.n, model.n_shards)
    return model.report_.sha256


@pytest.mark.parametrize("estimator, n_classes, solver, sparse", COMBINATIONS)
def test_same_bits_for_one_and_three_threads(estimator, n_classes, solver, sparse):
    one, three = (digest(estimator, n_classes, solver, sparse, Threads(n)) for n in (1, 3))
    assert one == three


@pytest.mark.parametrize("estimator, n_classes, solver, sparse", [*COMBINATIONS[::9], COMBINATIONS[4]])
def test_same_bits_for_threads_and_processes(estimator, n_classes, solver, sparse):
    assert digest(estimator, n_classes, solver, sparse, Threads(1)) == digest(
        estimator, n_classes, solver, sparse, Processes(2)
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", [Threads, Processes])
@pytest.mark.parametrize("estimator, n_classes, solver, sparse", COMBINATIONS)
def test_same_bits_for_any_number_of_workers(estimator, n_classes, solver, sparse, engine):
    expected = digest(estimator, n_classes, solver, sparse, Threads(1))
    assert {n: digest(estimator, n_classes, solver, sparse, engine(n)) for n in WORKERS} == dict.fromkeys(
        WORKERS, expected
    )


def test_probabilities_have_the_same_bits_too():
    from tutti.runtime.digest import model_sha256

    x, y, weight = rows(3, sparse=True)
    found = set()
    for n in (1, 3):
        model = LinearSVC(probability=True, engine=Threads(n)).fit(x, y, weight)
        found.add(model_sha256({"sigmoid": model.sigmoid_, "coef": model.coef_}))
    assert len(found) == 1


def test_another_number_of_shards_is_another_job_with_the_same_minimum():
    x, y, _ = rows(2, sparse=False)
    values = [LinearSVC(n_shards=n, tol=1e-8).fit(x, y).decision_function(x) for n in (1, 5)]
    np.testing.assert_allclose(*values, atol=1e-4)


@pytest.mark.thorough
def test_who_has_compiled_and_who_has_loaded_have_the_same_bits(tmp_path):
    """A process that compiles its kernels must not call other translations of them than one that loads them."""
    program = (
        "from tests.estimators.test_same_bits import *\n"
        "print(digest(LogisticRegression(), 2, 'newton', False, Threads(1)))"
    )
    where = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    found = [
        subprocess.run([sys.executable, "-c", program], env=where, check=True, capture_output=True, timeout=200).stdout
        for _ in range(2)
    ]
    assert found[0] == found[1]
