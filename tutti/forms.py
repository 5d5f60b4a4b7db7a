"""In what form may an update leave its shard?  What a transform owes to whoever merges updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy.typing as npt

Array = npt.NDArray[Any]
Matrix = tuple[int, int, int]
"""Where a matrix lies in a flat array: (start, rows, columns)."""


@runtime_checkable
class Coder(Protocol):
    """A form of an array of an update that takes fewer bytes; all a shard's own doing.

    Contract
    --------
    - ``encode(v, payload, then)`` writes all ``n_bytes(len(v), v.dtype, then)`` bytes of the payload (uint8, aligned to
      8 bytes) and leaves in ``v`` what did not go along, so that what is decoded plus ``v`` is what ``v`` was, to
      rounding.  It returns False, with anything written, if a number is NaN or infinite.  v is float32 or float64.
    - ``decode(payload, out, then)`` writes ``out`` in full; ValueError for bytes that no ``encode`` writes.
    - Both are pure: the same bytes on every rank.
    - ``selects`` is true if fewer numbers go along; those are encoded by ``then[0]``, which is followed by the rest.
    """

    @property
    def selects(self) -> bool: ...
    def n_bytes(self, n: int, dtype: Any, then: Sequence[Coder] = ()) -> int: ...
    def encode(self, v: Array, payload: Array, then: Sequence[Coder] = ()) -> bool: ...
    def decode(self, payload: Array, out: Array, then: Sequence[Coder] = ()) -> None: ...


@runtime_checkable
class Projector(Protocol):
    """A form of the matrices of an update that is linear, so that it can be summed; see `tutti.PowerSGD`."""

    def worth(self, matrices: Sequence[Matrix]) -> list[Matrix]: ...
    def n_values(self, matrices: Sequence[Matrix]) -> int: ...
    def first(self, columns: int, dtype: Any, seed: int, number: int) -> Array: ...
    def orthonormal(self, p: Array) -> Array: ...


Transform = Coder | Projector
"""In what form may an update leave its shard?  An inert, cloneable parameter object."""
Compress = Transform | tuple[Transform, ...] | Literal["auto"] | None
"""What a strategy's ``compress`` may be: a transform, an ordered tuple of them, "auto" (measure the link), or none."""
