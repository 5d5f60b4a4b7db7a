"""Choose solver, strategy and engine by the shape of the problem, and keep the reason.

A pure function of the schema and of what the caller fixed; a choice of the caller is never overruled, only refused
with the reason when it makes no sense.  The limits are measured, see benchmarks/.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any

from tutti._spec import resolve
from tutti.errors import ParameterError, PlanError
from tutti.learners._problem import LinearProblem
from tutti.nesting import inside
from tutti.protocols import Engine, Learner, Strategy
from tutti.types import Schema

GRAM_MAX_FEATURES = 5000  # one d x d matrix of float64 is 200 MB there, its Cholesky takes seconds
NEWTON_MAX_FEATURES = 2000  # dense rows: the Hessian is built by BLAS-3
NEWTON_MAX_FEATURES_WHOLE = 400  # logistic loss and too few rows for a sampled start: every Hessian takes all rows
NEWTON_SAMPLED_ROWS = 80  # rows per feature from which on the sampled start fits
LBFGS_MIN_TOL = 1e-6  # below, L-BFGS needs more rounds than its cheap rounds make up for
NEWTON_MAX_FEATURES_SPARSE = 400  # sparse rows pay (non-zeros of a row) squared
NEWTON_MAX_MULTINOMIAL = 1500  # features x classes: one joint Hessian
SMALL_VALUES = 50_000  # below this one worker is done before a second one has started

_SOLVERS: dict[str, tuple[str, frozenset[str]]] = {
    "gram": ("tutti.learners.gram:Gram", frozenset({"squared"})),
    "newton": (
        "tutti.learners.newton:SampledNewton",
        frozenset({"logistic", "multinomial", "hinge", "squared_hinge", "epsilon_insensitive"}),
    ),
    "lbfgs": ("tutti.learners.lbfgs:LBFGS", frozenset({"logistic", "multinomial", "squared_hinge", "squared"})),
    "dual": (
        "tutti.learners.dual:DualCoordinateDescent",
        frozenset({"logistic", "hinge", "squared_hinge", "squared"}),
    ),
    "sgd": ("tutti.learners.sgd:SGD", frozenset({"logistic", "hinge", "squared_hinge", "squared"})),
}
_STRATEGIES = {"gradient": "tutti.strategies.all_reduce:AllReduce", "dual": "tutti.strategies.cocoa:CoCoA"}


@dataclass(frozen=True)
class Choice:
    """A learner, a strategy and an engine that fit together, and why they were chosen."""

    learner: Learner
    strategy: Strategy
    engine: Engine
    reason: str


def choose(
    problem: LinearProblem,
    schema: Schema,
    *,
    solver: str = "auto",
    strategy: Strategy | str = "auto",
    engine: Engine | str = "auto",
    n_shards: int = 8,
    tol: float = 1e-4,
    max_iter: int | None = None,
) -> Choice:
    """Return what fits the problem; "auto" leaves the choice to the shape of the data.

    Raises
    ------
    ParameterError : an unknown solver, strategy or engine.
    PlanError : the solver cannot minimise this loss, or the strategy cannot run this solver.
    """
    wants = _wants(strategy)
    if solver == "auto" and getattr(strategy, "serves", False):
        name, reason = _served(problem, type(strategy).__name__)
    elif solver == "auto":
        name, reason = _by_shape(problem, schema, wants, tol)
    else:
        name, reason = _by_name(solver, problem), "chosen by the caller"
    learner = _make(name, problem, tol, max_iter)
    if isinstance(strategy, str):
        kind = "dual" if "dual" in learner.offers else "gradient"
        fitting: Strategy = resolve(_STRATEGIES[kind])()
    else:
        fitting = strategy
    return Choice(learner, fitting, engine_of(engine, schema), reason)


def _wants(strategy: Strategy | str) -> frozenset[str] | None:
    if isinstance(strategy, str):
        if strategy != "auto":
            raise ParameterError("strategy", strategy, 'write "auto" or an object such as tutti.AllReduce()')
        return None
    if not isinstance(strategy, Strategy) or isinstance(strategy, type):
        raise ParameterError("strategy", strategy, 'write "auto" or an object such as tutti.AllReduce()')
    return frozenset(strategy.wants)


def _by_name(solver: str, problem: LinearProblem) -> str:
    if solver not in _SOLVERS:
        near = difflib.get_close_matches(str(solver), _SOLVERS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ParameterError("solver", solver, f"expected 'auto' or one of {', '.join(map(repr, _SOLVERS))}{hint}")
    losses = _SOLVERS[solver][1]
    if problem.loss not in losses:
        able = [name for name, (_, can) in _SOLVERS.items() if problem.loss in can]
        raise PlanError(
            f"solver={solver!r} cannot minimise the {problem.loss} loss; use 'auto' or one of "
            f"{', '.join(map(repr, able))}"
        )
    if solver == "dual" and problem.loss == "squared" and not math.isfinite(problem.C):
        raise PlanError("solver='dual' needs a regularised problem; without regularisation use 'gram' or 'lbfgs'")
    return solver


def _by_shape(problem: LinearProblem, schema: Schema, wants: frozenset[str] | None, tol: float) -> tuple[str, str]:
    """The table of ALGORITHMS: which solver for which loss and shape."""
    d, loss = schema.n_features, problem.loss
    shape = f"{d:,} {'sparse' if schema.sparse else 'dense'} features"
    limit = NEWTON_MAX_FEATURES_SPARSE if schema.sparse else NEWTON_MAX_FEATURES
    dual_able = loss in _SOLVERS["dual"][1] and not (loss == "squared" and not math.isfinite(problem.C))
    if wants is not None and "dual" in wants:
        if not dual_able:
            raise PlanError(
                f"CoCoA needs a problem with a dual that splits over rows; the {loss} loss here has none in this "
                "library; use strategy='auto' or tutti.AllReduce()"
            )
        return "dual", "the strategy merges dual updates"
    if wants is not None and "delta" in wants and "gradient" not in wants:
        if loss not in _SOLVERS["sgd"][1]:
            raise PlanError(
                f"no solver of the {loss} loss lets shards take steps of their own; use strategy='auto' or "
                "tutti.AllReduce()"
            )
        return "sgd", "the strategy averages what shards learn by steps of their own"
    if loss == "squared":
        if d <= GRAM_MAX_FEATURES:
            return "gram", f"squared loss and {shape}: one pass for X'X, then an exact solve"
        if dual_able and schema.sparse and wants is None:
            return "dual", f"squared loss and {shape}: X'X would not fit, dual coordinate descent needs no matrix"
        return "lbfgs", f"squared loss and {shape}: X'X would not fit"
    if loss == "epsilon_insensitive":
        return "newton", f"{loss} loss and {shape}: an interior-point method, about ten passes with a d x d Hessian"
    if loss == "multinomial":
        size = d * len(schema.classes or ())
        if d <= limit and size <= NEWTON_MAX_MULTINOMIAL:
            return "newton", f"{size:,} weights in one joint Hessian: a few passes reach any accuracy"
        return "lbfgs", f"multinomial loss with {size:,} weights: too many for a Hessian"
    few_rows = schema.n_rows < NEWTON_SAMPLED_ROWS * d and d > NEWTON_MAX_FEATURES_WHOLE
    if loss == "logistic" and few_rows and not schema.sparse and tol >= LBFGS_MIN_TOL:
        return "lbfgs", f"{loss} loss, {shape} and {schema.n_rows:,} rows: too few rows to start on a sample"
    if d <= limit:
        return "newton", f"{loss} loss and {shape}: start on a sample, then a few full passes with a d x d Hessian"
    if not schema.sparse and (loss == "logistic" or (loss == "squared_hinge" and d <= schema.n_rows)):
        return "lbfgs", f"{loss} loss and {shape}: too many for a Hessian, and every row touches every weight"
    if wants is not None:
        if loss == "hinge":
            return "sgd", f"hinge loss and {shape} under a strategy that sums gradients"
        return "lbfgs", f"{loss} loss and {shape} under a strategy that sums gradients"
    return "dual", f"{loss} loss and {shape}: dual coordinate descent, many cheap merges an epoch"


def _served(problem: LinearProblem, strategy: str) -> tuple[str, str]:
    """Which solver where weights are moved as updates come."""
    if problem.loss not in _SOLVERS["sgd"][1]:
        if strategy == "Replay":
            raise PlanError(
                f"Replay repeats recorded runs of gradient steps, and no solver of the {problem.loss} loss takes them, "
                "so there is no record of such a run; fit the model that was recorded, or write another strategy"
            )
        raise PlanError(
            f"a parameter server with staleness >= 1 wants gradient steps, and no solver of the {problem.loss} loss "
            "takes them; use LinearSVC, which has a model for each class, or tutti.ParameterServer(staleness=0)"
        )
    return "sgd", "the strategy moves weights as updates come, which only gradient steps allow"


def _make(name: str, problem: LinearProblem, tol: float, max_iter: int | None) -> Learner:
    cls = resolve(_SOLVERS[name][0])
    settings: dict[str, Any] = {"problem": problem}
    fields = {f.name for f in dataclasses.fields(cls)}
    if "tol" in fields:
        settings["tol"] = tol
    if max_iter is not None and "max_iter" in fields:
        settings["max_iter"] = max_iter
    learner: Learner = cls(**settings)
    return learner


def engine_of(engine: Engine | str, schema: Schema) -> Engine:
    """Return the engine that was asked for; "auto": threads, and one alone where there is little to do.

    One alone, too, inside a task of a run that keeps the other cores busy.
    """
    if isinstance(engine, str):
        if engine != "auto":
            raise ParameterError("engine", engine, 'write "auto" or an object such as tutti.Processes(2)')
        from tutti.engines.threads import Threads

        return Threads(1) if schema.n_values <= SMALL_VALUES or inside() else Threads()
    if not isinstance(engine, Engine) or isinstance(engine, type):
        raise ParameterError("engine", engine, 'write "auto" or an object such as tutti.Processes(2)')
    return engine
