"""Optuna's samplers choose the candidates; the fits are dealt like those of any other search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from sklearn.model_selection._search import BaseSearchCV

from tutti.errors import ParameterError
from tutti.estimators._search import Dealt


class OptunaSearchCV(Dealt, BaseSearchCV):  # type: ignore[misc]
    """Let Optuna propose candidates from what earlier ones have scored.

    Candidates are asked for in batches of ``batch_size`` and told in the order of asking, so the search is the same for
    any number of workers.  A candidate whose score is not a number is told as failed.

    Parameters
    ----------
    estimator : anything with scikit-learn's ``fit``, ``get_params`` and ``set_params``.
    param_distributions : {name: a distribution of `optuna.distributions`, or a list of choices}.
    n_trials : candidates.
    batch_size : candidates that are proposed at once, before any of them is known.
    study : None, or an `optuna.Study` of direction "maximize" to go on with, such as one in a database.
    random_state : None (means 0) or int: seed of the sampler (TPE) of a new study.
    scoring, refit, cv, error_score, return_train_score, engine, strategy, journal, verbose : as for `GridSearchCV`.

    Attributes
    ----------
    study_ : the study with all trials.
    cv_results_, best_params_, best_estimator_, ... : as for `GridSearchCV`.

    Source: Akiba et al., Optuna: a next-generation hyperparameter optimization framework, 2019.

    Example
    -------
    >>> import numpy as np, tutti
    >>> from optuna.distributions import FloatDistribution
    >>> X, y = np.arange(20.0).reshape(-1, 1) % 7, np.arange(20) % 7 > 3
    >>> draw = {"C": FloatDistribution(1e-3, 1e3, log=True)}
    >>> search = tutti.OptunaSearchCV(tutti.LogisticRegression(), draw, n_trials=6, batch_size=3, cv=2).fit(X, y)
    >>> len(search.study_.trials)
    6
    """

    def __init__(
        self,
        estimator: Any,
        param_distributions: Any,
        *,
        n_trials: int = 20,
        batch_size: int = 4,
        study: Any = None,
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
        self.n_trials = n_trials
        self.batch_size = batch_size
        self.study = study
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
        if not isinstance(self.param_distributions, Mapping) or not self.param_distributions:
            raise ParameterError("param_distributions", self.param_distributions, "write {name: distribution}")
        for name in ("n_trials", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ParameterError(name, value, "write a whole number of at least 1")
        if self.study is not None and self.study.direction != optuna.study.StudyDirection.MAXIMIZE:
            raise ParameterError("study", self.study.direction, 'scores are better when greater: direction="maximize"')

    def _run_search(self, evaluate_candidates: Callable[..., Any]) -> None:
        drawn = {name: _distribution(name, values) for name, values in self.param_distributions.items()}
        study = self.study_ = self.study or _new_study(self.random_state)
        for first in range(0, self.n_trials, self.batch_size):
            trials = [study.ask(drawn) for _ in range(min(self.batch_size, self.n_trials - first))]
            results = evaluate_candidates([dict(trial.params) for trial in trials])
            metric = self.refit if isinstance(self.refit, str) else "score"
            scores = results.get(f"mean_test_{metric}")
            if scores is None:
                raise ParameterError("refit", self.refit, "of several scores, name the one that Optuna maximises")
            for trial, score in zip(trials, scores[-len(trials) :], strict=True):
                if math.isfinite(score):
                    study.tell(trial, float(score))
                else:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _distribution(name: str, values: Any) -> Any:
    if isinstance(values, optuna.distributions.BaseDistribution):
        return values
    if isinstance(values, list | tuple) and values:
        return optuna.distributions.CategoricalDistribution(values)
    raise ParameterError(f"param_distributions[{name!r}]", values, "write a list of choices or an optuna distribution")


def _new_study(random_state: Any) -> Any:
    said = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        sampler = optuna.samplers.TPESampler(seed=0 if random_state is None else int(random_state))
        return optuna.create_study(direction="maximize", sampler=sampler)
    finally:
        optuna.logging.set_verbosity(said)
