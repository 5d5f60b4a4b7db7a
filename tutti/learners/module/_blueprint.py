"""What describes a net and how it learns, and the one way in which it reaches the workers.

A module may hold lambdas and classes of a notebook, which no plain format can write down.  So it is written with
cloudpickle, and read only from the memory that this process hands to the workers it has started itself, never from a
file or a socket that others could write to.  Stored models hold arrays only.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tutti.errors import InputError
from tutti.types import Array


@dataclass
class Blueprint:
    """Live objects of a net.

    Parameters
    ----------
    module : a torch module; its weights are where training starts.
    loss : called with (module, batch), returns (sum of losses, sum of weights, output or None).
    optimizer : called with torch parameter groups, returns a torch optimizer.
    elementwise : True if the optimizer treats every number by itself, so that it may run on one flat array.
    groups : (pattern of parameter names, options) in order; parameters that no pattern matches come last.
    schedule : called with the optimizer, returns a torch scheduler that is stepped once a global step; or None.
    augment : called with (x, generator) before the module sees x; or None.
    moving : names of the buffers that change during training.
    stochastic : True if the forward pass draws from torch's own generator.
    unrepeatable : names of operations that torch has no repeatable form of.
    """

    module: Any
    loss: Any
    optimizer: Any
    elementwise: bool = False
    groups: tuple[tuple[str, dict[str, Any]], ...] = ()
    schedule: Any = None
    augment: Any = None
    moving: tuple[str, ...] = ()
    stochastic: bool = False
    unrepeatable: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Code:
    """A `Blueprint` written down, (n_bytes,) uint8."""

    payload: Array
    _code: ClassVar[bool] = True  # it stays on this host

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Code) and np.array_equal(self.payload, other.payload)

    def __hash__(self) -> int:
        return hash(self.payload.tobytes())

    def read(self) -> Blueprint:
        """Return the blueprint; every call returns objects of its own."""
        found = pickle.loads(self.payload.data)
        assert isinstance(found, Blueprint)
        return found


def write(blueprint: Blueprint) -> Code:
    """Write a blueprint down.

    Raises
    ------
    InputError : the module holds something that cannot travel, such as an open file or a lock.
    """
    import cloudpickle

    try:
        return Code(np.frombuffer(cloudpickle.dumps(blueprint), np.uint8))
    except (TypeError, AttributeError, RuntimeError, pickle.PicklingError) as error:
        raise InputError(
            f"the module cannot be copied for the workers ({error}); open files, locks and generators inside it are "
            "made anew where they are needed, for example in forward"
        ) from error
