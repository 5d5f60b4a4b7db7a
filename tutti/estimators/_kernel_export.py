"""Kernel machines as scikit-learn's own estimators, for whatever reads those."""

from __future__ import annotations

from typing import Any

import numpy as np

_SHARED = ("C", "kernel", "degree", "gamma", "coef0", "tol", "cache_size", "max_iter")


def classifier(model: Any) -> Any:
    """Return scikit-learn's SVC that holds a fitted `tutti.SVC`."""
    from sklearn.svm import SVC

    own = ("class_weight", "decision_function_shape", "break_ties")
    found = SVC(**{name: getattr(model, name) for name in (*_SHARED, *own)})
    _fill(found, model)
    found.classes_, found.class_weight_ = model.classes_, model.class_weight_
    found._n_support = model.n_support_
    two = len(model.classes_) == 2
    found._dual_coef_ = -model.dual_coef_ if two else model.dual_coef_
    found._intercept_ = -model.intercept_ if two else model.intercept_
    if hasattr(model, "probA_"):
        found.probability = found._effective_probability = True
        found._probA, found._probB = model.probA_, model.probB_
    return found


def regressor(model: Any) -> Any:
    """Return scikit-learn's SVR that holds a fitted `tutti.SVR`."""
    from sklearn.svm import SVR

    found = SVR(**{name: getattr(model, name) for name in (*_SHARED, "epsilon")})
    _fill(found, model)
    found._n_support = np.array([len(model.support_), 0], np.int32)
    found._dual_coef_, found._intercept_ = model.dual_coef_, model.intercept_
    return found


def _fill(found: Any, model: Any) -> None:
    names = ("support_", "dual_coef_", "intercept_", "shape_fit_", "fit_status_", "n_iter_", "n_features_in_", "_gamma")
    for name in names:
        setattr(found, name, getattr(model, name))
    if hasattr(model, "feature_names_in_"):
        found.feature_names_in_ = model.feature_names_in_
    found.support_vectors_ = np.array(model.support_vectors_, np.float64, order="C")
    found._num_iter, found._sparse, found._effective_probability = model.n_iter_, False, False
    found._probA = found._probB = np.empty(0)
