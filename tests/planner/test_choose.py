"""The planner's choice is a pure function of the problem and its shape, and a caller's choice is never overruled."""

from __future__ import annotations

import pytest

import tutti
from tutti.errors import ParameterError, PlanError
from tutti.learners._problem import LinearProblem
from tutti.planner import choose
from tutti.types import Schema


def schema(d: int, *, sparse: bool = False, classes: int | None = 2, n: int = 1000) -> Schema:
    return Schema(
        n_rows=n,
        n_features=d,
        classes=None if classes is None else tuple(range(classes)),
        sparse=sparse,
        n_values=n * (60 if sparse else d),
        n_bytes=8 * n * d,
    )


@pytest.mark.parametrize(
    ("loss", "shape", "learner", "strategy"),
    [
        ("squared", schema(100, classes=None), "Gram", "AllReduce"),
        ("squared", schema(100_000, classes=None, sparse=True), "DualCoordinateDescent", "CoCoA"),
        ("squared", schema(6_000, classes=None), "LBFGS", "AllReduce"),
        ("logistic", schema(100), "SampledNewton", "AllReduce"),
        ("logistic", schema(784, n=5_000), "LBFGS", "AllReduce"),
        ("logistic", schema(784, n=100_000), "SampledNewton", "AllReduce"),
        ("squared_hinge", schema(784, n=5_000), "SampledNewton", "AllReduce"),
        ("logistic", schema(5_000), "LBFGS", "AllReduce"),
        ("squared_hinge", schema(5_000, n=10_000), "LBFGS", "AllReduce"),
        ("squared_hinge", schema(5_000), "DualCoordinateDescent", "CoCoA"),
        ("logistic", schema(100_000, sparse=True), "DualCoordinateDescent", "CoCoA"),
        ("hinge", schema(100), "SampledNewton", "AllReduce"),
        ("hinge", schema(100_000, sparse=True), "DualCoordinateDescent", "CoCoA"),
        ("squared_hinge", schema(64, classes=10), "SampledNewton", "AllReduce"),
        ("multinomial", schema(64, classes=10), "SampledNewton", "AllReduce"),
        ("multinomial", schema(784, classes=10), "LBFGS", "AllReduce"),
    ],
)
def test_the_choice_follows_the_table(loss: str, shape: Schema, learner: str, strategy: str) -> None:
    choice = choose(LinearProblem(loss), shape)
    assert (type(choice.learner).__name__, type(choice.strategy).__name__) == (learner, strategy)
    assert choice.reason
    assert choice == choose(LinearProblem(loss), shape)


def test_a_strategy_of_the_caller_decides_the_solver() -> None:
    dual = choose(LinearProblem("hinge"), schema(10), strategy=tutti.CoCoA())
    assert type(dual.learner).__name__ == "DualCoordinateDescent"
    summed = choose(LinearProblem("hinge"), schema(100_000, sparse=True), strategy=tutti.AllReduce())
    assert type(summed.learner).__name__ == "SGD"


def test_tol_and_max_iter_reach_the_learner() -> None:
    choice = choose(LinearProblem("logistic"), schema(10), tol=1e-7, max_iter=5)
    assert (choice.learner.tol, choice.learner.max_iter) == (1e-7, 5)


def test_little_data_gets_one_worker_and_much_data_all() -> None:
    assert choose(LinearProblem(), schema(10)).engine == tutti.Threads(1)
    assert choose(LinearProblem(), schema(10, n=1_000_000)).engine == tutti.Threads()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"solver": "newtom"},
            ParameterError,
            "solver='newtom' is not possible: expected 'auto' or one of 'gram', 'newton', 'lbfgs', 'dual', 'sgd'; "
            "did you mean 'newton'?",
        ),
        (
            {"solver": "gram"},
            PlanError,
            "solver='gram' cannot minimise the logistic loss; use 'auto' or one of 'newton', 'lbfgs', 'dual', 'sgd'",
        ),
        (
            {"strategy": "AllReduce"},
            ParameterError,
            "strategy='AllReduce' is not possible: write \"auto\" or an object such as tutti.AllReduce()",
        ),
        (
            {"engine": "threads"},
            ParameterError,
            "engine='threads' is not possible: write \"auto\" or an object such as tutti.Processes(2)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_out(change: dict, error: type, message: str) -> None:
    with pytest.raises(error) as caught:
        choose(LinearProblem("logistic"), schema(10), **change)
    assert str(caught.value) == message


def test_cocoa_is_refused_where_the_loss_has_no_dual_here() -> None:
    with pytest.raises(PlanError, match="CoCoA needs a problem with a dual"):
        choose(LinearProblem("multinomial"), schema(10, classes=3), strategy=tutti.CoCoA())
