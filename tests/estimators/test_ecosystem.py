"""Inside scikit-learn's pipelines, searches and ensembles."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import sklearn
from sklearn import linear_model
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.estimators.problems import dataset
from tutti.estimators.linear import LinearRegression, LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC
from tutti.strategies.cocoa import CoCoA


def test_at_the_end_of_a_pipeline():

    x, y = dataset("wine")
    pipeline = make_pipeline(StandardScaler(), LinearSVC())
    pipeline.fit(x * 100, y, linearsvc__sample_weight=np.ones(len(y)))
    assert pipeline.score(x * 100, y) > 0.95
    assert pipeline.set_params(linearsvc__C=0.1).fit(x, y)[-1].C == 0.1


def test_grid_search_finds_what_it_finds_for_scikit_learns_twin():

    x, y = dataset("breast_cancer")
    grid = {"C": [1e-3, 1.0]}
    ours = GridSearchCV(LogisticRegression(tol=1e-8), grid, cv=3).fit(x, y)
    theirs = GridSearchCV(linear_model.LogisticRegression(tol=1e-8, max_iter=1000), grid, cv=3).fit(x, y)
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"], atol=1e-3)


@pytest.mark.thorough
def test_grid_search_in_two_processes():
    code = """
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV
from tutti.engines.threads import Threads
from tutti.estimators.svm import LinearSVC

x, y = load_wine(return_X_y=True)
search = GridSearchCV(LinearSVC(engine=Threads(1)), {"C": [0.1, 1.0]}, cv=3, n_jobs=2, error_score="raise")
print(search.fit(x / x.max(axis=0), y).best_score_ > 0.9)
"""
    # joblib keeps its processes for later: they end with this one
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110)
    assert done.stdout.strip() == "True", done.stderr


def test_grid_search_reaches_into_a_strategy():

    x, y = dataset("breast_cancer")
    estimator = LinearSVC(solver="dual", strategy=CoCoA(), n_shards=2)
    search = GridSearchCV(estimator, {"strategy__merges": [1, 4], "C": [0.1]}, cv=2).fit(x, y)
    assert search.best_params_.keys() == {"strategy__merges", "C"}
    assert estimator.strategy == CoCoA(), "the search changed the strategy that the caller holds"


def test_cross_validation_of_a_regressor():

    x, y = dataset("diabetes")
    np.testing.assert_allclose(cross_val_score(Ridge(), x, y), cross_val_score(linear_model.Ridge(), x, y), rtol=1e-6)
    assert cross_val_score(LinearRegression(), x, y).shape == (5,)


def test_in_a_vote_and_in_a_stack():

    x, y = dataset("iris")
    members = [("a", LogisticRegression()), ("b", LinearSVC(probability=True))]
    assert VotingClassifier(members, voting="soft").fit(x, y).score(x, y) > 0.9
    assert VotingClassifier([("a", LogisticRegression()), ("b", LinearSVC())]).fit(x, y).score(x, y) > 0.9
    assert StackingClassifier(members, final_estimator=LogisticRegression(), cv=3).fit(x, y).score(x, y) > 0.9


def test_scorers_and_calibration_of_scikit_learn():

    x, y = dataset("breast_cancer")
    found = cross_validate(LinearSVC(), x, y, scoring=["roc_auc", "f1"], cv=3)
    assert found["test_roc_auc"].min() > 0.97
    assert CalibratedClassifierCV(LinearSVC(), cv=3).fit(x, y).predict_proba(x).shape == (len(y), 2)


def test_sample_weights_are_routed_where_they_were_requested():

    x, y = dataset("breast_cancer")
    weight = np.where(y == 0, 1e-6, 1.0)
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = LogisticRegression().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        routed = cross_val_score(estimator, x, y, params={"sample_weight": weight}, cv=3)
    assert routed.min() > 0.999, "with next to no weight on class 0, only class 1 counts"
