"""In what form may an update leave its shard?  Less on the wire, with what was left out kept for the next round."""

from __future__ import annotations

import numpy as np

from tutti.forms import Coder, Compress, Projector
from tutti.transforms.half import Half
from tutti.transforms.power import PowerSGD
from tutti.transforms.quantize import Int8
from tutti.transforms.topk import TopK

__all__ = ["Half", "Int8", "PowerSGD", "TopK", "prepare"]


def prepare(compress: Compress) -> None:
    """Compile or load the kernels of transforms, so that many workers do not all do it at once."""
    chain = compress if isinstance(compress, tuple) else () if compress in (None, "auto") else (compress,)
    for dtype in (np.float32, np.float64):
        v = np.ones(8, dtype)
        if chain and isinstance(chain[0], Projector):
            chain[0].orthonormal(np.ones((2, 1), dtype))
        elif chain and isinstance(chain[0], Coder):
            then = [t for t in chain[1:] if isinstance(t, Coder)]
            payload = np.zeros(chain[0].n_bytes(len(v), v.dtype, then), np.uint8)
            chain[0].encode(v, payload, then)
            payload.flags.writeable = False
            chain[0].decode(payload, v, then)
