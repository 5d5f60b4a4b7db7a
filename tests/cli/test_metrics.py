"""Our small scores against scikit-learn's, in one piece and in batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tutti.cli.metrics import ClassificationScores, RegressionScores, roc_auc

sk = pytest.importorskip("sklearn.metrics", reason="scikit-learn is what the scores are compared with")


def batches(n: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("digits", [0, 1, 16], ids=["nearly all tied", "many ties", "no ties"])
def test_auc_equals_scikit_learns_with_ties_and_weights(digits: int, weighted: bool) -> None:
    rng = np.random.default_rng(digits)
    truth = rng.random(500) < 0.3
    score = np.round(rng.normal(size=500) + truth, digits)
    weight = rng.random(500) if weighted else None
    assert roc_auc(truth, score, weight) == pytest.approx(sk.roc_auc_score(truth, score, sample_weight=weight))


def test_auc_of_one_class_or_no_rows_is_unknown() -> None:
    assert math.isnan(roc_auc(np.ones(3, bool), np.arange(3.0)))
    assert math.isnan(roc_auc(np.zeros(0, bool), np.zeros(0)))


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_classification_scores_of_batches_equal_scikit_learns_of_the_whole(n_classes: int, weighted: bool) -> None:
    rng = np.random.default_rng(n_classes)
    truth = rng.integers(0, n_classes, 301)
    raw: NDArray[np.float64] = rng.random((301, n_classes)) + np.eye(n_classes)[truth]
    probability = raw / raw.sum(axis=1, keepdims=True)
    predicted = probability.argmax(axis=1)
    weight = rng.random(301) if weighted else None
    scores = ClassificationScores(n_classes)
    for s in batches(301, 64):
        scores.add(
            truth[s],
            predicted[s],
            None if weight is None else weight[s],
            probability=probability[s],
            score=probability[s, 1],
        )
    found = scores.result()
    assert scores.rows == 301
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted, sample_weight=weight))
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, probability, sample_weight=weight))
    if n_classes == 2:
        assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, probability[:, 1], sample_weight=weight))
    else:
        assert "roc_auc" not in found


def test_a_certain_mistake_costs_a_large_but_finite_log_loss() -> None:
    scores = ClassificationScores(2)
    probability = np.array([[0.0, 1.0], [1.0, 0.0]])
    scores.add(np.array([0, 0]), np.array([1, 0]), probability=probability)
    assert scores.result()["log_loss"] == pytest.approx(sk.log_loss([0, 0], probability, labels=[0, 1]))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1e6], ids=["centred", "far from zero"])
def test_regression_scores_of_batches_equal_scikit_learns_of_the_whole(shift: float, weighted: bool) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=257) + shift
    predicted = truth + 0.5 * rng.normal(size=257)
    weight = rng.random(257) if weighted else None
    scores = RegressionScores()
    for s in batches(257, 50):
        scores.add(truth[s], predicted[s], None if weight is None else weight[s])
    found = scores.result()
    assert found["r2"] == pytest.approx(sk.r2_score(truth, predicted, sample_weight=weight), rel=1e-9)
    assert found["mean_squared_error"] == pytest.approx(sk.mean_squared_error(truth, predicted, sample_weight=weight))


@pytest.mark.parametrize("predicted", [[2.0, 2.0], [2.0, 3.0]])
def test_r2_of_a_constant_target_equals_scikit_learns(predicted: list[float]) -> None:
    scores = RegressionScores()
    scores.add(np.array([2.0, 2.0]), np.array(predicted))
    assert scores.result()["r2"] == sk.r2_score([2.0, 2.0], predicted)


def test_scores_of_no_rows_are_unknown() -> None:
    assert all(math.isnan(v) for v in RegressionScores().result().values())
    assert all(math.isnan(v) for v in ClassificationScores(2).result().values())
