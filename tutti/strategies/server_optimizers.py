"""Optimizers of a parameter server: what a push does to the weights, instead of the learner's own optimizer.

They treat every number by itself, so each key range is moved alone.  Learning rates are those of a whole global step;
a push of a part of its rows goes that part of the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.strategies import _rules
from tutti.types import Array


def _above_zero(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ParameterError(name, value, "write a number > 0")


def _below_one(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ParameterError(name, value, "write a number of at least 0 and below 1")


@dataclass(frozen=True)
class SGD(Spec):
    """v = momentum v + g, w -= lr v.

    Example
    -------
    >>> SGD(lr=0.1).n_states
    1
    """

    lr: float = 0.01
    momentum: float = 0.9

    n_states = 1

    def __post_init__(self) -> None:
        _above_zero(lr=self.lr)
        _below_one(momentum=self.momentum)

    def move(self, w: Array, g: Array, states: Sequence[Array], count: int, share: float) -> None:
        """Move a range; ``count`` is the number of its push, from 1."""
        _rules.sgd(w, g, states[0], self.lr * share, self.momentum)


@dataclass(frozen=True)
class Adagrad(Spec):
    """s += g^2, w -= lr g / (sqrt(s) + eps)."""

    lr: float = 0.01
    eps: float = 1e-10

    n_states = 1

    def __post_init__(self) -> None:
        _above_zero(lr=self.lr, eps=self.eps)

    def move(self, w: Array, g: Array, states: Sequence[Array], count: int, share: float) -> None:
        """Move a range; ``count`` is the number of its push, from 1."""
        _rules.adagrad(w, g, states[0], self.lr * share, self.eps)


@dataclass(frozen=True)
class Adam(Spec):
    """Adam with its means of g and g^2 kept by the server."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    n_states = 2

    def __post_init__(self) -> None:
        _above_zero(lr=self.lr, eps=self.eps)
        for beta in self.betas:
            _below_one(betas=beta)

    def move(self, w: Array, g: Array, states: Sequence[Array], count: int, share: float) -> None:
        """Move a range; ``count`` is the number of its push, from 1."""
        _rules.adam(w, g, states[0], states[1], count, self.lr * share, self.betas, self.eps)


@dataclass(frozen=True)
class Elastic(Spec):
    """Elastic averaging: workers step weights of their own, which a spring ties to those of the server.

    Every ``period`` pushes a worker and the server move towards each other by ``rate`` of what lies between them
    (Zhang, Choromanska, LeCun 2015).  The model is the server's.

    Parameters
    ----------
    period : pushes of a worker between two exchanges.
    rate : of the difference; None: 0.9 / number of workers.
    """

    period: int = 4
    rate: float | None = None

    n_states = 0

    def __post_init__(self) -> None:
        if not isinstance(self.period, int) or self.period < 1:
            raise ParameterError("period", self.period, "write a whole number of at least 1")
        if self.rate is not None and not 0 < self.rate < 1:
            raise ParameterError("rate", self.rate, "write a number above 0 and below 1, or None")

    def move(self, w: Array, g: Array, states: Sequence[Array], count: int, share: float) -> None:
        """Draw a range of the server's weights ``w`` and of a worker's, ``g``, together; ``share`` is the rate."""
        _rules.elastic(g, w, share)


ServerOptimizer = SGD | Adagrad | Adam | Elastic


def table_of(optimizer: ServerOptimizer | None) -> dict[str, Any] | None:
    """Return what `made` makes the optimizer of."""
    return None if optimizer is None else {"type": type(optimizer).__name__, **optimizer.get_params()}


def made(table: Mapping[str, Any]) -> ServerOptimizer:
    """Return the optimizer that a job file's table describes.

    Raises
    ------
    ParameterError : it has no such type, or no such option.
    """
    known: dict[str, Callable[..., ServerOptimizer]] = {c.__name__: c for c in (SGD, Adagrad, Adam, Elastic)}
    options = {name: value for name, value in table.items() if name != "type"}
    make = known.get(str(table.get("type")))
    try:
        if make is not None:
            return make(**options)
    except TypeError as error:
        raise ParameterError("server_optimizer", dict(table), str(error)) from None
    raise ParameterError("server_optimizer", dict(table), f"its type is one of {', '.join(known)}")
