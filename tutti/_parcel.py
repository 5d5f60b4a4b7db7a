"""A value as one run of bytes: JSON text, then its arrays laid one after the other, 64-byte aligned; never a pickle."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tutti._spec import decode, encode
from tutti.errors import InputError
from tutti.types import Array

_ALIGN = 64
_N_TEXT = struct.Struct("<Q")


def lay_out(value: Any) -> tuple[bytes, list[tuple[int, Array]], int]:
    """Return the text, (place, array) of every array, and the bytes of all together.

    An array that occurs twice is placed once.

    Raises
    ------
    InputError : for a value that cannot be written down (`tutti._spec.encode`).
    """
    places: dict[tuple[Any, ...], list[Any]] = {}
    arrays: list[tuple[int, Array]] = []
    end = 0

    def put(array: Array) -> list[Any]:
        nonlocal end
        if array.dtype.kind == "V":
            raise InputError(
                f"an array of {array.dtype} cannot be sent to another process; write plain columns instead"
            )
        key = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str)
        if key not in places:
            order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
            places[key] = [end, array.dtype.str, list(array.shape), order]
            arrays.append((end, array))
            end += _up(array.nbytes)
        return places[key]

    text, _ = encode(value, put)
    start = _up(len(text))
    return text, [(start + at, array) for at, array in arrays], start + end


def raw(array: Array) -> memoryview:
    """Return the bytes of an array in the order in which `lay_out` wrote it down."""
    flat = array.T if array.flags.f_contiguous else np.ascontiguousarray(array)
    return memoryview(flat.reshape(-1).view(np.uint8).data)


def unpack(n_text: int, memory: Any) -> Any:
    """Read a value; its arrays are views of ``memory`` (bytes, an mmap or an array of uint8)."""
    start = _up(n_text)

    def get(place: list[Any]) -> Array:
        at, dtype, shape, order = place
        return np.ndarray(tuple(shape), np.dtype(dtype), memory, start + at, order=order)

    return decode(bytes(memoryview(memory)[:n_text]), [], get)


def payload(value: Any) -> list[Any]:
    """Return the pieces of memory that a frame carries for ``value``; its arrays are not copied."""
    text, arrays, n_bytes = lay_out(value)
    pieces: list[Any] = [_N_TEXT.pack(len(text)).ljust(_ALIGN, b"\0"), text]
    at = len(text)
    for place, array in arrays:
        pieces += [bytes(place - at), raw(array)]
        at = place + array.nbytes
    return [*pieces, bytes(n_bytes - at)]


def value_of(memory: Any) -> Any:
    """Read what `payload` wrote; its arrays are views of ``memory``."""
    (n_text,) = _N_TEXT.unpack_from(memory)
    rest = memoryview(memory)[_ALIGN:]
    if n_text > len(rest):
        raise ValueError(f"a value with {n_text} bytes of text cannot lie in {len(rest)} bytes")
    return unpack(n_text, rest)


def _up(n: int) -> int:
    return -(-n // _ALIGN) * _ALIGN
