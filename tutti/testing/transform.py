"""`check_coder`: does a transform keep the contract of `tutti.forms.Coder`?"""

from __future__ import annotations

from typing import Any

import numpy as np

from tutti import _spec
from tutti.forms import Coder


def check_coder(coder: Coder, *then: Coder) -> None:
    """Encode and decode arrays of many sizes; raise AssertionError with the broken sentence of the contract, or return.

    Parameters
    ----------
    then : the transforms that follow, of one that selects.
    """
    assert isinstance(coder, Coder), f"{type(coder).__name__} lacks a method of tutti.forms.Coder"
    text, arrays = _spec.encode(coder)
    assert _spec.decode(text, arrays) == coder, "the transform does not survive the way to another process"
    for dtype in (np.float32, np.float64):
        for n in (0, 1, 2, 255, 256, 257, 5000):
            v = (np.random.default_rng(n).standard_normal(n) * 10.0 ** (np.arange(n) % 9 - 4)).astype(dtype)
            seen = []
            for filled in (0, 255):
                payload, left = np.full(coder.n_bytes(n, v.dtype, then), filled, np.uint8), v.copy()
                assert coder.encode(left, payload, then), "encode refuses finite numbers"
                payload.flags.writeable = False
                out: Any = np.full(n, np.nan, dtype)
                coder.decode(payload, out, then)
                assert np.isfinite(out).all(), "decode does not write out in full"
                size = 8 * np.finfo(dtype).eps * np.abs(v).max(initial=0)
                missing = np.abs(v.astype(np.float64) - out - left)
                assert (missing <= size).all(), "what is decoded and left is not v"
                seen.append((out.tobytes(), left.tobytes()))
            assert seen[0] == seen[1], "encode does not write all of the payload, or is not pure"
            for bad in (np.nan, np.inf, -np.inf):
                if n:
                    left = v.copy()
                    left[n // 2] = bad
                    payload = np.zeros(coder.n_bytes(n, v.dtype, then), np.uint8)
                    assert not coder.encode(left, payload, then), f"encode takes {bad}"
