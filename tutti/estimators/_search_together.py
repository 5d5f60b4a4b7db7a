"""Candidates of one path that are fitted at once: they differ in C alone, and one load of the rows serves them all."""

from __future__ import annotations

import dataclasses
import numbers
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tutti.errors import DataError
from tutti.estimators._decision import decision
from tutti.estimators._linear import LinearEstimator
from tutti.learners._strengths import Solved
from tutti.learners.newton import SampledNewton
from tutti.seeds import run_seed
from tutti.types import Array, Progress, RankReport, Result


@dataclasses.dataclass
class Together:
    """What came of fitting several candidates at once.

    Parameters
    ----------
    fitted : those that are certified, by their number.
    near : weights from which another fit may start, by their number: those that were not proved to be far off.
    """

    fitted: dict[int, LinearEstimator]
    near: dict[int, Mapping[str, Array]]

    def decisions(self, x: Any) -> dict[int, Array]:
        """Return the decision values (rows, n_outputs) of all fitted ones, from one product with the rows."""
        from tutti.data.convert import features

        if not self.fitted:
            return {}
        coef = np.vstack([np.atleast_2d(estimator.coef_) for estimator in self.fitted.values()])
        intercept = np.concatenate([np.atleast_1d(estimator.intercept_) for estimator in self.fitted.values()])
        try:
            rows, _ = features(x)
            values = np.ascontiguousarray(decision(rows, coef, intercept).T)
        except DataError:  # the scorer will meet these rows, and its error is recorded
            return {}
        parts = np.split(values, len(self.fitted))
        return {i: part.T for i, part in zip(self.fitted, parts, strict=True)}


def fit_together(candidates: Sequence[Any], parameters: Sequence[dict[str, Any]], dataset: Any, dtype: Any) -> Together:
    """Set the parameters of the candidates and fit those that can share their passes; the others are left as they are.

    What goes wrong with a candidate here is left to a fit of its own, which knows how to tell.
    """
    nothing = Together({}, {})
    first = candidates[0]
    plain = isinstance(first.random_state, numbers.Integral | None) and first.max_iter is None
    if not (plain and all(isinstance(value, str) and value == "auto" for value in (first.strategy, first.engine))):
        return nothing
    jobs: dict[int, Any] = {}
    for i, (candidate, chosen) in enumerate(zip(candidates, parameters, strict=True)):
        try:
            candidate.set_params(**chosen)
            candidate._check_params()
            jobs[i] = candidate._job(dataset)
        except Exception:
            continue
    learners = {i: job.choice.learner for i, job in jobs.items() if isinstance(job.choice.learner, SampledNewton)}
    if len(learners) < 2:
        return nothing
    i, one = next(iter(learners.items()))
    alike = [i for i, learner in learners.items() if _but_for_c(learner) == _but_for_c(one)]
    schema, seed = jobs[i].schema, run_seed(first.random_state)
    began = time.perf_counter()
    try:
        data = dataset.open(0, 1, schema)
        read = time.perf_counter() - began
        solved = one.solve_path([learners[i].problem.C for i in alike], data, schema, seed)
    except Exception:
        return nothing
    if solved is None:
        return nothing
    together, rank = Together({}, {}), _rank(solved, read)
    for place, i in enumerate(alike):
        found = {"coef": solved.coef[place], "intercept": solved.intercept[place]}
        primal, gap = float(solved.primal[place]), float(solved.gap[place])
        if solved.certified[place]:
            history = solved.histories[place]
            progress = Progress(primal, gap, history[-1].passes, done=True, converged=True)
            result = Result(found, history, (rank,), progress, read + solved.seconds, notes=_notes(len(alike)))
            candidates[i]._adopt(jobs[i], result, dtype)
            candidates[i]._after(jobs[i], from_arrays=True)
            together.fitted[i] = candidates[i]
        if gap <= abs(primal):
            together.near[i] = found
    return together


def _rank(solved: Solved, read: float) -> RankReport:
    """Return the report of the one rank on which all of them were fitted."""
    seconds = {"read": read, "compute": solved.seconds, "exchange": 0.0, "wait": 0.0}
    return RankReport(
        rank=0, host=socket.gethostname(), pid=os.getpid(), seconds=seconds, sent_bytes=0, rounds=solved.n_rounds
    )


def _notes(n: int) -> tuple[str, ...]:
    return (f"one of {n} models that differ in C and share their passes: seconds and rounds of ranks are those of all",)


def _but_for_c(learner: SampledNewton) -> SampledNewton:
    return dataclasses.replace(learner, problem=dataclasses.replace(learner.problem, C=1.0))
