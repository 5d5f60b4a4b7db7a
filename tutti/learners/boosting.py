"""Gradient boosting on histograms of whole numbers: sums are exact, so the trees are the same for any workers.

Gradients and hessians of a tree become whole numbers of up to 20 bits, scaled by a power of two and rounded up or down
by chance keyed to the row; leaves get their values from the unrounded ones.

Source: Friedman (2001), "Greedy function approximation: a gradient boosting machine"; Chen, Guestrin (2016), "XGBoost";
Shi, Ke, Chen, Zheng, Liu (2022), "Quantized training of gradient boosting decision trees".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tutti._spec import Spec
from tutti.counting import Sums
from tutti.protocols import ShardData
from tutti.types import Arrays, Cost, Kind, Progress, Schema

Loss = Literal["log_loss", "squared_error", "absolute_error", "quantile", "poisson", "gamma"]


@dataclass(frozen=True)
class Boosting(Spec):
    """Trees that are grown one after the other, each along the gradient that the ones before it have left.

    Parameters
    ----------
    loss : of classes ("log_loss") or of a target.   quantile : for loss="quantile".
    n_estimators : rounds; a round grows a tree, or one for each of three and more classes.
    learning_rate : factor of every leaf.
    max_depth, max_leaf_nodes : bounds of a tree; None is no bound.
    grow : "depthwise": all nodes of a level; "leafwise": the node that gains most.
    l2 : added to the hessian of every leaf.
    min_child_weight, min_samples_leaf : least sum of hessians and least rows of a leaf.   min_gain : of a split.
    subsample : part of the rows that is drawn for a round.   max_features : part of the columns drawn for a node.
    max_bins : most bins of a column, missing values apart.
    monotonic : 1 (rises), -1 (falls) or 0 of each column; empty: 0.   categorical : columns whose values are names.
    interaction : groups of columns; those that meet on the path to a leaf are all in one group.  "pairwise": any two
        columns may meet; empty: all.
    class_weight : a factor for each class.
    early_stopping : stop when the loss of a ``validation_fraction`` of the rows, which do not train, was not better by
        ``tol`` in ``n_iter_no_change`` rounds.
    """

    loss: Loss = "log_loss"
    quantile: float = 0.5
    n_estimators: int = 100
    learning_rate: float = 0.1
    max_depth: int | None = 6
    max_leaf_nodes: int | None = None
    grow: Literal["depthwise", "leafwise"] = "depthwise"
    l2: float = 1.0
    min_child_weight: float = 1.0
    min_samples_leaf: int = 1
    min_gain: float = 0.0
    subsample: float = 1.0
    max_features: float = 1.0
    max_bins: int = 255
    monotonic: tuple[int, ...] = ()
    categorical: tuple[int, ...] = ()
    interaction: Literal["pairwise"] | tuple[tuple[int, ...], ...] = ()
    class_weight: tuple[float, ...] | None = None
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 10
    tol: float = 1e-4

    @property
    def offers(self) -> frozenset[Kind]:
        return frozenset({"counts"})

    def columns_per_node(self, n_features: int) -> int:
        """Return how many columns are tried at a node."""
        return max(1, math.ceil(self.max_features * n_features))

    def prepare(self, schema: Schema) -> None:
        """Compile or load the kernels."""
        from tutti.learners import _boosting_fit  # noqa: F401

    def cost(self, schema: Schema) -> Cost:
        """Estimate: a level sends the histograms of half its nodes; a row takes its codes twice and some 50 bytes."""
        n_outputs = max(len(schema.classes or ()), 2) - 1
        n_outputs = 1 if n_outputs == 1 else n_outputs + 1
        depth = self.max_depth if self.max_depth is not None else math.ceil(math.log2(self.max_leaf_nodes or 32))
        leaves = min(2 ** min(depth, 16), self.max_leaf_nodes or 1 << 16)
        return Cost(
            update_bytes=8 * self.max_bins * schema.n_features * max(leaves // 2, 1),
            private_bytes=schema.n_rows * (2 * schema.n_features + 34 + 16 * n_outputs),
            passes=self.n_estimators * n_outputs * (1 + 0.35 * (depth - 1)),
            rounds=self.n_estimators,
            flops_per_value=20.0,
        )

    def rounds(
        self, schema: Schema, shards: Mapping[int, ShardData], sums: Sums, *, seed: int, start: Arrays | None = None
    ) -> Iterator[Arrays]:
        """Boost on the rows of these shards; yields the state after each round, the last one is the model."""
        from tutti.learners._boosting_fit import Fit

        fit = Fit(self, schema, shards, sums, seed, start)
        yield from fit.rounds()
        yield fit.result()

    def progress(self, shared: Arrays) -> Progress:
        """Read how far the fit is: the mean training loss, and that of validation if there is one."""
        n, train, valid, done = shared["status"].tolist()
        metrics: dict[str, Any] = {} if math.isnan(valid) else {"validation_loss": valid}
        return Progress(train, math.inf, n, bool(done), bool(done), metrics=metrics)
