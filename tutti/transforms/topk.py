"""Only the largest numbers: their places, two bytes each, and their values, which another transform may shorten."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.forms import Coder
from tutti.transforms._parts import bits_of, padded, part
from tutti.types import Array

_PAGE = 1 << 16  # places that are written as two bytes


@dataclass(frozen=True)
class TopK(Spec):
    """Send the k = round(share * n) numbers of largest magnitude of each array, at least one; of equals the first.

    All the others stay with the shard and are added to its next update, so nothing is lost (error feedback).  A net's
    gradient is one array: its k largest over all layers.

    Parameters
    ----------
    share : part of the numbers that go along, above 0 and up to 1.

    Source: Stich, Cordonnier, Jaggi (2018), "Sparsified SGD with memory"; Lin, Han, Mao, Wang, Dally (2018).

    Example
    -------
    >>> TopK(0.01).n_bytes(100_000, np.dtype("float32"))
    6008
    """

    share: float = 0.01

    def __post_init__(self) -> None:
        real = isinstance(self.share, int | float) and not isinstance(self.share, bool)
        if not real or not 0 < self.share <= 1:
            raise ParameterError("share", self.share, "write a part of the numbers above 0 and up to 1, such as 0.01")

    @property
    def selects(self) -> bool:
        """True: fewer numbers go along, in the form that the next transform gives them."""
        return True

    def n_bytes(self, n: int, dtype: np.dtype[Any], then: Sequence[Coder] = ()) -> int:
        """Return the bytes of n numbers."""
        k, at = self._k(n), self._value_place(n)
        return at + (then[0].n_bytes(k, dtype, then[1:]) if then else k * dtype.itemsize)

    def encode(self, v: Array, payload: Array, then: Sequence[Coder] = ()) -> bool:
        """Write the largest of v into the payload; v keeps the others.  False if a number is not finite."""
        from tutti.transforms._kernels import numbers

        k, rest = self._k(len(v)), payload[self._value_place(len(v)) :]
        counts, lows = self._places(payload, len(v))
        select = numbers.select32 if v.dtype == np.float32 else numbers.select64
        if k and not select(bits_of(v)[0], k, counts, lows):
            return False
        kept = np.zeros(k, v.dtype)
        numbers.take(v, counts, lows, kept)
        if then:
            then[0].encode(kept, rest, then[1:])
        else:
            rest[: kept.nbytes].view(v.dtype)[:] = kept
            kept[:] = 0
        numbers.put(kept, counts, lows, v)
        return True

    def decode(self, payload: Array, out: Array, then: Sequence[Coder] = ()) -> None:
        """Write the numbers of a payload, zeros where none came."""
        from tutti.transforms._kernels import numbers

        k, at = self._k(len(out)), self._value_place(len(out))
        if then:
            kept = np.empty(k, out.dtype)
            then[0].decode(payload[at:], kept, then[1:])
        else:
            kept = part(payload, at, k, out.dtype.str)
        out[:] = 0
        if not numbers.put(kept, *self._places(payload, len(out)), out):
            raise ValueError("the payload names places that are not there")

    def _k(self, n: int) -> int:
        return min(max(math.floor(self.share * n + 0.5), 1), n)

    def _places(self, payload: Array, n: int) -> tuple[Array, Array]:
        n_pages = -(-n // _PAGE)
        return part(payload, 0, n_pages, "u4"), part(payload, padded(4 * n_pages), self._k(n), "u2")

    def _value_place(self, n: int) -> int:
        return padded(4 * -(-n // _PAGE)) + padded(2 * self._k(n))
