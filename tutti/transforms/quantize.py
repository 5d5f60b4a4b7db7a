"""One byte a number: whole numbers from -127 to 127, with a scale for every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.forms import Coder
from tutti.transforms._parts import bits_of, padded, part
from tutti.types import Array


@dataclass(frozen=True)
class Int8(Spec):
    """Send every number as a whole one: q_i = round(v_i / s), s = max |v| of its block / 127, rounded half to even.

    The rounding is the same every time, so by itself it is biased; what it leaves out goes into the next round.

    Parameters
    ----------
    block : numbers that share a scale.

    Example
    -------
    >>> Int8(block=256).n_bytes(1024, np.dtype("float32"))
    1040
    """

    block: int = 512

    def __post_init__(self) -> None:
        if isinstance(self.block, bool) or not isinstance(self.block, int) or not 1 <= self.block <= 1 << 16:
            raise ParameterError("block", self.block, "write a whole number from 1 to 65536, best 256 to 1024")

    @property
    def selects(self) -> bool:
        """False: every number goes along."""
        return False

    def n_bytes(self, n: int, dtype: np.dtype[Any], then: Sequence[Coder] = ()) -> int:
        """Return the bytes of n numbers."""
        return self._scale_bytes(n, dtype) + n

    def encode(self, v: Array, payload: Array, then: Sequence[Coder] = ()) -> bool:
        """Write v into the payload; v keeps what was rounded away.  False if a number is not finite."""
        from tutti.transforms._kernels import numbers

        n_scales, at = -(-len(v) // self.block), self._scale_bytes(len(v), v.dtype)
        scales, (bits, mask) = payload[: n_scales * v.itemsize].view(v.dtype), bits_of(v)
        codes = payload[at : at + len(v)].view(np.int8)
        return bool(numbers.to_int8(v, bits, mask, self.block, scales, scales.view(bits.dtype), codes))

    def decode(self, payload: Array, out: Array, then: Sequence[Coder] = ()) -> None:
        """Write the numbers of a payload."""
        from tutti.transforms._kernels import numbers

        scales = part(payload, 0, -(-len(out) // self.block), out.dtype.str)
        codes = part(payload, self._scale_bytes(len(out), out.dtype), len(out), "i1")
        numbers.from_int8(codes, self.block, scales, out)

    def _scale_bytes(self, n: int, dtype: np.dtype[Any]) -> int:
        return padded(-(-n // self.block) * dtype.itemsize)
