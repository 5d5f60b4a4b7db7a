"""Parameters, repr, errors and imports: scikit-learn's grammar, without scikit-learn."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
from sklearn import exceptions
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import check_is_fitted

from tutti.errors import ParameterError
from tutti.estimators._base import ConvergenceWarning, NotFittedError, known_to_sklearn
from tutti.estimators.linear import LinearRegression, LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC
from tutti.strategies.cocoa import CoCoA

ALL = [LogisticRegression, LinearSVC, Ridge, LinearRegression]


def run_fresh(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("module", ["linear", "svm", "store"])
def test_importing_estimators_loads_nothing_heavy(module):
    heavy = ["sklearn", "numba", "pyarrow", "scipy", "pandas", "torch", "rich", "safetensors", "fsspec"]
    code = f"import sys, tutti.estimators.{module}; print(*(m for m in {heavy} if m in sys.modules))"
    assert run_fresh(code) == []


def test_without_scikit_learn_errors_are_our_own():
    code = (
        "from tutti.estimators.linear import Ridge; from tutti.estimators._base import NotFittedError\n"
        "import sys\n"
        "try: Ridge().predict([[1.0]])\n"
        "except NotFittedError as e: print(type(e) is NotFittedError, 'sklearn' in sys.modules)"
    )
    assert run_fresh(code) == ["True", "False"]


@pytest.mark.parametrize("cls", ALL)
def test_init_stores_parameters_untouched(cls):
    marks = {name: object() for name in cls._defaults()}
    assert cls(**marks).get_params(deep=False) == marks


def test_repr_shows_what_differs_from_the_default():
    assert repr(LinearSVC()) == "LinearSVC()"
    assert repr(LinearSVC(C=10, n_shards=8)) == "LinearSVC(C=10)"
    assert repr(Ridge(2.0, solver="lbfgs")) == "Ridge(alpha=2.0, solver='lbfgs')"
    assert repr(LogisticRegression(fit_intercept=1)) == "LogisticRegression(fit_intercept=1)"
    assert repr(LogisticRegression(class_weight=np.ones(2))) == "LogisticRegression(class_weight=array([1., 1.]))"


def test_parameters_of_a_strategy_are_reached_by_name():
    strategy = CoCoA()
    estimator = LinearSVC(strategy=strategy)
    inner = estimator.get_params()
    names = [k for k in inner if k.startswith("strategy__")]
    assert names == [f"strategy__{k}" for k in strategy.get_params()]
    key = names[0]
    estimator.set_params(**{key: inner[key]}, C=3.0)
    assert estimator.C == 3.0
    assert "strategy__" not in "".join(estimator.get_params(deep=False))


def test_unknown_parameters_are_named():
    with pytest.raises(ParameterError, match=r"gamma=1 is not possible: Ridge has the parameters alpha, fit_intercept"):
        Ridge().set_params(gamma=1)
    with pytest.raises(ParameterError, match=r"strategy__x=1 is not possible: strategy='auto' has no parameters"):
        Ridge().set_params(strategy__x=1)
    with pytest.raises(ParameterError, match=r"nothing=1 is not possible: CoCoA has"):
        Ridge(strategy=CoCoA()).set_params(strategy__nothing=1)


@pytest.mark.parametrize("cls", ALL)
def test_clone_copies_parameters_and_not_the_model(cls):

    estimator = cls(strategy=CoCoA(), n_shards=3)
    estimator.n_features_in_ = 3
    copy = clone(estimator)
    assert copy.get_params(deep=False).keys() == estimator.get_params(deep=False).keys()
    assert copy.strategy == estimator.strategy
    assert copy.strategy is not estimator.strategy
    assert not hasattr(copy, "n_features_in_")


@pytest.mark.parametrize("cls", ALL)
def test_before_the_fit_scikit_learns_not_fitted_error_is_raised(cls):

    estimator = cls()
    with pytest.raises(exceptions.NotFittedError):
        check_is_fitted(estimator)
    with pytest.raises(exceptions.NotFittedError) as caught:
        estimator.predict(np.ones((2, 2)))
    assert isinstance(caught.value, NotFittedError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, exceptions.NotFittedError)
    assert str(again) == f"this {cls.__name__} is not fitted yet: call fit first"


def test_warnings_are_scikit_learns_where_it_is_loaded():

    assert issubclass(known_to_sklearn(ConvergenceWarning), exceptions.ConvergenceWarning)
    assert issubclass(known_to_sklearn(ConvergenceWarning), ConvergenceWarning)
    assert known_to_sklearn(ConvergenceWarning) is known_to_sklearn(ConvergenceWarning)


def test_tags_say_what_an_estimator_is():

    assert is_classifier(LinearSVC())
    assert is_regressor(Ridge())
    for cls in ALL:
        tags = get_tags(cls())
        assert tags.input_tags.sparse
        assert tags.target_tags.required


def test_requests_for_sample_weight_survive_a_clone():

    with sklearn.config_context(enable_metadata_routing=True):
        estimator = Ridge().set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
        for e in (estimator, clone(estimator)):
            request = get_routing_for_object(e)
            assert request.fit.requests == {"sample_weight": True}
            assert request.score.requests == {"sample_weight": False}
        assert get_routing_for_object(Ridge()).fit.requests == {"sample_weight": None}


def test_probabilities_exist_only_where_they_were_asked_for():
    assert hasattr(LinearSVC(probability=True), "predict_proba")
    assert not hasattr(LinearSVC(), "predict_proba")
    assert not hasattr(LinearSVC(), "predict_log_proba")
    with pytest.raises(AttributeError, match="predict_proba needs probability=True, set before the fit"):
        LinearSVC().predict_proba  # noqa: B018
