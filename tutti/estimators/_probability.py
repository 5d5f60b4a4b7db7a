"""From decision values to probabilities: logistic, softmax, and the sigmoid of Platt fitted to held-out values."""

from __future__ import annotations

import math

import numpy as np

from tutti.types import Array


def log_expit(z: Array) -> Array:
    """Return ln(1 / (1 + e^-z)) without overflow."""
    result: Array = -np.logaddexp(0.0, -z)
    return result


def expit(z: Array) -> Array:
    """Return 1 / (1 + e^-z) without overflow."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)


def log_softmax(u: Array) -> Array:
    """Return u - ln sum_k e^(u_k) along the last axis, without overflow."""
    shifted = u - u.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def fit_sigmoid(decision: Array, positive: Array, weight: Array | None = None) -> tuple[float, float]:
    """Fit P(positive | f) = 1 / (1 + e^(a f + b)) to decision values and return (a, b).

    Minimises the weighted cross-entropy against Platt's smoothed targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2), N the
    sum of weights of a side, by Newton's method with backtracking; the function is convex.

    Parameters
    ----------
    decision : (n,) decision values of rows that the model was not fitted on.
    positive : (n,) bool, True for rows of the positive class.
    weight : (n,) sample weights; None means 1.

    Source: Platt (1999), "Probabilistic outputs for support vector machines"; the numerics are those of Lin, Lin, Weng
    (2007), "A note on Platt's probabilistic outputs for support vector machines".
    """
    c = np.ones(len(decision)) if weight is None else np.asarray(weight, dtype=np.float64)
    scale = max(float(np.abs(decision).max(initial=0.0)), 1e-300)
    f = np.asarray(decision, dtype=np.float64) / scale
    n1, n0 = float(c[positive].sum()), float(c[~positive].sum())
    target = np.where(positive, (n1 + 1.0) / (n1 + 2.0), 1.0 / (n0 + 2.0))
    ab = np.array([0.0, math.log((n0 + 1.0) / (n1 + 1.0))])

    def loss(ab: Array) -> float:
        z = ab[0] * f + ab[1]
        return float(c @ (target * z + np.logaddexp(0.0, -z)))

    value = loss(ab)
    for _ in range(100):
        p = expit(-(ab[0] * f + ab[1]))
        d1, d2 = c * (target - p), c * p * (1.0 - p)
        grad = np.array([f @ d1, d1.sum()])
        if np.abs(grad).max() <= 1e-12 * (n0 + n1):
            break
        cross = float(f @ d2)
        ridge = 1e-12 * (n0 + n1)
        hessian = np.array([[(f * f) @ d2 + ridge, cross], [cross, d2.sum() + ridge]])
        step = np.linalg.solve(hessian, grad)
        slope, size = float(grad @ step), 1.0
        while size > 1e-10:
            trial = loss(ab - size * step)
            if trial <= value - 1e-4 * size * slope:
                break
            size /= 2.0
        else:
            break  # rounding hides any further descent
        ab, value = ab - size * step, trial
    return float(ab[0] / scale), float(ab[1])


def sigmoid_proba(decision: Array, sigmoids: Array) -> Array:
    """Return (n, n_classes) probabilities of decision values (n,) or (n, n_classes) under fitted sigmoids.

    ``sigmoids`` holds (a, b) per output.  Several classes are normalised to sum to 1; a row that every sigmoid rejects
    outright gets equal probabilities.
    """
    if decision.ndim == 1:
        z = sigmoids[0, 0] * decision + sigmoids[0, 1]
        return np.column_stack([expit(z), expit(-z)])
    p = expit(-(decision * sigmoids[:, 0] + sigmoids[:, 1]))
    total = p.sum(axis=1, keepdims=True)
    result: Array = np.divide(p, total, out=np.full_like(p, 1.0 / p.shape[1]), where=total > 0.0)
    return result
