"""Labels: found, counted and turned into codes in a few vector passes, since this runs inside the clock of a fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutti.errors import DataError
from tutti.types import Array

_SMALL_RANGE = 1 << 16


@dataclass(frozen=True)
class LabelSummary:
    """Sorted classes with the rows and the sum of the sample weights of each."""

    classes: tuple[Any, ...]
    counts: tuple[int, ...]
    weight_sums: tuple[float, ...]


def first_bad(y: Array) -> int | None:
    """Return the first row whose label or target is NaN or infinite, None if all are finite."""
    if y.dtype.kind != "f" or not len(y):
        return None
    # the sum of finite numbers may overflow, so only a suspicious sum pays for the exact test
    with np.errstate(all="ignore"):
        if math.isfinite(float(y.sum())):
            return None
    bad = np.flatnonzero(~np.isfinite(y))
    return int(bad[0]) if len(bad) else None


def summarise(y: Array, weight: Array | None, integers: bool = False) -> LabelSummary:
    """Return the classes in ``y`` (finite numbers or text) with their counts and weights.

    ``integers`` writes whole numbers as int even if ``y`` is float, as for text files, which know no types.

    Raises
    ------
    DataError : for targets that are continuous.
    """
    if y.dtype.kind in "UO":
        values, counts = np.unique(y, return_counts=True)
    else:
        values, counts = _count_numbers(y)
    if integers and values.dtype.kind == "f":
        values = values.astype(np.int64)
    classes = tuple(values.tolist())
    if weight is None:
        sums = tuple(float(c) for c in counts)
    else:
        sums = tuple(np.bincount(codes(y, classes), weights=weight, minlength=len(classes)).tolist())
    return LabelSummary(classes, tuple(int(c) for c in counts), sums)


def _count_numbers(y: Array) -> tuple[Array, Array]:
    lo, hi = y.min(), y.max()
    n_lo = int(np.count_nonzero(y == lo))
    n_hi = int(np.count_nonzero(y == hi)) if hi != lo else 0
    if y.dtype.kind == "f" and not (float(lo).is_integer() and float(hi).is_integer() and _whole(y, n_lo + n_hi)):
        raise DataError(
            f"Unknown label type: continuous. The labels are fractions such as {_a_fraction(y)!r}: "
            "a classifier needs classes; use a regressor, or round the labels"
        )
    if n_lo + n_hi == len(y):
        both = [lo, hi] if hi != lo else [lo]
        return np.array(both, dtype=y.dtype), np.array([n_lo, n_hi][: len(both)])
    if float(hi) - float(lo) < _SMALL_RANGE:
        counts = np.bincount((y - lo).astype(np.int64))
        used = np.flatnonzero(counts)
        return (used + lo).astype(y.dtype), counts[used]
    return np.unique(y, return_counts=True)


def _whole(y: Array, n_extreme: int) -> bool:
    return n_extreme == len(y) or bool((y == np.rint(y)).all())


def _a_fraction(y: Array) -> float:
    return float(y[np.flatnonzero(y != np.rint(y))[0]])


def codes(y: Array, classes: tuple[Any, ...]) -> Array:
    """Return int32 positions of ``y`` in ``classes``.

    Raises
    ------
    DataError : for a label that is not a class.
    """
    if not len(y):
        return np.zeros(0, dtype=np.int32)
    table = np.asarray(classes)
    if (table.dtype.kind in "UO") != (y.dtype.kind in "UO"):
        raise _unknown(y, np.zeros(len(y), dtype=bool), classes)
    if len(classes) == 2 and table.dtype.kind != "U":
        high = y == table[1]
        known = high | (y == table[0])
        found: Array = high.astype(np.int32)
    else:
        found = np.minimum(np.searchsorted(table, y), len(table) - 1).astype(np.int32)
        known = table[found] == y
    if not known.all():
        raise _unknown(y, known, classes)
    return found


def _unknown(y: Array, known: Array, classes: tuple[Any, ...]) -> DataError:
    row = int(np.flatnonzero(~known)[0])
    shown = ", ".join(map(repr, classes[:10])) + (", ..." if len(classes) > 10 else "")
    return DataError(f"label {y[row].item() if hasattr(y[row], 'item') else y[row]!r} is not among the classes {shown}")
