"""Probabilities from decision values, against scikit-learn's own functions."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import _sigmoid_calibration

from tutti.estimators._probability import expit, fit_sigmoid, log_expit, log_softmax, sigmoid_proba


def decisions(n=400, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    return scale * (rng.normal(size=n) + np.where(positive, 1.0, -1.0)), positive, rng.random(n) * 3


@pytest.mark.parametrize("scale", [1e-3, 1.0, 500.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_has_the_parameters_of_scikit_learns(scale, weighted):

    f, positive, weight = decisions(scale=scale)
    weight = weight if weighted else None
    a, b = fit_sigmoid(f, positive, weight)
    a_ref, b_ref = _sigmoid_calibration(f, positive.astype(float), weight)
    # its L-BFGS stops earlier than our Newton, so the probabilities agree to its tolerance
    np.testing.assert_allclose(expit(-(a * f + b)), expit(-(a_ref * f + b_ref)), atol=1e-4)


def test_sigmoid_ends_where_the_gradient_is_zero():
    f, positive, weight = decisions()
    a, b = fit_sigmoid(f, positive, weight)
    n1, n0 = weight[positive].sum(), weight[~positive].sum()
    residual = weight * (np.where(positive, (n1 + 1) / (n1 + 2), 1 / (n0 + 2)) - expit(-(a * f + b)))
    assert abs(residual.sum()) < 1e-9
    assert abs(residual @ f) < 1e-9


def test_weight_k_is_k_repetitions():
    f, positive, _ = decisions(60)
    k = np.arange(60) % 4
    np.testing.assert_allclose(
        fit_sigmoid(f, positive, k), fit_sigmoid(np.repeat(f, k), np.repeat(positive, k)), rtol=1e-9
    )


def test_perfectly_separated_values_give_a_finite_sigmoid():
    f = np.array([-2.0, -1.0, 1.0, 2.0])
    a, b = fit_sigmoid(f, f > 0)
    assert np.isfinite([a, b]).all()
    assert a < 0


def test_constant_values_give_the_smoothed_frequency():
    positive = np.arange(10) < 4
    for f in (np.zeros(10), np.full(10, 3.0)):
        a, b = fit_sigmoid(f, positive)
        p = expit(-(a * f + b))
        np.testing.assert_allclose(p, np.where(positive, 5 / 6, 1 / 8).mean(), rtol=1e-6)


def test_probabilities_of_classes_sum_to_one_even_when_all_reject():
    sigmoids = np.array([[-1.0, 0.0], [-2.0, 0.1], [-1.0, 800.0]])
    p = sigmoid_proba(np.array([[1.0, 2.0, -3.0], [-1e3, -1e3, -1e3]]), sigmoids)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    np.testing.assert_allclose(p[1], 1 / 3)


def test_no_overflow_far_out():
    z = np.array([-1e4, -50.0, 0.0, 50.0, 1e4])
    with np.errstate(all="raise", under="ignore"):
        assert expit(z)[0] == 0.0
        assert expit(z)[-1] == 1.0
        assert log_expit(z)[0] == -1e4
        np.testing.assert_allclose(log_softmax(np.array([[1e4, 0.0]])), [[0.0, -1e4]])
