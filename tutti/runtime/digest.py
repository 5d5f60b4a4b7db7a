"""SHA-256 of a model: names, shapes and bits of its arrays, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import numpy as np

from tutti.types import Array, Arrays


@runtime_checkable
class InPieces(Protocol):
    """Arrays by name that are made when they are asked for; one piece after the other they take less room."""

    def shape(self, name: str) -> tuple[int, ...]: ...
    def pieces(self, name: str) -> Iterable[Array]: ...


def model_sha256(arrays: Arrays) -> str:
    """Return the SHA-256 of arrays under names, in the order of the names, little-endian and C-ordered.

    Example
    -------
    >>> import numpy as np
    >>> model_sha256({"w": np.zeros(2)})[:12]
    '400dbdb93255'
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        pieces: Iterable[Array]
        if isinstance(arrays, InPieces):
            shape, pieces = arrays.shape(name), arrays.pieces(name)
        else:
            whole = np.ascontiguousarray(arrays[name])
            shape, pieces = whole.shape, (whole,)
        for i, piece in enumerate(pieces):
            array = np.ascontiguousarray(piece)
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            if i == 0:
                digest.update(f"{name}{array.dtype.str}{shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
