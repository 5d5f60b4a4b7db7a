"""Machines with ``approximate``: features that stand for the kernel, then a linear machine on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.engines._limits import one_thread
from tutti.errors import ModelError, ParameterError
from tutti.estimators._linear import require_whole, weights_of
from tutti.learners._kernel_rows import Kernel, dense
from tutti.learners._problem import LinearProblem
from tutti.learners.featured import Featured, Features, featured_schema, fourier, nystroem
from tutti.learners.kernel_svm import rows_of, spread
from tutti.planner import Choice, Explanation, choose, explain
from tutti.runtime.driver import draft_plan
from tutti.seeds import generator, run_seed
from tutti.types import Array, Csr, Result, Schema


@dataclass(frozen=True)
class Linear:
    """A fitted linear machine on features: coef (n_outputs, n_components), intercept (n_outputs,)."""

    features: Features
    coef: Array
    intercept: Array

    def values(self, x: Array | Csr) -> Array:
        """Return (rows, n_outputs) decision values."""
        step, found = 2048, [np.empty((0, len(self.coef)))]
        for lo in range(0, x.shape[0], step):
            z = self.features.of(dense(x, lo, lo + step))
            found.append((z @ self.coef.T.astype(z.dtype)).astype(np.float64))
        return np.concatenate(found) + self.intercept

    def arrays(self) -> dict[str, Array]:
        """Return what makes up the model."""
        f = self.features
        return {"coef": self.coef, "intercept": self.intercept, "left": f.left, "right": f.right, "center": f.center}


def fitted(learner: Featured, result: Result) -> Linear:
    """Return the machine that a run has found."""
    coef, intercept = weights_of(result)
    return Linear(learner.features, coef, intercept)


def restored(model: Any, arrays: Mapping[str, Array], gamma: float, d: int) -> Linear:
    """Return the machine of a model's folder; ModelError if its arrays do not fit together."""
    k = len(getattr(model, "classes_", (0, 1)))
    for name in ("coef", "intercept", "left", "right", "center"):
        if name not in arrays or not np.isfinite(arrays[name]).all():
            raise ModelError(f"the array {name!r} is missing, or holds NaN or infinity")
    rows, n_components = 1 if k == 2 else k, arrays["right"].shape[-1]
    random = model.approximate == "fourier"
    wide = (d, n_components) if random else (arrays["right"].shape[0], d)
    right = (n_components,) if random else (wide[0], n_components)
    shapes = {"coef": (rows, n_components), "intercept": (rows,), "left": wide, "right": right, "center": (d,)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ModelError(f"the array {name!r} has shape {arrays[name].shape}, expected {shape}")
    kernel = Kernel(model.kernel, gamma, float(model.coef0), int(model.degree))
    features = Features(kernel, arrays["left"], arrays["right"], arrays["center"], random)
    return Linear(features, arrays["coef"], arrays["intercept"])


def check(model: Any) -> None:
    """Raise ParameterError for a setting that does not go together with ``approximate``."""
    if model.approximate not in ("fourier", "nystroem"):
        raise ParameterError("approximate", model.approximate, 'write None, "fourier" or "nystroem"')
    require_whole("n_components", model.n_components, 1, "the number of features, at least 1")
    if model.approximate == "fourier" and model.kernel != "rbf":
        raise ParameterError("approximate", "fourier", 'random features stand for kernel="rbf"; write "nystroem"')


def job(model: Any, dataset: Any, schema: Schema, problem: LinearProblem) -> tuple[Choice, Explanation]:
    """Return the choice and the plan of the fit; one pass over the rows has been made for the features."""
    features = features_of(model, dataset, schema)
    made = featured_schema(schema, features.n_components)
    n_shards, engine = int(model.n_shards), model.engine
    found = choose(problem, made, strategy=model.strategy, engine=engine, n_shards=n_shards, tol=float(model.tol))
    kind = "random Fourier" if features.fourier else "Nystroem"
    reason = f"{features.n_components} {kind} features in place of the {model.kernel} kernel; {found.reason}"
    largest = made.n_bytes // max(made.n_rows, 1) * max(dataset.shard_rows(n_shards, schema), default=0)
    featured = Featured(found.learner, features, min(int(model.cache_size * 1e6) // n_shards, largest))
    choice = Choice(featured, found.strategy, found.engine, reason)
    plan = draft_plan(dataset, schema, choice.learner, choice.strategy, choice.engine, n_shards)
    kept = dataset.keeps(schema)
    return choice, explain(choice, plan, schema, kept=kept, read=kept != "memory")


def features_of(model: Any, dataset: Any, schema: Schema) -> Features:
    """Return what makes the features, drawn from the rows; the same for any number of workers."""
    n_shards, seed, d = int(model.n_shards), run_seed(model.random_state), schema.n_features
    settled = dataset.settled(n_shards, schema)
    shards = [settled.open(s, n_shards, schema) for s in range(n_shards)]
    try:
        with one_thread():
            center, variance = spread(shards, d)
            g = model.gamma
            gamma = (
                (1 / (d * variance) if variance > 0 else 1.0) if g == "scale" else 1 / d if g == "auto" else float(g)
            )
            kernel = Kernel(model.kernel, gamma, float(model.coef0), int(model.degree))
            if model.approximate == "fourier":
                return fourier(kernel, center, int(model.n_components), seed)
            return nystroem(
                kernel, center if model.kernel == "rbf" else np.zeros(d), _landmarks(shards, model.n_components, seed)
            )
    finally:
        for shard in shards:
            shard.close()


def _landmarks(shards: list[Any], n_components: int, seed: int) -> Array:
    starts = np.concatenate([[0], np.cumsum([shard.n_rows for shard in shards])])
    n = int(starts[-1])
    chosen = np.sort(generator(seed, purpose="nystroem").choice(n, min(int(n_components), n), replace=False))
    parts = [
        rows_of(shard, chosen[(chosen >= lo) & (chosen < hi)] - lo)
        for shard, lo, hi in zip(shards, starts[:-1], starts[1:], strict=True)
    ]
    return np.concatenate([part for part in parts if len(part)]).astype(np.float64)
