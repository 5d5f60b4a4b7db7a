"""scikit-learn's own checks, all of them, for every estimator."""

from __future__ import annotations

import warnings

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from tutti.estimators.linear import LinearRegression, LogisticRegression, Ridge
from tutti.estimators.svm import LinearSVC

_HELD_OUT = (
    "the sigmoid is fitted on held-out shards: k copies of a row lie in several of them, a row of weight k in one"
)
EXPECTED_FAILURES = {
    "LinearSVC(probability=True, tol=1e-08)": {
        "check_classifiers_train": "Platt's sigmoid need not cross 1/2 where the decision value crosses 0, so the more "
        "probable class can be another one than `predict` gives, which follows the decision value (as in SVC)",
        "check_sample_weight_equivalence_on_dense_data": _HELD_OUT,
        "check_sample_weight_equivalence_on_sparse_data": _HELD_OUT,
    }
}
"""Estimator -> check -> why it cannot pass.  With their defaults, all four pass every check."""

TIGHT = 1e-8
"""check_sample_weight_equivalence compares predictions to seven digits."""


def with_checks(*estimators):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it would rather see its own base class
        return parametrize_with_checks(
            list(estimators), expected_failed_checks=lambda e: EXPECTED_FAILURES.get(repr(e), {})
        )


@with_checks(LogisticRegression(tol=TIGHT), LinearSVC(tol=TIGHT), Ridge(), LinearRegression())
def test_scikit_learns_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@with_checks(LinearSVC(loss="hinge", tol=TIGHT), LinearSVC(probability=True, tol=TIGHT))
def test_scikit_learns_check_of_a_variant(estimator, check):
    check(estimator)
