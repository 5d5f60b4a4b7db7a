"""SHA-256 of a model: names, shapes and bits of its arrays, the same on every machine."""

from __future__ import annotations

import hashlib

import numpy as np

from tutti.types import Arrays


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
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
