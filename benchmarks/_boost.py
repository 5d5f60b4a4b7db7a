"""One system of boosted trees on one set, alone in its process; prints a JSON line per fit.  Called by boosting.py.

usage: python benchmarks/_boost.py SYSTEM SET DATA REPEATS
SYSTEM: tutti, xgboost, lightgbm, lightgbm-quantised, hgb, snapml.  SET: higgs, digits, friedman, mixed; or FAMILY:DRAW,
whose repeats differ in what is chance: the seed of ours, the number of bins of the others.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

system, name, folder, repeats = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
os.environ.setdefault("OMP_NUM_THREADS", "2")


def load() -> tuple[Any, ...]:
    """Return (X, y, X of the test, y of the test, task, categorical columns)."""
    r = np.random.default_rng(0)
    if name == "higgs":
        parts = [np.load(folder / f"higgs/{s}.npy") for s in ("X_train", "y_train", "X_test", "y_test")]
        return (parts[0], parts[1].astype(np.int32), parts[2], parts[3], "classes", [])
    if ":" in name:
        x, y = drawn(*name.split(":"))
        return (x[:100_000], y[:100_000], x[100_000:], y[100_000:], "classes", [])
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        order = r.permutation(len(y))
        return (*_cut(x[order].astype(np.float32), y[order]), "classes", [])
    if name == "friedman":
        from sklearn.datasets import make_friedman1

        return (*_cut(*make_friedman1(20_000, noise=1.0, random_state=0)), "number", [])
    n = 40_000
    x = r.standard_normal((n, 8))
    x[:, 6:] = r.integers(0, (12, 60), (n, 2))
    effects = [r.standard_normal(12), r.standard_normal(60)]
    z = x[:, 0] * x[:, 1] + np.sin(2 * x[:, 2]) + effects[0][x[:, 6].astype(int)] + effects[1][x[:, 7].astype(int)]
    y = (z + r.standard_normal(n) > 0).astype(np.int32)
    x[:, :6][r.random((n, 6)) < 0.1 + 0.2 * (y[:, None] == 1)] = np.nan  # that a value is missing tells something
    return (*_cut(x.astype(np.float32), y), "classes", [6, 7])


def drawn(family: str, draw: str) -> tuple[Any, Any]:
    """Return 200,000 rows: products of columns, sums of single effects, or rare positives in heavy tails."""
    from data import higgs_rows

    seed, n = 100 + int(draw), 200_000
    if family == "products":
        x, y = higgs_rows(seed, n)
        return x, y.astype(np.int32)
    r = np.random.default_rng(seed)
    if family == "sums":
        x = r.standard_normal((n, 20)).astype(np.float32)
        z = np.sin(3 * x[:, 0]) + (x[:, 1] > 0.3) * x[:, 2] + np.abs(x[:, 3]) + np.exp(0.3 * x[:, 6]) - 2
    else:
        x = r.standard_t(2, (n, 20)).astype(np.float32)
        z = np.tanh(x[:, 0]) + (x[:, 1] > 0.3) * np.tanh(x[:, 2]) + np.log1p(np.abs(x[:, 3])) - 4.5
    return x, (r.random(n) < 1 / (1 + np.exp(-1.2 * z))).astype(np.int32)


def _cut(x: Any, y: Any) -> tuple[Any, ...]:
    m = int(0.75 * len(y))
    return x[:m], y[:m], x[m:], y[m:]


def make(task: str, categorical: list[int], variant: int) -> Any:
    """Return a model; ``variant`` changes what is chance: a seed, or the number of bins."""
    common = {"n_estimators": 200, "learning_rate": 0.1, "max_depth": 6}
    if system == "tutti":
        import tutti

        cls = tutti.GradientBoostingClassifier if task == "classes" else tutti.GradientBoostingRegressor
        return cls(**common, categorical_features=categorical, random_state=variant, engine=tutti.Threads(2))
    if system == "xgboost":
        import xgboost

        types = {"feature_types": ["c" if j in categorical else "q" for j in range(8)], "enable_categorical": True}
        cls = xgboost.XGBClassifier if task == "classes" else xgboost.XGBRegressor
        return cls(**common, tree_method="hist", n_jobs=2, max_bin=256 - 4 * variant, **(types if categorical else {}))
    if system.startswith("lightgbm"):
        import lightgbm

        cls = lightgbm.LGBMClassifier if task == "classes" else lightgbm.LGBMRegressor
        same = {"num_leaves": 64, "reg_lambda": 1.0, "min_child_weight": 1.0, "min_child_samples": 1}
        few = {"use_quantized_grad": True, "quant_train_renew_leaf": True} if system != "lightgbm" else {}
        return cls(**common, **same, **few, max_bin=255 - 4 * variant, n_jobs=2, verbose=-1)
    if system == "hgb":
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        cls = HistGradientBoostingClassifier if task == "classes" else HistGradientBoostingRegressor
        settings = {"max_iter": 200, "learning_rate": 0.1, "max_depth": 6, "max_leaf_nodes": 64}
        return cls(**settings, early_stopping=False, categorical_features=categorical or None)
    from snapml import BoostingMachineClassifier

    depth = {"min_max_depth": 6, "max_max_depth": 6}
    return BoostingMachineClassifier(num_round=200, learning_rate=0.1, hist_nbins=256, lambda_l2=1.0, n_jobs=2, **depth)


def score(model: Any, x: Any, y: Any, task: str) -> tuple[float, float]:
    """Return the AUC, accuracy or R^2, and the seconds of the prediction."""
    from sklearn.metrics import roc_auc_score

    began = time.perf_counter()
    two = task == "classes" and y.max() == 1
    found = model.predict_proba(x) if two else model.predict(x)
    seconds = time.perf_counter() - began
    if two:
        return float(roc_auc_score(y, found[:, 1])), seconds
    if task == "classes":
        return float(np.mean(found == y)), seconds
    return float(1 - np.mean((y - found) ** 2) / np.var(y)), seconds


def main() -> None:
    x, y, xt, yt, task, categorical = load()
    try:
        model = make(task, categorical, 0)
    except ImportError as error:
        print(json.dumps({"skipped": f"{error.name} is not installed"}))
        return
    small = np.flatnonzero(np.arange(len(y)) < 3000)
    model.fit(x[small], y[small])
    score(model, xt[:3000], yt[:3000], task)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for variant in range(repeats):
        model = make(task, categorical, variant if ":" in name else 0)
        began, cpu = time.perf_counter(), time.process_time()
        model.fit(x, y)
        fit, cpu = time.perf_counter() - began, time.process_time() - cpu
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        found, predict = score(model, xt, yt, task)
        print(json.dumps({"fit": fit, "cpu": cpu, "predict": predict, "peak": peak, "score": found}), flush=True)


main()
