"""Data and plain formulas for the tests: every objective written down once, in numpy, as the docstrings state it."""

from __future__ import annotations

import functools

import numpy as np
import scipy.sparse as sp
from sklearn import datasets  # at the top: the import sets environment variables, which a test may not


@functools.cache
def dataset(name):
    """Return (X, y) of a small data set, standardised where it is dense."""
    if name.startswith("sparse"):
        rng = np.random.default_rng(7)
        x = sp.random(400, 300, density=0.05, format="csr", random_state=rng, data_rvs=rng.standard_normal)
        scores = x @ rng.normal(size=(300, 3)) + 0.3 * rng.normal(size=(400, 3))
        return x, (scores.argmax(axis=1) if name == "sparse3" else (scores[:, 0] > 0.1).astype(int))
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0), y


def some_weights(n, seed=3):
    """Return sample weights with zeros, ones and fractions."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 4, size=n) * rng.choice([0.5, 1.0], size=n)


def row_weights(model, y, sample_weight=None):
    """Return c_i s_i of each row: class weight times sample weight."""
    s = np.ones(len(y)) if sample_weight is None else sample_weight
    given = getattr(model, "class_weight", None)
    if given is None:
        return s
    classes = np.unique(y)
    if given == "balanced":
        given = {c: s.sum() / (len(classes) * s[y == c].sum()) for c in classes.tolist()}
    return s * np.array([given.get(c, 1.0) for c in y.tolist()])


def margins_loss(loss, m):
    if loss == "logistic":
        return np.logaddexp(0.0, -m)
    slack = np.maximum(0.0, 1.0 - m)
    return slack**2 if loss == "squared_hinge" else slack


def objective(model, loss, x, y, sample_weight=None, coef=None, intercept=None):
    """Return the objective of the estimator ``model`` at its own weights, or at those given."""
    coef = np.atleast_2d(model.coef_ if coef is None else coef)
    intercept = np.atleast_1d(model.intercept_ if intercept is None else intercept)
    u = np.asarray(x @ coef.T) + intercept
    c = row_weights(model, y, sample_weight)
    penalty = 0.5 * float((coef**2).sum())
    if loss == "squared":
        alpha = getattr(model, "alpha", 0.0)
        fit = 0.5 * float(c @ (y - u[:, 0]) ** 2)
        return fit if alpha == 0 else penalty + fit / alpha
    classes = np.unique(y)
    if loss in ("hinge", "squared_hinge"):
        penalty += 0.5 * float(((intercept / model.intercept_scaling) ** 2).sum())
    if loss == "multinomial":
        top = u.max(axis=1)
        logsum = top + np.log(np.exp(u - top[:, None]).sum(axis=1))
        return penalty + model.C * float(c @ (logsum - u[np.arange(len(y)), np.searchsorted(classes, y)]))
    if u.shape[1] == 1:
        signs = np.where(y == classes[1], 1.0, -1.0)[:, None]
    else:
        signs = np.where(y[:, None] == classes, 1.0, -1.0)
    return penalty + model.C * float(c @ margins_loss(loss, signs * u).sum(axis=1))
