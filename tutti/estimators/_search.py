"""Searches over hyper-parameters: scikit-learn's own, with the fits dealt to workers of ours.

This module needs scikit-learn and is loaded when a search is first named.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  (makes HalvingGridSearchCV importable)
from sklearn.model_selection import GridSearchCV as SklearnGrid
from sklearn.model_selection import HalvingGridSearchCV as SklearnHalving
from sklearn.model_selection import ParameterGrid, ParameterSampler
from sklearn.model_selection import RandomizedSearchCV as SklearnRandomized

from tutti.errors import InputError, ParameterError
from tutti.estimators._intake import is_dataset
from tutti.estimators._search_deal import Dealer
from tutti.estimators._search_jobs import Fit, Jobs
from tutti.estimators._search_journal import Journal
from tutti.estimators._search_progress import SearchProgress


@dataclass(frozen=True)
class SearchReport:
    """What a search did.

    Parameters
    ----------
    seconds : wall time of all fits, without the refit.
    n_fits, n_failed, n_resumed : fits (candidates x folds), those that ended with an error, those that an earlier
        search had left in the journal.
    engine, reason : where the fits ran, and why there.
    faults : workers lost on the way; their fits were done again by others.
    sha256 : of all scores, by candidate and fold.
    """

    seconds: float
    n_fits: int
    n_failed: int
    n_resumed: int
    engine: str
    reason: str
    faults: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)


class Dealt:
    """What our searches add to those of scikit-learn: workers, a journal, a line of progress, a report."""

    n_jobs = None  # the engine says how many
    pre_dispatch = "all"
    engine: Any
    strategy: Any
    journal: Any
    verbose: int

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Evaluate every candidate on every fold, then fit the best one on all rows.

        Parameters
        ----------
        X, y, params : as for scikit-learn's searches; X may be anything that the estimator takes and scikit-learn
            can cut into folds.

        Raises
        ------
        InputError : no candidate, a Dataset instead of arrays, a file that is not a journal.
        """
        if is_dataset(X) or isinstance(X, str | os.PathLike):
            raise InputError("a search cuts rows into folds itself: give arrays or frames, not a Dataset or a file")
        self._check_candidates()
        dealer = Dealer(self.engine, self.strategy)
        tally = _Tally()
        began = time.perf_counter()
        journal = nullcontext() if self.journal is None else Journal(self.journal)
        with SearchProgress(type(self).__name__, bool(self.verbose)) as progress, journal as kept:

            def heard(fit: Fit) -> None:
                tally.add(fit)
                progress.add(fit)

            with Jobs(dealer, kept, heard):
                super().fit(X, y, **params)  # type: ignore[misc]
            resumed = 0 if kept is None else kept.n_found
        spent = time.perf_counter() - began - getattr(self, "refit_time_", 0.0)
        self.report_ = SearchReport(
            spent, tally.n_fits, tally.n_failed, resumed, dealer.where, dealer.reason, dealer.faults, tally.sha256()
        )
        return self

    def _check_candidates(self) -> None:
        """Raise ParameterError where it is known before any fit that there is nothing to do."""


class _Tally:
    def __init__(self) -> None:
        self.n_fits = self.n_failed = 0
        self._scores: list[tuple[Any, ...]] = []

    def add(self, fit: Fit) -> None:
        assert fit.outcome is not None
        self.n_fits += 1
        self.n_failed += fit.outcome["fit_error"] is not None
        kwargs = fit.kwargs
        where = (fit.call, kwargs["candidate_progress"][0], kwargs["split_progress"][0])
        self._scores.append((where, fit.outcome["test_scores"], fit.outcome.get("train_scores")))

    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(sorted(self._scores, key=lambda row: row[0])).encode()).hexdigest()


