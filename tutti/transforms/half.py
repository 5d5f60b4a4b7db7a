"""Two bytes a number: float16 or bfloat16, moved by a power of two so that nothing overflows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tutti._spec import Spec
from tutti.errors import ParameterError
from tutti.forms import Coder
from tutti.transforms._parts import bits_of, part
from tutti.types import Array

_TOP = {"float16": 14, "bfloat16": 0}
"""The largest number is moved between 2^this and twice as much."""


@dataclass(frozen=True)
class Half(Spec):
    """Send 16 bits of every number, rounded half to even.

    Parameters
    ----------
    dtype : "float16" (11 significant bits, numbers below 2^-38 of the largest become 0) or "bfloat16" (8 bits).

    Example
    -------
    >>> Half().n_bytes(1000, np.dtype("float32"))
    2008
    """

    dtype: Literal["float16", "bfloat16"] = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in _TOP:
            raise ParameterError("dtype", self.dtype, "write 'float16' or 'bfloat16'")

    @property
    def selects(self) -> bool:
        """False: every number goes along."""
        return False

    def n_bytes(self, n: int, dtype: np.dtype[Any], then: Sequence[Coder] = ()) -> int:
        """Return the bytes of n numbers."""
        return 8 + 2 * n if n else 0

    def encode(self, v: Array, payload: Array, then: Sequence[Coder] = ()) -> bool:
        """Write v into the payload; v keeps what was rounded away.  False if a number is not finite."""
        from tutti.transforms._kernels import numbers

        if not len(v):
            return True
        bits, mask = bits_of(v)
        top = float(np.array([numbers.largest(bits, mask)], bits.dtype).view(v.dtype)[0])
        if not math.isfinite(top):
            return False
        limit = 126 if v.dtype == np.float32 else 1000
        exponent = min(max(math.frexp(top)[1] - 1 - _TOP[self.dtype], -limit), limit) if top else 0
        payload[:8].view(np.int64)[0] = exponent
        factor, back = v.dtype.type(2.0**-exponent), v.dtype.type(2.0**exponent)
        to = numbers.to_half if self.dtype == "float16" else numbers.to_brain
        to(v, factor, back, payload[8:].view(np.uint16))
        return True

    def decode(self, payload: Array, out: Array, then: Sequence[Coder] = ()) -> None:
        """Write the numbers of a payload."""
        from tutti.transforms._kernels import numbers

        if not len(out):
            return
        codes, exponent = part(payload, 8, len(out), "u2"), int(part(payload, 0, 1, "i8")[0])
        if abs(exponent) > 1000:
            raise ValueError(f"the payload's exponent is {exponent}")
        back = out.dtype.type(2.0**exponent)
        of = numbers.from_half if self.dtype == "float16" else numbers.from_brain
        of(codes, back, out)
