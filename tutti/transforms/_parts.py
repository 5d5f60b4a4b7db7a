"""Places in a payload, and numbers as bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from tutti.types import Array

_MASKS: dict[int, Any] = {4: np.uint32(0x7FFFFFFF), 8: np.uint64(0x7FFFFFFFFFFFFFFF)}


def bits_of(v: Array) -> tuple[Array, Any]:
    """Return float32 or float64 numbers as whole ones, and the mask that takes their sign away."""
    mask = _MASKS[v.dtype.itemsize]
    return v.view(mask.dtype), mask


def part(payload: Array, start: int, n: int, dtype: str) -> Array:
    """Return n numbers from a byte of the payload on; ValueError where it is too short."""
    size = n * np.dtype(dtype).itemsize
    if len(payload) < start + size:
        raise ValueError(f"a payload of {len(payload)} bytes came, {start + size} are needed")
    return payload[start : start + size].view(dtype)


def padded(n_bytes: int) -> int:
    """Return the bytes up to the next multiple of 8, where the next part begins."""
    return -(-n_bytes // 8) * 8
