"""A net as plain values, for workers of other hosts: names of importable code with plain arguments, and arrays.

What cannot be named is refused.  A worker imports what is named from its own installation; no code travels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tutti._spec import encode, resolve
from tutti.errors import InputError
from tutti.learners.module.layers import Layers
from tutti.types import Array

if TYPE_CHECKING:
    from tutti.learners.module._blueprint import Blueprint


@dataclass(frozen=True)
class Named:
    """A class or function by where it is imported from, "package.module:name"."""

    path: str


@dataclass(frozen=True, eq=False)
class Recipe:
    """What a `tutti.learners.module._blueprint.Blueprint` is made from, in plain values.

    Parameters
    ----------
    module, loss, optimizer, schedule, augment : a `Named`, `Layers`, a name that the estimator takes, or None.
    options : arguments by owner: "module", "loss", "optimizer", "lr_schedule".
    settings : numbers of the estimator: seed, lr, weight_decay, device, warmup_steps, n_steps, class_factors; and
        "custom", True for a loss of (module, batch).
    weights : state of the module where training starts.
    facts : what was found out about the module on the first rows: groups, moving, stochastic, unrepeatable.
    """

    module: Any
    loss: Any
    optimizer: Any
    schedule: Any
    augment: Any
    options: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    weights: Mapping[str, Array] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def read(self) -> Blueprint:
        """Return the blueprint; every call returns objects of its own."""
        from tutti.learners.module._recipe import make

        return make(self)


def plain(value: Any, owner: str) -> Any:
    """Return ``value`` as another host can make it again.

    Raises
    ------
    InputError : it is code without an importable name.
    """
    if value is None or isinstance(value, str | Layers):
        return value
    path = f"{getattr(value, '__module__', None)}:{getattr(value, '__qualname__', None)}"
    if callable(value) and not path.startswith("__main__:") and _leads_to(path, value):
        return Named(path)
    from tutti.learners.module import _layers

    layers = _layers.describe(value)
    if layers is not None:
        return Layers(layers, _layers.dtype_of(value))
    shown = path if path.partition(":")[2] != "None" else type(value).__qualname__
    raise InputError(
        f"{owner}={shown} cannot be sent to other hosts, to which no code is sent; give torch's own layers, or a class "
        f"or function that workers can import (not from __main__, a notebook or another function), with its arguments "
        f"as {owner}__name=value"
    )


def plain_options(options: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Return arguments that can be written down.  Raises InputError for others."""
    for name, value in options.items():
        try:
            encode(value)
        except InputError as error:
            raise InputError(f"{owner}__{name}: {error}; only plain values and arrays go to other hosts") from None
    return dict(options)


def _leads_to(path: str, value: Any) -> bool:
    try:
        return bool(resolve(path) is value)
    except (ImportError, AttributeError, ValueError):
        return False