class GridSearchCV(Dealt, SklearnGrid):  # type: ignore[misc]
    """Try every combination of a grid, by cross-validation.

    Parameters
    ----------
    estimator : anything with scikit-learn's ``fit``, ``get_params`` and ``set_params``.
    param_grid : {name: values}, or a list of such dicts.
    scoring, refit, cv, error_score, return_train_score : as for `sklearn.model_selection.GridSearchCV`.
    engine : "auto", `tutti.Threads` or `tutti.Processes`: where the fits run.  "auto" does a fit or two, and takes
        processes where seconds of work are left; else, and for tutti's linear models that share passes, threads.
    strategy : "auto" or `tutti.TaskParallel`: who does which fit.
    journal : None, or the path of a file that keeps the outcomes, so that an interrupted search goes on.
    verbose : 1 shows a line of progress for a search that takes longer than a second.

    Attributes
    ----------
    cv_results_, best_estimator_, best_score_, best_params_, best_index_, scorer_, n_splits_, refit_time_,
    multimetric_, classes_, n_features_in_, feature_names_in_ : as for scikit-learn's.
    report_ : fits, failures, seconds, workers, SHA-256 of all scores.

    Example
    -------
    >>> import numpy as np, tutti
    >>> X, y = np.arange(20.0).reshape(-1, 1) % 7, np.arange(20) % 7 > 3
    >>> search = tutti.GridSearchCV(tutti.LogisticRegression(), {"C": [0.001, 10.0]}, cv=2).fit(X, y)
    >>> search.best_params_
    {'C': 10.0}
    """

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        scoring: Any = None,
        refit: Any = True,
        cv: Any = None,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        engine: Any = "auto",
        strategy: Any = "auto",
        journal: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.param_grid = param_grid
        self.scoring = scoring
        self.refit = refit
        self.cv = cv
        self.error_score = error_score
        self.return_train_score = return_train_score
        self.engine = engine
        self.strategy = strategy
        self.journal = journal
        self.verbose = verbose

    def _check_candidates(self) -> None:
        _check_grid(self.param_grid)


