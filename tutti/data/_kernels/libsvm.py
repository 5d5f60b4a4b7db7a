"""The libsvm parser: one scalar pass over whole lines, about one nanosecond a byte.

A value of up to 15 digits is an integer divided by an exact power of ten, hence correctly rounded.  Up to 19 digits the
product with a power of ten is taken in twice the precision (Dekker 1971, "A floating-point technique for extending the
available precision").  What is left (more digits, huge exponents) is handed back to be read by Python.  A line
that breaks the grammar is handed back, too: the kernel says where, the caller finds out why.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numba as nb
import numpy as np
from numba.core import types
from numba.extending import intrinsic

OK, BROKEN, FULL = 0, 1, 2
_REACH = 60
EXACT = 10.0 ** np.arange(23)
HIGH = np.array([float(Fraction(10) ** e) for e in range(-_REACH, _REACH + 1)])
LOW = np.array(
    [float(Fraction(10) ** e - Fraction(float(h))) for e, h in zip(range(-_REACH, _REACH + 1), HIGH, strict=True)]
)
_SPLIT = 134217729.0  # 2**27 + 1


def _byte(typing_context, buf, i):
    """buf[i] as int64, without numba's test for a negative i: a third faster."""

    def generate(context, builder, signature, args):
        array = context.make_array(signature.args[0])(context, builder, args[0])
        return builder.zext(builder.load(builder.gep(array.data, [args[1]])), context.get_value_type(types.int64))

    return types.int64(buf, types.int64), generate


byte: Any = intrinsic(_byte)


@nb.njit(cache=True, nogil=True)
def _scaled(m, e):
    """m * 10**e in doubled precision, rounded once."""
    high, low = HIGH[e + _REACH], LOW[e + _REACH]
    a = np.float64(m)
    rest = np.float64(np.int64(m - np.uint64(a)))
    p = a * high
    c = _SPLIT * a
    ah = c - (c - a)
    al = a - ah
    c = _SPLIT * high
    bh = c - (c - high)
    bl = high - bh
    error = ((ah * bh - p) + ah * bl + al * bh) + al * bl
    return p + (error + (a * low + rest * high))


@nb.njit(cache=True, nogil=True)
def number(buf, i):
    """Read any decimal number at i: (end, value, state), state 0 done, 1 broken, 2 for Python to read."""
    x = byte(buf, i)
    negative = x == 45
    if x == 45 or x == 43:
        i += 1
    m = np.uint64(0)
    n_digits = 0
    n_significant = 0
    fraction = 0
    point = False
    while True:
        x = byte(buf, i)
        if 48 <= x <= 57:
            n_digits += 1
            if x != 48 or n_significant:
                n_significant += 1
            if n_significant <= 19:
                m = m * np.uint64(10) + np.uint64(x - 48)
            if point:
                fraction += 1
        elif x == 46 and not point:
            point = True
        else:
            break
        i += 1
    if n_digits == 0:
        return i, 0.0, 1
    e = 0
    if x == 101 or x == 69:
        i += 1
        down = byte(buf, i) == 45
        if byte(buf, i) == 45 or byte(buf, i) == 43:
            i += 1
        first = i
        while 48 <= byte(buf, i) <= 57:
            e = min(e * 10 + (byte(buf, i) - 48), 100000)
            i += 1
        if i == first:
            return i, 0.0, 1
        if down:
            e = -e
    e -= fraction
    if m == np.uint64(0):
        value = 0.0
    elif n_significant <= 15 and -22 <= e <= 22:
        value = np.float64(m) * EXACT[e] if e >= 0 else np.float64(m) / EXACT[-e]
    elif n_significant <= 19 and -_REACH <= e <= _REACH:
        value = _scaled(m, e)
    else:
        return i, 0.0, 2
    return i, -value if negative else value, 0


@nb.njit(cache=True, nogil=True)
def _ends(x):
    """True for what may follow a number: white space or a comment."""
    return x == 32 or x == 10 or x == 9 or x == 13 or x == 35


@nb.njit(cache=True, nogil=True)
def _pairs(buf, i, base, top, largest, indices, values, k, odd, n_odd):
    """Parse ``index:value`` up to the end of the line: (state, end, values, odd numbers, last index).

    This loop is where the time goes: it stays in one function, since numba passes tuples between functions slowly.
    """
    last = -1
    while True:
        x = byte(buf, i)
        while x == 32 or x == 9 or x == 13:
            i += 1
            x = byte(buf, i)
        if x == 10 or x == 35:
            return OK, i, k, n_odd, last
        first = i
        index = 0
        while 48 <= x <= 57:
            index = index * 10 + (x - 48)
            i += 1
            x = byte(buf, i)
        index -= base
        if x != 58 or i == first or i - first > 10 or index <= last or index > top:
            return BROKEN, i, k, n_odd, last
        i += 1
        at = i
        x = byte(buf, i)
        negative = x == 45
        if negative:
            i += 1
            x = byte(buf, i)
        first = i
        m = 0
        while 48 <= x <= 57:
            m = m * 10 + (x - 48)
            i += 1
            x = byte(buf, i)
        n_digits = i - first
        fraction = 0
        if x == 46:
            i += 1
            first = i
            x = byte(buf, i)
            while 48 <= x <= 57:
                m = m * 10 + (x - 48)
                i += 1
                x = byte(buf, i)
            fraction = i - first
        if 0 < n_digits + fraction <= 15 and (x == 32 or x == 10):
            value = np.float64(m) / EXACT[fraction]
            values[k] = -value if negative else value
        else:
            i, value, state = number(buf, at)
            if state == 1 or not _ends(byte(buf, i)) or abs(value) > largest:
                return BROKEN, i, k, n_odd, last
            if state == 2:
                if n_odd == len(odd):
                    return FULL, i, k, n_odd, last
                odd[n_odd, 0], odd[n_odd, 1], odd[n_odd, 2] = k, at, i
                n_odd += 1
            values[k] = value
        indices[k] = index
        last = index
        k += 1


@nb.njit(cache=True, nogil=True)
def parse(buf, lo, hi, base, top, largest, y, indptr, indices, values, row, k, odd):
    """Parse whole lines buf[lo:hi], each closed by a newline, behind the ``row`` rows and ``k`` values so far.

    base : first index (0 or 1); top : last index allowed, counted from 0; largest : bound of a value's magnitude.
    odd : (n, 3) int64 filled with (k or -1 - row, first byte, end) of the numbers that Python has to read.
    Returns (state, byte of the line it stopped at, rows, values, odd numbers, widest index).
    """
    i = lo
    n_odd = 0
    widest = -1
    while i < hi:
        x = byte(buf, i)
        if x == 10 or x == 32 or x == 9 or x == 13:
            i += 1
            continue
        if x == 35:
            while byte(buf, i) != 10:
                i += 1
            continue
        start, start_odd = i, n_odd
        if row == len(y) or n_odd == len(odd):
            return FULL, start, row, k, n_odd, widest
        i, label, state = number(buf, i)
        if state == 1 or not _ends(byte(buf, i)):
            return BROKEN, start, row, k, n_odd, widest
        if state == 2:
            odd[n_odd, 0], odd[n_odd, 1], odd[n_odd, 2] = -1 - row, start, i
            n_odd += 1
        state, i, end, n_odd, last = _pairs(buf, i, base, top, largest, indices, values, k, odd, n_odd)
        if state != OK:
            return state, start, row, k, start_odd, widest
        while byte(buf, i) != 10:
            i += 1
        i += 1
        y[row] = label
        row += 1
        k = end
        indptr[row] = k
        widest = max(widest, last)
    return OK, i, row, k, n_odd, widest
