"""Searches: scikit-learn's results for any engine, errors recorded, journals resumed, killed workers replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  (makes HalvingGridSearchCV importable)
from sklearn.linear_model import LogisticRegression as SklearnLogistic
from sklearn.model_selection import GridSearchCV as SklearnGrid
from sklearn.model_selection import HalvingGridSearchCV as SklearnHalving
from sklearn.model_selection import KFold
from sklearn.model_selection import RandomizedSearchCV as SklearnRandomized
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import tutti
from tutti.errors import InputError, ParameterError, PlanError

X, Y = make_classification(240, 6, random_state=0)
GRID = {"C": [0.01, 0.1, 1.0, 10.0]}


class Fussy(ClassifierMixin, BaseEstimator):
    """Says 1 where the first column is above ``cut``; fails, or kills its process, where it is told to."""

    def __init__(self, cut: float = 0.0, fails: bool = False, kills: str = "") -> None:
        self.cut, self.fails, self.kills = cut, fails, kills

    def fit(self, X: Any, y: Any) -> Fussy:
        if self.fails:
            raise ValueError("this candidate cannot be fitted")
        if self.kills:
            with contextlib.suppress(FileExistsError):  # one worker dies, and not the other beside it, too
                Path(self.kills).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return (np.asarray(X)[:, 0] > self.cut).astype(int)


def same_results(ours: Any, theirs: Any) -> None:
    assert set(ours.cv_results_) == set(theirs.cv_results_)
    for name, values in theirs.cv_results_.items():
        if "time" not in name:
            np.testing.assert_array_equal(np.asarray(ours.cv_results_[name]), np.asarray(values), err_msg=name)
    assert ours.best_index_ == theirs.best_index_
    assert ours.best_params_ == theirs.best_params_
    assert ours.best_score_ == theirs.best_score_
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize(
    "more", [{}, {"return_train_score": True, "scoring": ["accuracy", "roc_auc"], "refit": "roc_auc"}]
)
def test_the_grid_gives_what_scikit_learn_gives(more: dict[str, Any]) -> None:
    same_results(
        tutti.GridSearchCV(SklearnLogistic(), GRID, cv=3, **more).fit(X, Y),
        SklearnGrid(SklearnLogistic(), GRID, cv=3, **more).fit(X, Y),
    )


def test_random_draws_and_halving_give_what_scikit_learn_gives() -> None:
    drawn = {"n_iter": 3, "random_state": 0, "cv": 3}
    same_results(
        tutti.RandomizedSearchCV(SklearnLogistic(), GRID, **drawn).fit(X, Y),
        SklearnRandomized(SklearnLogistic(), GRID, **drawn).fit(X, Y),
    )
    halved = {"cv": 3, "random_state": 0, "factor": 2}
    ours = tutti.HalvingSearchCV(SklearnLogistic(), GRID, **halved).fit(X, Y)
    same_results(ours, SklearnHalving(SklearnLogistic(), GRID, **halved).fit(X, Y))
    assert len(ours.n_candidates_) > 1
    few = tutti.HalvingSearchCV(SklearnLogistic(), GRID, n_candidates=2, **halved).fit(X, Y)
    assert few.n_candidates_[0] == 2


@pytest.mark.thorough
@pytest.mark.parametrize("estimator", [SklearnLogistic(), tutti.LogisticRegression()])
def test_same_bits_for_any_number_of_workers(estimator: Any) -> None:
    engines = [*map(tutti.Threads, (1, 2, 3, 5, 8)), tutti.Processes(1), tutti.Processes(2), tutti.Processes(3), "auto"]
    found = {tutti.GridSearchCV(estimator, GRID, cv=3, engine=e).fit(X, Y).report_.sha256 for e in engines}
    assert len(found) == 1


@pytest.mark.parametrize("engine", [tutti.Threads(2), tutti.Processes(2), "auto"], ids=str)
def test_a_failing_candidate_is_recorded_and_ends_nothing(engine: Any) -> None:
    grid = {"fails": [False, True], "cut": [0.0, 9.0]}
    search = tutti.GridSearchCV(Fussy(), grid, cv=2, engine=engine)
    with (
        pytest.warns(FitFailedWarning, match="this candidate cannot be fitted"),
        pytest.warns(UserWarning, match="nan"),
    ):
        search.fit(X, Y)
    assert search.report_.n_failed == 4
    assert np.isnan(search.cv_results_["mean_test_score"]).sum() == 2
    assert search.best_params_["fails"] is False
    with pytest.raises(ValueError, match="this candidate cannot be fitted"):
        search.set_params(error_score="raise").fit(X, Y)


def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    grid = {"cut": [0.0, 0.5, 1.0], "kills": [str(tmp_path / "done")]}
    right = tutti.GridSearchCV(Fussy(), {"cut": grid["cut"]}, cv=3, engine=tutti.Threads(1)).fit(X, Y)
    search = tutti.GridSearchCV(Fussy(), grid, cv=3, engine=tutti.Processes(2))
    with pytest.warns(RuntimeWarning, match="the others go on"):
        search.fit(X, Y)
    assert search.report_.faults == 1
    assert search.report_.sha256 == right.report_.sha256


@pytest.mark.thorough
@pytest.mark.parametrize("engine", [tutti.Threads(2), tutti.Processes(2)], ids=str)
def test_an_interrupted_search_goes_on_from_its_journal(tmp_path: Path, engine: Any) -> None:
    path = tmp_path / "journal"
    whole = tutti.GridSearchCV(SklearnLogistic(), GRID, cv=3, engine=engine, journal=path).fit(X, Y)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1 + 12
    assert json.loads(lines[1])["parameters"].keys() == {"C"}
    path.write_bytes(b"".join(lines[:6]) + lines[6][:20])  # as a crash leaves it
    again = tutti.GridSearchCV(SklearnLogistic(), GRID, cv=3, engine=engine, journal=path).fit(X, Y)
    assert again.report_.n_resumed == 5
    assert again.report_.sha256 == whole.report_.sha256
    assert len(path.read_bytes().splitlines()) == 1 + 12
    other = tutti.GridSearchCV(SklearnLogistic(), GRID, cv=3, engine=engine, journal=path).fit(X, 1 - Y)
    assert other.report_.n_resumed == 0, "other data is another search"


def test_a_failure_is_tried_again_when_a_search_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for _ in range(2):
        with pytest.warns(FitFailedWarning, match="cannot be fitted"), pytest.warns(UserWarning, match="nan"):
            search = tutti.GridSearchCV(Fussy(), {"fails": [False, True]}, cv=2, journal=path).fit(X, Y)
    assert search.report_.n_resumed == 2


@pytest.mark.parametrize(
    "estimator, grid",
    [
        (tutti.LogisticRegression(tol=1e-9), {"C": np.logspace(-3, 2, 7)}),
        (tutti.LinearSVC(tol=1e-9), {"C": [0.1, 1.0], "fit_intercept": [True, False]}),
    ],
)
def test_linear_candidates_that_share_their_rows_score_as_if_alone(estimator: Any, grid: Any) -> None:
    search = tutti.GridSearchCV(estimator, grid, cv=3, scoring="roc_auc", return_train_score=True).fit(X, Y)
    alone = SklearnGrid(estimator, grid, cv=3, scoring="roc_auc", return_train_score=True).fit(X, Y)
    for name in ("mean_test_score", "mean_train_score"):
        np.testing.assert_allclose(search.cv_results_[name], alone.cv_results_[name], atol=1e-3)


@pytest.mark.thorough
def test_candidates_fitted_at_once_have_the_bits_of_any_number_of_workers_and_of_a_journal(tmp_path: Path) -> None:
    r = np.random.default_rng(0)
    x = r.standard_normal((6000, 10))
    y = (x @ r.standard_normal(10) + 2 * r.standard_normal(6000) > 0).astype(int)
    grid = {"C": np.logspace(-3, 3, 12), "fit_intercept": [True, False]}
    engines: list[Any] = [*map(tutti.Threads, (1, 2, 3, 5, 8)), tutti.Processes(2), "auto"]
    found = {
        tutti.GridSearchCV(tutti.LogisticRegression(), grid, cv=2, engine=e).fit(x, y).report_.sha256 for e in engines
    }
    path = tmp_path / "journal"
    tutti.GridSearchCV(tutti.LogisticRegression(), grid, cv=2, journal=path).fit(x, y)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:20]))
    again = tutti.GridSearchCV(tutti.LogisticRegression(), grid, cv=2, journal=path).fit(x, y)
    assert again.report_.n_resumed > 0
    assert found == {again.report_.sha256}


def test_a_bad_candidate_among_those_fitted_at_once_is_recorded_alone() -> None:
    search = tutti.GridSearchCV(tutti.LogisticRegression(), {"C": [0.1, -1.0, 10.0]}, cv=2, return_train_score=True)
    with pytest.warns(FitFailedWarning, match="'C'|C="), pytest.warns(UserWarning, match="nan"):
        search.fit(X, Y)
    assert search.report_.n_failed == 2
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True, False]
    with pytest.raises(ParameterError, match="C"):
        search.set_params(error_score="raise").fit(X, Y)
    broken = X.copy()
    broken[0, 0] = np.nan
    found = []
    for kind in (tutti.GridSearchCV, SklearnGrid):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            found.append(kind(tutti.LogisticRegression(), GRID, cv=2, refit=False).fit(broken, Y).cv_results_)
        assert any("NaN" in str(warning.message) for warning in heard)
    for fold in ("split0_test_score", "split1_test_score"):
        assert np.isnan(found[0][fold]).all() == np.isnan(found[1][fold]).all() is np.True_


def test_scorers_see_fitted_candidates_whatever_rows_they_ask_for() -> None:
    def scorer(estimator: Any, x: Any, y: Any) -> float:
        assert estimator.duality_gap_ <= 1e-4 * estimator.objective_
        np.testing.assert_allclose(estimator.decision_function(x), estimator.decision_function(x.copy()), rtol=1e-9)
        return float((estimator.predict(x[::2]) == y[::2]).mean())

    search = tutti.GridSearchCV(tutti.LogisticRegression(), GRID, cv=3, scoring=scorer, error_score="raise").fit(X, Y)
    alone = SklearnGrid(tutti.LogisticRegression(), GRID, cv=3, scoring=scorer).fit(X, Y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"], atol=0.02)


def test_candidates_fitted_at_once_tell_what_happened_as_those_fitted_alone_do() -> None:
    seen: list[Any] = []

    def scorer(estimator: Any, x: Any, y: Any) -> float:
        seen.append((estimator.report_, estimator.history_, estimator.n_iter_))
        return 0.0

    tutti.GridSearchCV(tutti.LogisticRegression(), GRID, cv=2, scoring=scorer, refit=False).fit(X, Y)
    alone = tutti.LogisticRegression().fit(X, Y)
    for report, history, n_iter in seen:
        assert set(history[-1]) == set(alone.history_[-1])
        assert (history[-1]["objective"], history[-1]["gap"]) == (report.objective, report.gap)
        assert n_iter == len(history) <= report.rounds
        assert report.converged
        assert report.seconds > 0
        assert set(report.phases) == set(alone.report_.phases)
        assert [rank.rank for rank in report.ranks] == [0]
        assert f"one of {len(GRID['C'])} models" in str(report)


def test_ridge_shares_one_pass_over_its_rows() -> None:
    x, y = make_regression(300, 8, noise=5.0, random_state=0)
    grid = {"alpha": [0.0, 1e-3, 0.1, 1.0, 10.0, 1e4]}
    ours = tutti.GridSearchCV(tutti.Ridge(), grid, cv=3).fit(x, y)
    theirs = SklearnGrid(tutti.Ridge(), grid, cv=3).fit(x, y)
    np.testing.assert_allclose(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], rtol=1e-12, atol=1e-12
    )


def test_optuna_proposes_the_same_candidates_to_any_number_of_workers() -> None:
    distributions = pytest.importorskip("optuna.distributions")
    drawn = {"C": distributions.FloatDistribution(1e-3, 1e3, log=True), "fit_intercept": [True, False]}
    found = [
        tutti.OptunaSearchCV(SklearnLogistic(), drawn, n_trials=6, batch_size=3, cv=2, engine=tutti.Threads(n)).fit(
            X, Y
        )
        for n in (1, 3)
    ]
    assert found[0].report_.sha256 == found[1].report_.sha256
    assert [t.params for t in found[0].study_.trials] == found[0].cv_results_["params"]
    assert found[0].study_.best_value == found[0].best_score_


def test_pipelines_frames_and_fit_parameters_pass() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=[f"c{i}" for i in range(X.shape[1])])
    pipe = make_pipeline(StandardScaler(), SklearnLogistic())
    grid = {"logisticregression__C": [0.1, 1.0]}
    weight = np.linspace(0.5, 2.0, len(Y))
    ours = tutti.GridSearchCV(pipe, grid, cv=KFold(3)).fit(frame, Y, logisticregression__sample_weight=weight)
    theirs = SklearnGrid(pipe, grid, cv=KFold(3)).fit(frame, Y, logisticregression__sample_weight=weight)
    np.testing.assert_array_equal(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"])
    assert list(ours.feature_names_in_) == list(frame.columns)


def test_a_search_inside_a_task_takes_no_workers_of_its_own() -> None:
    inner = tutti.GridSearchCV(DecisionTreeClassifier(random_state=0), {"max_depth": [1, 3]}, cv=2)
    outer = tutti.GridSearchCV(inner, {"cv": [2, 3]}, cv=2, engine=tutti.Threads(2)).fit(X, Y)
    assert outer.best_estimator_.best_params_["max_depth"] in (1, 3)


def test_local_functions_travel_to_processes_and_locks_do_not(tmp_path: Path) -> None:
    def scorer(estimator: Any, x: Any, y: Any) -> float:
        return float((estimator.predict(x) == y).mean())

    search = tutti.GridSearchCV(Fussy(), {"cut": [0.0, 1.0]}, cv=2, scoring=scorer, engine=tutti.Processes(2)).fit(X, Y)
    assert search.best_score_ == search.cv_results_["mean_test_score"].max() > 0.4
    search.estimator.held = threading.Lock()
    search.estimator.__sklearn_clone__ = lambda: search.estimator
    with pytest.raises(InputError, match=r"use engine=tutti.Threads\(\)"):
        search.fit(X, Y)
    search.set_params(engine=tutti.Threads(2), scoring=threading.Lock().locked, journal=tmp_path / "journal")
    with pytest.raises(ParameterError, match="leave the journal out"):
        search.fit(X, Y)


def test_auto_takes_processes_where_much_is_left_to_do_and_the_search_can_be_copied() -> None:
    from tutti.estimators import _search_deal

    search = tutti.GridSearchCV(Fussy(), {"cut": [0.0, 0.5, 1.0]}, cv=3)
    short = search.fit(X, Y).report_
    assert short.engine.startswith("Threads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_search_deal, "_PROCESS_SECONDS", 0.0)
        patch.setattr(_search_deal, "_SHORT_SECONDS", 0.0)
        patch.setattr(_search_deal, "n_cores", lambda: 2)
        long = search.fit(X, Y).report_
        patch.setattr(_search_deal, "available_bytes", lambda: 1000)
        crowded = search.fit(X, Y).report_
        search.estimator.held = threading.Lock()
        search.estimator.__sklearn_clone__ = lambda: search.estimator
        stuck = search.set_params(refit=False).fit(X, Y).report_
    assert long.engine.startswith("Processes")
    assert crowded.engine.startswith("Threads")
    assert "half of the free memory" in crowded.reason
    assert stuck.engine.startswith("Threads")
    assert "cannot be copied" in stuck.reason
    assert long.sha256 == short.sha256 == crowded.sha256


def test_the_line_of_progress_names_the_best_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from tutti.estimators import _search_progress
    from tutti.estimators._search_jobs import Fit

    console = Console(force_terminal=True, width=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_search_progress, "PATIENCE_SECONDS", 0.0)
        with _search_progress.SearchProgress("GridSearchCV", True, console) as progress:
            for i, score in enumerate((0.5, 0.75)):
                fit = Fit(None, (), {"candidate_progress": (i, 2), "split_progress": (0, 1), "parameters": {"C": i}}, 0)
                fit.outcome = {"test_scores": score}
                progress.add(fit)
    assert "2/2 fits" in capsys.readouterr().out
    assert "best 0.75 with C=1" in progress._text(2, 0, 1.0)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: tutti.GridSearchCV(SklearnLogistic(), {}), ParameterError, "param_grid"),
        (lambda: tutti.GridSearchCV(SklearnLogistic(), {"C": []}), ParameterError, "at least one value"),
        (lambda: tutti.RandomizedSearchCV(SklearnLogistic(), {}), ParameterError, "param_distributions"),
        (lambda: tutti.RandomizedSearchCV(SklearnLogistic(), GRID, n_iter=0), ParameterError, "n_iter"),
        (lambda: tutti.HalvingSearchCV(SklearnLogistic(), GRID, n_candidates=0), ParameterError, "n_candidates"),
        (lambda: tutti.GridSearchCV(SklearnLogistic(), GRID, cv=200), ValueError, "n_splits=200 cannot be greater"),
        (lambda: tutti.GridSearchCV(SklearnLogistic(), GRID, engine="ray"), ParameterError, "engine"),
        (lambda: tutti.GridSearchCV(SklearnLogistic(), GRID, strategy=tutti.AllReduce()), PlanError, "TaskParallel"),
        (
            lambda: tutti.GridSearchCV(SklearnLogistic(), GRID, engine=tutti.Processes(2, transport="tcp")),
            PlanError,
            "stays on this host",
        ),
        (lambda: tutti.GridSearchCV(SklearnLogistic(), {"D": [1]}), ValueError, "Invalid parameter 'D'"),
    ],
)
def test_bad_input_gets_one_clear_error(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make().fit(X, Y)


def test_a_dataset_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cuts rows into folds itself"):
        tutti.GridSearchCV(SklearnLogistic(), GRID).fit(tutti.from_arrays(X, Y))
    other = tmp_path / "notes.txt"
    other.write_text("dear diary\n")
    with pytest.raises(InputError, match="not the journal of a search"):
        tutti.GridSearchCV(SklearnLogistic(), GRID, journal=other).fit(X, Y)
    assert other.read_text() == "dear diary\n"
