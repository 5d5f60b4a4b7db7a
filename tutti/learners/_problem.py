"""The one family of functions that every linear learner minimises, and the words for how far it is.

    P(W, b) = 1/2 |W|^2 + R(b) + sum_i C_i l(y_i, W'x_i + b),      C_i = C * class_weight[y_i] * sample_weight_i

    R(b) = 0                      intercept "free": what scikit-learn's LogisticRegression and Ridge minimise
    R(b) = 1/2 |b / s|^2          intercept "regularised": liblinear's constant column of value s

    l: logistic ln(1 + e^-m); hinge max(0, 1 - m); squared_hinge max(0, 1 - m)^2 with m = y (w'x + b), y = +-1, one
    output per class against the rest (one output for two classes: the second class is +1);
    multinomial ln sum_k e^(u_k) - u_y; squared 1/2 (u - y)^2 (Ridge: C = 1 / alpha; C = inf: no 1/2 |W|^2 at all,
    the weights of the loss are then the sample weights alone); epsilon_insensitive max(0, |u - y| - epsilon): the sum
    of two hinges a row, s = +-1, of the margins m = s (u - y) + 1 + epsilon.

Source: Fan, Chang, Hsieh, Wang, Lin (2008), "LIBLINEAR: a library for large linear classification"; Vapnik (1995),
"The nature of statistical learning theory".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tutti._spec import Spec
from tutti.types import Array, Arrays, Block, Progress, Schema

Loss = Literal["logistic", "multinomial", "hinge", "squared_hinge", "squared", "epsilon_insensitive"]
Intercept = Literal["none", "free", "regularised"]


@dataclass(frozen=True)
class LinearProblem(Spec):
    """What is minimised.

    ``class_weight`` holds one factor per class, in the order of ``Schema.classes``; ``epsilon`` is half the width of
    the tube in which errors of the epsilon-insensitive loss count nothing, in units of the targets.
    """

    loss: Loss = "logistic"
    C: float = 1.0
    intercept: Intercept = "free"
    intercept_scaling: float = 1.0
    class_weight: tuple[float, ...] | None = None
    epsilon: float = 0.0

    def n_outputs(self, schema: Schema) -> int:
        """Number of columns of W: 1 for a regression or two classes, else one per class (multinomial: always)."""
        if schema.classes is None:
            return 1
        if self.loss == "multinomial":
            return len(schema.classes)
        return 1 if len(schema.classes) == 2 else len(schema.classes)

    def row_weights(self, block: Block) -> Array:
        """Return C_i of every row of the block, float64 (rows,)."""
        c = self.C if math.isfinite(self.C) else 1.0
        weights = np.full(len(block.y), c)
        if self.class_weight is not None:
            weights *= np.asarray(self.class_weight)[block.y]
        if block.weight is not None:
            weights *= block.weight
        return weights

    def signs(self, y: Array, n_outputs: int, dtype: str = "float64") -> Array:
        """Return +-1 targets (rows, n_outputs) of class codes: one-vs-rest, or (code == 1) for a single output."""
        if n_outputs == 1:
            return np.where(y == 1, 1.0, -1.0).astype(dtype)[:, None]
        return np.where(y[:, None] == np.arange(n_outputs), 1.0, -1.0).astype(dtype)


def status(
    objective: float = math.nan,
    gap: float = math.inf,
    passes: float = 0.0,
    done: bool = False,
    converged: bool = False,
    estimate: float = math.inf,
) -> Array:
    """Return `Progress` as the (6,) float64 array that travels in the shared state under the name "status"."""
    return np.array([objective, gap, passes, float(done), float(converged), estimate])


def progress_of(shared: Arrays | Mapping[str, Array]) -> Progress:
    """Read the array that `status` wrote."""
    objective, gap, passes, done, converged, estimate = shared["status"].tolist()
    return Progress(objective, gap, passes, bool(done), bool(converged), estimate)
