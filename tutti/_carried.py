"""Live objects written down for the workers of this very process, which read them from memory they inherit.

What a notebook defines (lambdas, local classes) no plain format can hold, so it is written with cloudpickle.  It is
read only from the memory that a process hands to the workers it has started itself, never from a file or a socket that
others could write to: a `Carried` is not sent to other hosts (`tutti._spec.check_plain`), and no model holds one.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tutti.errors import InputError
from tutti.types import Array


@dataclass(frozen=True, eq=False)
class Carried:
    """An object written down.

    Parameters
    ----------
    payload : (n_bytes,) uint8.
    buffers : memory of the large arrays inside the object, which every reader maps instead of copying.
    """

    payload: Array
    buffers: tuple[Array, ...] = ()
    _code: ClassVar[bool] = True  # it stays on this host

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Carried)
            and np.array_equal(self.payload, other.payload)
            and len(self.buffers) == len(other.buffers)
            and all(map(np.array_equal, self.buffers, other.buffers))
        )

    def __hash__(self) -> int:
        return hash(self.payload.tobytes())

    def read(self) -> Any:
        """Return the object; every call returns one of its own, with arrays that are views of ``buffers``."""
        return pickle.loads(self.payload.data, buffers=[buffer.data for buffer in self.buffers])


def carry(value: Any, what: str, hint: str, *, apart: bool = False) -> Carried:
    """Write an object down.

    Parameters
    ----------
    what, hint : the object in words, and what to do if it cannot travel, for the error.
    apart : True lays the memory of arrays beside the rest, where workers map it; they then read arrays that they
        cannot write to.

    Raises
    ------
    InputError : the object holds something that cannot travel, such as an open file or a lock.
    """
    import cloudpickle

    buffers: list[Any] = []
    try:
        payload = cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append if apart else None)
    except (TypeError, AttributeError, RuntimeError, pickle.PicklingError) as error:
        raise InputError(f"{what} cannot be copied for the workers ({error}); {hint}") from error
    raw = tuple(np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers)
    return Carried(np.frombuffer(payload, np.uint8), raw)
