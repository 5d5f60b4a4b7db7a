"""Candidates of a linear model that differ in their regularisation alone share their rows and what was learned before.

Along a path of growing C (or alpha) the rows of a fold are cut out, checked and scanned once.  Newton's method takes
its passes for all candidates at once (see `_search_together`); other solvers start every fit from the weights of its
neighbour, and least squares share their one pass: X'X and X'y do not depend on alpha.  Every fit is certified by its
own gap as if it were alone.  Which candidates go together depends on the candidates, never on workers.
"""

from __future__ import annotations

import numbers
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tutti.estimators._intake import as_dataset
from tutti.estimators._linear import LinearEstimator
from tutti.estimators._search_together import fit_together

LENGTH = 10  # candidates of a path: its first one costs as much as five that follow; 3 folds of 20 feed 6 workers
_STRENGTHS = ("C", "alpha")
_PLAIN = (bool, int, float, str, type(None))


def paths(fits: Sequence[Any]) -> list[list[int]]:
    """Return the positions of the fits that one task does, in the order in which it does them."""
    together: dict[tuple[Any, ...], list[tuple[float, int]]] = defaultdict(list)
    alone = []
    for i, fit in enumerate(fits):
        found = _strength(fit)
        if found is None:
            alone.append([i])
        else:
            key, strength = found
            together[key].append((strength, i))
    found_paths = []
    for members in together.values():
        order = [i for _, i in sorted(members)]
        n = -(-len(order) // LENGTH)
        found_paths += [part.tolist() for part in np.array_split(np.array(order), n)]
    return sorted(found_paths + alone, key=min)


def _strength(fit: Any) -> tuple[tuple[Any, ...], float] | None:
    """Return (what fits of one path have in common, the strength in which they differ); None: nothing is shared."""
    args, kwargs = fit.args, fit.kwargs
    estimator, x, y = args[0], args[1], args[2]
    parameters = kwargs["parameters"]
    names = [name for name in _STRENGTHS if name in parameters]
    shareable = (
        isinstance(estimator, LinearEstimator)
        and len(names) == 1
        and not estimator.warm_start
        and not kwargs["fit_params"]
        and not kwargs["score_params"]
        and kwargs["verbose"] <= 1
        and isinstance(y, np.ndarray)
        and y.ndim == 1
        and (isinstance(x, np.ndarray) or hasattr(x, "tocsr"))
    )
    if not shareable:
        return None
    strength = parameters[names[0]]
    rest = {name: value for name, value in parameters.items() if name != names[0]}
    if not isinstance(strength, numbers.Real) or not all(isinstance(v, _PLAIN) for v in rest.values()):
        return None
    return (names[0], *sorted(map(repr, rest.items())), kwargs["split_progress"][0], fit.call), float(strength)


def values_of(unit: Sequence[Any]) -> int:
    """Return how many numbers the fits of a path read when each reads its rows once."""
    x = unit[0].args[1]
    return len(unit) * int(x.size if isinstance(x, np.ndarray) else x.nnz)


def walk(fits: Sequence[Any]) -> list[dict[str, Any]]:
    """Do the fits of a path one after the other and return what scikit-learn's own function would return for each.

    Whatever goes wrong is left to that function, which knows how to record it.
    """
    first = fits[0]
    x, y = first.args[1], first.args[2]
    train, test = first.kwargs["train"], first.kwargs["test"]
    began = time.time()
    x = x if isinstance(x, np.ndarray) else x.tocsr()
    x_train, y_train, x_test, y_test = x[train], y[train], x[test], y[test]
    try:
        dataset, dtype = as_dataset(x_train, y_train, None, type(first.args[0]).__name__)
    except Exception:
        return [fit.alone() for fit in fits]
    estimators = [fit.args[0] for fit in fits]
    together = fit_together(estimators, [fit.kwargs["parameters"] for fit in fits], dataset, dtype)
    sets = {"test_scores": (x_test, y_test)}
    if first.kwargs["return_train_score"]:
        sets["train_scores"] = (x_train, y_train)
    held = {name: together.decisions(x) for name, (x, _) in sets.items()}
    spent = (time.time() - began) / len(fits)
    found: list[dict[str, Any]] = []
    near: Mapping[str, Any] | None = None
    for i, fit in enumerate(fits):
        began = time.time()
        estimator, scorer = estimators[i], fit.kwargs["scorer"]
        try:
            near = together.near.get(i, near)
            if i not in together.fitted:
                estimator.set_params(**fit.kwargs["parameters"])
                near = estimator._fit_on(dataset, dtype, from_arrays=True, near=near, keep=True)
            fitted = time.time()
            outcome = {"fit_error": None, "n_test_samples": len(test), "fit_time": spent + fitted - began}
            for name, (rows, labels) in sets.items():
                with estimator._holding(rows, held[name].get(i)):
                    outcome[name] = _plain(scorer(estimator, rows, labels))
            outcome["score_time"] = time.time() - fitted
        except Exception:
            outcome = fit.alone()
        found.append(outcome)
    return found


def _plain(scores: Any) -> Any:
    if isinstance(scores, dict):
        return {name: float(score) for name, score in scores.items()}
    return float(scores)
