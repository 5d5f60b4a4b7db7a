"""`tutti.train`: a torch module with a loss of one's own, with the same bits for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tutti.errors import ParameterError
from tutti.estimators._intake import is_dataset
from tutti.estimators._net_rows import Rows, bundle
from tutti.estimators.neural import NeuralNet
from tutti.runtime.report import Report
from tutti.types import Plan, Schema


@dataclass(frozen=True)
class Trained:
    """What `train` returns.

    Parameters
    ----------
    module : the trained module; the one that was given is as it was.
    history : a dict per epoch.   plan, report : what was planned and what was measured.
    """

    module: Any
    history: list[dict[str, Any]]
    plan: Plan
    report: Report


def train(module: Any, loss: Any, data: Any, *, sample_weight: Any = None, **settings: Any) -> Trained:
    """Train a torch module on a loss of one's own.

        min over w   sum_i c_i l_i(w) / sum_i c_i

    Parameters
    ----------
    module : a torch.nn.Module, its class or a function that returns one.
    loss : function of (module, batch); ``batch`` holds tensors by name.  It returns (rows,), a loss per row; or one
        number, the mean over the rows; or (sum, weight) where the mean is over something else, such as unmasked words.
    data : a mapping of arrays by name, rows first; or a tuple (x, y); or one array, which is "x"; or an Arrow table; or
        a torch Dataset whose items are any of these for one row (it is read once into memory); or a tutti Dataset ("x"
        and "y").  Whole numbers come as int64, others in the weights' dtype.
    sample_weight : (n_rows,) weights, in ``batch["weight"]`` and multiplied with a loss per row.
    settings : all other parameters of `NeuralNetClassifier`: optimizer, lr, batch_size, epochs, validation, checkpoint,
        engine, ... ; ``augment`` gets the first tensor of the batch.

    Raises
    ------
    InputError : data, a parameter, the module or the loss is wrong; before workers start where it can be seen there.
    RankError, RankLost : a worker failed; the others were stopped and nothing is left behind.

    Example
    -------
    >>> import torch
    >>> x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    >>> def coder():
    ...     return torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 8))
    >>> def squares(module, batch):
    ...     return ((module(batch["x"]) - batch["x"]) ** 2).mean(dim=1)
    >>> trained = train(coder, squares, x, lr=0.01, epochs=20, batch_size=64)
    >>> trained.history[-1]["loss"] < 0.8 * trained.history[0]["loss"]
    True
    """
    for name in ("class_weight", "monitor"):
        if name in settings:
            raise ParameterError(name, settings[name], "it belongs to NeuralNetClassifier; weigh rows in your loss")
    net = _OwnLoss(module, loss=loss, **settings).fit(data, sample_weight=sample_weight)
    return Trained(net.module_, net.history_, net.plan_, net.report_)


class _OwnLoss(NeuralNet):
    """A net whose loss sees the whole batch."""

    _task: ClassVar[str] = "regression"
    _losses: ClassVar[str] = ""

    def _intake(self, X: Any, y: Any, sample_weight: Any) -> Rows:
        from tutti.data import from_arrays

        if is_dataset(X):
            return Rows(X)
        rows, fields = bundle(X)
        return Rows(from_arrays(rows, np.zeros(len(rows)), sample_weight=sample_weight), fields, target=False)

    def _build_loss(self, schema: Schema) -> Any:
        from tutti.learners.module import _build

        return _build.build_custom(self.loss)
