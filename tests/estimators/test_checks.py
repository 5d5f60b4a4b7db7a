"""scikit-learn's own checks, all of them, for every estimator."""

from __future__ import annotations

import warnings

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from tutti.estimators.linear import LinearRegression, LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC

EXPECTED_FAILURES: dict[str, str] = {}
"""Check -> reason why it cannot pass; empty is what we want."""

ESTIMATORS = [
    LogisticRegression(tol=1e-8),
    LinearSVC(tol=1e-8),
    LinearSVC(loss="hinge", tol=1e-8),
    LinearSVC(probability=True, tol=1e-8),
    Ridge(),
    LinearRegression(),
]

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # it would rather see its own base class
    with_checks = parametrize_with_checks(ESTIMATORS, expected_failed_checks=lambda e: EXPECTED_FAILURES)


@with_checks
@pytest.mark.filterwarnings("ignore::tutti.estimators._base.ConvergenceWarning")
def test_scikit_learns_check(estimator, check):
    check(estimator)
