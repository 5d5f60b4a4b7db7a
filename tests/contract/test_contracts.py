"""Every implementation goes through the contract test of its door; adding one is one line in a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tutti
from tests.contract.toys import Mean
from tutti.learners._problem import LinearProblem
from tutti.learners.boosting import Boosting
from tutti.learners.dual import DualCoordinateDescent
from tutti.learners.gram import Gram
from tutti.learners.lbfgs import LBFGS
from tutti.learners.newton import SampledNewton
from tutti.learners.sgd import SGD
from tutti.testing.learner import check_learner
from tutti.testing.strategy import check_strategy

pytestmark = pytest.mark.thorough
R = np.random.default_rng(0)
X = R.standard_normal((1003, 6))
CODES = (X @ R.standard_normal((6, 3)) + R.standard_normal((1003, 3))).argmax(axis=1)
SUM = X.sum(axis=1) + R.standard_normal(1003)
WEIGHT = R.random(1003) + 0.5

LEARNERS: dict[str, tuple[Any, str, dict[str, float]]] = {
    "mean": (Mean(rounds=2), "gradient", {}),
    "gram": (Gram(LinearProblem("squared")), "gradient", {}),
    "newton-hinge": (SampledNewton(LinearProblem("hinge", intercept="regularised")), "gradient", {}),
    "newton-tube": (SampledNewton(LinearProblem("epsilon_insensitive", epsilon=0.1)), "gradient", {}),
    "newton-multinomial": (SampledNewton(LinearProblem("multinomial")), "gradient", {}),
    "lbfgs": (LBFGS(LinearProblem("multinomial")), "gradient", {}),
    "dual-logistic": (DualCoordinateDescent(LinearProblem("logistic"), max_iter=3), "dual", {"sigma": 2.0}),
    "dual-hinge": (
        DualCoordinateDescent(LinearProblem("hinge", intercept="regularised"), max_iter=3),
        "dual",
        {"sigma": 2.0},
    ),
    "dual-certificate": (DualCoordinateDescent(LinearProblem("hinge"), max_iter=2), "summary", {}),
    "sgd": (SGD(LinearProblem("hinge"), max_iter=2), "gradient", {}),
    "sgd-local": (SGD(LinearProblem("hinge"), max_iter=2), "delta", {"local_steps": 3.0}),
}
ENGINES = [*map(tutti.Threads, (1, 2, 3, 5, 8)), *map(tutti.Processes, (1, 2, 3))]


def data(learner: Any, sparse: bool) -> tuple[tutti.Dataset, Any]:
    import scipy.sparse as sp

    loss = getattr(getattr(learner, "problem", None), "loss", "none")
    x = sp.csr_matrix(np.where(np.abs(X) > 0.5, X, 0.0)) if sparse else X
    numbers = loss in ("squared", "epsilon_insensitive")
    ds = tutti.from_arrays(x, SUM if numbers else CODES, WEIGHT)
    return ds, ds.schema("regression" if numbers else "classification")


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", LEARNERS)
def test_learners(name: str, sparse: bool) -> None:
    learner, kind, hints = LEARNERS[name]
    if sparse and isinstance(learner, Mean):
        pytest.skip("the toy learner reads dense rows only")
    ds, schema = data(learner, sparse)
    settled = ds.settled(3, schema)
    shards = {s: settled.open(s, 3, schema) for s in range(3)}
    check_learner(learner, schema, shards, kind=kind, hints={**hints, "n_shards": 3.0} if hints else hints)


@pytest.mark.parametrize("name", LEARNERS)
def test_strategies(name: str) -> None:
    learner, kind, _ = LEARNERS[name]
    strategy = {"gradient": tutti.AllReduce(), "delta": tutti.LocalSGD(3)}.get(kind, tutti.CoCoA())
    ds, schema = data(learner, sparse=False)
    check_strategy(strategy, learner, ds, schema, ENGINES)


def test_all_reduce_drives_a_learner_of_whole_numbers() -> None:
    ds = tutti.from_arrays(X, CODES, WEIGHT)
    learner: Any = Boosting(n_estimators=2)
    check_strategy(
        tutti.AllReduce(), learner, ds, ds.schema("classification"), ENGINES, model=("feature", "cut", "value", "base")
    )
