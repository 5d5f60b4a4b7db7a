"""tutti: train machine-learning models on many workers, with the same bits for any number of them.

What is learned, how the learning is spread, where it runs and where the data lies are four independent choices.
Names load on first use (PEP 562), so ``import tutti`` costs a few milliseconds.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME: dict[str, str] = {
    "Dataset": "tutti.data",
    "from_arrays": "tutti.data",
    "read_csv": "tutti.data",
    "read_libsvm": "tutti.data",
    "read_parquet": "tutti.data",
    "AllReduce": "tutti.strategies.all_reduce",
    "CoCoA": "tutti.strategies.cocoa",
    "ParameterServer": "tutti.strategies.parameter_server",
    "LocalSGD": "tutti.strategies.local_sgd",
    "TaskParallel": "tutti.strategies.task_parallel",
    "Half": "tutti.transforms",
    "Int8": "tutti.transforms",
    "PowerSGD": "tutti.transforms",
    "TopK": "tutti.transforms",
    "Replay": "tutti.strategies.replay",
    "Checkpoint": "tutti.runtime.checkpoint",
    "Hosts": "tutti.engines.hosts",
    "Processes": "tutti.engines.processes",
    "Threads": "tutti.engines.threads",
    "LinearRegression": "tutti.estimators.linear",
    "LogisticRegression": "tutti.estimators.linear",
    "Ridge": "tutti.estimators.linear",
    "LinearSVC": "tutti.estimators.svm",
    "SVC": "tutti.estimators.kernel_svm",
    "SVR": "tutti.estimators.kernel_svm",
    "GradientBoostingClassifier": "tutti.estimators.boosting",
    "GradientBoostingRegressor": "tutti.estimators.boosting",
    "NeuralNetClassifier": "tutti.estimators.neural",
    "NeuralNetRegressor": "tutti.estimators.neural",
    "GridSearchCV": "tutti.estimators._search",
    "HalvingSearchCV": "tutti.estimators._search",
    "OptunaSearchCV": "tutti.estimators._optuna",
    "RandomizedSearchCV": "tutti.estimators._search",
    "RandomForestClassifier": "tutti.estimators.forest",
    "RandomForestRegressor": "tutti.estimators.forest",
    "TunedThresholdClassifier": "tutti.estimators._threshold",
    "train": "tutti.estimators.training",
    "load": "tutti.estimators.store",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'tutti' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
