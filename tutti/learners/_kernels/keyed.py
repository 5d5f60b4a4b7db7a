"""Random numbers inside kernels: splitmix64 over a key of integers, the same bits whoever draws them and in any order.

Source: Steele, Lea, Flood (2014), "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

import numpy as np

from tutti.learners._kernels.inner import inner

_GOLD = np.uint64(0x9E3779B97F4A7C15)
_A, _B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31 = np.uint64(30), np.uint64(27), np.uint64(31)
_ODD = np.uint64(0xD1342543DE82EF95)
_S32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


@inner()
def mixed(x):
    """splitmix64's step and finaliser: a bijection of 64 bits."""
    x = np.uint64(x) + _GOLD
    x = (x ^ (x >> _S30)) * _A
    x = (x ^ (x >> _S27)) * _B
    return x ^ (x >> _S31)


@inner()
def keyed(key, number):
    """64 random bits of (key, number)."""
    return mixed(np.uint64(key) * _ODD + np.uint64(number))


@inner()
def below(bits, n):
    """A whole number in 0..n-1 from the upper half of 64 random bits; n < 2^31."""
    return np.int64(((bits >> _S32) * np.uint64(n)) >> _S32)


@inner()
def low_half(bits):
    """The lower 32 random bits."""
    return np.int64(bits & _LOW)
