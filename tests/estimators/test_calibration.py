"""Platt's probabilities, cross-fitted over shards, against scikit-learn's calibration with the same folds."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import svm
from sklearn.calibration import CalibratedClassifierCV

from tests.estimators.problems import dataset, some_weights
from tutti.data import from_arrays
from tutti.errors import DataError
from tutti.estimators._base import NotFittedError
from tutti.estimators._calibration import folds
from tutti.estimators.svm import LinearSVC


def folds_of(data, y, n_shards):
    """Return (train rows, held-out rows) as scikit-learn wants them, found by letting the target tell the row."""
    n = len(y)
    schema = data.schema("classification")
    numbered = from_arrays(np.arange(n, dtype=float)[:, None], y).partition(data.scheme)
    found = []
    for fold in folds(data, n_shards, schema):
        held = np.concatenate([numbered.open(s, n_shards, schema).block(0).x[:, 0] for s in fold.held]).astype(int)
        found.append((np.setdiff1d(np.arange(n), held), held))
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["breast_cancer", "iris"])
@pytest.mark.parametrize("weighted", [False, True])
def test_probabilities_are_those_of_scikit_learns_calibration(name, weighted):

    x, y = dataset(name)
    weight = some_weights(len(y)) if weighted else None
    ours = LinearSVC(probability=True, tol=1e-9).fit(x, y, weight)
    cv = folds_of(from_arrays(x, y).partition("stratified"), y, 8)
    inner = svm.LinearSVC(dual=False, tol=1e-10, max_iter=10_000)
    theirs = CalibratedClassifierCV(inner, cv=cv, ensemble=False).fit(x, y, sample_weight=weight)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=2e-3)
    np.testing.assert_allclose(np.exp(ours.predict_log_proba(x)), ours.predict_proba(x))


def test_every_row_is_held_out_once():
    x, y = dataset("breast_cancer")
    data = from_arrays(x, y)
    schema = data.schema("classification")
    parts = folds(data, 8, schema)
    assert sorted(s for p in parts for s in p.held) == list(range(8))
    for part in parts:
        rows = part.train.shard_rows(8, part.schema)
        assert sum(rows) == part.schema.n_rows == sum(part.schema.class_counts)
        assert all(rows[s] == 0 for s in part.held)
        assert len(part.train.open(part.held[0], 8, part.schema).bounds) == 0


def test_the_model_itself_is_the_one_without_probabilities():
    x, y = dataset("breast_cancer")
    assert LinearSVC(probability=True).fit(x, y).report_.sha256 == LinearSVC().fit(x, y).report_.sha256


def test_arrays_in_the_order_of_their_classes_are_dealt_out():
    x, y = dataset("iris")  # sorted by class
    found = LinearSVC(probability=True).fit(x, y)
    assert np.mean(found.predict_proba(x).argmax(axis=1) == y) > 0.9


def test_a_dataset_that_hides_a_class_with_a_fold_is_refused():
    x, y = dataset("breast_cancer")
    order = np.argsort(y, kind="stable")
    few = np.concatenate([order[:50], order[-350:]])  # class 0 lies in the first of eight shards
    data = from_arrays(x[few], y[few])
    with pytest.raises(
        DataError, match=r'all rows of class 0 lie; deal the classes out with Dataset\.partition\("strat'
    ):
        LinearSVC(probability=True).fit(data)
    assert LinearSVC(probability=True).fit(data.partition("stratified")).sigmoid_.shape == (1, 2)


def test_probabilities_asked_for_after_the_fit_need_another_fit():
    x, y = dataset("iris")
    model = LinearSVC().fit(x, y).set_params(probability=True)
    with pytest.raises(NotFittedError, match="was fitted with probability=False: call fit again with probability=True"):
        model.predict_proba(x)
    assert model.fit(x, y).predict_proba(x).shape == (150, 3)
    assert not hasattr(model.set_params(probability=False).fit(x, y), "sigmoid_")
