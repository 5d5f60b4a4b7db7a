"""Compiled loops over the numbers of one update: encode in one or two passes, leaving behind what did not go along.

``v`` is float32 or float64 everywhere.  No fast mathematics: the same bits on every machine.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint16, uint32, uint64

_BINS = 1 << 16
_HALF, _UP = np.float32(0.5), np.float32(2.0**112)


@njit(cache=True, nogil=True, error_model="numpy")
def largest(bits, mask):
    """Return the bits of max |v_i|; those of inf or above if a number is not finite.

    Parameters
    ----------
    bits : v as whole numbers, whose order is that of |v| without the sign.   mask : takes the sign away.
    """
    top = mask ^ mask
    for i in range(len(bits)):
        top = max(top, bits[i] & mask)
    return top


@njit(cache=True, nogil=True, error_model="numpy")
def to_half(v, factor, back, out):
    """Write v * factor as float16, rounded half to even; v becomes v - what was written * back."""
    for i in range(len(v)):
        bits = np.float32(v[i] * factor).view(np.uint32)
        size = uint32(bits & uint32(0x7FFFFFFF))
        rounded = uint32(size + uint32(0xFFF) + uint32(uint32(size >> uint32(13)) & uint32(1)))
        normal = uint32(uint32(rounded - uint32(112 << 23)) >> uint32(13))
        lifted = np.float32(_real(size) + _HALF)  # rounds to multiples of 2^-24
        tiny = uint32(lifted.view(np.uint32) - uint32(126 << 23))
        sign = uint32(uint32(bits >> uint32(16)) & uint32(0x8000))
        half = uint32((tiny if size < uint32(113 << 23) else normal) | sign)
        out[i] = uint16(half)
        v[i] -= _of_half(half) * back


@njit(cache=True, nogil=True, error_model="numpy")
def from_half(h, back, out):
    """Write the numbers whose float16 are in h, times back."""
    for i in range(len(h)):
        out[i] = _of_half(uint32(h[i])) * back


@njit(inline="always")
def _real(bits):
    return np.uint32(bits).view(np.float32)


@njit(inline="always")
def _of_half(half):
    size = np.float32(_real(uint32(half & uint32(0x7FFF)) << uint32(13)) * _UP)
    return _real(size.view(np.uint32) | uint32(uint32(half & uint32(0x8000)) << uint32(16)))


@njit(cache=True, nogil=True, error_model="numpy")
def to_brain(v, factor, back, out):
    """Write v * factor as bfloat16, rounded half to even; v becomes v - what was written * back."""
    for i in range(len(v)):
        bits = np.float32(v[i] * factor).view(np.uint32)
        odd = uint32(uint32(bits >> uint32(16)) & uint32(1))
        upper = uint32(uint32(bits + uint32(0x7FFF) + odd) >> uint32(16))
        out[i] = uint16(upper)
        v[i] -= _real(upper << uint32(16)) * back


@njit(cache=True, nogil=True, error_model="numpy")
def from_brain(h, back, out):
    """Write the numbers whose bfloat16 are in h, times back."""
    for i in range(len(h)):
        out[i] = _real(uint32(h[i]) << uint32(16)) * back


@njit(cache=True, nogil=True, error_model="numpy")
def to_int8(v, bits, mask, block, scales, scale_bits, out):
    """Write round(v / scale) with scale = max |v| of the block / 127; v becomes v - what was written * scale.

    Parameters
    ----------
    bits, scale_bits : v and scales as whole numbers; see `largest`.
    """
    n, real, fine = len(v), v.dtype.type, True
    for b in range(len(scales)):
        lo, hi = b * block, min(b * block + block, n)
        part, codes = v[lo:hi], out[lo:hi]
        scale_bits[b] = largest(bits[lo:hi], mask)
        fine &= bool(np.isfinite(scales[b]))
        scale = scales[b] / real(127)
        inverse = real(1) / scale if scale > real(0) else real(0)
        if not np.isfinite(inverse):  # so small that it waits for more of its kind
            scale = inverse = real(0)
        scales[b] = scale
        for i in range(hi - lo):
            code = np.rint(part[i] * inverse)
            codes[i] = np.int8(code)
            part[i] -= code * scale
    return fine


@njit(cache=True, nogil=True, error_model="numpy")
def from_int8(codes, block, scales, out):
    """Write codes * scale of their block."""
    n = len(codes)
    for b in range(len(scales)):
        lo, hi = b * block, min(b * block + block, n)
        scale, part, into = scales[b], codes[lo:hi], out[lo:hi]
        for i in range(hi - lo):
            into[i] = into.dtype.type(part[i]) * scale


@njit(cache=True, nogil=True, error_model="numpy")
def select32(bits, k, counts, lows):
    """Write the places of the k largest |v|, equal ones from the lowest place on; False if one is not finite.

    Parameters
    ----------
    bits : the float32 as uint32, whose order is that of |v| without the sign.
    counts : of every 65536 places, how many were taken.   lows : (k,) the places within them.
    """
    mask = uint32(0x7FFFFFFF)
    high = np.zeros(_BINS, np.int64)
    for i in range(len(bits)):
        high[(bits[i] & mask) >> uint32(16)] += 1
    upper, left = _bin(high, k)
    low = np.zeros(_BINS, np.int64)
    for i in range(len(bits)):
        key = bits[i] & mask
        if key >> uint32(16) == upper:
            low[key & uint32(0xFFFF)] += 1
    lower, left = _bin(low, left)
    _take(bits, mask, (uint32(upper) << uint32(16)) | uint32(lower), left, counts, lows)
    return high[0x7F80:].sum() == 0


@njit(cache=True, nogil=True, error_model="numpy")
def select64(bits, k, counts, lows):
    """Do what `select32` does for float64 as uint64."""
    mask, found, left = uint64(0x7FFFFFFFFFFFFFFF), uint64(0), k
    fine = True
    for shift in (48, 32, 16, 0):
        above = uint64(shift + 16)
        bins = np.zeros(_BINS, np.int64)
        for i in range(len(bits)):
            key = bits[i] & mask
            if shift == 48 or key >> above == found >> above:
                bins[(key >> uint64(shift)) & uint64(0xFFFF)] += 1
        if shift == 48:
            fine = bins[0x7FF0:].sum() == 0
        digit, left = _bin(bins, left)
        found |= uint64(digit) << uint64(shift)
    _take(bits, mask, found, left, counts, lows)
    return fine


@njit(inline="always")
def _bin(bins, k):
    """Return (the bin in which the k-th largest is, how many are taken of it)."""
    at = len(bins) - 1
    while at > 0 and bins[at] < k:
        k -= bins[at]
        at -= 1
    return at, k


@njit(inline="always")
def _take(bits, mask, border, ties, counts, lows):
    """Write the places of all keys above the border, and of the first ``ties`` at it."""
    counts[:] = 0
    at = 0
    for i in range(len(bits)):
        key = bits[i] & mask
        if key >= border:
            if key == border:
                if ties == 0:
                    continue
                ties -= 1
            counts[i >> 16] += 1
            lows[at] = i & 0xFFFF
            at += 1


@njit(cache=True, nogil=True, error_model="numpy")
def take(v, counts, lows, kept):
    """Write the chosen numbers, in the order of their places."""
    at = 0
    for b in range(len(counts)):
        for _ in range(counts[b]):
            kept[at] = v[(b << 16) + lows[at]]
            at += 1


@njit(cache=True, nogil=True, error_model="numpy")
def put(kept, counts, lows, v):
    """Put the numbers at the chosen places; False if one lies outside."""
    at, n = 0, len(v)
    for b in range(len(counts)):
        for _ in range(counts[b]):
            if at >= len(kept) or (b << 16) + lows[at] >= n:
                return False
            v[(b << 16) + lows[at]] = kept[at]
            at += 1
    return at == len(kept)


@njit(cache=True, nogil=True, error_model="numpy")
def orthonormal(p):
    """Make the columns of p (rows, rank) orthonormal, by Gram-Schmidt done twice; what depends on others becomes 0."""
    n, rank = p.shape
    for j in range(rank):
        before = 0.0
        for i in range(n):
            before += float(p[i, j]) * float(p[i, j])
        for _ in range(2):
            for k in range(j):
                dot = 0.0
                for i in range(n):
                    dot += float(p[i, k]) * float(p[i, j])
                for i in range(n):
                    p[i, j] -= dot * p[i, k]
        square = 0.0
        for i in range(n):
            square += float(p[i, j]) * float(p[i, j])
        factor = 1.0 / np.sqrt(square) if square > 1e-10 * before and square > 0.0 else 0.0
        for i in range(n):
            p[i, j] *= factor