class RandomizedSearchCV(Dealt, SklearnRandomized):  # type: ignore[misc]
    """Try ``n_iter`` candidates drawn from distributions, by cross-validation.

    Parameters
    ----------
    estimator : anything with scikit-learn's ``fit``, ``get_params`` and ``set_params``.
    param_distributions : {name: list of values, or a distribution with ``rvs``}, or a list of such dicts.
    n_iter : candidates.
    random_state : None, int or RandomState of the draw.
    scoring, refit, cv, error_score, return_train_score, engine, strategy, journal, verbose : as for `GridSearchCV`.

    Example
    -------
    >>> import numpy as np, tutti
    >>> X, y = np.arange(20.0).reshape(-1, 1) % 7, np.arange(20) % 7 > 3
    >>> draw = {"C": [0.01, 0.1, 1.0, 10.0]}
    >>> search = tutti.RandomizedSearchCV(tutti.LogisticRegression(), draw, n_iter=2, cv=2, random_state=0).fit(X, y)
    >>> len(search.cv_results_["params"])
    2
    """

    def __init__(
        self,
        estimator: Any,
        param_distributions: Any,
        *,
        n_iter: int = 10,
        random_state: Any = None,
        scoring: Any = None,
        refit: Any = True,
        cv: Any = None,
        error_score: Any = np.nan,
        return_train_score: bool = False,
        engine: Any = "auto",
        strategy: Any = "auto",
        journal: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.param_distributions = param_distributions
        self.n_iter = n_iter
        self.random_state = random_state
        self.scoring = scoring
        self.refit = refit
        self.cv = cv
        self.error_score = error_score
        self.return_train_score = return_train_score
        self.engine = engine
        self.strategy = strategy
        self.journal = journal
        self.verbose = verbose

    def _check_candidates(self) -> None:
        if not self.param_distributions:
            raise ParameterError("param_distributions", self.param_distributions, "write {name: values} to draw from")
        if isinstance(self.n_iter, int) and self.n_iter < 1:
            raise ParameterError("n_iter", self.n_iter, "write how many candidates to draw, at least 1")


class HalvingSearchCV(Dealt, SklearnHalving):  # type: ignore[misc]
    """Try all candidates with few resources, go on with the best third, and so on (successive halving).

    Parameters
    ----------
    estimator : anything with scikit-learn's ``fit``, ``get_params`` and ``set_params``.
    param_grid : {name: values} of which all combinations are tried; with ``n_candidates``, values may also be
        distributions with ``rvs``.
    n_candidates : None tries the whole grid, a number draws so many candidates.
    factor : one in ``factor`` candidates goes on, with ``factor`` times the resources.
    resource : "n_samples", or a parameter of the estimator that costs time, such as "n_estimators".
    max_resources, min_resources, aggressive_elimination : as for `sklearn.model_selection.HalvingGridSearchCV`.
    random_state : None, int or RandomState of the draws.
    scoring, refit, cv, error_score, return_train_score, engine, strategy, journal, verbose : as for `GridSearchCV`.

    Source: Jamieson and Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, 2016.

    Example
    -------
    >>> import numpy as np, tutti
    >>> X, y = np.arange(90.0).reshape(-1, 1) % 7, np.arange(90) % 7 > 3
    >>> search = tutti.HalvingSearchCV(tutti.LogisticRegression(), {"C": [1e-4, 1e-3, 10.0]}, cv=2).fit(X, y)
    >>> search.best_params_
    {'C': 10.0}
    """

    def __init__(
        self,
        estimator: Any,
        param_grid: Any,
        *,
        n_candidates: int | None = None,
        factor: int = 3,
        resource: str = "n_samples",
        max_resources: Any = "auto",
        min_resources: Any = "exhaust",
        aggressive_elimination: bool = False,
        random_state: Any = None,
        scoring: Any = None,
        refit: Any = True,
        cv: Any = 5,
        error_score: Any = np.nan,
        return_train_score: bool = True,
        engine: Any = "auto",
        strategy: Any = "auto",
        journal: Any = None,
        verbose: int = 0,
    ) -> None:
        self.estimator = estimator
        self.param_grid = param_grid
        self.n_candidates = n_candidates
        self.factor = factor
        self.resource = resource
        self.max_resources = max_resources
        self.min_resources = min_resources
        self.aggressive_elimination = aggressive_elimination
        self.random_state = random_state
        self.scoring = scoring
        self.refit = refit
        self.cv = cv
        self.error_score = error_score
        self.return_train_score = return_train_score
        self.engine = engine
        self.strategy = strategy
        self.journal = journal
        self.verbose = verbose

    def _check_candidates(self) -> None:
        _check_grid(self.param_grid)
        factor = self.factor
        if isinstance(factor, bool) or not isinstance(factor, Real) or not factor > 1:
            raise ParameterError("factor", factor, "write a number above 1, as 3: one in so many candidates goes on")
        if self.n_candidates is not None and not (isinstance(self.n_candidates, int) and self.n_candidates > 0):
            raise ParameterError("n_candidates", self.n_candidates, "write None (the whole grid) or how many to draw")

    def _generate_candidate_params(self) -> list[Mapping[str, Any]]:
        if self.n_candidates is None:
            return list(ParameterGrid(self.param_grid))
        return list(ParameterSampler(self.param_grid, self.n_candidates, random_state=self.random_state))


def _check_grid(grid: Any) -> None:
    listed = isinstance(grid, Sequence) and not isinstance(grid, str)
    grids: Sequence[Any] = list(grid) if listed else [grid]
    if not all(isinstance(one, Mapping) for one in grids):
        raise ParameterError("param_grid", grid, "write {name: values}, or a list of such dicts")
    if not any(grids) or any(_length(values) == 0 for one in grids for values in one.values()):
        raise ParameterError("param_grid", grid, "write {name: values} with at least one value for every name")


def _length(values: Any) -> int:
    return len(values) if hasattr(values, "__len__") else 1
